"""How the hub speaks to GitHub: every call as GitHub describes it, its credentials, and what can go wrong on the way."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import jwt
import pytest
from attrs import define

from dispatchd.hub.config.github import GithubSettings
from dispatchd.hub.github.api.client import Client
from dispatchd.hub.github.api.credentials import Credentials
from dispatchd.hub.github.api.responses import (
    GithubError,
    Limited,
    NoCredential,
    NotThere,
    Unclear,
)
from dispatchd.hub.github.api.transport import transport
from dispatchd.redaction.known_secrets import KnownSecrets
from support.certificates import Authority
from support.checks import checks_hub, checks_hub_process
from support.clock import advance, within
from support.github import (
    APP_ID,
    DESCRIPTIONS,
    INSTALLATION,
    REPOSITORY,
    app_key,
    emulate,
    prism,
    public_key,
    request_violations,
)
from support.github_api import SHA, Answer, Fault, GithubApi, Request, github_api
from support.proxy import proxy

MINT = "POST app/installations/access_tokens"
CHECK: dict[str, Any] = {"name": "ci", "head_sha": SHA, "external_id": "j"}


@define
class Clock:
    now: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def client(
    folder: Path, url: str, key: str, clock: Clock | None = None, **options: Any
) -> AsyncIterator[Client]:
    file = folder / "app.pem"
    file.write_text(key)
    settings = GithubSettings(
        app_id=APP_ID, private_key_file=file, api_url=url, **options
    )
    async with transport(settings, now=clock or Clock(), known=KnownSecrets()) as way:
        yield Client(Credentials.open(settings, way))


@pytest.fixture(
    scope="module",
    params=[pytest.param(each, marks=pytest.mark.host) for each in DESCRIPTIONS],
)
def described(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """GitHub's own description of its API, which answers with its own examples."""
    with prism(tmp_path_factory.mktemp("prism"), request.param) as url:
        yield url


async def test_every_call_is_as_github_describes_it(
    tmp_path: Path, described: str
) -> None:
    found: list[tuple[str, list[Any]]] = []

    async def judge(answer: httpx.Response) -> None:
        call = f"{answer.request.method} {answer.request.url.path}"
        found.append((call, request_violations(answer.headers)))
        if "check-runs" in call or call.endswith("/app/installations"):
            # Its example of a list has a next page for ever.
            answer.headers.pop("link", None)

    async with client(tmp_path, described, app_key()) as github:
        http = github.credentials.transport.http
        http.headers["accept"] = "application/json"  # all that its descriptions name
        http.event_hooks["response"].append(judge)
        where = (INSTALLATION, REPOSITORY)
        run = await github.create_check_run(*where, CHECK)
        await github.update_check_run(*where, run.id, {"status": "in_progress"})
        await github.check_run(*where, run.id)
        await github.check_runs(*where, SHA, "ci", APP_ID)
        await github.create_status(*where, SHA, {"state": "pending", "context": "ci"})
        assert "head" in await github.pull_request(*where, 1)
        assert "role_name" in await github.permission(*where, "octocat")
        assert len(await github.sha_of(*where, "refs/heads/feature/x")) == 40
        await github.react(*where, 1, "eyes")
        await github.react_to_review_comment(*where, 1, "-1")
        await github.comment(*where, 1, "Hello.")
        assert "slug" in await github.app()
        assert "url" in await github.hook_config()
        assert "id" in await github.repository_installation(REPOSITORY)
        assert await github.installations()
        page = await github.deliveries("v1_123")
        assert page.items[0]["guid"]
        assert "request" in await github.delivery(3804004623172239366)
        await github.redeliver(3804004623172239366)
        await github.credentials.run_token(INSTALLATION, 1, {"contents": "read"})
        await github.credentials.run_token(INSTALLATION, "hello", {"checks": "write"})

    assert [each for each in found if each[1]] == []
    assert len({call for call, _ in found}) == 19


@pytest.mark.host
@pytest.mark.parametrize("description", DESCRIPTIONS)
async def test_a_whole_life_of_checks_passes_githubs_description_to_a_stateful_mock(
    tmp_path: Path, description: str
) -> None:
    key = app_key()
    with (
        emulate(tmp_path, key) as mock,
        prism(tmp_path, description, upstream=mock) as judge,
    ):
        # Forwards all, so that what the judge says can be seen from outside of the hub.
        async with github_api(key=key) as github, client(tmp_path, judge, key) as ours:
            sha = await ours.sha_of(INSTALLATION, REPOSITORY, "refs/heads/main")
            verdicts: list[Any] = []
            forward(github, judge, verdicts)
            async with checks_hub(tmp_path, github) as hub:
                hub.add("j", sha=sha, name="ci")
                held = await hub.pull()
                await held.accept()
                await hub.paid()
                await held.machine.call(
                    "heartbeat",
                    held.id,
                    claim_token=held.token,
                    phase="needs_attention",
                    reason="?",
                )
                await hub.paid()
                await held.beat()
                await hub.paid()
                await hub.finish(held, "failed", "max-duration", result_output="x")
                await hub.paid()

            runs = await ours.check_runs(INSTALLATION, REPOSITORY, sha, "ci", APP_ID)
            assert {each.external_id: each.conclusion for each in runs} == {
                "j#2": "timed_out",
                "j": "action_required",
            }
            assert [each for each in verdicts if each] == []
            assert len(verdicts) >= 5


def forward(github: GithubApi, upstream: str, verdicts: list[Any]) -> None:
    """Let a GitHub of ours hand everything on, and note what is said of each request."""

    def ask(request: Request) -> Answer:
        reply = httpx.request(
            request.method,
            f"{upstream}/{request.raw}",
            params=dict(request.query),
            json=request.body,
            headers={
                "accept": request.headers["accept"],
                "authorization": request.headers["authorization"],
            },
            timeout=20,
        )
        verdicts.append(request_violations(reply.headers))
        return reply.status_code, reply.json(), {}

    github.everything = ask


async def test_a_jwt_proves_the_app_for_nine_minutes_and_is_made_anew_in_time(
    tmp_path: Path,
) -> None:
    key, clock = app_key(), Clock()
    async with client(tmp_path, "http://127.0.0.1:1", key, clock) as github:
        first = github.credentials.jwt()
        clock.now += 60
        assert github.credentials.jwt() == first
        clock.now += 6.5 * 60
        second = github.credentials.jwt()

    claims = jwt.decode(first, public_key(key), algorithms=["RS256"])
    assert second != first
    assert claims["iss"] == str(APP_ID)
    assert claims["exp"] - claims["iat"] == 600
    assert claims["iat"] <= time.time() - 59


async def test_a_wrong_clock_here_is_made_up_for_by_githubs(tmp_path: Path) -> None:
    async with github_api() as github:
        clock = Clock()
        clock.now -= 3600
        github.more = lambda request: (
            (200, {"slug": "x"}, {}) if request.raw == "app" else None
        )

        async with client(tmp_path, github.url, github.key, clock) as ours:
            assert await ours.app() == {"slug": "x"}

        assert github.count("GET app") == 2


async def test_a_token_is_minted_once_for_many_and_anew_before_its_end(
    tmp_path: Path,
) -> None:
    async with github_api() as github:
        clock = Clock()
        async with client(tmp_path, github.url, github.key, clock) as ours:
            ends = datetime.fromtimestamp(clock.now, UTC) + timedelta(hours=1)
            github.token_ends = ends.isoformat()
            tokens: set[str] = set()

            async def one() -> None:
                tokens.add(await ours.credentials.token(INSTALLATION))

            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(one)
            assert len(github.tokens) == 1
            clock.now += 54 * 60
            await one()
            assert len(github.tokens) == 1
            clock.now += 2 * 60
            await one()
            await ours.credentials.token(8)

        assert len(github.tokens) == 3
        assert len(tokens) == 2


async def test_a_token_that_is_not_taken_is_replaced_once_and_no_more(
    tmp_path: Path,
) -> None:
    async with github_api() as github, client(tmp_path, github.url, github.key) as ours:
        github.trap("POST check-runs", Fault(status=401), times=float("inf"))

        with pytest.raises(NoCredential):
            await ours.create_check_run(INSTALLATION, REPOSITORY, CHECK)

        assert github.count(MINT) == 2
        assert github.count("POST check-runs") == 2


async def test_a_token_of_a_run_is_for_one_repository_and_never_kept(
    tmp_path: Path,
) -> None:
    async with github_api() as github, client(tmp_path, github.url, github.key) as ours:
        by_id = await ours.credentials.run_token(INSTALLATION, 5, {"contents": "read"})
        by_name = await ours.credentials.run_token(
            INSTALLATION, "hello", {"checks": "write"}
        )
        for nothing in ((0, {"contents": "read"}), ("", {"contents": "read"}), (5, {})):
            with pytest.raises(ValueError, match="repository and permissions"):
                await ours.credentials.run_token(INSTALLATION, *nothing)

    assert by_id.value != by_name.value
    assert by_id.value not in repr(by_id)
    assert [each.body for each in github.requests] == [
        {"repository_ids": [5], "permissions": {"contents": "read"}},
        {"repositories": ["hello"], "permissions": {"checks": "write"}},
    ]


async def test_a_token_says_what_it_may_write(tmp_path: Path) -> None:
    clock, later = Clock(), 601
    async with (
        github_api() as github,
        client(tmp_path, github.url, github.key, clock) as ours,
    ):
        github.permissions = {"checks": "write", "statuses": "read"}
        may_write = ours.credentials.may_write

        assert await may_write(INSTALLATION, "checks") is True
        assert await may_write(INSTALLATION, "statuses") is False
        assert await may_write(INSTALLATION, "issues") is False
        assert len(github.tokens) == 1

        # Its owner has let the App do it by now, which the token need not know.
        github.permissions = {"checks": "write", "statuses": "write"}
        assert await may_write(INSTALLATION, "statuses") is False
        clock.now += later
        assert await may_write(INSTALLATION, "statuses") is True
        assert len(github.tokens) == 2

        # A refusal is a reason to look again, once for a while.
        github.permissions = {"metadata": "read"}
        ours.credentials.doubt(INSTALLATION)
        assert await may_write(INSTALLATION, "checks") is True
        clock.now += later
        ours.credentials.doubt(INSTALLATION)
        assert await may_write(INSTALLATION, "checks") is False
        assert len(github.tokens) == 3


async def test_a_token_without_a_list_says_nothing_of_what_it_may(
    tmp_path: Path,
) -> None:
    async with github_api() as github, client(tmp_path, github.url, github.key) as ours:
        github.permissions = {}

        assert await ours.credentials.may_write(INSTALLATION, "checks") is None


@pytest.mark.parametrize("status", [403, 404, 422])
async def test_a_token_that_is_refused_is_no_answer_about_what_it_was_wanted_for(
    tmp_path: Path, status: int
) -> None:
    async with github_api() as github, client(tmp_path, github.url, github.key) as ours:
        github.trap(MINT, Fault(status=status, message="suspended"))

        with pytest.raises(NoCredential, match="suspended"):
            await ours.update_check_run(INSTALLATION, REPOSITORY, 1, {})


async def test_a_limit_on_minting_stays_one(tmp_path: Path) -> None:
    async with github_api() as github, client(tmp_path, github.url, github.key) as ours:
        github.trap(MINT, Fault(status=403, headers={"retry-after": "9"}))

        with pytest.raises(Limited):
            await ours.check_run(INSTALLATION, REPOSITORY, 1)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_repository_with_another_name_is_found(
    tmp_path: Path, status: int
) -> None:
    async with github_api() as github, client(tmp_path, github.url, github.key) as ours:
        moved = {"location": f"{github.url}/repos/octo/renamed/check-runs"}
        github.trap("POST check-runs", Fault(status=status, headers=moved))

        made = await ours.create_check_run(INSTALLATION, REPOSITORY, CHECK)

        assert github.runs[made.id]["repository"] == "octo/renamed"
        first, second = github.requests[-2:]
        assert (first.method, first.body) == (second.method, second.body)
        assert first.headers["authorization"] == second.headers["authorization"]


@pytest.mark.parametrize(
    "location",
    ["https://example.org/repos/o/r", "//example.org/", "http://127.0.0.1:1/", ""],
)
async def test_a_redirect_to_elsewhere_is_not_followed(
    tmp_path: Path, location: str
) -> None:
    async with github_api() as github, client(tmp_path, github.url, github.key) as ours:
        github.trap("GET check-runs", Fault(status=301, headers={"location": location}))

        with pytest.raises(NotThere, match="redirect"):
            await ours.check_run(INSTALLATION, REPOSITORY, 1)

        assert github.requests[-1].name == "GET check-runs"


async def test_redirects_in_a_circle_come_to_an_end(tmp_path: Path) -> None:
    async with github_api() as github, client(tmp_path, github.url, github.key) as ours:
        round_and_round = {"location": f"{github.url}/repos/octo/hello/check-runs/1"}
        fault = Fault(status=301, headers=round_and_round)
        github.trap("GET check-runs", fault, times=9)

        with pytest.raises(NotThere):
            await ours.check_run(INSTALLATION, REPOSITORY, 1)

        assert github.count("GET check-runs") == 3


@pytest.mark.parametrize(
    "fault",
    [Fault(), Fault(cut=True, status=200), Fault(status=500), Fault(status=409)],
    ids=["closed", "cut", "500", "409"],
)
async def test_an_answer_that_does_not_count_is_unclear(
    tmp_path: Path, fault: Fault
) -> None:
    async with github_api() as github, client(tmp_path, github.url, github.key) as ours:
        github.trap("POST check-runs", fault)

        with pytest.raises(Unclear) as caught:
            await ours.create_check_run(INSTALLATION, REPOSITORY, CHECK)

        assert caught.value.call == "create a check run"


async def test_a_server_that_is_not_there_is_unclear(tmp_path: Path) -> None:
    async with client(tmp_path, "http://127.0.0.1:1", app_key()) as ours:
        with pytest.raises(Unclear, match="ConnectError"):
            await ours.app()


async def test_an_answer_that_never_comes_ends_at_the_deadline(tmp_path: Path) -> None:
    async with github_api() as github, client(tmp_path, github.url, github.key) as ours:
        github.trap("GET check-runs", Fault(hang=True))

        async def pass_the_time() -> None:
            await github.until(lambda: github.count("GET check-runs") == 1)
            await advance(10)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pass_the_time)
            with within(30), pytest.raises(Unclear, match="within 10 s"):
                await ours.check_run(INSTALLATION, REPOSITORY, 1)


async def test_a_delivery_of_25_mb_is_read_and_an_endless_answer_is_not(
    tmp_path: Path,
) -> None:
    async with github_api() as github, client(tmp_path, github.url, github.key) as ours:
        size = 25 * 1024 * 1024
        github.more = lambda request: (
            200,
            {"payload": "x" * int(request.parts[-1])},
            {},
        )

        assert len(str((await ours.delivery(size))["payload"])) == size
        with pytest.raises(Unclear, match="more than"):
            await ours.delivery(33 * 1024 * 1024)


async def test_deliveries_go_on_by_the_cursor_of_the_link(tmp_path: Path) -> None:
    async with github_api() as github, client(tmp_path, github.url, github.key) as ours:

        def pages(request: Request) -> Answer:
            cursor = request.query.get("cursor", "")
            more = (
                '<https://elsewhere.example/?per_page=100&cursor=v1_%2B2>; rel="next"'
            )
            return 200, [{"guid": cursor or "first"}], {} if cursor else {"link": more}

        github.more = pages
        first = await ours.deliveries()
        second = await ours.deliveries(first.cursor)

    assert first.items == [{"guid": "first"}]
    assert first.cursor == "v1_+2"
    assert (second.items, second.cursor) == ([{"guid": "v1_+2"}], "")


@pytest.mark.parametrize(
    ("ref", "path"),
    [
        ("refs/heads/feature/x", "repos/octo/hello/branches/feature%2Fx"),
        ("refs/tags/v1", "repos/octo/hello/commits/tags%2Fv1"),
        ("v1?#", "repos/octo/hello/commits/v1%3F%23"),
        ("..", "repos/octo/hello/commits/%2E%2E"),
    ],
)
async def test_a_ref_is_one_segment_of_a_path_whatever_it_holds(
    tmp_path: Path, ref: str, path: str
) -> None:
    async with github_api() as github, client(tmp_path, github.url, github.key) as ours:
        github.more = lambda _: (200, {"sha": SHA, "commit": {"sha": SHA}}, {})

        assert await ours.sha_of(INSTALLATION, REPOSITORY, ref) == SHA

        assert github.requests[-1].raw == path


async def test_no_error_quotes_a_secret(tmp_path: Path) -> None:
    async with github_api() as github, client(tmp_path, github.url, github.key) as ours:
        token = await ours.credentials.token(INSTALLATION)
        proof = ours.credentials.jwt()
        github.trap(
            "GET check-runs", Fault(status=422, message=f"what is {token}, {proof}?")
        )

        with pytest.raises(GithubError) as caught:
            await ours.check_run(INSTALLATION, REPOSITORY, 1)

        for text in (str(caught.value), caught.value.reason):
            assert "what is" in text
            assert token not in text
            assert proof not in text


async def test_an_enterprise_server_has_a_path_of_its_own(tmp_path: Path) -> None:
    async with github_api(prefix="/api/v3") as github:
        async with client(tmp_path, f"{github.url}/", github.key) as ours:
            run = await ours.create_check_run(INSTALLATION, REPOSITORY, CHECK)

        assert run.id in github.runs
        assert github.violations == []


async def test_the_way_leads_through_the_proxy_of_the_environment_to_a_trusted_server(
    tmp_path: Path,
) -> None:
    host = "github.test"
    authority = Authority(tmp_path / "ca")
    certificate = str(authority.issue(host))
    async with github_api(certificate=certificate) as github, proxy() as way:
        more = [f'ca_file = "{authority.file}"']
        github.host, github.scheme = host, "https"
        environment = {"HTTPS_PROXY": way.url, "NO_PROXY": ""}
        async with checks_hub_process(tmp_path, github, *more, env=environment) as hub:
            hub.add("j")
            await hub.ring()
            await hub.paid()

        assert len(github.runs) == 1
        assert {each.target for each in way.requests} == {f"{host}:{github.port}"}
        assert {each.method for each in way.requests} == {"CONNECT"}


async def test_a_server_that_nobody_vouches_for_gets_nothing(tmp_path: Path) -> None:
    certificate = str(Authority(tmp_path / "ca").issue("127.0.0.1"))
    async with github_api(certificate=certificate) as github:
        github.scheme = "https"
        async with client(tmp_path, github.url, github.key) as ours:
            with pytest.raises(Unclear, match=r"(?i)certificate"):
                await ours.app()

    assert github.requests == []


async def test_a_token_file_is_read_anew_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("ghp_first\n")
    settings = GithubSettings(token_file=file)
    async with transport(settings, now=Clock(), known=KnownSecrets()) as way:
        credentials = Credentials.open(settings, way)
        assert await credentials.token(0) == "ghp_first"
        aside = tmp_path / "aside"
        aside.write_text("ghp_other")
        aside.replace(file)
        assert await credentials.token(0) == "ghp_other"
        assert way.known.scrub("ghp_first ghp_other") == "[redacted] [redacted]"
        file.unlink()
        with pytest.raises(NoCredential, match="readable"):
            await credentials.token(0)
        with pytest.raises(NoCredential, match="isn't a GitHub App"):
            credentials.jwt()


def test_the_descriptions_are_githubs_own() -> None:
    folder = Path(__file__).parents[1] / "fixtures" / "github-openapi"

    for each in DESCRIPTIONS:
        document = json.loads((folder / f"{each}.subset.json").read_text())
        assert "GitHub" in document["info"]["title"]
        assert len(document["paths"]) == 41
