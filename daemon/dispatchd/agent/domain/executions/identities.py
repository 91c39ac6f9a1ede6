"""Identities of executions, as a record has them: each says which engine has it."""

from datetime import datetime

from attrs import frozen


@frozen(kw_only=True)
class ProcessIdentity:
    """Identity of one process, never reused: pid, start time (clock ticks since boot), boot id.

    The kernel reuses a bare pid; see proc_pid_stat(5), field 22, and random(4), boot_id.
    """

    pid: int
    start_ticks: int
    boot_id: str


@frozen(kw_only=True)
class BatchJob:
    """Identity of one job of a batch system: its name, which only one job of this machine ever has, says it all.

    A controller may give an id to another job after it has forgotten one, so `job_id` alone is none. `engine` is the
    name of its engine in the configuration of that time. `submitted_at` is the time at which it was submitted, held.
    `limit_s` is the batch system's time limit of it (seconds).
    """

    engine: str
    cluster: str
    name: str
    job_id: int
    submitted_at: datetime
    limit_s: float


@frozen(kw_only=True)
class DagRun:
    """Identity of one run of a DAG: its id, which the daemon made before it told anybody, and which no other run has.

    `engine` is the name of its engine in the configuration of that time, `url` the address of its server's API, `dag`
    the name of the DAG. `limit_s` is the time after which a run is lost that has begun and is forgotten (seconds).
    """

    engine: str
    url: str
    dag: str
    name: str
    limit_s: float


@frozen(kw_only=True)
class EngineRun:
    """Identity of one start on an engine of a third party: its id, which the daemon made before it told anybody.

    `engine` is the name of its engine in the configuration of that time, `kind` the entry point of that. `limit_s` is
    the time after which a start is lost that has begun and is forgotten (seconds).
    """

    engine: str
    kind: str
    name: str
    limit_s: float


Submitted = DagRun | EngineRun
"""Identity of a start that was recorded before its engine heard of it."""

Remote = BatchJob | Submitted
"""Identity of an execution that isn't a process of this machine's own."""

Identity = ProcessIdentity | Remote
"""Identity of an attempt's execution. The list is closed: a record of another kind is a newer release's."""
