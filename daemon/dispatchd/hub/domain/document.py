"""Job as it was submitted or as an event has made it: typed, and exactly as it is stored and dispatched.

The hub stores fields that it doesn't know, and changes none. So the document itself is the record, and this module is the
only one, beside the API, that knows the names of the fields on the wire (contracts/schemas/submit-request.schema.json).
"""

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, Self, TypedDict

from typing_extensions import Unpack, override

from dispatchd.protocol.job import CANCEL, Json

RESOLVE: Final = "resolve"
"""Command of a job that stands for a person's decision about a parked job; no machine gets it."""


class Fields(TypedDict, total=False):
    """Fields of a job, by the names that the hub has for them."""

    id: str
    workflow: str
    command: str
    target: str
    event: str
    action: str
    delivery_id: str
    installation_id: int
    repository: str
    repository_id: int
    rule: str
    ref: str
    sha: str
    pull_request: int
    issue: int
    comment_id: int
    actor: str
    title: str
    from_fork: bool


_WIRE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "workflow": "dag_name",
        "target": "dag_run_id",
        "event": "event_name",
        "action": "event_action",
        "repository": "repository_name",
        "rule": "binding_id",
        "pull_request": "pull_request_number",
        "issue": "issue_number",
        "actor": "actor_login",
    }
)
"""Name of a field -> its name on the wire, where that is another one."""


STORED_REPOSITORY_ID: Final = '"repository_id": '
"""Beginning of a repository's id in the text of a stored document."""

STORED_RULE: Final = '"binding_id": '
"""Beginning of a rule's name in the text of a stored document."""


class JobDocument(Mapping[str, Json]):
    """Document of a job; nobody changes it. A text that is left out is empty, and a number is 0."""

    __slots__ = ("_wire",)

    def __init__(self, wire: Mapping[str, Json]) -> None:
        self._wire = dict(wire)

    @classmethod
    def of(cls, **fields: Unpack[Fields]) -> Self:
        """Return the document with some fields."""
        return cls(dict(_on_wire(fields)))

    def changed(self, **fields: Unpack[Fields]) -> "JobDocument":
        """Return the document with other values of some fields."""
        return JobDocument({**self._wire, **dict(_on_wire(fields))})

    def without_empty(self) -> "JobDocument":
        """Return the document without empty fields."""
        return JobDocument({name: value for name, value in self.items() if value})

    @override
    def __getitem__(self, name: str) -> Json:
        return self._wire[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._wire)

    @override
    def __eq__(self, other: object) -> bool:
        if isinstance(other, JobDocument):
            return self._wire == other._wire
        return super().__eq__(other)

    @override
    def __hash__(self) -> int:
        # Of the names alone: a value may be a list.
        return hash(frozenset(self._wire))

    @override
    def __len__(self) -> int:
        return len(self._wire)

    @override
    def __repr__(self) -> str:
        return f"JobDocument({self._wire!r})"

    @property
    def text(self) -> str:
        """The document as JSON, as it is stored."""
        return json.dumps(self._wire)

    @property
    def id(self) -> str:
        """Id of the job."""
        return self._text("id")

    @property
    def workflow(self) -> str:
        """Name of the workflow; empty for a cancel job of none."""
        return self._text("dag_name")

    @property
    def command(self) -> str:
        """Command that made the job; empty for none."""
        return self._text("command")

    @property
    def is_cancel(self) -> bool:
        """True for a cancel job; the same rule as on the machine."""
        return self.command.lower() == CANCEL

    @property
    def resolution(self) -> Mapping[str, Json] | None:
        """The decision about a parked job that it stands for, until GitHub was asked about it; None for any other job."""
        found = self._wire.get(RESOLVE)
        is_one = self.command == RESOLVE and isinstance(found, dict)
        return found if is_one and isinstance(found, dict) else None

    def resolving(self, resolution: Mapping[str, Json]) -> "JobDocument":
        """Return the document as that of a decision about a parked job."""
        return JobDocument({**self._wire, "command": RESOLVE, RESOLVE: {**resolution}})

    @property
    def target(self) -> str:
        """Id of the run, or of the job, that a cancel job is to end; empty for those of its workflow."""
        return self._text("dag_run_id")

    @property
    def event(self) -> str:
        """Name of its event."""
        return self._text("event_name")

    @property
    def action(self) -> str:
        """Action of its event."""
        return self._text("event_action")

    @property
    def delivery_id(self) -> str:
        """Id of the delivery that has brought its event."""
        return self._text("delivery_id")

    @property
    def installation_id(self) -> int:
        """Id of the App's installation."""
        return self._whole("installation_id")

    @property
    def repository(self) -> str:
        """Name of the repository, as owner/name."""
        return self._text("repository_name")

    @property
    def repository_id(self) -> int:
        """Id of the repository, which stays when it is renamed."""
        return self._whole("repository_id")

    @property
    def stored_repository_id(self) -> str:
        """The repository's id as it is in the text of a stored document; empty for none."""
        if not self.repository_id:
            return ""
        return json.dumps({"repository_id": self._wire["repository_id"]})[1:-1]

    @property
    def rule(self) -> str:
        """Name of the rule that made it of an event."""
        return self._text("binding_id")

    @property
    def is_of_a_webhook(self) -> bool:
        """True if a webhook of a sender beside GitHub made it, so that its repository is not one at GitHub.

        A rule and no id of the repository say so: an event of GitHub always has that.
        """
        return bool(self.rule) and not self.repository_id

    @property
    def ref(self) -> str:
        """Ref of its commit."""
        return self._text("ref")

    @property
    def sha(self) -> str:
        """Id of its commit."""
        return self._text("sha")

    @property
    def pull_request(self) -> int:
        """Number of its pull request."""
        return self._whole("pull_request_number")

    @property
    def issue(self) -> int:
        """Number of its issue."""
        return self._whole("issue_number")

    @property
    def number(self) -> int:
        """Number of its pull request or issue, which share their numbers."""
        return self.pull_request or self.issue

    @property
    def comment_id(self) -> int:
        """Id of the comment with its command."""
        return self._whole("comment_id")

    @property
    def actor(self) -> str:
        """Login of the user who caused it."""
        return self._text("actor_login")

    @property
    def title(self) -> str:
        """Subject in one line for people; empty for none."""
        return self._text("title")

    @property
    def from_fork(self) -> bool:
        """True if its code comes from a fork."""
        return bool(self._wire.get("from_fork"))

    def _text(self, name: str) -> str:
        return str(self._wire.get(name) or "")

    def _whole(self, name: str) -> int:
        """Return a number. JSON has one kind of numbers: 5.0 is 5."""
        value = self._wire.get(name)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return value if isinstance(value, int) else 0


def as_document(wire: Mapping[str, Json]) -> JobDocument:
    """Return a document; one that is already a document stays as it is."""
    return wire if isinstance(wire, JobDocument) else JobDocument(wire)


def _on_wire(fields: Fields) -> Iterator[tuple[str, Json]]:
    for name, value in fields.items():
        if isinstance(value, (str, int)):
            yield _WIRE.get(name, name), value
