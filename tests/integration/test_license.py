"""The license of a running daemon: found, activated, refreshed, refused, expired, copied."""

import json
import os
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from anyio import to_thread
from attrs import define, evolve

from dispatchd.agent.store.identity import IdentityStore
from support.cli import Done, command
from support.clock import advance, threads_are_idle
from support.daemon import running_daemon, write_config
from support.endpoint import Answer, Endpoint, Request, as_json, endpoint
from support.licenses import KEY, SECRET, Issuer, config_lines
from support.threads import at_once
from support.until import until
from support.waits import finishes

NEXT_TRY_S = 10
"""Within this, the daemon has looked at its sources again, also after a call that failed (seconds)."""


def configure(folder: Path, url: str, issuer: Issuer, *, key: str = KEY) -> Path:
    """Write a configuration for a machine that has its identity from a license."""
    config = write_config(
        folder,
        url,
        {"it": ["/bin/true"], "long": ["/bin/sh", "-c", "mkfifo gate; read _ <gate"]},
    )
    lines = [
        line
        for line in config.read_text().splitlines()
        if not line.startswith(("license_id", "server_id", "secret_file"))
    ]
    config.write_text("\n".join([*lines, config_lines(issuer)]))
    (folder / "secret").unlink()
    if key:
        (folder / "key").write_text(key + "\n")
    return config


@define
class Machine:
    folder: Path
    hub: Endpoint
    issuer: Issuer
    config: Path

    @property
    def activation(self) -> Path:
        return self.folder / "state" / "activation.json"

    async def command(self, *words: str, typed: str = "") -> Done:
        return await command(*words, "--config", str(self.config), text=typed)

    async def told(self) -> dict[str, Any]:
        """Return what `dispatchd license` says."""
        done = await self.command("license", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    async def run(self, job_id: str) -> dict[str, Any]:
        # A poll of a daemon that is gone would take it.
        self.hub.cut_held_polls()
        self.hub.hand_out({"id": job_id, "dag_name": "it"})
        return (await self.hub.until_finished(job_id))[0]


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    issuer = Issuer()
    async with endpoint() as hub:
        hub.script = issuer.answer
        folder = tmp_path / "machine"
        yield Machine(folder, hub, issuer, configure(folder, hub.url, issuer))


async def test_a_key_becomes_the_identity_of_every_call(machine: Machine) -> None:
    async with running_daemon(machine.config) as daemon:
        finished = await machine.run("j")
        told = await machine.told()
    pulled = machine.hub.calls("pull")[0].body
    server_id = (machine.folder / "state" / "server_id").read_text().strip()

    assert pulled["license_id"] == finished["license_id"] == "lic-1"
    assert pulled["server_id"] == finished["server_id"] == server_id
    assert pulled["heartbeat_secret"] == finished["secret"] == SECRET
    assert UUID(server_id).version == 7
    assert (told["source"], told["good"], told["plan"]) == (
        "license.key",
        True,
        "team",
    )
    for name in ("server_id", "activation.json"):
        assert (machine.folder / "state" / name).stat().st_mode & 0o777 == 0o600
    log = daemon.log_file.read_text()
    for secret in (KEY, SECRET, machine.issuer.token()[:20] + "."):
        assert secret not in log
    assert "token" not in str(told)


async def test_a_start_with_a_job_to_report_asks_nobody_to_activate(
    machine: Machine,
) -> None:
    def away(request: Request) -> Answer | None:
        if request.call == "finish":
            return as_json({"message": "later"}, 503)
        return machine.issuer.answer(request)

    machine.hub.script = away
    async with running_daemon(machine.config) as daemon:
        machine.hub.hand_out({"id": "j", "dag_name": "it"})
        await daemon.until_logged("report_failed", job_id="j")
    daemon.log_file.unlink()
    machine.hub.script = machine.issuer.answer
    async with running_daemon(machine.config) as daemon:
        await machine.hub.until_finished("j")

    reasons = [str(line["error"]) for line in daemon.log() if "error" in line]
    assert not [reason for reason in reasons if "activate" in reason]


async def test_the_activation_is_refreshed_at_the_start_and_used_again(
    machine: Machine,
) -> None:
    async with running_daemon(machine.config):
        await machine.run("j1")
    before = json.loads(machine.activation.read_text())
    async with running_daemon(machine.config):
        await machine.hub.until(lambda it: bool(it.calls("license-heartbeat")))
        await machine.run("j2")
        told = await machine.told()
    after = json.loads(machine.activation.read_text())

    assert len(machine.hub.calls("license-activate")) == 1
    assert after["refreshed_at"] > before["refreshed_at"]
    assert after["server_id"] == before["server_id"]
    due = datetime.fromisoformat(told["next_heartbeat_at"]) - datetime.now(UTC)
    assert timedelta(hours=21) < due < timedelta(hours=24)


async def test_a_license_that_becomes_good_is_noticed_without_a_restart(
    machine: Machine,
) -> None:
    (machine.folder / "key").unlink()
    async with running_daemon(machine.config) as daemon:
        await daemon.until_logged("license_blocked")
        told = await machine.told()
        (machine.folder / "key").write_text(KEY)
        await advance(NEXT_TRY_S)
        await machine.run("j")

    assert "there is no license" in told["blocked_reason"]


async def test_a_key_that_is_refused_is_named_and_tried_again(
    machine: Machine,
) -> None:
    machine.issuer.refusal = as_json({"message": "not paid"}, 403)
    async with running_daemon(machine.config) as daemon:
        line = await daemon.until_logged("license_blocked")
        machine.issuer.refusal = None
        await advance(NEXT_TRY_S)
        await machine.run("j")

    assert "could not be activated" in line["reason"]
    assert "not paid" in line["reason"]


async def test_a_cached_activation_serves_while_the_endpoint_gives_no_licenses(
    machine: Machine,
) -> None:
    async with running_daemon(machine.config):
        await machine.run("j1")
    machine.issuer.refusal = Answer(status=503)

    async with running_daemon(machine.config) as daemon:
        await daemon.until_logged("license_call_failed")
        finished = await machine.run("j2")

    assert finished["license_id"] == "lic-1"


@pytest.mark.parametrize(("status", "words"), [(410, "revoked"), (401, "deactivated")])
async def test_a_machine_that_is_not_wanted_reports_its_runs_and_pulls_no_more(
    machine: Machine, status: int, words: str
) -> None:
    async with running_daemon(machine.config) as daemon:
        machine.hub.hand_out({"id": "j", "dag_name": "long"})
        await daemon.until_logged("job_attempt_started", job_id="j")
        gate = daemon.state / "runs/j/workspace/gate"
        await daemon.crash()
        machine.issuer.refusal = as_json({"message": "no more"}, status)
        daemon.log_file.unlink()
        daemon.start()
        line = await daemon.until_logged("license_blocked")
        pulls = len(machine.hub.calls("pull"))
        finished = await released(machine, gate)
        told = await machine.told()

    assert words in line["reason"]
    assert finished["secret"] == SECRET
    assert not told["good"]
    assert len(machine.hub.calls("pull")) <= pulls + 1

    # A restart doesn't forget it; the endpoint's next good word does.
    async with running_daemon(machine.config) as daemon:
        await daemon.until_logged("license_blocked")
        machine.issuer.refusal = None
        await machine.run("again")


async def test_a_machine_whose_pull_is_told_that_it_was_revoked_says_so_at_once(
    machine: Machine,
) -> None:
    revoked = as_json({"message": "this machine has been revoked"}, 410)
    async with running_daemon(machine.config) as daemon:
        await machine.run("j")
        beats = len(machine.hub.calls("license-heartbeat"))
        machine.issuer.refusal = revoked
        answer = machine.issuer.answer

        def script(request: Request) -> Answer | None:
            return revoked if request.call == "pull" else answer(request)

        machine.hub.script = script
        machine.hub.cut_held_polls()
        # No time passes to the license's next heartbeat, which is due in a day.
        line = await daemon.until_logged("license_blocked")
        told = await machine.told()

    assert "revoked" in line["reason"]
    assert (told["good"], "revoked" in told["blocked_reason"]) == (False, True)
    assert len(machine.hub.calls("license-heartbeat")) == beats + 1


async def test_a_licensed_machine_that_starts_is_not_called_unready(
    machine: Machine,
) -> None:
    async with running_daemon(machine.config):
        await machine.run("j1")
    async with running_daemon(machine.config) as daemon:
        await machine.run("j2")
        log = daemon.log()

    assert "license_valid" in {each["event"] for each in log}
    assert "not_ready" not in {each["event"] for each in log}


async def released(machine: Machine, gate: Path) -> dict[str, Any]:
    """Let the long run end, and return how it was reported."""
    await until(gate.is_fifo)
    await to_thread.run_sync(gate.write_text, "go\n")
    return (await machine.hub.until_finished("j"))[0]


@pytest.mark.parametrize(
    ("days", "grace", "validity", "good"),
    [
        (-1, None, "grace", True),
        (-13, None, "grace", True),
        (-15, None, "expired", False),
        (-15, 30, "grace", True),
        (-1, 0, "expired", False),
        (-1, -5, "expired", False),
    ],
)
async def test_an_expired_license_is_good_for_its_grace_period(
    machine: Machine,
    days: int,
    grace: float | None,
    validity: str,
    good: bool,  # noqa: FBT001  # a column of the table
) -> None:
    machine.issuer.claims = {
        "exp": datetime.now(UTC) + timedelta(days=days),
        "grace_days": grace,
    }
    async with running_daemon(machine.config) as daemon:
        await daemon.until_logged("license_activated")
        if good:
            await machine.run("j")
        else:
            await daemon.until_logged("license_blocked")
        told = await machine.told()

    assert (told["validity"], told["good"]) == (validity, good)
    assert good or "expired on" in told["blocked_reason"]


async def test_a_new_secret_at_the_endpoint_is_taken_by_activating_again(
    machine: Machine,
) -> None:
    async with running_daemon(machine.config) as daemon:
        await machine.run("j1")
        machine.issuer.secret = "another-secret-of-the-activation"
        (machine.folder / "typed").write_text(KEY)
        done = await machine.command(
            "activate", "--key-file", str(machine.folder / "typed")
        )

        async def taken() -> bool:
            # The poll that is held has the old one.
            machine.hub.cut_held_polls()
            await advance(5)
            last = machine.hub.calls("pull")[-1].body
            return bool(last["heartbeat_secret"] == machine.issuer.secret)

        await until(taken)
        machine.hub.hand_out({"id": "j2", "dag_name": "it"})
        [finished] = await finishes(machine.hub, daemon, "j2")

    assert done.returncode == 0, done.stderr
    assert "activated: license lic-1, plan team" in done.stdout
    assert finished["secret"] == machine.issuer.secret
    assert KEY not in done.stdout + done.stderr
    assert "another-secret" not in daemon.log_file.read_text()


async def test_activation_by_hand_asks_for_the_key_and_deactivation_forgets_it(
    machine: Machine,
) -> None:
    (machine.folder / "key").unlink()
    async with running_daemon(machine.config) as daemon:
        await daemon.until_logged("license_blocked")
        await machine.command("activate", typed=KEY + "\n")
        await machine.run("j")
        told = await machine.told()
        await machine.command("deactivate")

        async def forgotten() -> bool:
            return not (await machine.told())["good"]

        await until(forgotten)

    assert told["source"] == "stored activation"
    assert not machine.activation.exists()


ANSWERS = {"refreshed": None, "revoked": 410, "unknown": 401}


def answered_after(machine: Machine, how: str, meanwhile: Callable[[], None]) -> None:
    """Have the next license heartbeat answered once somebody has changed the activation meanwhile."""
    status, left = ANSWERS[how], [meanwhile]

    def script(request: Request) -> Answer | None:
        if request.call == "license-heartbeat" and left:
            answer = machine.issuer.answer(request)
            left.pop()()
            return answer if status is None else as_json({"message": "no"}, status)
        return machine.issuer.answer(request)

    machine.hub.script = script


@pytest.mark.parametrize("how", ["refreshed", "revoked"])
async def test_what_is_deactivated_while_the_endpoint_is_asked_stays_deactivated(
    machine: Machine, how: str
) -> None:
    (machine.folder / "key").unlink()
    await machine.command("activate", typed=KEY + "\n")
    state = machine.folder / "state"
    answered_after(machine, how, IdentityStore(state).forget)

    async with running_daemon(machine.config) as daemon:
        await daemon.until_logged("activation_changed_meanwhile")
        await daemon.until_logged("license_blocked")
        assert not machine.activation.exists()
        assert not (await machine.told())["good"]


@pytest.mark.parametrize("how", ["refreshed", "unknown"])
async def test_what_is_activated_while_the_endpoint_is_asked_is_not_overwritten(
    machine: Machine, how: str
) -> None:
    (machine.folder / "key").unlink()
    await machine.command("activate", typed=KEY + "\n")
    store = IdentityStore(machine.folder / "state")
    earlier = store.activation()
    assert earlier is not None

    def activate_anew() -> None:
        machine.issuer.secret = "another-secret-of-the-activation"
        store.keep(
            evolve(
                earlier,
                heartbeat_secret=machine.issuer.secret,
                activated_at=earlier.activated_at + timedelta(seconds=1),
            )
        )

    answered_after(machine, how, activate_anew)
    async with running_daemon(machine.config) as daemon:
        await daemon.until_logged("activation_changed_meanwhile")
        finished = await machine.run("j")

    assert finished["secret"] == machine.issuer.secret
    kept = store.activation()
    assert kept is not None
    assert (kept.heartbeat_secret, kept.refused) == (machine.issuer.secret, None)


@pytest.mark.parametrize("what", ["machine_id", "server_id"])
async def test_a_copy_of_a_machine_pulls_nothing_and_says_how_to_go_on(
    machine: Machine, what: str
) -> None:
    (machine.folder / "key").unlink()
    await machine.command("activate", typed=KEY + "\n")
    document = json.loads(machine.activation.read_text())
    if what == "server_id":
        document["server_id"] = "0192f0c1-2345-7abc-8def-0123456789ab"
    else:
        document["fingerprint"]["machine_id"] = "0" * 64
    machine.activation.write_text(json.dumps(document))

    async with running_daemon(machine.config) as daemon:
        line = await daemon.until_logged("license_blocked")
        assert machine.hub.calls("pull") == []
        if Path("/etc/machine-id").exists() or what == "server_id":
            assert "belongs to another machine" in line["reason"]
        await machine.command("activate", typed=KEY + "\n")
        await machine.run("j")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("DISPATCHD_LICENSE", "token", "gives no machine credentials"),
        ("DISPATCHD_LICENSE", "garbage", "is invalid"),
        ("DISPATCHD_LICENSE_KEY", "wrong", "could not be activated"),
        ("DISPATCHD_LICENSE_FILE", "file", "gives no machine credentials"),
    ],
)
async def test_each_source_is_named_with_what_it_lacks(
    machine: Machine, variable: str, value: str, words: str
) -> None:
    if variable.endswith("FILE"):
        (machine.folder / "key").unlink()
        (machine.folder / "license").write_text(machine.issuer.token())
        value = str(machine.folder / "license")
    elif value == "token":
        value = machine.issuer.token()

    async with running_daemon(machine.config, env={variable: value}) as daemon:
        line = await daemon.until_logged("license_blocked")

    assert words in line["reason"]
    assert machine.hub.calls("pull") == []


async def test_a_license_of_somebody_else_is_refused(machine: Machine) -> None:
    machine.issuer.key = Issuer().key

    async with running_daemon(machine.config) as daemon:
        line = await daemon.until_logged("license_blocked")

    assert "none of the pinned keys has signed it" in line["reason"]
    assert not machine.activation.exists()


async def test_a_license_of_a_newer_version_is_refused_with_a_sentence(
    machine: Machine,
) -> None:
    machine.issuer.claims = {"cv": 2}

    async with running_daemon(machine.config) as daemon:
        line = await daemon.until_logged("license_blocked")

    assert "of version 2, and this dispatchd knows 1: upgrade it" in line["reason"]
    assert machine.hub.calls("pull") == []
    assert not machine.activation.exists()


@pytest.mark.parametrize("content", ["", "not a uuid", "\0" * 40])
async def test_a_damaged_server_id_is_replaced_with_a_warning(
    machine: Machine, content: str
) -> None:
    (machine.folder / "state").mkdir(mode=0o700)
    (machine.folder / "state" / "server_id").write_text(content)

    async with running_daemon(machine.config) as daemon:
        await daemon.until_logged("server_id_replaced")
        await machine.run("j")


async def test_a_401_with_a_wrong_clock_is_told_as_skew(machine: Machine) -> None:
    def late(request: Request) -> Answer | None:
        if request.call != "pull":
            return machine.issuer.answer(request)
        return as_json(
            {"message": "expired"}, 401, date="Mon, 01 Jan 2024 00:00:00 GMT"
        )

    machine.hub.script = late
    async with running_daemon(machine.config) as daemon:
        line = await daemon.until_logged("pull_failed")
        skew = await daemon.until_logged("clock_skew")

    assert line["kind"] == "Skewed"
    assert "ahead of the endpoint's" in line["error"]
    assert re.search(r"\d d( \d+ h)? ahead", skew["difference"])


async def test_a_clock_that_was_ahead_and_is_set_right_puts_no_heartbeat_off(
    machine: Machine,
) -> None:
    day = timedelta(days=1)

    def beats() -> int:
        return len(machine.hub.calls("license-heartbeat"))

    async with running_daemon(machine.config) as daemon:
        await machine.run("j1")
        daemon.time.wall_set_by_s = 20 * day.total_seconds()
        await machine.run("j2")
        await daemon.until_logged("clock_was_set", by_s=20 * day.total_seconds())
        await advance(day.total_seconds())
        await machine.hub.until(lambda _: beats() == 1)
        daemon.time.wall_set_by_s = 0
        await machine.run("j3")
        await daemon.until_logged("clock_was_set", by_s=-20 * day.total_seconds())
        await advance(NEXT_TRY_S)
        await threads_are_idle()
        told = await machine.told()
        wall = datetime.fromtimestamp(daemon.time.wall(), UTC)
        await advance(day.total_seconds())
        await machine.hub.until(lambda _: beats() == 2)

    due = datetime.fromisoformat(told["next_heartbeat_at"]) - wall
    assert timedelta(hours=21) < due < day


async def test_a_machine_whose_id_cannot_be_kept_waits_and_says_so(
    machine: Machine,
) -> None:
    """Such as on a full disk: here a folder has taken the file's place."""
    in_the_way = machine.folder / "state" / "server_id"
    in_the_way.mkdir(parents=True)
    async with running_daemon(machine.config) as daemon:
        await daemon.until_logged("server_id_not_stored")
        told = await machine.told()
        in_the_way.rmdir()
        await advance(NEXT_TRY_S)
        await machine.run("j")

    assert not told["good"]
    assert "server_id" in told["blocked_reason"]


def test_of_several_who_are_the_first_to_ask_for_it_all_get_one_id(
    tmp_path: Path,
) -> None:
    """The service that is started for the first time, and `dispatchd activate` beside it."""
    for number in range(20):
        store = IdentityStore(tmp_path / f"{number}")
        found = at_once([lambda store=store: store.server_id()[0]] * 4)  # type: ignore[misc]
        assert set(found) == {store.server_id()[0]}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open any file")
def test_a_lock_that_another_user_has_left_is_replaced(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path)
    lock = tmp_path / "activation.lock"
    lock.touch(0o000)

    store.forget()

    assert lock.stat().st_mode & 0o777 == 0o600
