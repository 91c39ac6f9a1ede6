"""Judgement of a record by the rules, and the level that an endpoint has reached. Pure."""

from collections.abc import Sequence
from typing import Final

from dispatchd.conformance.record import Record
from dispatchd.conformance.rules import RULES, Rule
from dispatchd.judging.judgement import Judgement, Verdict
from dispatchd.protocol.extensions import CLAIM, HEARTBEAT, LEASE

OF_LEVEL_2: Final = (CLAIM, LEASE, HEARTBEAT)
"""Extensions that an endpoint of level 2 has."""


def judged(record: Record) -> list[Judgement]:
    """Return the judgement of every rule, in their order."""
    return [_judgement(rule, record) for rule in RULES]


def level_of(judgements: Sequence[Judgement], record: Record) -> int:
    """Return the level that an endpoint has: 0 if it breaks a rule of the first protocol, or the trial ended early.

    An extension that it has not shown costs no level 1.
    """
    broken = {each.level for each in judgements if each.verdict is Verdict.BROKEN}
    if 1 in broken or record.ended:
        return 0
    return 2 if not broken and record.shown.issuperset(OF_LEVEL_2) else 1


def _judgement(rule: Rule, record: Record) -> Judgement:
    if rule.extension and rule.extension not in record.shown:
        reason = f"the endpoint has not shown {rule.extension}"
        return Judgement(rule=rule, verdict=Verdict.SKIPPED, reason=reason)
    for step in rule.needs:
        if step not in record.answers:
            reason = record.skipped.get(step) or record.ended or f"no {step}"
            return Judgement(rule=rule, verdict=Verdict.SKIPPED, reason=reason)
    problem = rule.problem(record)
    verdict = Verdict.BROKEN if problem else Verdict.KEPT
    return Judgement(rule=rule, verdict=verdict, reason=problem)
