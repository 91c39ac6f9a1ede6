"""End of an App's registration: its code is exchanged once for the key and the secret, which are written to files.

GitHub sends the key only this one time. So the files are made before the exchange, and existing files are untouched.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from attrs import define, field, frozen

from dispatchd.errors import FolderUnusable, NotReachable, UsageError
from dispatchd.hub.github.api.responses import GithubError, NotThere
from dispatchd.hub.github.api.transport import Call, Transport, in_path
from dispatchd.protocol.job import Json

KEY_FILE: Final = "github-app.pem"
SECRET_FILE: Final = "github-webhook-secret"  # noqa: S105  # a name
CLIENT_SECRET_FILE: Final = "github-client-secret"  # noqa: S105  # a name

_CANNOT: Final = "exchange the code of the App's manifest"


@frozen(kw_only=True)
class Registered:
    """An App that GitHub has made; its secrets are in the files."""

    app_id: int
    name: str
    page: str
    """Address of the App's web page, below which it is installed."""
    key_file: Path
    secret_file: Path | None
    """File with the webhook's secret; None where GitHub has made none, as for an App without a webhook."""
    client_id: str
    """Id of the App for logins of people; empty where GitHub has named none."""
    client_secret_file: Path | None
    """File with the secret for logins; None where GitHub has made none."""


@define
class Reserved:
    """Files for an App's key and secrets, still empty."""

    key_file: Path
    secret_file: Path
    client_secret_file: Path
    _open: dict[Path, int] = field(factory=dict, init=False)

    @classmethod
    def beside(cls, config_file: Path) -> Self:
        """Make the files beside a configuration, readable by its owner only. Blocks.

        Raises:
            UsageError: One of them exists already.
            FolderUnusable: They can't be made.
        """
        folder = config_file.parent
        reserved = cls(
            folder / KEY_FILE, folder / SECRET_FILE, folder / CLIENT_SECRET_FILE
        )
        try:
            for file in reserved._files:
                reserved._open[file] = _create(file, config_file)
        except FileExistsError as error:
            reserved.discard()
            reason = f"{error.filename} is there already, and would be lost; move it away first"
            raise UsageError(cannot=_CANNOT, reason=reason) from error
        except OSError as error:
            reserved.discard()
            raise FolderUnusable(folder=folder, error=error) from error
        return reserved

    def discard(self) -> None:
        """Remove the files."""
        for file, fd in self._open.items():
            os.close(fd)
            file.unlink()
        self._open.clear()

    @property
    def _files(self) -> tuple[Path, Path, Path]:
        return self.key_file, self.secret_file, self.client_secret_file

    def fill(self, key: str, secret: str, client_secret: str) -> None:
        """Write key and secrets durably; remove the file of a secret that there isn't. Blocks.

        Raises:
            FolderUnusable: They can't be written.
        """
        try:
            texts = (key, secret, client_secret)
            for file, text in zip(self._files, texts, strict=True):
                fd = self._open.pop(file)
                with os.fdopen(fd, "w", encoding="utf-8") as opened:
                    opened.write(text.strip() + "\n" if text else "")
                    opened.flush()
                    os.fsync(fd)
                if not text:
                    file.unlink()
        except OSError as error:
            raise FolderUnusable(folder=self.key_file.parent, error=error) from error


async def register(transport: Transport, code: str, files: Reserved) -> Registered:
    """Exchange a code for the App's key and secret, and write them to the files.

    Raises:
        UsageError: GitHub doesn't know the code (any more).
        NotReachable: GitHub doesn't answer, or not as its documentation says.
        FolderUnusable: The files can't be written.
    """
    transport.known.know("github code", [code])
    call = Call(
        name=_CANNOT,
        method="POST",
        path=f"app-manifests/{in_path(code)}/conversions",
    )
    try:
        document, _ = await transport.json(call, "")
    except NotThere as error:
        reason = f"GitHub doesn't know the code: it counts once, and for an hour ({error.reason})"
        raise UsageError(cannot=_CANNOT, reason=reason) from error
    except GithubError as error:
        raise NotReachable(cannot=_CANNOT, reason=error.reason) from error
    app = document if isinstance(document, dict) else {}
    app_id, key = app.get("id"), app.get("pem")
    if not isinstance(app_id, int) or not isinstance(key, str) or not key:
        reason = "GitHub's answer has no App in it"
        raise NotReachable(cannot=_CANNOT, reason=reason)
    secret = _text(app.get("webhook_secret"))
    client_id, client_secret = (
        _text(app.get("client_id")),
        _text(app.get("client_secret")),
    )
    files.fill(key, secret, client_secret)
    return Registered(
        app_id=app_id,
        name=_text(app.get("name")) or _text(app.get("slug")),
        page=_text(app.get("html_url")),
        key_file=files.key_file,
        secret_file=files.secret_file if secret else None,
        client_id=client_id,
        client_secret_file=files.client_secret_file if client_secret else None,
    )


def _create(file: Path, config_file: Path) -> int:
    owner = config_file.stat()
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    # Root may act for the hub's user, who has to read the file.
    if os.geteuid() == 0:
        with suppress(OSError):
            os.fchown(fd, owner.st_uid, owner.st_gid)
    return fd


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""
