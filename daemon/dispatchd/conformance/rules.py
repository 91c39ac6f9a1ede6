"""Rules of an endpoint that can be judged from outside (contracts/README.md, rules of an endpoint): the table. Pure."""

from collections.abc import Callable, Sequence
from typing import Final

from attrs import frozen

from dispatchd.conformance import checks_claims as claims
from dispatchd.conformance import checks_first as first
from dispatchd.conformance.machine import LONG_POLL
from dispatchd.conformance.record import Record
from dispatchd.protocol.extensions import (
    CAPABILITIES,
    CLAIM,
    HEARTBEAT,
    LEASE,
    MARKED,
    RELEASE,
)


@frozen(kw_only=True)
class Rule:
    """One rule. `problem` returns how a record breaks it, in words; empty if it doesn't.

    Its number begins with the level that an endpoint without it lacks: 1 the first protocol, 2 the extensions.
    """

    number: str
    words: str
    needs: Sequence[str] = ()
    """Steps without whose answers it can't be judged."""
    extension: str = ""
    """Extension without which it does not apply."""
    problem: Callable[[Record], str]


RULES: Final = (
    Rule(
        number="1.1",
        words="Every call is answered in time, and completely",
        problem=first.unanswered,
    ),
    Rule(
        number="1.2",
        words="A refusal is a JSON object with a message",
        problem=first.bare_refusals,
    ),
    Rule(
        number="1.3",
        words="A body of an answer is a JSON object in UTF-8, sent as application/json, in no content coding",
        problem=first.foreign_bodies,
    ),
    Rule(
        number="1.4",
        words="A call that is no JSON object is refused, and is no failure of the endpoint",
        needs=("pull that is no JSON", "pull that is no object"),
        problem=first.accepts_garbage,
    ),
    Rule(
        number="1.5",
        words="A pull with nothing to do is answered with 204",
        needs=("pull of nothing",),
        problem=first.job_from_nowhere,
    ),
    Rule(
        number="1.6",
        words="A pull with a wrong secret is answered with 401",
        needs=("pull with a wrong secret",),
        problem=first.pull_of_anybody,
    ),
    Rule(
        number="1.7",
        words="A queued job is handed out to a pull, as the schema dispatch-job says",
        needs=("first job",),
        problem=first.no_job,
    ),
    Rule(
        number="1.8",
        words="A machine that names no extension gets a job without claim token, lease and calls of extensions",
        needs=("first job",),
        problem=first.unasked_extensions,
    ),
    Rule(
        number="1.9",
        words="A call about a job with a wrong secret is answered with 401",
        needs=("accept with a wrong secret", "finish with a wrong secret"),
        problem=first.calls_of_anybody,
    ),
    Rule(
        number="1.10",
        words="A call about a job that nobody knows is answered with 404",
        needs=("accept of an unknown job",),
        problem=first.unknown_job,
    ),
    Rule(
        number="1.11",
        words="An accept by the machine that has the job succeeds",
        needs=("accept",),
        problem=first.accept_fails,
    ),
    Rule(
        number="1.12",
        words="A repeated accept is answered as the first was",
        needs=("accept", "accept again"),
        problem=first.accept_differs,
    ),
    Rule(
        number="1.13",
        words="A property that the endpoint does not know is ignored",
        needs=("accept", "accept with an unknown field"),
        problem=first.unknown_field,
    ),
    Rule(
        number="1.14",
        words="A job that a machine has accepted is handed out to no other pull",
        needs=("accept", "pull after the accept"),
        problem=first.handed_out_twice,
    ),
    Rule(
        number="1.15",
        words="A finish by the machine that has the job succeeds",
        needs=("finish",),
        problem=first.finish_fails,
    ),
    Rule(
        number="1.16",
        words="A repeated finish is answered as the first was",
        needs=("finish", "finish again"),
        problem=first.finish_differs,
    ),
    Rule(
        number="1.17",
        words="The first result stands: another one is answered with success or 409, and replaces nothing",
        needs=(
            "finish",
            "finish with another result",
            "finish after another result",
        ),
        problem=first.result_replaced,
    ),
    Rule(
        number="1.18",
        words="A job whose finish was acknowledged is never handed out again",
        needs=("finish", "pull after the finish"),
        problem=first.handed_out_after_the_end,
    ),
    Rule(
        number="1.19",
        words="A finish is taken without an accept, and with a cause that the endpoint does not know",
        needs=("finish without an accept",),
        problem=first.unaccepted_refused,
    ),
    Rule(
        number="1.20",
        words="An id in a path is percent-encoded as one segment, so that a slash in it is %2F",
        needs=("accept by a path with %2F",),
        problem=first.encoded_path,
    ),
    Rule(
        number="1.21",
        words="A finish is not refused for the size of a report within the limits",
        needs=("finish with a full report",),
        problem=first.report_refused,
    ),
    Rule(
        number="1.22",
        words="An accepted job, a result and a queued job outlast a restart of the endpoint",
        needs=("pull after the restart",),
        problem=first.lost_by_restart,
    ),
    Rule(
        number="1.23",
        words="A machine that is revoked gets 410 or 401 on a pull, and no success about a job",
        needs=("pull after the revocation", "accept after the revocation"),
        problem=first.revoked_served,
    ),
    Rule(
        number="1.24",
        words="A license heartbeat with the secret of the activation brings a token, another secret is answered with 401",
        needs=("license heartbeat", "license heartbeat with a wrong secret"),
        problem=first.license_heartbeat,
    ),
    Rule(
        number="2.1",
        words="A claim token is hard to guess, and another one for each job",
        extension=CLAIM,
        needs=("claimed job",),
        problem=claims.weak_tokens,
    ),
    Rule(
        number="2.2",
        words="A call with a missing claim token is answered with 409",
        extension=CLAIM,
        needs=("accept with no claim token", "finish with no claim token"),
        problem=claims.missing_token,
    ),
    Rule(
        number="2.3",
        words="A call with a wrong claim token is answered with 409, and changes nothing",
        extension=CLAIM,
        needs=("accept with a wrong claim token", "finish with a wrong claim token"),
        problem=claims.wrong_token,
    ),
    Rule(
        number="2.4",
        words="Under its claim token a job is accepted and finished",
        extension=CLAIM,
        needs=("accept of the claim", "finish of the claim"),
        problem=claims.claim_refused,
    ),
    Rule(
        number="2.5",
        words="A heartbeat succeeds in each phase, with progress and with a reason",
        extension=HEARTBEAT,
        needs=("heartbeat of running",),
        problem=claims.heartbeat_refused,
    ),
    Rule(
        number="2.6",
        words="A heartbeat's reply is what its schema says, and grants no shorter lease than the job's",
        extension=HEARTBEAT,
        needs=("heartbeat of running",),
        problem=claims.heartbeat_reply,
    ),
    Rule(
        number="2.7",
        words="A heartbeat extends the lease: until its end the job is handed out to nobody else",
        extension=LEASE,
        needs=("pull within an extended lease", "heartbeat of the lease"),
        problem=claims.lease_not_extended,
    ),
    Rule(
        number="2.8",
        words="A repeated release is answered as the first was",
        extension=RELEASE,
        needs=("release", "release again"),
        problem=claims.release_differs,
    ),
    Rule(
        number="2.9",
        words="A job that was released is handed out with a new claim token, and the old one is answered with 409",
        extension=RELEASE,
        needs=("accept of the old claim", "accept of the new claim"),
        problem=claims.old_claim_counts,
    ),
    Rule(
        number="2.10",
        words="A held pull is answered within the time that was asked for, and says so by Preference-Applied",
        extension=LONG_POLL,
        needs=("held pull of nothing",),
        problem=claims.hold_too_long,
    ),
    Rule(
        number="2.11",
        words="A job that is queued goes to a held pull within 1 s",
        extension=LONG_POLL,
        needs=("held pull",),
        problem=claims.held_pull_late,
    ),
    Rule(
        number="2.12",
        words="A machine gets no job for a workflow that it has not declared, and with an empty list only cancel jobs",
        extension=CAPABILITIES,
        needs=("pull for another workflow", "pull for cancel jobs alone"),
        problem=claims.undeclared_workflow,
    ),
    Rule(
        number="2.13",
        words="Each answer has the contract header, refusals included",
        extension=MARKED,
        problem=claims.header_missing,
    ),
    Rule(
        number="2.14",
        words="An answer repeats the header Dispatch-Call of its call",
        extension=MARKED,
        problem=claims.call_not_repeated,
    ),
    Rule(
        number="2.15",
        words="A cancel job reaches the machine of its run, by a pull for cancel jobs alone or by a heartbeat",
        extension=CAPABILITIES,
        needs=("pull of the cancel job",),
        problem=claims.cancel_lost,
    ),
)
"""Every rule, by its number."""
