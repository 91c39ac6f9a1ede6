"""Full cycles in a second, beside the raw rate of the same machine in the same run."""

import os
import subprocess
import time
from pathlib import Path
from typing import Final

from bench.harness import SECRET, Hub, daemon, folder, hub, write_config
from dispatchd.agent.store.durable import DurableFolder

JOBS: Final = 400
WARM: Final = 40
"""Jobs that pass before the clock starts (count)."""

RAW_JOBS: Final = 200
RECORD: Final = b"x" * 1500
"""About the size of a tracked job (bytes)."""


def main() -> None:
    """Print both rates and their ratio."""
    with folder() as path:
        with hub(path) as server:
            for number in range(JOBS):
                server.submit(f"job-{number}")
            config = write_config(
                path, server.url, ["/bin/true"], slots=8, queue_ahead=16
            )
            with daemon(config) as process:
                server.finished(f"job-{WARM}")
                began = time.perf_counter()
                for number in range(WARM, JOBS):
                    server.finished(f"job-{number}")
                rate = (JOBS - WARM) / (time.perf_counter() - began)
                cpu_ms = cpu_s(process.pid) * 1e3 / JOBS
        with hub(path, "raw") as server:
            raw = raw_rate(server, path)
    print(f"throughput, {JOBS} jobs of /bin/true, 8 slots")
    print(
        f"  reference: 3 calls, 3 durable puts, 1 spawn, one after the other {raw:7.1f} /s"
    )
    print(
        f"  full cycle                                                       {rate:7.1f} /s"
    )
    print(
        f"  ratio                                                            {rate / raw:7.2f}      aim: at least 0.5"
    )
    print(
        f"  the daemon's own time for a job, with its start                  {cpu_ms:7.1f} ms"
    )


def raw_rate(server: Hub, path: Path) -> float:
    """Return jobs in a second of a bare worker: nothing tracked, nothing recovered."""
    for number in range(RAW_JOBS):
        server.submit(f"job-{number}")
    records = DurableFolder.open(path / "raw")
    began = time.perf_counter()
    for number in range(RAW_JOBS):
        name = str(number)
        job = server.call(
            "pull", {"heartbeat_secret": SECRET, "extensions": ["claim", "lease"]}
        ).json()
        claim = {"secret": SECRET, "claim_token": job["claim_token"]}
        records.put(name, RECORD)
        server.call(f"{job['id']}/accept", {**claim, "dag_run_id": name})
        records.put(name, RECORD)
        subprocess.run(["/bin/true"], check=True)
        records.put(name, RECORD)
        server.call(f"{job['id']}/finish", {**claim, "result_status": "succeeded"})
    return RAW_JOBS / (time.perf_counter() - began)


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used (seconds; proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
