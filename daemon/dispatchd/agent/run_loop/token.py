"""Token of an attempt: the endpoint gives one to a command whose workflow asks for it."""

from collections.abc import Mapping
from http import HTTPStatus

from dispatchd.agent.domain.job import TrackedJob
from dispatchd.agent.domain.workflow import GH_TOKEN, Workflow
from dispatchd.agent.tracking.ports import Source
from dispatchd.errors import (
    Forbidden,
    JobClosed,
    RemoteError,
    Revoked,
    SecretUnavailable,
)


async def given_secrets(
    source: Source | None, record: TrackedJob, workflow: Workflow
) -> Mapping[str, str]:
    """Return the secrets that the endpoint gives to an attempt: a token, by variable, if its workflow asks for one.

    Raises:
        SecretUnavailable: The endpoint gives none.
    """
    if not workflow.github_token or record.job.from_fork:
        return {}
    if source is None:
        reason = "nobody is asked for a token in a replay"
        raise SecretUnavailable(name=GH_TOKEN, reason=reason, refused=True)
    if "token" not in record.job.extensions:
        reason = "the endpoint gives no tokens: its job has no extension `token`"
        raise SecretUnavailable(name=GH_TOKEN, reason=reason, refused=True)
    try:
        token = await source.token(record, workflow.github_token)
    except RemoteError as error:
        reason = f"the endpoint gave none: {error.reason}"
        raise SecretUnavailable(
            name=GH_TOKEN,
            reason=reason,
            refused=_is_refusal(error),
            retry_after_s=error.retry_after_s,
        ) from error
    return {GH_TOKEN: token}


def _is_refusal(error: RemoteError) -> bool:
    """Return whether the refusal is the endpoint's own, so that it would answer the same again."""
    return (
        isinstance(error, JobClosed | Forbidden | Revoked)
        or error.status == HTTPStatus.UNPROCESSABLE_ENTITY
    )
