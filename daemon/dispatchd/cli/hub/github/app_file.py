"""The drop-in of hub.toml with the hub's App: the lines of `[github]` that only GitHub knows."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dispatchd.cli.brand import branded
from dispatchd.cli.service.stamp import stamped, write
from dispatchd.cli.terminal import echo
from dispatchd.drop_ins import drop_in_folder
from dispatchd.errors import FolderUnusable, UsageError
from dispatchd.protocol import toml_text
from dispatchd.redaction.escapes import written_out

if TYPE_CHECKING:
    from dispatchd.hub.github.app.registration import App, Kept

_DROP_IN: Final = "50-github-app.toml"

_TEXT: Final = """\
# The hub's App, by `dispatchd hub github setup`. Read after {config}; what is said here counts.
[github]
{lines}
"""


def drop_in(config_file: Path) -> Path:
    """Return the drop-in of a hub's configuration file."""
    return drop_in_folder(config_file) / _DROP_IN


def require_none(config_file: Path) -> None:
    """Check that the hub has neither an App nor a token, and that the place of the drop-in is free.

    Raises:
        UsageError: It has one of them, or something is there.
        ConfigError: The configuration can't be read.
    """
    from dispatchd.hub.config.load import read_sources

    cannot, sources = "make another App", read_sources(config_file)
    github = sources.merged.get("github")
    for key in ("app_id", "token_file"):
        if isinstance(github, dict) and key in github:
            file = sources.file_of(f"github.{key}")
            reason = f"{file} sets github.{key}: move that away first"
            raise UsageError(cannot=cannot, reason=reason)
    if (file := drop_in(config_file)).exists() or file.is_symlink():
        raise UsageError(cannot=cannot, reason=f"{file} is there already")


def keys(app: "App", kept: "Kept") -> Mapping[str, str]:
    """Return the lines of `[github]`: key -> value as TOML."""
    lines = {
        "app_id": str(app.app_id),
        "private_key_file": toml_text.quoted(kept.key_file.name),
    }
    if kept.secret_file:
        secret = toml_text.quoted(kept.secret_file.name)
        lines["webhook_secret_files"] = f"[{secret}]"
    return lines


def write_drop_in(config_file: Path, app: "App", kept: "Kept") -> Path:
    """Write the drop-in, readable by its owner only, and return it.

    Raises:
        FolderUnusable: It can't be written; what it would say is printed.
    """
    file = drop_in(config_file)
    lines = "\n".join(f"{key} = {value}" for key, value in keys(app, kept).items())
    text = branded(_TEXT).format(config=written_out(config_file.name), lines=lines)
    try:
        write(file, stamped(text), mode=0o600)
    except OSError as error:
        echo(f"Put these lines into [github] of {config_file}:\n\n{lines}\n", err=True)
        raise FolderUnusable(folder=file.parent, error=error) from error
    return file
