"""Stand-ins of Slurm's commands for parts of its engine that need no cluster."""

import os
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from dispatchd.agent.domain.launch import Launch
from dispatchd.agent.engines.slurm.commands import Commands


@frozen
class NoSecrets:
    """Supplier of nothing, with stubs on its PATH."""

    environment: Mapping[str, str]

    async def supply(self, _launch: Launch) -> dict[str, str]:
        return {}

    def knows(self, _folder: Path) -> bool:
        return True


def stub(folder: Path, name: str, text: str) -> Commands:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return Commands({"PATH": f"{folder}{os.pathsep}{os.defpath}"})
