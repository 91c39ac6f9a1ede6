"""What a headless command says of its run (contracts/README.md, run-result)."""

from enum import StrEnum

from attrs import frozen


class ResultStatus(StrEnum):
    """How it went, in the command's own judgement."""

    SUCCESS = "success"
    PARTIAL = "partial"
    FAILURE = "failure"
    NEEDS_INPUT = "needs_input"


@frozen(kw_only=True)
class Annotation:
    """One remark on lines of a file; lines count from 1, `end_line` None is the first."""

    path: str
    start_line: int
    end_line: int | None = None
    level: str
    title: str = ""
    message: str


@frozen(kw_only=True)
class RunResult:
    """A result that keeps the contract; paths are relative to the workspace."""

    contract_version: str
    status: ResultStatus
    summary: str
    exit_reason: str
    branch: str = ""
    commits: tuple[str, ...] = ()
    files_changed: tuple[str, ...] = ()
    body: str = ""
    artifacts: tuple[str, ...] = ()
    annotations: tuple[Annotation, ...] = ()


@frozen
class NoResult:
    """There is no valid result; `reason` says why, in words that quote nothing of it."""

    reason: str
