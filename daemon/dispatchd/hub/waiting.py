"""Who waits at this hub: held polls, of which each new job wakes one, and watchers, whom every change wakes."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final, Self

import anyio
from attrs import define, field, frozen

from dispatchd.hub.model import HubJob, State

_ANY: Final = ""

WAKE_ALL: Final = "*"
"""News between hub processes: every poll is to look."""

_LONGEST: Final = 7000
"""Longest news between hub processes (bytes): NOTIFY of PostgreSQL takes 8000."""


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


@frozen(kw_only=True)
class News:
    """That a job is there for a machine; empty texts mean any."""

    workflow: str = _ANY
    machine: str = _ANY

    @classmethod
    def of(cls, job: HubJob) -> Self | None:
        """Return the news of a job, or None for one that isn't there for a machine."""
        if job.state is not State.QUEUED:
            return None
        # A cancel job is for any workflow.
        return cls(
            workflow=_ANY if job.urgent else job.workflow, machine=job.only_machine
        )

    @property
    def words(self) -> str:
        """The news as text, for other hub processes; what is too long to be sent is left out, which means any."""
        words = json.dumps([self.workflow, self.machine])
        return words if len(words) <= _LONGEST else json.dumps([_ANY, _ANY])

    @classmethod
    def read(cls, words: str) -> Self:
        """Return the news of a text."""
        workflow, machine = json.loads(words)
        return cls(workflow=workflow, machine=machine)


@define(eq=False)
class Poll:
    """A held poll: what would be of use to it, and the event that wakes it."""

    machine: str
    workflows: Collection[str] | None
    woken: anyio.Event = field(factory=anyio.Event, init=False)
    news: News | None = field(default=None, init=False)
    """What has woken it and is not looked into yet."""

    def wants(self, news: News) -> bool:
        """Return whether the job could be for this poll's machine."""
        if news.machine not in (_ANY, self.machine):
            return False
        return self.workflows is None or news.workflow in (_ANY, *self.workflows)


@define
class Polls:
    """The held polls, the one that has waited longest first.

    Each job wakes one of them: with 500 machines waiting, to wake all for each job would be 500 looks into the
    database, of which 499 find nothing.
    """

    _held: dict[Poll, None] = field(factory=dict, init=False)

    def __len__(self) -> int:
        """Return how many polls are held."""
        return len(self._held)

    @contextmanager
    def hold(self, poll: Poll) -> Iterator[None]:
        """Hold a poll for the length of the block; news that it has not used by then goes to another one."""
        try:
            yield
        finally:
            self._held.pop(poll, None)
            self.pass_on(poll.news)

    def renew(self, poll: Poll) -> News | None:
        """Let a held poll be woken by whatever is told from now on, and return what it was woken by.

        Who calls it looks for a job next, or passes the news on.
        """
        news, poll.news = poll.news, None
        poll.woken = anyio.Event()
        self._held[poll] = None
        return news

    def pass_on(self, news: News | None) -> None:
        """Tell others what one poll has been told and could not use."""
        if news is not None:
            self.tell(news)

    def tell(self, news: News) -> None:
        """Wake the poll that has waited longest of those for which there is a job."""
        for poll in self._held:
            if poll.wants(news):
                del self._held[poll]
                poll.news = news
                poll.woken.set()
                return

    def wake_all(self) -> None:
        """Wake every poll, such as at a stop or after news may have been missed."""
        for poll in self._held:
            poll.woken.set()
        self._held.clear()
