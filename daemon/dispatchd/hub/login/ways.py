"""Ways in which people log in, as the page and GitHub's part know them: OAuth 2.0 with a code, bound to one browser."""

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Final, Protocol

from attrs import frozen

from dispatchd.errors import DispatchdError
from dispatchd.hub.auth.people import Begun, Person

DEADLINE_S: Final = 10.0
"""Deadline of a call to the service (seconds)."""


class ServiceAway(DispatchdError):
    """Service that gives no usable answer; other ways in are not concerned."""

    def __init__(self, label: str, reason: str) -> None:
        self.label, self.reason = label, reason
        super().__init__(f"{label} can't be asked now: {reason}")


class LoginRefused(DispatchdError):
    """Login that the service has refused, or whose proof isn't valid."""

    def __init__(self, label: str, reason: str) -> None:
        self.label, self.reason = label, reason
        super().__init__(f"the login with {label} was refused: {reason}")


class SessionOver(DispatchdError):
    """Session whose token the service no longer accepts."""


class Way(Protocol):
    """Way in which people log in."""

    @property
    def name(self) -> str:
        """Name in addresses."""
        ...

    @property
    def label(self) -> str:
        """Name for people."""
        ...

    async def address(self, begun: Begun, redirect_uri: str) -> str:
        """Return the address at the service to which the browser goes.

        Raises:
            ServiceAway: The service can't be asked.
        """
        ...

    async def person(
        self, begun: Begun, answer: Mapping[str, str], redirect_uri: str
    ) -> Person:
        """Return the person for whom a browser has come back.

        Args:
            begun: The login under way in this browser.
            answer: The parameters with which it has come back.
            redirect_uri: The address to which it has come back.

        Raises:
            LoginRefused: The service refuses, or its proof isn't valid.
            ServiceAway: The service can't be asked.
        """
        ...


class Repositories(Protocol):
    """Service that knows who may read a repository."""

    async def is_valid(self, token: str) -> bool:
        """Return whether a person's token is still accepted.

        Raises:
            ServiceAway: The service can't be asked.
        """
        ...

    async def readable_id(self, token: str, repository: str) -> int | None:
        """Return the id of a repository (`OWNER/NAME`) if the person may read it; None if they may not, or there is none.

        Raises:
            SessionOver: The token is no longer accepted.
            ServiceAway: The service can't be asked.
        """
        ...


@frozen(kw_only=True)
class Ways:
    """Ways that are configured, by name."""

    by_name: Mapping[str, Way]
    repositories: Repositories | None = None


def challenge(begun: Begun) -> str:
    """Return the code challenge of a login (RFC 7636, 4.2, S256)."""
    digest = sha256(begun.verifier.encode()).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def code_in(answer: Mapping[str, str], label: str) -> str:
    """Return the code in what a browser has come back with (RFC 6749, 4.1.2).

    Raises:
        LoginRefused: It has an error, or no code.
    """
    error = answer.get("error", "")
    if error:
        known = error if error.replace("_", "").isalpha() and error.isascii() else ""
        raise LoginRefused(label, f"it says {known[:60] or 'an error without a name'}")
    code = answer.get("code", "")
    if not code:
        raise LoginRefused(label, "it has sent no code")
    return code
