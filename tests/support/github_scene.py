"""A hub, its GitHub, and what that says about the repository of the events."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
from attrs import define, field

from dispatchd.hub.auth.audit import Change
from dispatchd.protocol.times import iso
from support.checks import ChecksHub, checks_hub
from support.github import APP_ID, INSTALLATION
from support.github_api import Answer, GithubApi, Request, github_api
from support.github_events import comment, pull, real
from support.github_hub import RULES, send
from support.hub import HubHere
from support.machine import row

_COMMENTS = count(1)

SECRET = "s3cret"


@define
class Repository:
    """What GitHub says about the repository of the comments."""

    permission: str = "write"
    role: str = ""
    pull: dict[str, Any] = field(factory=pull)
    tags: dict[str, str] = field(factory=dict)
    reactions: list[str] = field(factory=list)
    comments: list[str] = field(factory=list)

    def answer(self, request: Request) -> Answer | None:
        match request.method, request.parts[3:]:
            case "GET", ("collaborators", login, "permission"):
                role = self.role or self.permission
                access = {"permission": self.permission, "role_name": role}
                return 200, {**access, "user": {"login": login}}, {}
            case "GET", ("pulls", _):
                return 200, self.pull, {}
            case "GET", ("commits", *ref):
                sha = self.tags.get("/".join(ref))
                return (200, {"sha": sha}, {}) if sha else None
            case "POST", ("issues" | "pulls", "comments", _, "reactions"):
                self.reactions.append(request.body["content"])
                return 201, {"id": 1}, {}
            case "POST", ("issues", _, "comments"):
                self.comments.append(request.body["body"])
                return 201, {"id": 1}, {}
            case _:
                return None


@define
class Scene:
    """A hub, its GitHub, and what that says."""

    hub: ChecksHub[HubHere]
    github: GithubApi
    repository: Repository

    def changes(self) -> list[Change]:
        """Return what the audit list has, newest first."""
        audit = self.hub.server.context.stores.audit
        return [change for _, change in audit.newest(100)]

    async def say(
        self, body: str, delivery: str = "", *, ago_s: float = 0, **options: Any
    ) -> httpx.Response:
        """Write a comment, which comes `ago_s` seconds later."""
        # No two comments of GitHub have the same payload.
        event = comment(body, installation=INSTALLATION, **options)
        event["said"] = next(_COMMENTS)
        event["comment"]["created_at"] = iso(self.hub.server.time.wall() - ago_s)
        return await self.tell("issue_comment", event, delivery)

    async def tell(
        self, event: str, payload: dict[str, Any], delivery: str = ""
    ) -> httpx.Response:
        payload = {**payload, "installation": {"id": INSTALLATION}}
        reply = await send(
            self.hub.server, event, payload, delivery, secret=SECRET, target=str(APP_ID)
        )
        assert reply.status_code == 202, reply.text
        return reply

    async def press(
        self,
        external_id: str,
        button: str,
        repository: str = "",
        *,
        repository_id: int = 0,
        login: str = "octocat",
    ) -> httpx.Response:
        """Press a button on a check run; an empty one is Re-run."""
        event = real("check_run/08-rerequested")
        event["check_run"] |= {"external_id": external_id, "app": {"id": APP_ID}}
        event["repository"] = real("push/00")["repository"]
        event["sender"]["login"] = login
        if repository:
            event["repository"]["full_name"] = repository
        if repository_id:
            event["repository"]["id"] = repository_id
        if button:
            event["action"] = "requested_action"
            event["requested_action"] = {"identifier": button}
        return await self.tell("check_run", event)

    async def decided(self, reply: httpx.Response) -> list[dict[str, Any]]:
        """Return the jobs of a delivery once GitHub was asked about them."""
        rows = []
        for job_id in reply.json()["jobs"]:
            # It has ended, or it is no longer received: whichever comes first.
            await self.hub.server.result(job_id, until="queued")
            rows.append(await row(self.hub.server, job_id))
        return rows

    async def decided_in_time(self, reply: httpx.Response) -> list[dict[str, Any]]:
        """Return the same once GitHub was asked again, for which the hub waits a while."""

        async def has_decided() -> bool:
            rows = [
                await row(self.hub.server, job_id) for job_id in reply.json()["jobs"]
            ]
            return all(job["state"] != "received" for job in rows)

        await self.hub.in_time(has_decided)
        return await self.decided(reply)


@asynccontextmanager
async def scene(
    folder: Path, repository: Repository, rules: str = RULES, **options: Any
) -> AsyncIterator[Scene]:
    async with (
        github_api(more=repository.answer) as github,
        checks_hub(folder, github, rules, **options) as hub,
    ):
        yield Scene(hub, github, repository)
