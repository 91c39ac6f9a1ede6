"""The main job through an engine beside the daemon: from GitHub's delivery through hub, daemon and engine back to its checks."""

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from support import daemon_process
from support.github_events import HEAD, pull_request
from support.github_scene import Scene
from support.machine import JOBS, row
from support.until import until

NAMES = ("tests", "lint", "agent", "deploy")

RULES = "\n".join(
    f"""
[[github.rules]]
name = "{name}"
workflow = "{name}"
repositories = ["*"]
events = ["pull_request"]
"""
    for name in NAMES
)

BEGINS = "echo $$ >>{folder}/ran; while ! [ -e {folder}/go ]; do sleep 0.1; done; "
"""Beginning of a command, which lets all of them run at one time."""

SCRIPTS = {
    "tests": BEGINS
    + """cp "$GITHUB_EVENT_PATH" event.json; echo "ref $GITHUB_REF event $GITHUB_EVENT_NAME"
echo "## All $GITHUB_SHA is well" >>"$GITHUB_STEP_SUMMARY"; echo "coverage=97" >>"$GITHUB_OUTPUT" """,
    "lint": BEGINS + "echo no good; exit 7",
    "agent": BEGINS
    + """while [ "$1" != --output ]; do shift; done; [ "$DISPATCHD_ATTEMPT" = 2 ] || exit 2
echo '{"contract_version":"1","status":"success","summary":"Second time.","exit_reason":"completed"}' >"$2" """,
    "deploy": "trap 'echo stopped; exit 9' TERM; "
    + BEGINS
    + "while :; do sleep 0.1; done",
}

KEYS = {
    "tests": 'artifacts = ["event.json"]',
    "agent": 'contract = "headless"\nmax_retries = 1\narguments = ["x", "--context", "{brief}", "--output", "{result}"]',
}


def with_keys(config: Path) -> Path:
    """Give the workflows of a configuration what they need beside their commands."""
    text = config.read_text()
    for name, keys in KEYS.items():
        table = f'[workflows."{name}"]'
        text = text.replace(table, f"{table}\n{keys}")
    config.write_text(text)
    return config


async def stored(here: Scene, job_id: str) -> bytes:
    """Return the only artifact of a job once the hub has it."""

    async def look() -> bool:
        reply = await here.hub.server.http.get(f"{JOBS}/{job_id}/artifacts")
        return [each["state"] for each in reply.json()["artifacts"]] == ["stored"]

    await until(look, 120, "the artifact")
    reply = await here.hub.server.http.get(
        f"{JOBS}/{job_id}/artifact", params={"path": "event.json"}
    )
    return reply.content


async def play(
    folder: Path,
    here: Scene,
    config: Path,
    places: Callable[[], Awaitable[set[str]]],
    env: Mapping[str, str] | None = None,
) -> set[str]:
    """Deliver a pull request, let all its jobs run at one time, and judge how each is told; return where they ran."""
    payload = pull_request()
    server = here.hub.server
    async with daemon_process.running_daemon(config, env=env or {}):
        reply = await here.tell("pull_request", payload)
        ids = {
            job["dag_name"]: job["id"]
            for job in [await row(server, each) for each in reply.json()["jobs"]]
        }
        ran = folder / "ran"
        await until(
            lambda: ran.exists() and len(ran.read_text().split()) == len(NAMES),
            180,
            "all commands",
        )
        found = await places()
        (folder / "go").touch()
        await here.press(ids["deploy"], "cancel")
        ends = [await server.result(ids[name], 180) for name in NAMES]
        event = await stored(here, ids["tests"])
        await here.hub.paid()

    checks = [here.github.newest(ids[name]) for name in NAMES]
    assert [end["state"] for end in ends] == [
        "succeeded",
        "failed",
        "succeeded",
        "aborted",
    ]
    assert [check["conclusion"] for check in checks] == [
        "success",
        "failure",
        "success",
        "cancelled",
    ]
    assert {check["head_sha"] for check in checks} == {HEAD}
    assert f"## All {HEAD} is well" in checks[0]["output"]["summary"]
    assert "coverage" in checks[0]["output"]["text"]
    assert "ref refs/pull/2/head event pull_request" in checks[0]["output"]["text"]
    assert "exit code 7" in checks[1]["output"]["summary"]
    assert "Second time." in checks[2]["output"]["summary"]
    assert json.loads(event)["pull_request"] == payload["pull_request"]
    # The first attempt of the agent, and its second one.
    assert len(ran.read_text().split()) == len(NAMES) + 1
    assert here.github.violations == []
    assert "stopped" in ends[3]["result_output"]
    return found
