"""Slurm's commands as a daemon finds them on its PATH, stopped by a test at a step, or made to lie."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from support.slurm import Cluster
from support.until import until

_WRAPPER = """#!/bin/sh
if [ -e {folder}/{name}.before ]; then
  echo >{folder}/reached
  while [ -e {folder}/{name}.before ]; do sleep 0.05; done
fi
{real} "$@"
code=$?
if [ -e {folder}/{name}.after ]; then
  echo >{folder}/reached
  while [ -e {folder}/{name}.after ]; do sleep 0.05; done
fi
if [ -e {folder}/{name}.lost ]; then
  rm {folder}/{name}.lost
  echo "{name}: error: Socket timed out on send/recv operation" >&2
  exit 1
fi
exit $code
"""


@frozen
class Steps:
    """Wrappers of sbatch(1) and scontrol(1) in a folder of their own."""

    folder: Path
    cluster: Cluster

    @classmethod
    def create(cls, folder: Path, cluster: Cluster) -> "Steps":
        folder.mkdir()
        for name in ("sbatch", "scontrol"):
            file = folder / name
            text = _WRAPPER.format(folder=folder, name=name, real=shutil.which(name))
            file.write_text(text)
            file.chmod(0o755)
        return cls(folder, cluster)

    @property
    def env(self) -> Mapping[str, str]:
        path = f"{self.folder}{os.pathsep}{os.environ['PATH']}"
        return {**self.cluster.env, "PATH": path}

    def hold(self, step: str) -> None:
        """Stop the next command at a step, such as `sbatch.after`."""
        (self.folder / step).touch()

    async def until_reached(self) -> None:
        await until((self.folder / "reached").exists, 60, "the step")

    def let_go(self, step: str) -> None:
        (self.folder / "reached").unlink(missing_ok=True)
        (self.folder / step).unlink(missing_ok=True)
