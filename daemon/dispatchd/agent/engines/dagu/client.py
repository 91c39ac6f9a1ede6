"""Client of Dagu's REST API: a few calls, each with a deadline and a connection of its own.

An answer counts if it is Dagu's: a JSON object. Any other one, and none, says nothing about what has happened.
"""

import json
import ssl
from collections.abc import Mapping
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import quote

import anyio
import httpx
from anyio import to_thread
from attrs import define, field

from dispatchd import __version__
from dispatchd.agent.engines.dagu.states import UNFINISHED, Run
from dispatchd.errors import (
    ConfigError,
    ContractViolation,
    EngineRefused,
    EngineSilent,
)
from dispatchd.linux.untrusted_files import read_text
from dispatchd.network.content_coding import ACCEPT_IDENTITY, coding_problem
from dispatchd.network.http_headers import no_cookies
from dispatchd.network.proxies import environment_proxy, httpx_proxy
from dispatchd.network.trust import client_context, context_without_tls
from dispatchd.protocol.job import Json
from dispatchd.protocol.json_path import at, number, text
from dispatchd.protocol.json_text import loads
from dispatchd.protocol.times import duration
from dispatchd.redaction.quoted import quoted
from dispatchd.redaction.redactor import MARK

_WITHIN_S: Final = 20.0
"""Longest time of one call (seconds)."""

_MOST_BYTES: Final = 4 * 1024 * 1024
"""Largest answer that is read (bytes)."""

_MOST_PAGES: Final = 100
"""Most pages of a list that are read (count)."""

_REDACTED: Final = MARK.encode()

_QUOTED: Final = 200
"""Longest part of an answer's message that is quoted (characters)."""

_SUCCESS: Final = 2
"""First digit of the status of an answer that isn't an error."""

_MISSING: Final = "not_found"
"""Dagu's code of an answer about what isn't there."""

_REFUSALS: Final = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
)
"""Statuses of answers after which nothing has happened."""


@define
class Client:
    """Asks one server. `key_file` has the key of its API; None where it asks for none."""

    url: str
    key_file: Path | None
    environment: Mapping[str, str] = field(repr=False)

    async def find(self, dag: str, name: str) -> Run | None:
        """Return a run; None if the server says that it knows none.

        Raises:
            EngineSilent: Nobody knows.
            EngineRefused: The server doesn't say it to this machine.
        """
        document = await self._ask("GET", f"/dag-runs/{dag}/{name}", may_miss=True)
        if document is None:
            return None
        status = number(document, "dagRunDetails", "status")
        if text(document, "dagRunDetails", "dagRunId") != name or status is None:
            message = f"{self.url} answers with something else than a run"
            raise EngineSilent(message)
        nodes = at(document, "dagRunDetails", "nodes")
        steps = nodes if isinstance(nodes, list) else []
        errors = [text(step, "error") for step in steps]
        where = text(document, "dagRunDetails", "workerId")
        return Run(
            name=name,
            status=status,
            where=_quoted(where),
            errors=tuple(_quoted(error) for error in errors if error),
        )

    async def knows(self, dag: str) -> bool:
        """Return whether the server has a DAG.

        Raises:
            EngineSilent: Nobody knows.
            EngineRefused: The server doesn't say it to this machine.
        """
        return await self._ask("GET", f"/dags/{dag}", may_miss=True) is not None

    async def enqueue(self, dag: str, name: str) -> None:
        """Put a run into the server's queue, under an id that is ours, with nothing else.

        Raises:
            EngineSilent: It may be there, or come to be there.
            EngineRefused: It isn't there.
        """
        document = await self._ask("POST", f"/dags/{dag}/enqueue", {"dagRunId": name})
        if text(document, "dagRunId") != name:
            message = f"{self.url} answers with something else than the id of the run"
            raise EngineSilent(message)

    async def unfinished(self, dag: str) -> list[str]:
        """Return the ids of the runs of a DAG that wait or run.

        Raises:
            EngineSilent: Nobody knows.
            EngineRefused: The server doesn't say it to this machine.
        """
        ids: list[str] = []
        for status in UNFINISHED:
            query = f"/dag-runs?name={dag}&status={status}"
            cursor = ""
            for _ in range(_MOST_PAGES):
                page = await self._ask("GET", f"{query}{cursor}")
                if not isinstance(page, dict) or "dagRuns" not in page:
                    message = f"{self.url} answers with something else than runs"
                    raise EngineSilent(message)
                # It is null where there are none.
                found = page["dagRuns"] or []
                runs = found if isinstance(found, list) else []
                ids += [
                    text(run, "dagRunId") for run in runs if text(run, "name") == dag
                ]
                # Dagu 2 lists in pages.
                if not (following := text(page, "nextCursor")):
                    break
                cursor = f"&cursor={quote(following, safe='')}"
            else:
                message = f"{self.url} lists runs on more than {_MOST_PAGES} pages"
                raise EngineSilent(message)
        return ids

    async def queued(self, dag: str) -> frozenset[str] | None:
        """Return the ids of the runs of a DAG that are in a queue; None if the server doesn't list all runs that are.

        Raises:
            EngineSilent: Nobody knows.
            EngineRefused: The server doesn't say it to this machine.
        """
        document = await self._ask("GET", "/queues")
        queues = at(document, "queues")
        found = [
            at(queue, "queued")
            for queue in (queues if isinstance(queues, list) else [])
        ]
        runs = [run for each in found if isinstance(each, list) for run in each]
        if number(document, "summary", "totalQueued") != len(runs):
            return None
        return frozenset(
            text(run, "dagRunId") for run in runs if text(run, "name") == dag
        )

    async def stop(self, dag: str, name: str) -> None:
        """Order the end of a run that has begun.

        Raises:
            EngineSilent: The order may not have arrived.
            EngineRefused: The run isn't running.
        """
        await self._ask("POST", f"/dag-runs/{dag}/{name}/stop")

    async def dequeue(self, dag: str, name: str) -> None:
        """Take a run out of the server's queue.

        Raises:
            EngineSilent: It may still be there.
            EngineRefused: It isn't there.
        """
        await self._ask("GET", f"/dag-runs/{dag}/{name}/dequeue")

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Json] | None = None,
        *,
        may_miss: bool = False,
    ) -> Json:
        """Return the document that a call is answered with; None for an empty one, or one that is missing.

        Raises:
            EngineSilent: Nobody knows what came of it.
            EngineRefused: Nothing came of it.
        """
        content = b"" if body is None else json.dumps(body).encode()
        try:
            with anyio.fail_after(_WITHIN_S):
                status, answer = await self._exchange(method, path, content)
        except TimeoutError as error:
            message = f"{self.url} took more than {duration(_WITHIN_S)}"
            raise EngineSilent(message) from error
        except ConfigError as error:
            message = f"{self.url} can't be asked: {error}"
            raise EngineRefused(message) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            said = str(error) or type(error).__name__
            message = f"{self.url} doesn't answer: {said}"
            raise EngineSilent(message) from error
        is_success = status // 100 == _SUCCESS
        if is_success and not may_miss and not answer.strip():
            return None
        try:
            document = loads(answer.decode(errors="replace"))
        except ContractViolation:
            document = None
        said = _quoted(text(document, "message") or text(document, "error"))
        is_missing = text(document, "code") == _MISSING
        if status == HTTPStatus.NOT_FOUND and may_miss and is_missing:
            return None
        message = f"{self.url} answers {status}{': ' if said else ''}{said}"
        if is_success and isinstance(document, dict):
            return document
        # Dagu refuses a key with an empty answer.
        is_dagus = isinstance(document, dict) or not answer
        is_refusal = status in _REFUSALS and is_dagus
        raise EngineRefused(message) if is_refusal else EngineSilent(message)

    async def _exchange(
        self, method: str, path: str, content: bytes
    ) -> tuple[int, bytes]:
        proxy = environment_proxy(httpx.URL(self.url), self.environment)
        headers = {**ACCEPT_IDENTITY, "User-Agent": f"dispatchd/{__version__}"}
        key = await to_thread.run_sync(self._key)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        if content:
            headers["Content-Type"] = "application/json"
        async with (
            httpx.AsyncClient(
                cookies=no_cookies(),
                headers=headers,
                follow_redirects=False,
                # The deadline is that of the whole call.
                timeout=None,  # noqa: S113
                verify=self._trusted,
                proxy=None if proxy is None else httpx_proxy(proxy),
                trust_env=False,
            ) as http,
            http.stream(
                method, f"{self.url.rstrip('/')}{path}", content=content
            ) as reply,
        ):
            if problem := coding_problem(reply.headers.get("Content-Encoding", "")):
                raise EngineSilent(problem)
            read = bytearray()
            async for piece in reply.aiter_raw():
                read += piece
                if len(read) > _MOST_BYTES:
                    message = f"{self.url} answers with more than {_MOST_BYTES} bytes"
                    raise EngineSilent(message)
            # An answer that quotes the key must not bring it anywhere.
            answer = bytes(read)
            return reply.status_code, (
                answer.replace(key.encode(), _REDACTED) if key else answer
            )

    @cached_property
    def _trusted(self) -> ssl.SSLContext:
        is_plain = self.url.startswith("http://")
        return context_without_tls() if is_plain else client_context(None)

    def _key(self) -> str:
        """Return the key of the API, as it is now. Blocks.

        Raises:
            EngineRefused: It can't be read.
        """
        if self.key_file is None:
            return ""
        try:
            key = read_text(self.key_file).strip()
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            message = f"the key in {self.key_file} can't be used: {why}"
            raise EngineRefused(message) from error
        if not key or not key.isascii() or not key.isprintable():
            message = f"the key in {self.key_file} can't be used: it must be one line of ASCII"
            raise EngineRefused(message)
        return key


def _quoted(said: str) -> str:
    return quoted(said, _QUOTED)
