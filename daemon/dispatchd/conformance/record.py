"""Record of a trial: the answer to each step by the step's name, and the jobs that the trial was handed. Pure."""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from math import inf
from typing import Final

from attrs import define, field, frozen

from dispatchd.errors import ContractViolation
from dispatchd.protocol import json_text
from dispatchd.protocol.contracts import check
from dispatchd.protocol.job import Json

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,63}")
"""Form of an extension's name: anything else is shown nowhere."""


@define(kw_only=True, slots=False)
class Answer:
    """One answer; names in `headers` are in lower case. `fault` says why there is none, in words."""

    call: str
    status: int = 0
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes = b""
    took_s: float = 0.0
    call_id: str = ""
    """Value of the header that the endpoint has to repeat."""
    shows_header: bool = False
    """True if the endpoint had shown the contract header before this call."""
    fault: str = ""

    @property
    def is_success(self) -> bool:
        """True for 200 and 204, the successes of the contract."""
        return self.status in {200, 204}

    @property
    def is_refusal(self) -> bool:
        """True for a status that is no success."""
        return bool(self.status) and not self.is_success

    @cached_property
    def document(self) -> dict[str, Json] | None:
        """The JSON object in the body; None if the body is something else."""
        try:
            value = json_text.loads(self.body.decode())
        except (UnicodeDecodeError, ContractViolation):
            return None
        return value if isinstance(value, dict) else None

    def text(self, name: str) -> str:
        """Return a text in the body; empty if there is none."""
        value = (self.document or {}).get(name)
        return value if isinstance(value, str) else ""

    def breach(self, contract: str) -> str:
        """Return the first rule of a schema that the body breaks, in words; it never quotes the body."""
        if self.document is None:
            return "the body is no JSON object"
        try:
            check(contract, self.document)
        except ContractViolation as violation:
            return f"{violation.path} {violation.rule}"
        return ""


@frozen(kw_only=True)
class Handed:
    """A job of the trial as it was handed out. `workflow` is how it was recognized."""

    id: str
    workflow: str
    claim_token: str = ""
    lease_s: float = 0.0
    extensions: frozenset[str] = frozenset()
    document: Mapping[str, Json] = field(factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Json]) -> "Handed":
        """Return the job that an answer to a pull holds."""
        token = document.get("claim_token")
        names = document.get("extensions")
        return cls(
            id=str(document.get("id") or ""),
            workflow=str(document.get("dag_name") or ""),
            claim_token=token if isinstance(token, str) else "",
            lease_s=_seconds(document.get("lease_seconds")),
            extensions=frozenset(
                name
                for name in (names if isinstance(names, list) else [])[:100]
                if isinstance(name, str) and _NAME.fullmatch(name)
            ),
            document=document,
        )


def _seconds(value: Json) -> float:
    """Return a number of seconds that an endpoint has sent; 0 for anything else, infinite for one that is out of all bounds."""
    if type(value) is not int and type(value) is not float:
        return 0.0
    try:
        return float(value) if value > 0 else 0.0
    except OverflowError:
        return inf


@define
class Record:
    """Everything that a trial has seen."""

    answers: dict[str, Answer] = field(factory=dict)
    jobs: dict[str, Handed] = field(factory=dict)
    """Jobs by the step that was handed them."""
    skipped: dict[str, str] = field(factory=dict)
    """Reason why steps were not played, by a step's name."""
    shown: set[str] = field(factory=set)
    """Extensions that the endpoint has shown."""
    left: list[str] = field(factory=list)
    """Workflows of the trial's jobs that were submitted and never came."""
    ended: str = ""
    """Reason why the trial ended early; empty if it did not."""

    def all(self) -> Iterator[tuple[str, Answer]]:
        """Yield every answer that arrived, with the name of its step."""
        for step, answer in self.answers.items():
            if not answer.fault:
                yield step, answer
