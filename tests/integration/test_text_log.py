"""A daemon whose log goes to a terminal that can't show all: it works on, and so does the next one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from anyio import to_thread

from support.daemon import write_config
from support.endpoint import Answer, endpoint
from support.until import until

HALF, ROCKET = "job-\ud800", "rocket-🚀"


@pytest.mark.parametrize(
    ("redirect", "encoding"),
    [
        (">>log", "latin-1"),
        (">&-", "utf-8"),
        pytest.param(">>log", "utf-8", marks=pytest.mark.torture),
        pytest.param(">/dev/full", "ascii", marks=pytest.mark.torture),
    ],
)
async def test_no_line_of_the_log_ends_the_daemon_nor_its_next_start(
    tmp_path: Path, redirect: str, encoding: str
) -> None:
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        config.write_text(config.read_text().replace('"json"', '"text"'))
        # Both are tracked over the first stop, and named again at the second start.
        hub.script = lambda it: Answer(status=503) if it.call == "finish" else None
        for job_id in (HALF, ROCKET):
            # As an endpoint in ASCII sends it.
            hub.hand_out(json.dumps({"id": job_id, "dag_name": "it"}).encode())
        line = f'exec "{sys.executable}" -m dispatchd run --config "{config}" {redirect} 2>>errors'
        env = {**os.environ, "PYTHONIOENCODING": encoding}
        # The path of a call can't name the first as it is.
        reported = [
            lambda: len({each.job_id for each in hub.calls("finish")}) == 2,
            lambda: len(hub.finished) == 2,
        ]
        codes = []
        for is_done in reported:
            daemon = subprocess.Popen(["sh", "-c", line], cwd=tmp_path, env=env)
            try:
                await until(is_done, within_s=60)
                assert daemon.poll() is None
                daemon.send_signal(signal.SIGTERM)
                codes.append(await to_thread.run_sync(daemon.wait, 30))
            finally:
                daemon.kill()
                daemon.wait()
            hub.script = None

    assert codes == [0, 0]
    assert (tmp_path / "errors").read_text() == ""
    if redirect == ">>log":
        shown = ROCKET.encode(encoding, "backslashreplace").decode(encoding)
        log = (tmp_path / "log").read_text(encoding=encoding)
        assert log.count("daemon_stopped") == 2
        for written in log.split("daemon_stopped")[:2]:
            assert "job-\\ud800" in written
            assert shown in written
