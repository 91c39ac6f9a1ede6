"""The first protocol's client on our hub: its jobs get done, beside machines with all extensions."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from support.clock import advance
from support.daemon import running_daemon, write_config
from support.first_client import RUN_ID, CloudError, FirstClient
from support.hub import NO_TLS, HubHere, hub
from support.machine import Machine, refuses, row
from support.until import in_time, until

pytestmark = pytest.mark.postgresql_in("torture")


@pytest.fixture
async def here(tmp_path: Path, database_url: str) -> AsyncIterator[HubHere]:
    async with hub(tmp_path / "hub", database_url=database_url) as found:
        yield found


@pytest.fixture
async def first(here: HubHere, tmp_path: Path) -> AsyncIterator[FirstClient]:
    async with httpx.AsyncClient(verify=NO_TLS, timeout=None) as http:
        yield FirstClient(url=here.url, folder=tmp_path / "first", http=http)


async def restart(server: HubHere) -> None:
    await server.stop()
    await server.start()


@pytest.mark.postgresql_in("host")
@pytest.mark.parametrize("status", ["succeeded", "failed", "aborted"])
async def test_it_pulls_accepts_and_finishes_and_all_of_it_again(
    here: HubHere, first: FirstClient, status: str
) -> None:
    job_id = await here.submit({"dag_name": "it"}, '{"ref": "refs/heads/main"}')
    assert await first.pull() == job_id
    assert (await row(here, job_id))["state"] == "accepted"
    await first.accept(job_id)
    await restart(here)
    await first.accept(job_id)
    await first.report(status)
    await first.finish_again(job_id, status)
    await restart(here)
    await first.finish_again(job_id, status)

    job = await row(here, job_id)
    assert (job["state"], job["deliveries"]) == (status, 1)
    assert (job["accepts"], job["finishes"]) == (3, 3)
    assert first.ran == [job_id]
    assert await first.pull() == ""


async def test_what_it_is_handed_has_no_extension(here: HubHere) -> None:
    await here.submit({"id": "j", "dag_name": "it"})
    held = await Machine(http=here.http, extensions=None).pull()
    assert not {"claim_token", "lease_seconds", "extensions"} & held.job.keys()


async def test_the_claim_of_a_submitted_document_reaches_no_machine(
    here: HubHere,
) -> None:
    calls = ["heartbeat", "release", "token"]
    claim = {"claim_token": "stale", "lease_seconds": 60, "extensions": calls}
    shown = {"status": "running", "claimed_by": "m9", "license_id": "lic-9"}
    for _ in range(2):
        await here.submit(
            {"dag_name": "it", "repository_name": "o/r", **claim, **shown}
        )
    first = await Machine(http=here.http, extensions=None).pull()
    second = await Machine(http=here.http, extensions=("heartbeat",)).pull()

    assert not claim.keys() & first.job.keys()
    assert {"claim_token", "lease_seconds"} & second.job.keys() == set()
    assert second.job["extensions"] == ["heartbeat", "capabilities", "contract-header"]
    own = {"status": "claimed", "claimed_by": "m1", "license_id": "lic-test"}
    for held in (first, second):
        assert {name: held.job[name] for name in own} == own
        assert held.job["repository_name"] == "o/r"
        assert (await held.accept()).status_code == 204
        assert (await held.finish()).status_code == 204


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        ((), set()),
        (("claim",), {"claim_token"}),
        (("lease", "heartbeat"), {"lease_seconds", "heartbeat"}),
        (("release", "unknown-to-all"), {"release"}),
        (("log",), {"log"}),
        (
            ("claim", "lease", "heartbeat", "release", "token", "report"),
            {"claim_token", "lease_seconds", "heartbeat", "release"},
        ),
    ],
)
async def test_a_machine_is_shown_what_it_names(
    here: HubHere, named: tuple[str, ...], shown: set[str]
) -> None:
    await here.submit({"id": "j", "dag_name": "it"})
    held = await Machine(http=here.http, extensions=named).pull()
    found = {"claim_token", "lease_seconds"} & held.job.keys()
    calls = set(held.job["extensions"])
    assert found | calls == {*shown, "capabilities", "contract-header"}
    assert (await held.accept()).status_code == 204
    assert (await held.finish()).status_code == 204


@pytest.mark.parametrize("pause_s", [59, 61, 3_600, 86_000])
async def test_it_may_be_silent_for_as_long_as_a_run_takes(
    here: HubHere, first: FirstClient, pause_s: float
) -> None:
    job_id = await here.submit({"dag_name": "it"})
    await first.pull()
    for _ in range(4):
        await advance(pause_s / 4)
        assert (await Machine(http=here.http, name="m2").ask()).status_code == 204
    await first.report()
    assert (await row(here, job_id))["state"] == "succeeded"


@pytest.mark.postgresql_in("host")
async def test_one_that_is_gone_for_good_loses_its_job_in_the_end(
    here: HubHere, first: FirstClient
) -> None:
    job_id = await here.submit({"dag_name": "it"})
    await first.pull()
    await advance(here.unheard_s + here.lease_s + here.patience_s + 1)
    other = Machine(http=here.http, name="m2")

    async def pulls() -> bool:
        return (await other.ask()).status_code == 200

    await in_time(pulls)
    with pytest.raises(CloudError) as refused:
        await first.report()
    assert refused.value.status == 409
    assert (await row(here, job_id))["machine"] == "m2"


async def test_its_accept_may_take_longer_than_a_lease(
    here: HubHere, first: FirstClient
) -> None:
    """It has begun the run before it accepts it, so that another machine would run it a second time."""
    job_id = await here.submit({"dag_name": "it"})
    held = await Machine(http=here.http, extensions=None).pull()
    await advance(here.lease_s + here.patience_s - 60)
    assert (await Machine(http=here.http, name="m2").ask()).status_code == 204
    await first.accept(held.id)
    await first.report()
    assert (await row(here, job_id))["state"] == "succeeded"


@pytest.mark.postgresql_in("host")
async def test_nobody_else_may_speak_for_it(here: HubHere, first: FirstClient) -> None:
    job_id = await here.submit({"dag_name": "it"})
    await first.pull()
    other = Machine(http=here.http, name="m2", extensions=None)
    for call, fields in (
        ("accept", {"dag_run_id": job_id}),
        ("finish", {"result_status": "failed", "result_summary": ""}),
        ("heartbeat", {"phase": "running"}),
        ("release", {"reason": ""}),
    ):
        refuses(await other.call(call, job_id, **fields), 409)
        named = {**fields, "claim_token": "made-up"}
        refuses(await Machine(http=here.http).call(call, job_id, **named), 409)


async def test_a_machine_with_extensions_needs_its_token_all_the_same(
    here: HubHere,
) -> None:
    await here.submit({"id": "j", "dag_name": "it"})
    held = await Machine(http=here.http).pull()
    bare = Machine(http=here.http)
    refuses(await bare.call("accept", "j", dag_run_id="j"), 409)
    assert (await held.accept()).status_code == 204


async def test_it_works_beside_a_machine_with_all_extensions(
    here: HubHere, first: FirstClient, tmp_path: Path
) -> None:
    """Both take from one queue, over restarts of the hub; each job runs once, and ends as its machine says."""
    config = write_config(tmp_path / "machine", here.url, {"it": ["/bin/true"]})
    jobs = [await here.submit({"dag_name": "it"}) for _ in range(6)]
    done: list[str] = [await first.pull()]
    async with running_daemon(config) as daemon:
        for _ in range(2):
            done.append(await first.pull())
            await restart(here)
            await first.report()

        async def has_all_ended() -> bool:
            states = [(await row(here, each))["state"] for each in jobs]
            return set(states) == {"succeeded"}

        await in_time(has_all_ended)
        ran = [each.name for each in (daemon.state / "runs").glob("[!.]*")]
    assert sorted([*first.ran, *ran]) == sorted(jobs)
    assert first.ran == [each for each in done if each]


async def test_it_finishes_a_cancel_job_in_its_own_way(
    here: HubHere, first: FirstClient
) -> None:
    job_id = await here.submit({"dag_name": "it"})
    await first.pull()
    cancel = await here.submit({"command": "cancel", "dag_run_id": job_id})
    await until(first.pull)
    assert (await row(here, cancel))["ended"]
    await first.report("aborted")
    assert (await row(here, job_id))["state"] == "aborted"


async def test_ids_that_the_hub_makes_are_ids_of_its_runs(here: HubHere) -> None:
    job_id = await here.submit({"dag_name": "it"})
    held = await Machine(http=here.http).pull()
    await held.finish("failed")
    again = (await here.http.post(f"/api/v1/jobs/{job_id}/requeue")).json()["id"]
    for each in (job_id, again):
        assert RUN_ID.fullmatch(each)
        UUID(each)
