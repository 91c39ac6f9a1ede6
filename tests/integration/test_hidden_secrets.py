"""A secret that a colour splits shows nowhere that it goes: not at the hub, on its page, in a listing or in a log."""

import base64
import json
import re
import unicodedata
from pathlib import Path

import httpx

from support.cli import command
from support.daemon import running_daemon, write_config
from support.hub import Hub
from support.hub_page import admin_token, login, text

SECRET = "S3cr3t-Deploy-Key-Value-42"

HIDDEN = (
    # As GNU grep, a link (OSC 8), a title with BEL, and the terminal's 8-bit forms.
    "S3cr3t-\x1b[01;31m\x1b[KDeploy\x1b[m\x1b[K-Key-Value-42",
    "S3cr3t-\x1b]8;;http://x\x1b\\Deploy\x1b]8;;\x1b\\-Key-Value-42",
    "S3cr3t-Deploy-\x1b]0;build\x07Key-Value-42",
    "S3cr3t-\x9b1mDeploy\x9b0m-Key-Value-42",
    # Controls and characters without width.
    "S3cr3t-Dep\x00loy-Ke\ry-Val\x7fue-42",
    "S3cr3t-De\u200bploy-K\ufeffey-Val\u00adue-\u206042",
    "\x1b[36m".join(SECRET),
    # In another form, and split there.
    base64.b64encode(SECRET.encode()).decode().replace("Lo", "\x1b[1mLo\x1b[0m"),
)

SCRIPT = """
echo "$KEY" | grep --color=always Deploy; cat ../../../../hidden
cat ../../../../hidden >>"$GITHUB_STEP_SUMMARY"
cat ../../../../outputs >>"$GITHUB_OUTPUT"
cat ../../../../events >>"$DISPATCHD_EVENTS"
exit 1
"""

_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -~]"
)
_NOT_SEEN = {"Cc", "Cf", "Mn", "Me"}


def as_read(text: str) -> str:
    """Return a text as a terminal or a page shows it: this test's own reader, not ours."""
    left = _SEQUENCES.sub("", text)
    return "".join(each for each in left if unicodedata.category(each) not in _NOT_SEEN)


def leaks(text: str) -> list[str]:
    """Return the runs of six characters of the secret, or of it in base64, that a reader sees."""
    seen = as_read(text)
    forms = (SECRET, base64.b64encode(SECRET.encode()).decode())
    runs = (form[at : at + 6] for form in forms for at in range(len(form) - 5))
    return [run for run in runs if run in seen]


async def test_a_secret_that_a_colour_splits_is_seen_nowhere(
    tmp_path: Path, server: Hub
) -> None:
    assert all(leaks(each) for each in HIDDEN)
    (tmp_path / "key").write_text(SECRET)
    folder = tmp_path / "m"
    config = write_config(
        folder,
        server.url,
        {"it": ["/bin/bash", "-c", SCRIPT]},
        limits='secrets = { KEY = "key" }',
    )
    with config.open("a") as file:
        file.write(f'[secrets.key]\nfile = "{tmp_path}/key"\n')
    (folder / "hidden").write_text("\n".join(HIDDEN) + "\n")
    (folder / "outputs").write_text(
        "".join(f"o{number}={each}\n" for number, each in enumerate(HIDDEN))
    )
    (folder / "events").write_text(
        "".join(
            f"{json.dumps({'type': 'follow_up', 'text': each})}\n" for each in HIDDEN
        )
    )
    async with running_daemon(config) as daemon:
        job_id = await server.submit({"dag_name": "it"})
        job = await server.result(job_id)
        own = await command("logs", job_id, "--config", str(config))
        shown = await command("hub", "show", job_id, cwd=server.folder)
        async with httpx.AsyncClient(base_url=server.url, timeout=None) as guest:
            await login(guest, admin_token(server))
            page = text(await guest.get(f"/jobs/{job_id}"))
    said = {
        "hub show": shown.stdout,
        "API": json.dumps(job, ensure_ascii=False),
        "page": page,
        "log": daemon.log_file.read_text(),
        "hub's log": server.log_file.read_text(),
        "record": (daemon.state / f"history/{job_id}.json").read_text(),
    }

    for k, e in said.items():
        print("WW", k, repr(e))
    assert {
        where: found for where, each in said.items() if (found := leaks(each))
    } == {}
    # All of it has come, with a mark in the place of each secret.
    marks = len(HIDDEN)
    assert job["result_output"].count("[redacted]") == marks + 1
    assert job["result_step_summary"].count("[redacted]") == marks
    assert len(job["result_outputs"]) == marks
    assert job["result_summary"].count("[redacted]") == marks
    for each in ("hub show", "page"):
        assert said[each].count("[redacted]") >= 2 * marks
    # What stays on the machine is its owner's, with its colours.
    assert leaks(own.stdout)
    assert "\x1b[01;31m" in own.stdout
