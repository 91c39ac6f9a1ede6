"""Lock of a state folder: one daemon at a time, even if somebody removes files in it.

The folder itself is locked, because people remove a file `lock` that they take for a stale one. The file
is locked as well: it holds the pid, earlier releases check nothing else, and some network file systems
can't lock folders.
"""

import fcntl
import os
from contextlib import ExitStack, suppress
from pathlib import Path

from dispatchd.agent.store.durable import FILE_MODE, make_folder
from dispatchd.errors import FolderUnusable, PathTaken, StoreLocked
from dispatchd.linux.untrusted_files import what_is_at


def lock(folder: Path) -> ExitStack:
    """Keep every other daemon out of a state folder until the returned stack is closed.

    The lock goes with the process, however it ends (flock(2)).

    Raises:
        PathTaken: Something else is in the place of a folder or of the lock's file.
        FolderUnusable: The folder can't be used.
        StoreLocked: Another process holds it.
    """
    make_folder(folder)
    path = folder / "lock"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        if occupant := what_is_at(path, error):
            do = "give it to this user, or move it away while no daemon runs"
            raise PathTaken(path=path, kind=occupant, error=error, do=do) from error
        raise FolderUnusable(folder=folder, error=error) from error
    with ExitStack() as held:
        held.callback(os.close, file)
        try:
            if not lock_folder(folder, held):
                raise StoreLocked(folder=folder, holder=_pid_in(file))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreLocked(folder=folder, holder=_pid_in(file)) from error
        except OSError as error:
            # Some network file systems have no locks: there nothing could keep a second daemon out.
            raise FolderUnusable(folder=folder, error=error) from error
        # The pid is only for the messages above: a full disk must not keep the daemon from starting.
        with suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        return held.pop_all()


def lock_folder(folder: Path, held: ExitStack) -> bool:
    """Lock a folder itself until `held` is closed. Return False if another process has locked it.

    A file system that can't lock folders keeps nobody out.

    Raises:
        OSError: The folder can't be opened.
    """
    own = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    held.callback(os.close, own)
    try:
        fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def is_locked(folder: Path) -> bool:
    """Return True if a process has locked a folder; False too if that can't be seen.

    By proc_locks(5): a try of the lock itself could keep a daemon from its start.
    """
    with suppress(OSError):
        status = folder.stat()
        major, minor = os.major(status.st_dev), os.minor(status.st_dev)
        place = f" {major:02x}:{minor:02x}:{status.st_ino} "
        locks = Path("/proc/locks").read_text(errors="replace").splitlines()
        return any("FLOCK" in line and place in line for line in locks)
    return False


def _pid_in(file: int) -> str:
    return os.pread(file, 32, 0).decode(errors="replace").strip()
