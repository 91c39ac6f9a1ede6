"""What the daemon says of itself, in a file that `dispatchd status` reads."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import anyio
import structlog
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus
from attrs import define, field

from dispatchd import __version__
from dispatchd.domain.job import Json
from dispatchd.domain.phase import Phase
from dispatchd.loops.board import Board
from dispatchd.loops.tracker import Tracker

_PAUSE_S: Final = 0.5
"""Shortest time between two writes (seconds): a busy daemon need not say everything."""


@define(kw_only=True)
class StatusFile:
    """Writes the board to a file whenever it changes; not durable, because it speaks of this moment only."""

    path: Path
    board: Board
    tracker: Tracker
    _log: structlog.typing.FilteringBoundLogger = field(
        factory=structlog.get_logger, init=False
    )

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Write until cancelled."""
        task_status.started()
        while True:
            changed = self.board.changed
            try:
                self._write()
            except OSError as error:
                self._log.debug("status_not_written", error=error.strerror)
            await anyio.sleep(_PAUSE_S)
            await changed.wait()

    def _write(self) -> None:
        aside = self.path.with_suffix(".aside")
        aside.write_text(json.dumps(self._document(), indent=1))
        aside.replace(self.path)

    def _document(self) -> Mapping[str, Json]:
        board = self.board
        return {
            "version": __version__,
            "pid": os.getpid(),
            "loops": dict(board.doing),
            "endpoint": board.endpoint,
            "clock_skew": board.skew,
            "long_poll": board.long_poll,
            "extensions": list(board.extensions),
            "last_pull_at": board.last_pull_at.isoformat()
            if board.last_pull_at
            else None,
            "last_report_at": board.last_report_at.isoformat()
            if board.last_report_at
            else None,
            "jobs": {
                phase.value: len(self.tracker.in_phase(phase))
                for phase in Phase
                if phase is not Phase.HISTORY
            },
        }
