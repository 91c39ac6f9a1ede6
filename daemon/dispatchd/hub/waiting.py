"""Who waits at this hub: held polls, of which each queued job wakes one, watchers of one job, and those of any change."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import anyio
from attrs import define, field

from dispatchd.hub.domain.binding import FREE, Binding
from dispatchd.hub.domain.news import News

_MOST_OVERTAKEN: Final = 4
"""How many polls of one machine and kind are held beside the newest (count)."""


@define
class Bell:
    """Wakes everybody who waits for something, as often as it happens."""

    _next: anyio.Event = field(factory=anyio.Event)

    @property
    def next(self) -> anyio.Event:
        """The event of the next ring. Take it first, then read the state, then wait for it."""
        return self._next

    def ring(self) -> None:
        """Wake those who wait now."""
        self._next.set()
        self._next = anyio.Event()


@define
class Watchers:
    """Those who wait for one job each; a job wakes only its own."""

    _bells: dict[str, tuple[Bell, int]] = field(factory=dict, init=False)
    """The bell of a job, and how many wait for it (count)."""

    @contextmanager
    def watch(self, job_id: str) -> Iterator[Bell]:
        """Give the bell of a job for the length of the block."""
        bell, count = self._bells.get(job_id, (Bell(), 0))
        self._bells[job_id] = bell, count + 1
        try:
            yield bell
        finally:
            bell, count = self._bells.pop(job_id)
            if count > 1:
                self._bells[job_id] = bell, count - 1

    def ring(self, job_id: str) -> None:
        """Wake those who wait for a job."""
        if job_id in self._bells:
            self._bells[job_id][0].ring()

    def wake_all(self) -> None:
        """Wake every watcher."""
        for bell, _ in self._bells.values():
            bell.ring()


@define(eq=False)
class Poll:
    """A held poll: what would be of use to it, and the event that wakes it."""

    machine: str
    workflows: Collection[str] | None
    binding: Binding = FREE
    """What the hub's owner has bound the machine to, as it was at the last look."""
    woken: anyio.Event = field(factory=anyio.Event, init=False)
    news: list[News] = field(factory=list, init=False)
    """What it was told and has not looked into yet."""
    is_over: bool = field(default=False, init=False)
    """Whether it is to be answered now, with a job or without."""

    @property
    def line(self) -> tuple[str, bool]:
        """Machine and kind of poll. A machine has one poll of each kind: for jobs, and for cancel jobs alone."""
        is_for_cancels = self.workflows is not None and not self.workflows
        return self.machine, is_for_cancels

    def wants(self, news: News) -> bool:
        """Return whether the job could be for this poll's machine."""
        if not news.is_queued or news.machine not in ("", self.machine):
            return False
        if self.workflows is not None and news.workflow not in ("", *self.workflows):
            return False
        return bool(news.machine) or self.binding.may_want(
            news.workflow, news.repository
        )

    def knows(self, news: News) -> bool:
        """Return whether it is certain that the job is for this poll's machine, if it wants it."""
        return self.binding.repositories is None or news.repository is not None


@define
class Polls:
    """The held polls, the one that has waited longest first.

    Each queued job wakes one of them: with 500 machines waiting, to wake all for each job would be 500 looks into
    the database, of which 499 find nothing. So its news goes from poll to poll until the job is taken: a poll that
    gets another job passes it on, and one that couldn't look well (`Locked`, `StorageBusy`) keeps it for its next look.

    Of several polls of one line (`Poll.line`) only the newest counts: the connections of the others have most likely died.
    A few of those are held on all the same, as two machines that share an identity would else poll in turn without a pause.
    """

    _held: dict[Poll, None] = field(factory=dict, init=False)
    """Those that wait to be woken."""
    _newest: dict[tuple[str, bool], Poll] = field(factory=dict, init=False)
    _overtaken: dict[tuple[str, bool], dict[Poll, None]] = field(
        factory=dict, init=False
    )
    """The others of each line, oldest first."""

    def __len__(self) -> int:
        """Return how many polls are held."""
        return len(self._held)

    @contextmanager
    def hold(self, poll: Poll) -> Iterator[None]:
        """Hold a poll for the length of the block; news that it has not used by then goes to another one."""
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
        """Let a held poll be woken by whatever is told from now on, and return what it was told.

        Who calls it looks for a job next. What of the news is of no use then goes back (`keep`) or on (`tell`).
        """
        news, poll.news = poll.news, []
        poll.woken = anyio.Event()
        self._held[poll] = None
        return news

    def keep(self, poll: Poll, news: Iterable[News]) -> None:
        """Give a poll news back that it has to look into once more."""
        poll.news.extend(news)

    def tell(self, news: News) -> None:
        """Wake the poll that has waited longest of those for which there is a job.

        One for which there may be a job is woken as well, and doesn't keep another from being.
        """
        for poll in list(self._held):
            if poll.wants(news) and self.counts(poll):
                del self._held[poll]
                poll.news.append(news)
                poll.woken.set()
                if poll.knows(news):
                    return

    def end(self, machine: str) -> None:
        """Let the polls of a machine end, so that it asks by its heartbeats what has become of its jobs."""
        for line, poll in self._newest.items():
            if line[0] == machine:
                poll.is_over = True
                poll.woken.set()

    def wake_all(self) -> None:
        """Wake every poll, such as at a stop or after news may have been missed."""
        for poll in self._held:
            poll.woken.set()
        self._held.clear()

    def _hold_few(self, overtaken: Poll) -> None:
        """Hold an overtaken poll on, and end the oldest one of its line where these are too many."""
        others = self._overtaken.setdefault(overtaken.line, {})
        others[overtaken] = None
        if len(others) > _MOST_OVERTAKEN:
            oldest = next(iter(others))
            del others[oldest]
            oldest.is_over = True
            oldest.woken.set()

    def _let_go(self, poll: Poll) -> None:
        others = self._overtaken.get(poll.line, {})
        others.pop(poll, None)
        if not others:
            self._overtaken.pop(poll.line, None)

    def _pass_on(self, poll: Poll) -> None:
        unused, poll.news = poll.news, []
        for news in unused:
            self.tell(news)
