"""Waiting requests: held polls, of which each queued job wakes one, watchers of one job, and those of any change."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar

import anyio
import anyio.lowlevel
from attrs import define, field

from dispatchd.concurrency.notifier import Notifier
from dispatchd.errors import DispatchdError
from dispatchd.hub.domain.binding import FREE, Binding
from dispatchd.hub.domain.events import News
from dispatchd.hub.domain.model import HubJob

T = TypeVar("T")

_MOST_OVERTAKEN: Final = 4
"""Most polls of one machine and kind that are held beside the newest (count)."""


@define(eq=False)
class Watched(Generic[T]):
    """One job that is watched: its notifier, and looks that its watchers share.

    A change wakes all of them, and each has to look. A look that has not begun yet is as good for all who ask for one.
    """

    _look: Callable[[], Awaitable[T]]
    changed: Notifier = field(factory=Notifier, init=False)
    watchers: int = field(default=0, init=False)
    """Number of watchers (count)."""
    _begun: int = field(default=0, init=False)
    """Looks that have begun (count)."""
    _seen: tuple[int, T | DispatchdError] | None = field(default=None, init=False)
    """Number of the last look that has ended, and what it has found."""
    _turn: anyio.Lock = field(factory=anyio.Lock, init=False)

    async def look(self) -> T:
        """Return what a look finds that begins from now on.

        Raises:
            DispatchdError: It has failed.
        """
        number = self._begun + 1
        async with self._turn:
            if self._seen is None or self._seen[0] < number:
                # First all ask who were woken together.
                await anyio.lowlevel.checkpoint()
                self._begun += 1
                self._seen = self._begun, await self._outcome()
            seen = self._seen[1]
        if isinstance(seen, DispatchdError):
            raise seen
        return seen

    async def _outcome(self) -> T | DispatchdError:
        try:
            return await self._look()
        except DispatchdError as error:
            # Each of them trying again, one after the other, could take hours.
            return error

    def come(self) -> None:
        """Count one more watcher."""
        self.watchers += 1

    def leave(self) -> bool:
        """Count one watcher less, and return whether it was the last one."""
        self.watchers -= 1
        return not self.watchers


@define
class Watchers:
    """Watchers of one job each; a job wakes only its own."""

    _watched: dict[str, Watched[Any]] = field(factory=dict, init=False)
    """Job id -> what its watchers share."""

    @contextmanager
    def watch(
        self, job_id: str, look: Callable[[], Awaitable[T]]
    ) -> Iterator[Watched[T]]:
        """Yield what the watchers of a job share; it exists until the last of them leaves."""
        watched: Watched[T] = self._watched.setdefault(job_id, Watched(look))
        watched.come()
        try:
            yield watched
        finally:
            if watched.leave():
                del self._watched[job_id]

    def count(self, job_id: str) -> int:
        """Return the number of watchers of a job."""
        return self._watched[job_id].watchers if job_id in self._watched else 0

    def notify(self, job_id: str) -> None:
        """Wake the watchers of a job."""
        if job_id in self._watched:
            self._watched[job_id].changed.notify()

    def wake_all(self) -> None:
        """Wake every watcher."""
        for watched in self._watched.values():
            watched.changed.notify()


@define(eq=False)
class Poll:
    """A held poll: the jobs that it can get, and the event that wakes it."""

    machine: str
    workflows: Collection[str] | None
    binding: Binding = FREE
    """Binding of the machine, set by the hub's owner, as it was at the last look."""
    woken: anyio.Event = field(factory=anyio.Event, init=False)
    news: list[News] = field(factory=list, init=False)
    """News that it got and has not used yet."""
    is_over: bool = field(default=False, init=False)
    """True if it is to be answered now, with a job or without."""

    def take_news(self) -> list[News]:
        """Return the unused news, which the poll no longer has."""
        news, self.news = self.news, []
        return news

    def arm(self) -> list[News]:
        """Return the unused news; news from now on wakes the poll."""
        self.woken = anyio.Event()
        return self.take_news()

    def add(self, news: News) -> None:
        """Give news to the poll, and wake it."""
        self.news.append(news)
        self.woken.set()

    def end(self) -> None:
        """Wake the poll to be answered now."""
        self.is_over = True
        self.woken.set()

    def bind(self, binding: Binding) -> None:
        """Set the machine's binding."""
        self.binding = binding

    @property
    def line(self) -> tuple[str, bool]:
        """Machine and kind of poll. A machine has one poll of each kind: for jobs, and for cancel jobs only."""
        is_for_cancels = self.workflows is not None and not self.workflows
        return self.machine, is_for_cancels

    def wants(self, news: News) -> bool:
        """Return whether the job may be one for this poll's machine."""
        if not news.is_queued or news.machine not in ("", self.machine):
            return False
        if self.workflows is not None and news.workflow not in ("", *self.workflows):
            return False
        return bool(news.machine) or self.binding.may_want(
            news.workflow, news.repository
        )

    def knows(self, news: News) -> bool:
        """Return whether `wants` is certain: the news has the repository, or the binding doesn't need it."""
        return self.binding.repositories is None or news.repository is not None


@define
class Polls:
    """Held polls; the one that has waited longest comes first.

    Each queued job wakes one of them. If 500 machines wait, waking all for each job would mean 500 database queries,
    of which 499 find nothing. So the news of a job goes from poll to poll until the job is claimed: a poll that gets
    another job passes it on, and one whose query failed (`Locked`, `StorageBusy`) keeps it for its next look.

    Of several polls of one line (`Poll.line`) only the newest can get jobs: the connections of the others are most likely
    dead. A few of those are held all the same: else two machines that share an identity would poll in turn without a pause.
    """

    _held: dict[Poll, None] = field(factory=dict, init=False)
    """Polls that wait to be woken."""
    _newest: dict[tuple[str, bool], Poll] = field(factory=dict, init=False)
    _overtaken: dict[tuple[str, bool], dict[Poll, None]] = field(
        factory=dict, init=False
    )
    """Other polls of each line, oldest first."""

    def __len__(self) -> int:
        """Return the number of held polls."""
        return len(self._held)

    @contextmanager
    def hold(self, poll: Poll) -> Iterator[None]:
        """Hold a poll until the block ends; news that it has not used by then goes to another one."""
        overtaken = self._newest.get(poll.line)
        self._newest[poll.line] = poll
        if overtaken is not None:
            self._pass_on(overtaken)
            self._hold_few(overtaken)
        try:
            yield
        finally:
            self._held.pop(poll, None)
            if self.counts(poll):
                del self._newest[poll.line]
            self._let_go(poll)
            self._pass_on(poll)

    def counts(self, poll: Poll) -> bool:
        """Return whether a poll is the newest of its line."""
        return self._newest.get(poll.line) is poll

    def renew(self, poll: Poll) -> list[News]:
        """Arm a held poll, so that news from now on wakes it; return the news that it got before.

        The caller looks for a job next. It gives unused news back (`keep`) or passes it on (`wake`).
        """
        news = poll.arm()
        self._held[poll] = None
        return news

    def keep(self, poll: Poll, news: Iterable[News]) -> None:
        """Give news back to a poll, which has to use it again."""
        poll.news.extend(news)

    def wake(self, news: News) -> None:
        """Wake the poll that has waited longest among those that can use the job.

        A poll that can perhaps use it is woken as well, and the search continues.
        """
        for poll in list(self._held):
            if poll.wants(news) and self.counts(poll):
                del self._held[poll]
                poll.add(news)
                if poll.knows(news):
                    return

    def end(self, machine: str) -> None:
        """End the polls of a machine, so that it sends heartbeats and learns the state of its jobs."""
        for line, poll in self._newest.items():
            if line[0] == machine:
                poll.end()

    def wake_all(self) -> None:
        """Wake every poll, for example at a stop or after news may have been missed."""
        for poll in self._held:
            poll.woken.set()
        self._held.clear()

    def _hold_few(self, overtaken: Poll) -> None:
        """Keep holding an overtaken poll, and end the oldest one of its line if there are too many."""
        others = self._overtaken.setdefault(overtaken.line, {})
        others[overtaken] = None
        if len(others) > _MOST_OVERTAKEN:
            oldest = next(iter(others))
            del others[oldest]
            oldest.end()

    def _let_go(self, poll: Poll) -> None:
        others = self._overtaken.get(poll.line, {})
        others.pop(poll, None)
        if not others:
            self._overtaken.pop(poll.line, None)

    def _pass_on(self, poll: Poll) -> None:
        for news in poll.take_news():
            self.wake(news)


@define
class Waiting:
    """All requests of this process that wait."""

    polls: Polls = field(factory=Polls, init=False)
    """Long polls that wait for a job."""
    watchers: Watchers = field(factory=Watchers, init=False)
    """Requests that wait for a change of one job each."""
    logs: Watchers = field(factory=Watchers, init=False)
    """Requests that follow the log of one job each."""
    changed: Notifier = field(factory=Notifier, init=False)
    """Notifies when a job has changed its state."""
    stopping: bool = field(default=False, init=False)
    """True once no request may be held any more."""

    def stop(self) -> None:
        """End every held request now."""
        self.stopping = True
        self.wake_all()

    def notify(self, job: HubJob) -> None:
        """Wake the requests that wait for a job's change."""
        self.receive(News.of(job))

    def receive(self, news: News) -> None:
        """Wake the requests that wait for such news, whichever process sent them."""
        if news.is_queued:
            self.polls.wake(news)
        elif news.machine:
            self.polls.end(news.machine)
        self.watchers.notify(news.job_id)
        self.logs.notify(news.job_id)
        self.changed.notify()

    def wake_all(self) -> None:
        """Wake all waiting requests, for example after news may have been missed."""
        self.polls.wake_all()
        self.watchers.wake_all()
        self.logs.wake_all()
        self.changed.notify()
