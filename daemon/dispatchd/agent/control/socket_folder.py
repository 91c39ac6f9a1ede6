"""Folder of the control socket: one daemon at a time holds it, so that two never answer at one socket."""

import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from dispatchd.agent.control.calls import peer_of, socket_address
from dispatchd.agent.store.lock import lock_folder
from dispatchd.errors import ControlFolderTaken, FolderUnusable

_PATIENCE_S: Final = 2.0
"""Deadline for a connection to another daemon (seconds)."""


def claim(folder: Path, state_folder: Path) -> ExitStack:
    """Keep other daemons from a control folder until the returned stack is closed.

    Call it with the lock of the state folder held.

    Raises:
        ControlFolderTaken: Another daemon answers there.
        FolderUnusable: The folder can't be used.
    """
    with ExitStack() as held:
        try:
            # The state folder itself is locked already, and a second lock would wait for the first.
            free = folder.samefile(state_folder) or lock_folder(folder, held)
        except OSError as error:
            raise FolderUnusable(folder=folder, error=error) from error
        pid = answering(folder)
        if pid is not None or not free:
            raise ControlFolderTaken(folder=folder, pid=pid)
        return held.pop_all()


def answering(folder: Path) -> int | None:
    """Return the pid of the process that listens on a folder's socket; None for none, 0 for an unknown one."""
    with (
        socket_address(folder) as address,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.settimeout(_PATIENCE_S)
        try:
            connection.connect(address)
        except (TimeoutError, BlockingIOError):
            # Its queue of connections is full.
            return 0
        except OSError:
            # No socket, or none of a daemon: the server replaces it, or reports why it can't.
            return None
        return peer_of(connection).pid
