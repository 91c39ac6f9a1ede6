"""The one writer of an SQLite database: calls that wait at the same time share a transaction and its commit.

Each change of a call has a savepoint of its own, so that one that fails takes nothing of the others with it. A call is
answered once the shared commit is durable, with its result or its error. If that commit fails, all of its calls have
failed, whatever they have answered before.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from threading import Lock, Thread, get_ident
from typing import Any, Final, TypeVar

from attrs import define, field, frozen
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from dispatchd.hub.domain.errors import StorageBusy
from dispatchd.hub.storage.engines.reasons import reason_of
from dispatchd.hub.storage.engines.sqlite import require_file

T = TypeVar("T")

_AT_ONCE: Final = 64
"""Most calls that share a commit (count): the first of them waits for the last."""

_LONGEST_S: Final = 0.1
"""Usual time after which no further call joins those that share a commit (seconds)."""

_ENDED: Final = "SQLite has ended the transaction"


@frozen(eq=False)
class _Call:
    """A call that waits for the writer."""

    work: Callable[[], Any]
    future: Future[Any]
    context: Context
    """Variables of the caller's context."""


@frozen
class _Outcome:
    """Result of a call, or its error."""

    result: Any = None
    error: BaseException | None = None


@define(eq=False)
class Writer:
    """Thread that makes all changes of an SQLite database; it starts with the first one."""

    _engine: Engine
    _longest_s: float = _LONGEST_S
    """After how long no further call joins a commit (seconds)."""
    _waiting: SimpleQueue[_Call | None] = field(factory=SimpleQueue, init=False)
    """Calls in their order; None is the end."""
    _starting: Lock = field(factory=Lock, init=False)
    _thread: Thread | None = field(default=None, init=False)
    _open: Connection | None = field(default=None, init=False)
    """Connection of the open transaction, for the thread alone."""

    def add(self, work: Callable[[], T]) -> Future[T]:
        """Have a call made by the thread, and return its future.

        It is durable when the future is done. A future that is cancelled before the call begins keeps it from being
        made. If the database can't be used, the future has the error StorageBusy.
        """
        future: Future[T] = Future()
        self._start()
        self._waiting.put(_Call(work, future, copy_context()))
        return future

    def connection(self) -> Connection | None:
        """Return the connection of the open transaction, if the caller is one of its calls."""
        thread = self._thread
        if thread is None or thread.ident != get_ident():
            return None
        return self._open

    def close(self) -> None:
        """Make the calls that wait, and end the thread."""
        with self._starting:
            if self._thread is not None:
                self._waiting.put(None)
                self._thread.join()
                self._thread = None

    def _start(self) -> None:
        if self._thread is not None:
            return
        with self._starting:
            if self._thread is None:
                self._thread = Thread(
                    target=self._run, name="writer of the database", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            if first.future.set_running_or_notify_cancel():
                self._together(first)

    def _together(self, first: _Call) -> None:
        """Make a call and others that wait in one transaction, and answer them once it is committed."""
        begun = [first]
        try:
            with self._engine.connect() as db:
                with db.begin():
                    self._open = db
                    outcomes = [self._made(db, call) for call in self._in_turn(begun)]
                # It may have been moved since the transaction began.
                require_file(db)
        except BaseException as error:  # noqa: BLE001  # each caller gets it; the thread has to serve the next ones
            outcomes = [_Outcome(error=_of_one(error)) for _ in begun]
        finally:
            self._open = None
        self._answer(begun, outcomes)

    def _in_turn(self, begun: list[_Call]) -> Iterator[_Call]:
        """Yield the first call that has begun, then those that wait already, each as it begins.

        One that waits for those before it may still be withdrawn.
        """
        most = min(1 + self._waiting.qsize(), _AT_ONCE)
        until = time.monotonic() + self._longest_s  # of this one transaction
        yield begun[0]
        while len(begun) < most and time.monotonic() < until:  # likewise
            try:
                call = self._waiting.get_nowait()
            except Empty:
                return
            if call is None:
                self._waiting.put(None)
                return
            if call.future.set_running_or_notify_cancel():
                begun.append(call)
                yield call

    @staticmethod
    def _made(db: Connection, call: _Call) -> _Outcome:
        """Make a call, and return its outcome.

        Raises:
            StorageBusy: SQLite has ended the transaction.
        """
        try:
            outcome = _Outcome(call.context.run(call.work))
        except BaseException as error:  # noqa: BLE001  # it is the caller's
            outcome = _Outcome(error=error)
        # It rolls back all by itself if the disk is full or broken (sqlite.org/lang_transaction.html, 2.3).
        if not _driver(db).in_transaction:
            reason = outcome.error or _ENDED
            raise StorageBusy(str(reason))
        return outcome

    @staticmethod
    def _answer(calls: list[_Call], outcomes: list[_Outcome]) -> None:
        for call, outcome in zip(calls, outcomes, strict=True):
            if outcome.error is None:
                call.future.set_result(outcome.result)
            else:
                call.future.set_exception(outcome.error)


def in_savepoint(db: Connection, work: Callable[[Connection], T]) -> T:
    """Run a unit of work within an open transaction; if it fails, only its own changes are undone.

    Raises:
        StorageBusy: SQLite has ended the transaction, and the savepoint would begin another one.
    """
    driver = _driver(db)
    if not driver.in_transaction:
        raise StorageBusy(_ENDED)
    driver.execute("SAVEPOINT call")
    try:
        result = work(db)
    except BaseException:
        if driver.in_transaction:
            driver.execute("ROLLBACK TO call")
            driver.execute("RELEASE call")
        raise
    driver.execute("RELEASE call")
    return result


def _driver(db: Connection) -> Any:  # noqa: ANN401  # SQLAlchemy's own kind of connection
    return db.connection.driver_connection


def _of_one(error: BaseException) -> BaseException:
    """Return the error of one call of a transaction that has failed: each caller raises its own."""
    if isinstance(error, SQLAlchemyError | StorageBusy):
        return StorageBusy(reason_of(error))
    return error
