"""A disk that hangs in the kernel: nothing ends that call, and the daemon stops all the same."""

from pathlib import Path

import pytest
from anyio import to_thread

from support.daemon import write_config
from support.daemon_process import running
from support.endpoint import endpoint
from support.preload import build
from support.until import until

pytestmark = pytest.mark.torture


@pytest.mark.parametrize("part", ["/jobs", "/runs/"])
async def test_a_stop_ends_though_the_disk_hangs(tmp_path: Path, part: str) -> None:
    library = build(Path(__file__).parent / "hang_sync.c", tmp_path)
    flag = tmp_path / "hang"
    env = {"LD_PRELOAD": str(library), "HANG_FLAG": str(flag), "HANG_PART": part}
    async with endpoint() as hub:
        config = write_config(tmp_path, hub.url, {"it": ["/bin/true"]})
        with running(config, env=env) as daemon:
            await daemon.until_logged("daemon_ready")
            flag.touch()
            hub.hand_out({"id": "j", "dag_name": "it"})
            await until(lambda: not hub.queue)
            code = await to_thread.run_sync(lambda: daemon.stop(within_s=90))
            forced = [
                line for line in daemon.log() if line.get("event") == "stop_forced"
            ]
            hub.hand_out({"id": "j", "dag_name": "it"})
            flag.unlink()
            daemon.start()
            await hub.until_finished("j")

    assert code == 0
    assert len(forced) == 1
