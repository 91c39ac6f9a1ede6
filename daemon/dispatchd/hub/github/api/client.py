"""Calls of GitHub's REST API. Each raises GithubError (responses.py).

`installation` is the id of the App's installation that a repository belongs to, 0 where the hub has a token;
`repository` is owner/name. A call returns GitHub's own JSON unless its docstring says otherwise.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Final

from attrs import frozen

from dispatchd.hub.github.api.credentials import Credentials
from dispatchd.hub.github.api.responses import Reply, Unclear, next_page
from dispatchd.hub.github.api.transport import LONG_S, Call, in_path, repository_path
from dispatchd.network.http_headers import query_of
from dispatchd.protocol.job import Json

Document = dict[str, Json]

_PER_PAGE: Final = "100"
_MOST_PAGES: Final = 50
"""Most pages that are read (count): 1,000 check runs of a name are 10."""

_BRANCH: Final = "refs/heads/"


@frozen(kw_only=True)
class CheckRun:
    """A check run as GitHub has it."""

    id: int
    external_id: str = ""
    conclusion: str = ""
    annotations: int = 0
    """Annotations of the check run (count)."""


@frozen(kw_only=True)
class Page:
    """A page of a list, in GitHub's order, and the cursor of the next one; empty on the last."""

    items: list[Document]
    cursor: str


@frozen
class Client:
    """Client of GitHub's REST API with the hub's credentials."""

    credentials: Credentials

    async def create_check_run(
        self, installation: int, repository: str, body: Mapping[str, Json]
    ) -> CheckRun:
        """Make a check run (a write that isn't idempotent)."""
        call = Call(
            name="create a check run",
            method="POST",
            path=f"{repository_path(repository)}/check-runs",
            body=body,
        )
        return _check_run(call, await self._object(installation, call))

    async def update_check_run(
        self, installation: int, repository: str, run_id: int, body: Mapping[str, Json]
    ) -> CheckRun:
        """Change a check run; annotations are added to those that it has."""
        call = Call(
            name="update a check run",
            method="PATCH",
            path=f"{repository_path(repository)}/check-runs/{run_id}",
            body=body,
        )
        return _check_run(call, await self._object(installation, call))

    async def check_run(
        self, installation: int, repository: str, run_id: int
    ) -> CheckRun:
        """Return a check run."""
        path = f"{repository_path(repository)}/check-runs/{run_id}"
        call = Call(name="read a check run", path=path)
        return _check_run(call, await self._object(installation, call))

    async def check_runs(
        self, installation: int, repository: str, sha: str, name: str, app_id: int
    ) -> list[CheckRun]:
        """Return every check run of a name that an App has made for a commit, newest first."""
        call = Call(
            name="look for a check run",
            path=f"{repository_path(repository)}/commits/{in_path(sha)}/check-runs",
            query={
                "check_name": name,
                "filter": "all",
                "app_id": str(app_id),
                "per_page": _PER_PAGE,
            },
        )
        check_runs: list[CheckRun] = []
        async for document in self._pages(installation, call):
            runs = _objects(call, document, "check_runs")
            check_runs += [_check_run(call, run) for run in runs]
        return sorted(check_runs, key=lambda run: run.id, reverse=True)

    async def create_status(
        self, installation: int, repository: str, sha: str, body: Mapping[str, Json]
    ) -> None:
        """Set a commit status; the newest of a context counts."""
        call = Call(
            name="create a commit status",
            method="POST",
            path=f"{repository_path(repository)}/statuses/{in_path(sha)}",
            body=body,
        )
        await self._object(installation, call)

    async def pull_request(
        self, installation: int, repository: str, number: int
    ) -> Document:
        """Return a pull request."""
        path = f"{repository_path(repository)}/pulls/{number}"
        call = Call(name="read a pull request", path=path)
        return await self._object(installation, call)

    async def permission(
        self, installation: int, repository: str, login: str
    ) -> Document:
        """Return a user's permission in a repository: `permission`, `role_name`."""
        user = f"collaborators/{in_path(login)}/permission"
        path = f"{repository_path(repository)}/{user}"
        call = Call(name="read a permission", path=path)
        return await self._object(installation, call)

    async def sha_of(self, installation: int, repository: str, ref: str) -> str:
        """Return the id of the commit that a ref names.

        Args:
            installation: As above.
            repository: As above.
            ref: A full ref (`refs/heads/main`, `refs/tags/v1`), a short one, or the beginning of an id.

        Raises:
            Unclear: The answer names no commit.
        """
        base = repository_path(repository)
        if ref.startswith(_BRANCH):
            path = f"{base}/branches/{in_path(ref.removeprefix(_BRANCH))}"
            call = Call(name="read a branch", path=path)
            document = (await self._object(installation, call)).get("commit")
        else:
            # `heads/NAME`, `tags/NAME`, a name or an id.
            path = f"{base}/commits/{in_path(ref.removeprefix('refs/'))}"
            call = Call(name="read a commit", path=path)
            document = await self._object(installation, call)
        sha = document.get("sha") if isinstance(document, dict) else None
        if not isinstance(sha, str) or not sha:
            raise Unclear(call=call.name, reason="the answer names no commit")
        return sha

    async def react(
        self, installation: int, repository: str, comment_id: int, content: str
    ) -> None:
        """React to a comment on an issue or pull request; `content` is one of GitHub's names, such as `eyes` or `-1`."""
        path = f"issues/comments/{comment_id}/reactions"
        await self._react(installation, repository, path, content)

    async def react_to_review_comment(
        self, installation: int, repository: str, comment_id: int, content: str
    ) -> None:
        """React to a comment on a line of a pull request."""
        path = f"pulls/comments/{comment_id}/reactions"
        await self._react(installation, repository, path, content)

    async def _react(
        self, installation: int, repository: str, path: str, content: str
    ) -> None:
        path = f"{repository_path(repository)}/{path}"
        body: Document = {"content": content}
        call = Call(name="react to a comment", method="POST", path=path, body=body)
        await self._object(installation, call)

    async def comment(
        self, installation: int, repository: str, number: int, body: str
    ) -> Document:
        """Write a comment under an issue or pull request (a write that isn't idempotent)."""
        call = Call(
            name="write a comment",
            method="POST",
            path=f"{repository_path(repository)}/issues/{number}/comments",
            body={"body": body},
        )
        return await self._object(installation, call)

    async def app(self) -> Document:
        """Return the App itself: `slug`, `permissions`, `events`."""
        return await self._as_app(Call(name="read the App", path="app"))

    async def hook_config(self) -> Document:
        """Return the configuration of the App's webhook."""
        call = Call(name="read the App's webhook", path="app/hook/config")
        return await self._as_app(call)

    async def repository_installation(self, repository: str) -> Document:
        """Return the App's installation that a repository belongs to."""
        path = f"{repository_path(repository)}/installation"
        call = Call(name="read the installation of a repository", path=path)
        return await self._as_app(call)

    async def installations(self) -> list[Document]:
        """Return every installation of the App."""
        query, installations = {"per_page": _PER_PAGE}, list[Document]()
        call = Call(name="list installations", path="app/installations", query=query)
        async for document in self._pages(None, call):
            installations += _objects(call, document)
        return installations

    async def deliveries(self, cursor: str = "") -> Page:
        """Return a page of the App's deliveries, newest first, without their payloads."""
        query = {"per_page": _PER_PAGE, **({"cursor": cursor} if cursor else {})}
        call = Call(
            name="list deliveries",
            path="app/hook/deliveries",
            query=query,
            deadline_s=LONG_S,
        )
        document, reply = await self.credentials.as_app(call)
        beyond = _query(reply).get("cursor", "")
        return Page(items=_objects(call, document), cursor=beyond)

    async def delivery(self, delivery_id: int) -> Document:
        """Return a delivery of the App with its payload."""
        path = f"app/hook/deliveries/{delivery_id}"
        call = Call(name="read a delivery", path=path, deadline_s=LONG_S)
        return await self._as_app(call)

    async def redeliver(self, delivery_id: int) -> None:
        """Make GitHub send a delivery of the App again."""
        path = f"app/hook/deliveries/{delivery_id}/attempts"
        await self.credentials.as_app(Call(name="redeliver", method="POST", path=path))

    async def _object(self, installation: int, call: Call) -> Document:
        document, _ = await self.credentials.as_installation(installation, call)
        return _object(call, document)

    async def _as_app(self, call: Call) -> Document:
        document, _ = await self.credentials.as_app(call)
        return _object(call, document)

    async def _pages(self, installation: int | None, call: Call) -> AsyncIterator[Json]:
        """Yield every page of a list. Without an installation the App itself is the caller.

        Raises:
            Unclear: The list doesn't end.
        """
        query: Mapping[str, str] = call.query
        for _ in range(_MOST_PAGES):
            page = Call(name=call.name, path=call.path, query=query)
            document, reply = (
                await self.credentials.as_app(page)
                if installation is None
                else await self.credentials.as_installation(installation, page)
            )
            yield document
            query = _query(reply)
            if not query:
                return
        reason = f"there are more than {_MOST_PAGES} pages"
        raise Unclear(call=call.name, reason=reason)


def _query(reply: Reply) -> dict[str, str]:
    """Return the query of the next page. The link's host and path are ignored."""
    return dict(query_of(next_page(reply.headers)))


def _check_run(call: Call, document: Document) -> CheckRun:
    run_id, output = document.get("id"), document.get("output")
    if not isinstance(run_id, int):
        raise Unclear(call=call.name, reason="the answer has no check run in it")
    count = output.get("annotations_count") if isinstance(output, dict) else None
    return CheckRun(
        id=run_id,
        external_id=str(document.get("external_id") or ""),
        conclusion=str(document.get("conclusion") or ""),
        annotations=count if isinstance(count, int) else 0,
    )


def _object(call: Call, document: Json) -> Document:
    if not isinstance(document, dict):
        raise Unclear(call=call.name, reason="the answer is no JSON object")
    return document


def _objects(call: Call, document: Json, key: str = "") -> list[Document]:
    items = _object(call, document).get(key) if key else document
    if not isinstance(items, list):
        raise Unclear(call=call.name, reason="the answer has no list in it")
    return [item for item in items if isinstance(item, dict)]
