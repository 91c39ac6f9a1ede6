"""Repositories that people may read, by GitHub's answers, each of which counts for a short time.

All repositories of the hub are asked about, whichever job is wanted: so an answer takes as long for a job that somebody
may not see as for one that doesn't exist.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

import anyio
from attrs import define, field, frozen

from dispatchd.hub.auth.people import Person
from dispatchd.hub.login.ways import Repositories, ServiceAway, SessionOver

MOST: Final = 150
"""Most repositories that are asked about (count): those with the newest jobs. With `access_s` of 120 an open page makes
up to 4500 calls an hour, of the 5000 that GitHub grants a person."""

_AT_ONCE: Final = 8
"""Most questions at the same time (count)."""

_REMEMBERED: Final = 1000
"""People whose answers are kept (count), beyond which those whose answers are too old are dropped."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}")

_VALIDITY: Final = ""
"""Key of the answer about a person's token itself, beside those about repositories."""


@frozen
class _Answer:
    """Answer of GitHub: the repository's id, or None for no; `at` in seconds since the epoch."""

    id: int | None
    at: float


@define
class _Known:
    """Answers about one person."""

    asking: anyio.Lock = field(factory=anyio.Lock)
    answers: dict[str, _Answer] = field(factory=dict)


@define(kw_only=True)
class Access:
    """Answers about people, in this process."""

    repositories: Repositories
    now: Callable[[], float]
    lasts_s: float
    """Time for which an answer counts (seconds)."""
    _people: dict[str, _Known] = field(factory=dict, init=False)
    _asking: anyio.CapacityLimiter = field(
        factory=lambda: anyio.CapacityLimiter(_AT_ONCE), init=False
    )

    async def readable(self, person: Person, names: list[str]) -> Mapping[str, int]:
        """Return those of some repositories that a person may read, each with its id at GitHub.

        Raises:
            SessionOver: GitHub no longer accepts the person's token.
            ServiceAway: GitHub can't be asked.
        """
        known = self._known_of(person)
        async with known.asking:
            wanted = [name for name in names if _NAME.fullmatch(name)]
            await self._ask(
                known, person, [n for n in wanted if not self._counts(known, n)]
            )
            found = {name: known.answers[name].id for name in wanted}
        return {name: id_ for name, id_ in found.items() if id_ is not None}

    async def require_valid(self, person: Person) -> None:
        """Check that a person's token is valid; their role is given by the configuration, so it stays while GitHub is away.

        Raises:
            SessionOver: GitHub no longer accepts the person's token.
        """
        known = self._known_of(person)
        async with known.asking:
            if self._counts(known, _VALIDITY):
                return
            try:
                is_valid = await self.repositories.is_valid(person.token)
            except ServiceAway:
                is_valid = True
            if not is_valid:
                raise SessionOver
            known.answers[_VALIDITY] = _Answer(None, self.now())

    async def _ask(self, known: _Known, person: Person, names: list[str]) -> None:
        failures: list[Exception] = []

        async def ask(name: str) -> None:
            if failures:
                return
            asked_at = self.now()
            async with self._asking:
                try:
                    id_ = await self.repositories.readable_id(person.token, name)
                except (SessionOver, ServiceAway) as error:
                    failures.append(error)
                    return
            known.answers[name] = _Answer(id_, asked_at)

        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(ask, name)
        if failures:
            raise failures[0]

    def _counts(self, known: _Known, name: str) -> bool:
        answer = known.answers.get(name)
        return answer is not None and 0 <= self.now() - answer.at < self.lasts_s

    def _known_of(self, person: Person) -> _Known:
        # Of one token: what another session of the person has learnt isn't proof for this one.
        key = f"{person.subject} {person.token}"
        if len(self._people) > _REMEMBERED:
            self._people = {
                each: known
                for each, known in self._people.items()
                if any(self._counts(known, name) for name in known.answers)
                or known.asking.locked()
            }
        return self._people.setdefault(key, _Known())
