"""End of an App's registration: its code is exchanged once for the key and the secret, which are written to files.

GitHub sends the key only this one time. So the files are made before the exchange, and existing files are untouched.
"""

import os
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
class App:
    """An App as GitHub tells of it once. Empty texts stand for what it hasn't made."""

    app_id: int
    name: str
    page: str
    """Address of the App's web page, below which it is installed."""
    key: str = field(repr=False)
    """The private key (PEM)."""
    secret: str = field(repr=False)
    """The webhook's secret; an App without a webhook has none."""
    client_id: str
    """Id of the App for logins of people."""
    client_secret: str = field(repr=False)


@frozen
class Kept:
    """The files with an App's key and secrets; None for a secret that there isn't."""

    key_file: Path
    secret_file: Path | None
    client_secret_file: Path | None


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
                reserved._open[file] = _create(file)
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

    def fill(self, app: App) -> Kept:
        """Write key and secrets durably; remove the file of a secret that there isn't. Blocks.

        Raises:
            FolderUnusable: They can't be written.
        """
        texts = (app.key, app.secret, app.client_secret)
        try:
            for file, text in zip(self._files, texts, strict=True):
                self._write(file, text.strip())
        except OSError as error:
            raise FolderUnusable(folder=self.key_file.parent, error=error) from error
        return Kept(
            self.key_file,
            self.secret_file if app.secret else None,
            self.client_secret_file if app.client_secret else None,
        )

    def _write(self, file: Path, text: str) -> None:
        is_whole = False
        fd = self._open.pop(file)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as opened:
                if text:
                    opened.write(f"{text}\n")
                    opened.flush()
                    os.fsync(fd)
            is_whole = bool(text)
        finally:
            if not is_whole:
                file.unlink()


async def exchange(transport: Transport, code: str) -> App:
    """Exchange a code for the App with its key and secrets.

    Raises:
        UsageError: GitHub doesn't know the code (any more).
        NotReachable: GitHub doesn't answer, or not as its documentation says.
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
    return App(
        app_id=app_id,
        name=_text(app.get("name")) or _text(app.get("slug")),
        page=_text(app.get("html_url")),
        key=key,
        secret=_text(app.get("webhook_secret")),
        client_id=_text(app.get("client_id")),
        client_secret=_text(app.get("client_secret")),
    )


def _create(file: Path) -> int:
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""
