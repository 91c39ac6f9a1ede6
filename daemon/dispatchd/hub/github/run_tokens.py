"""Token for one run, where its workflow asks for one: minted when the run starts, with limited permissions, never stored.

The machine's owner sets the permissions that a workflow asks for. The hub's rule that made the job sets the most that
it may get.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import structlog
from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dispatchd.hub.auth.hashing import hashed
from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.context import Context
from dispatchd.hub.domain import claim_rules
from dispatchd.hub.domain.claim_rules import Claim
from dispatchd.hub.domain.model import HubJob, State
from dispatchd.hub.github.api.credentials import Credentials
from dispatchd.hub.github.api.responses import GithubError, Limited, Unclear
from dispatchd.hub.http_bodies import Refused, read_body
from dispatchd.protocol.job import Json

_LEVELS: Final = ("read", "write")


@frozen(kw_only=True)
class RunTokens:
    """Route from which machines get tokens for runs."""

    context: Context
    settings: GithubSettings
    credentials: Credentials

    def routes(self) -> list[Route]:
        """Return the routes, for the application."""
        path = "/api/v1/github/dispatch/{job_id:job}/token"
        return [Route(path, self.grant, methods=["POST"])]

    async def grant(self, request: Request) -> Response:
        """Return a token for the repository of a job to the holder of the job's claim.

        Raises:
            Refused: The job is another machine's, or gets no token, or GitHub issues none.
        """
        body = await read_body(request, "token-grant-request")
        job_id = request.path_params["job_id"]
        job = await self.context.use(lambda: self._held(job_id, body))
        requested = _permissions(body)
        installation = self._allow(job, requested)
        try:
            token = await self.credentials.run_token(
                installation,
                job.document.repository_id or job.repository.partition("/")[2],
                requested,
            )
        except GithubError as error:
            structlog.get_logger().warning(
                "run_token_refused", job_id=job.id, error=str(error)
            )
            later = isinstance(error, (Limited, Unclear))
            status = HTTPStatus.SERVICE_UNAVAILABLE if later else HTTPStatus.FORBIDDEN
            raise Refused(status, f"GitHub gives no token: {error.reason}") from error
        structlog.get_logger().info("run_token_granted", job_id=job.id, **requested)
        answer = {"token": token.value, "expires_at": int(token.expires_at)}
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    def _held(self, job_id: str, body: Mapping[str, Json]) -> HubJob:
        """Return the job whose claim a request proves. Blocks.

        Raises:
            Refused: It proves no claim.
        """
        machine = self.context.authenticate({**body}, "secret")
        if machine.revoked_at:
            raise Refused(HTTPStatus.UNAUTHORIZED, "this machine has been revoked")
        job = self.context.stores.reader.get(job_id)
        if job is None:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such job")
        token_hash = hashed(body.get("claim_token"))
        claim = Claim(machine=machine.server_id, token_hash=token_hash)
        claim_rules.require_holder(job, claim)
        if job.state is State.CLAIMED:
            raise Refused(HTTPStatus.CONFLICT, "the job has not been accepted yet")
        return job

    def _allow(self, job: HubJob, requested: Mapping[str, str]) -> int:
        """Return the installation for a job's token.

        Raises:
            Refused: The job gets no token, or fewer permissions.
        """
        if job.document.from_fork:
            message = "its code comes from a fork, so it gets no token"
            raise Refused(HTTPStatus.FORBIDDEN, message)
        installation = job.document.installation_id
        is_ours = self.settings.is_app and job.by_event
        if not (is_ours and installation):
            message = "only an event of the hub's GitHub App has a token"
            raise Refused(HTTPStatus.FORBIDDEN, message)
        rule = job.document.rule
        permissions = self.settings.permissions_of_run(rule)
        for name, level in requested.items():
            most = permissions.get(name, "")
            if most not in _LEVELS or _LEVELS.index(level) > _LEVELS.index(most):
                message = (
                    f"the hub's run_permissions for rule {rule} don't have"
                    f" {name} = {level}"
                )
                raise Refused(HTTPStatus.FORBIDDEN, message)
        return installation


def _permissions(body: Mapping[str, Json]) -> dict[str, str]:
    permissions = body.get("permissions")
    return (
        {name: str(level) for name, level in permissions.items()}
        if isinstance(permissions, dict)
        else {}
    )
