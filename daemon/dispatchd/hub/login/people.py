"""Sessions of people: from a cookie to what its person may see and do now."""

from collections.abc import Mapping

from attrs import frozen

from dispatchd.hub.auth.people import Person, PersonSessions, Role, role_of
from dispatchd.hub.config.login import LoginSettings, RoleNames
from dispatchd.hub.context import Context
from dispatchd.hub.login.access import MOST, Access
from dispatchd.hub.login.ways import SessionOver, Way, Ways
from dispatchd.hub.storage.cursors import MarkStore


@frozen(kw_only=True)
class Visit:
    """Person with a valid session, and what they may see."""

    person: Person
    role: Role | None
    """Role; None for a person who sees the jobs of some repositories."""
    repositories: Mapping[str, int] | None
    """Repositories whose jobs the person sees, each with its id at GitHub; None for all jobs."""


@frozen(kw_only=True)
class People:
    """People who log in by other services."""

    context: Context
    settings: LoginSettings
    ways: Ways
    sessions: PersonSessions
    access: Access | None
    """Answers of GitHub; None where nobody logs in with it."""

    @classmethod
    def of(cls, context: Context, ways: Ways) -> "People":
        """Return the people of a hub; without `[login]` nobody."""
        settings = context.settings.login or LoginSettings()
        asked = ways.repositories
        return cls(
            context=context,
            settings=settings,
            ways=ways,
            sessions=PersonSessions(
                context.stores.tokens, MarkStore(context.stores.database)
            ),
            access=None
            if asked is None
            else Access(repositories=asked, now=context.now, lasts_s=settings.access_s),
        )

    @property
    def listed(self) -> list[Way]:
        """Ways in, in the order in which the page shows them."""
        return [*self.ways.by_name.values()]

    def roles(self, way: str) -> RoleNames | None:
        """Return the roles of those who log in in a way; None where nobody can any more."""
        return self.settings.github if way == "github" else self.settings.oidc

    def may_enter(self, person: Person) -> bool:
        """Return whether a person sees anything here: by a role, or by what they may read."""
        roles = self.roles(person.way)
        if roles is None:
            return False
        return role_of(roles, person.names) is not None or self._reads(person)

    async def visit(self, value: str) -> Visit | None:
        """Return the visit of a session's cookie, or None if it isn't valid (any more).

        Raises:
            ServiceAway: GitHub can't be asked what the person may read.
        """
        if not value or not self.ways.by_name:
            return None
        session = await self.context.use(
            lambda: self.sessions.read(value, now=self.context.now())
        )
        if session is None:
            return None
        person = session.person
        roles = self.roles(person.way)
        if roles is None or person.way not in self.ways.by_name:
            return None
        try:
            return await self._allowed(person, role_of(roles, person.names))
        except SessionOver:
            return None

    async def _allowed(self, person: Person, role: Role | None) -> Visit | None:
        if role is not None:
            if person.token and self.access is not None:
                await self.access.require_valid(person)
            return Visit(person=person, role=role, repositories=None)
        if not self._reads(person) or self.access is None:
            return None
        names = await self.context.use_for_list(
            lambda: self.context.stores.reader.repositories(MOST)
        )
        readable = await self.access.readable(person, names)
        return Visit(person=person, role=None, repositories=readable)

    def _reads(self, person: Person) -> bool:
        github = self.settings.github
        return person.way == "github" and github is not None and github.readers
