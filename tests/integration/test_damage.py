"""Whatever a run does to its own folder is its job's trouble alone: others run, cancels work, a restart brings nothing back."""

from pathlib import Path

import pytest

from support.daemon import running_daemon, write_config
from support.endpoint import endpoint

DAMAGES = {
    "its folder removed": 'cd /; rm -rf "$(dirname "$DISPATCHD_WORKSPACE")"; exit 2',
    "its folder a file": 'cd /; R=$(dirname "$DISPATCHD_WORKSPACE"); rm -rf "$R"; echo x >"$R"; exit 2',
    "its folder a link": 'cd /; R=$(dirname "$DISPATCHD_WORKSPACE"); rm -rf "$R"; ln -s /nonexistent/x "$R"; exit 2',
    "its folder a pipe": 'cd /; R=$(dirname "$DISPATCHD_WORKSPACE"); rm -rf "$R"; mkfifo "$R"; exit 2',
    "a file in the next attempt's place": "echo x >../attempt-2; exit 2",
    "a link in the next attempt's place": "ln -s /nonexistent/x ../attempt-2; exit 2",
    "a link to a folder in the next attempt's place": 'mkdir x; ln -s "$PWD/x" ../attempt-2; exit 2',
    "a pipe in the next attempt's place": "mkfifo ../attempt-2; exit 2",
    "a full folder in the next attempt's place": "mkdir -p ../attempt-2/a/b; chmod 0 ../attempt-2/a; chmod 555 ../attempt-2; exit 2",
    "its payload a pipe": "rm ../event.json; mkfifo ../event.json; exit 2",
    "its headers a pipe": "rm ../headers.json; mkfifo ../headers.json; exit 2",
    "its payload a folder": "rm ../event.json; mkdir ../event.json; exit 2",
    "its payload a device": "rm ../event.json; ln -s /dev/zero ../event.json; exit 2",
    "its own folder gone": 'rm -rf "$DISPATCHD_ATTEMPT_FOLDER"; exit 2',
    "its own folder a link": 'rm -rf "$DISPATCHD_ATTEMPT_FOLDER/run"; ln -s /nonexistent "$DISPATCHD_ATTEMPT_FOLDER/run"; exit 2',
    "its output a pipe": 'rm "$DISPATCHD_ATTEMPT_FOLDER/output.log"; mkfifo "$DISPATCHD_ATTEMPT_FOLDER/output.log"; exit 2',
    "its workspace a link": 'cd /; rm -rf "$DISPATCHD_WORKSPACE"; ln -s /nonexistent "$DISPATCHD_WORKSPACE"; exit 2',
    "its modes": 'chmod 0 .. . "$DISPATCHD_ATTEMPT_FOLDER" "$DISPATCHD_ATTEMPT_FOLDER/run"; exit 2',
}
GOOD = {"id": "good", "dag_name": "good"}


@pytest.mark.parametrize("isolation", ["none", "sandbox"])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_by_a_run_ends_its_own_job_alone(
    tmp_path: Path, damage: str, isolation: str
) -> None:
    async with endpoint() as hub:
        config = write_config(
            tmp_path,
            hub.url,
            {"good": ["true"], "bad": ["/bin/sh", "-c", DAMAGES[damage]]},
            limits=f'contract = "headless"\narguments = []\nisolation = "{isolation}"',
            runs="slots = 2\nretry_wait_s = 0.01",
        )
        config.write_text(config.read_text().replace('contract = "headless"', "", 1))
        config.write_text(config.read_text().replace("arguments = []", "", 1))
        async with running_daemon(config) as daemon:
            hub.hand_out({"id": "bad", "dag_name": "bad"})
            (bad,) = await hub.until_finished("bad")
            hub.hand_out(GOOD)
            (good,) = await hub.until_finished("good")
        assert not [
            line for line in daemon.log() if line["event"] == "store_write_refused"
        ]

    assert bad["result_status"] == "failed"
    assert bad["result_cause"] in {"workspace", "exit-code", "lost", "spawn"}
    assert bad["result_summary"]
    assert good["result_status"] == "succeeded"
