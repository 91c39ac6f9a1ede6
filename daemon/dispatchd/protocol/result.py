"""Result that a headless command writes about its run (contracts/README.md, run-result)."""

from enum import StrEnum

from attrs import frozen


class ResultStatus(StrEnum):
    """Result of the run, in the command's own judgement."""

    SUCCESS = "success"
    PARTIAL = "partial"
    FAILURE = "failure"
    NEEDS_INPUT = "needs_input"


@frozen(kw_only=True)
class Annotation:
    """Remark on lines of a file. Lines count from 1; `end_line` None is the first line."""

    path: str
    start_line: int
    end_line: int | None = None
    level: str
    title: str = ""
    message: str


@frozen(kw_only=True)
class RunResult:
    """Valid result; paths are relative to the workspace."""

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
    """No valid result was found. `reason` says why, in words that quote nothing of it."""

    reason: str
