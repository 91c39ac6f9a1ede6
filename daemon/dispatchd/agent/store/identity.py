"""Identity of this machine on disk: its server id, its activation, and the fingerprint that tells it from a clone."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Final
from uuid import UUID

from attrs import frozen

from dispatchd.agent.store.durable import FILE_MODE, make_folder, put_file, remove_file
from dispatchd.errors import FolderUnusable, RecordUnreadable, StoreUnavailable
from dispatchd.linux.untrusted_files import read_text
from dispatchd.protocol.conversion import strict_converter
from dispatchd.protocol.license import Activation, Fingerprint

_SERVER_ID: Final = "server_id"
_ACTIVATION: Final = "activation.json"
_LOCK: Final = "activation.lock"
_DAMAGED: Final = (
    *(ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, RecursionError),
)
"""Errors of reading a file that holds something else."""

_SCHEMA_VERSION: Final = 1

PLACES: Final[Mapping[str, Path]] = MappingProxyType(
    {
        "machine_id": Path("/etc/machine-id"),
        "product_uuid": Path("/sys/class/dmi/id/product_uuid"),
    }
)
"""Files in which Linux has ids of the machine (machine-id(5); sysfs, class/dmi/id)."""

_converter = strict_converter(forbid_extra_keys=True, detailed_validation=False)


def fingerprint(places: Mapping[str, Path] = PLACES) -> Fingerprint:
    """Return this machine's fingerprint. It has hashes, because machine-id(5) wants the id itself kept private."""
    return Fingerprint(**{name: _hashed(path) for name, path in places.items()})


def uuid7() -> UUID:
    """Return a new UUID of version 7: milliseconds since the epoch, then random bits (RFC 9562, 5.7)."""
    milliseconds = time.time_ns() // 1_000_000
    bits = int.from_bytes(os.urandom(10))
    value = (milliseconds & (1 << 48) - 1) << 80 | bits
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


@frozen
class IdentityStore:
    """The files `server_id` and `activation.json` of a state folder, mode 0600. Calls block."""

    _folder: Path

    def server_id(self, make: Callable[[], UUID] = uuid7) -> tuple[str, str]:
        """Return this machine's id, created once, and the reason if an unreadable one was replaced.

        Raises:
            StoreUnavailable: A new one can't be stored.
        """
        server_id, problem = self._server_id()
        if server_id:
            return server_id, ""
        with self._alone():
            # The daemon and a command beside it may both be the first.
            server_id, problem = self._server_id()
            if server_id:
                return server_id, ""
            made = str(make())
            self._put(_SERVER_ID, f"{made}\n")
        return made, problem

    def _server_id(self) -> tuple[str, str]:
        """Return the id that is there, or nothing and what is wrong with it."""
        file = self._folder / _SERVER_ID
        try:
            return str(UUID(read_text(file).strip())), ""
        except FileNotFoundError:
            return "", ""
        except (OSError, ValueError) as error:
            problem = (
                f"{file} held no server id ({type(error).__name__}) and was replaced"
            )
            return "", problem

    def activation(self) -> Activation | None:
        """Return the stored activation, or None.

        Raises:
            RecordUnreadable: The file exists, and can't be understood.
        """
        file = self._folder / _ACTIVATION
        try:
            document = json.loads(read_text(file))
            if document.pop("schema_version") != _SCHEMA_VERSION:
                raise RecordUnreadable(path=file, reason="of another schema_version")
            return _converter.structure(document, Activation)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RecordUnreadable(path=file, reason=str(error.strerror)) from error
        except _DAMAGED as error:
            raise RecordUnreadable(path=file, reason="not an activation") from error

    def keep(self, activation: Activation) -> None:
        """Store an activation durably in place of the previous one.

        Raises:
            StoreUnavailable: The disk refuses; the previous one is still stored then.
        """
        with self._alone():
            self._keep(activation)

    def replace(self, before: Activation, after: Activation) -> bool:
        """Keep what has become of an activation; False, and nothing changes, if somebody has removed or replaced it meanwhile.

        Raises:
            StoreUnavailable: The disk refuses; the one before is still there then.
        """
        with self._alone():
            try:
                stored = self.activation()
            except RecordUnreadable:
                stored = before
            if stored is None or not stored.is_same(before):
                return False
            self._keep(after)
            return True

    def _keep(self, activation: Activation) -> None:
        document = {
            "schema_version": _SCHEMA_VERSION,
            **_converter.unstructure(activation),
        }
        self._put(_ACTIVATION, json.dumps(document, indent=1))

    def forget(self) -> None:
        """Remove the activation; a missing one is fine.

        Raises:
            StoreUnavailable: The disk refuses.
        """
        with self._alone():
            remove_file(self._folder, _ACTIVATION)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others who change the activation waiting for the length of the block: the daemon, and commands beside it.

        Raises:
            StoreUnavailable: The disk refuses.
        """
        file = self._folder / _LOCK
        try:
            make_folder(self._folder)
            descriptor = _open_lock(file)
        except FolderUnusable as unusable:
            raise StoreUnavailable(path=file, error=unusable.error) from unusable
        except OSError as error:
            raise StoreUnavailable(path=file, error=error) from error
        try:
            # Some network file systems have no locks; the daemon's own start refuses these.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _put(self, name: str, text: str) -> None:
        put_file(self._folder, name, text.encode())


def _open_lock(file: Path) -> int:
    """Return a descriptor of a file to lock.

    Raises:
        OSError: The disk refuses.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(file, flags, FILE_MODE)
    except PermissionError:
        # Another user's, such as root's after `sudo dispatchd deactivate`.
        file.unlink()
        return os.open(file, flags, FILE_MODE)


def _hashed(path: Path) -> str:
    try:
        content = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return sha256(b"dispatchd " + content.encode()).hexdigest() if content else ""
