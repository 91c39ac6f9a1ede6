"""Frequent statements about jobs, built once: building one takes longer than SQLite takes to run it."""

from typing import Final

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    bindparam,
    exists,
    false,
    func,
    insert,
    or_,
    select,
    true,
    tuple_,
)

from dispatchd.hub.domain.binding import Binding
from dispatchd.hub.domain.document import STORED_REPOSITORY_ID, STORED_RULE
from dispatchd.hub.domain.model import ENDED, HELD, WAITING, State
from dispatchd.hub.storage.jobs.rows import COLUMNS
from dispatchd.hub.storage.schema import COUNTS, JOBS, MARKS, PAUSED, TEXTS

_JOB: Final = JOBS.c
_LAST: Final = 20
"""Newest jobs of a repository of which one must be of GitHub, for it to count as one at GitHub (count)."""
_QUEUED: Final = _JOB.state == State.QUEUED
_OF_ID: Final = _JOB.id == bindparam("of_id")
INSERT: Final = insert(JOBS).inline()
"""Nobody asks for the position."""
INSERT_TEXTS: Final = insert(TEXTS)
LOCKED: Final = select(*COLUMNS).where(_OF_ID).with_for_update()
POSITION: Final = select(_JOB.position).where(_OF_ID)
TEXTS_OF: Final = select(TEXTS.c.payload, TEXTS.c.headers).where(
    TEXTS.c.id == bindparam("of_id")
)
WAITING_SIZE: Final = select(
    func.coalesce(func.sum(COUNTS.c.jobs), 0),
    func.coalesce(func.sum(COUNTS.c.bytes), 0),
).where(COUNTS.c.state.in_(WAITING))
COUNTED: Final = select(COUNTS.c.state, func.sum(COUNTS.c.jobs)).group_by(
    COUNTS.c.state
)
"""Query of the number of jobs in each state."""
_FREE: Final = and_(
    _QUEUED,
    or_(_JOB.urgent == true(), ~exists().where(MARKS.c.name == PAUSED)),
    or_(_JOB.only_machine == "", _JOB.only_machine == bindparam("asking_machine")),
)
_DECLARED: Final = or_(
    _JOB.urgent == true(), _JOB.workflow.in_(bindparam("declared", expanding=True))
)
ORDER: Final = (_JOB.urgent.desc(), _JOB.priority.desc(), _JOB.turn, _JOB.position)
"""Order in which queued jobs are dispatched."""
NEXT: Final = (
    select(*COLUMNS)
    .where(_FREE)
    .order_by(*ORDER)
    .limit(1)
    .with_for_update(skip_locked=True)
)
NEXT_DECLARED: Final = NEXT.where(_DECLARED)
ANY_NEXT: Final = select(_JOB.position).where(_FREE).limit(1)
"""Query of any free job, also a locked one."""
ANY_NEXT_DECLARED: Final = ANY_NEXT.where(_DECLARED)


def within(binding: Binding) -> ColumnElement[bool]:
    """Return the condition of the free jobs that a bound machine may get; the same rule as `Binding.may_want`."""
    condition: ColumnElement[bool] = true()
    if binding.workflows is not None:
        condition = or_(_JOB.urgent == true(), _JOB.workflow.in_(binding.workflows))
    if binding.repositories is None:
        return condition
    name = func.lower(_JOB.repository)
    fits = (name.like(_like(pattern), escape="\\") for pattern in binding.repositories)
    is_its_own = _JOB.only_machine == bindparam("asking_machine")
    is_of_none = and_(_JOB.urgent == true(), _JOB.repository == "")
    return and_(condition, or_(is_its_own, is_of_none, *fits))


def beside(column: ColumnElement[str]) -> ColumnElement[str]:
    """Return a column for a condition beside others whose index is to find the jobs."""
    return func.coalesce(column, "")


def newest_repositories(most: int) -> Select[tuple[str]]:
    """Return the query of the repositories with the newest jobs, without those of webhooks beside GitHub's.

    It reads one entry of an index for each and a few of its newest jobs, not each job.
    """
    names = (
        select(func.min(_JOB.repository).label("name"))
        .where(_JOB.repository > "")
        .cte("names", recursive=True)
    )
    others, newest = JOBS.alias("others"), JOBS.alias("newest")
    after = (
        select(func.min(others.c.repository))
        .where(others.c.repository > names.c.name)
        .scalar_subquery()
    )
    names = names.union_all(select(after).where(names.c.name.is_not(None)))
    position = (
        select(func.max(newest.c.position))
        .where(newest.c.repository == names.c.name)
        .scalar_subquery()
    )
    last = JOBS.alias("last")
    documents = (
        select(last.c.document)
        .where(last.c.repository == names.c.name)
        .order_by(last.c.position.desc())
        .limit(_LAST)
        .correlate(names)
        .subquery("documents")
    )
    document = documents.c.document
    is_at_github = or_(
        document.contains(STORED_REPOSITORY_ID, autoescape=True),
        ~document.contains(STORED_RULE, autoescape=True),
    )
    return (
        select(names.c.name)
        .where(names.c.name.is_not(None), exists().where(is_at_github))
        .order_by(position.desc())
        .limit(most)
    )


def ahead_of(job_id: str) -> Select[tuple[int]]:
    """Return the query of the queued jobs that are dispatched before a queued one (`ORDER`)."""
    one = JOBS.alias("one")
    own = select(one).where(one.c.id == job_id).subquery("own")
    is_ahead = or_(
        and_(_JOB.urgent == true(), own.c.urgent == false()),
        and_(
            _JOB.urgent == own.c.urgent,
            or_(
                _JOB.priority > own.c.priority,
                and_(
                    _JOB.priority == own.c.priority,
                    tuple_(_JOB.turn, _JOB.position)
                    < tuple_(own.c.turn, own.c.position),
                ),
            ),
        ),
    )
    return select(_JOB.position).select_from(JOBS.join(own, is_ahead)).where(_QUEUED)


def _like(pattern: str) -> str:
    for character in "\\%_":
        pattern = pattern.replace(character, f"\\{character}")
    return pattern.lower().replace("*", "%")


CANCEL_JOBS: Final = (
    select(*COLUMNS)
    .where(_QUEUED, _JOB.urgent == true(), _JOB.only_machine != "")
    .with_for_update(skip_locked=True)
)
_TARGETS: Final = select(*COLUMNS).where(_JOB.cancel_requested == true())
UNENDED_TARGETS: Final = _TARGETS.where(_JOB.state.in_(HELD))
ABORTED_SINCE: Final = _TARGETS.where(
    _JOB.state == State.ABORTED, _JOB.finished_at >= bindparam("since")
)
_LIKE: Final = and_(_QUEUED, _JOB.priority == bindparam("of_priority"))
TURNS: Final = select(
    select(MARKS.c.value)
    .where(MARKS.c.name == bindparam("turn_mark"))
    .scalar_subquery(),
    select(func.max(_JOB.turn))
    .where(_LIKE, _JOB.repository == bindparam("of_repository"))
    .scalar_subquery(),
)
FIRST_TURN: Final = (
    select(_JOB.turn)
    .where(_LIKE, _JOB.urgent == false())
    .order_by(_JOB.turn, _JOB.position)
    .limit(1)
)
HAS_HAD_TURN: Final = (
    select(_JOB.position)
    .where(
        _JOB.state.in_((*HELD, *ENDED)),
        _JOB.priority == bindparam("of_priority"),
        _JOB.repository == bindparam("of_repository"),
        _JOB.turn == bindparam("of_turn"),
        _JOB.deliveries > 0,
    )
    .limit(1)
)
