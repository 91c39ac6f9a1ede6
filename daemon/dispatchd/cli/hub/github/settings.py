"""The table `[github]`, for the commands that need no running hub."""

from pathlib import Path
from typing import TYPE_CHECKING

from dispatchd.errors import ConfigError, Problem

if TYPE_CHECKING:
    from dispatchd.hub.config.github import GithubSettings


def github_settings(config_file: Path, *, before_app: bool = False) -> "GithubSettings":
    """Return the table `[github]` of a configuration.

    Args:
        config_file: The configuration.
        before_app: True if the App may still be missing in it.

    Raises:
        ConfigError: The table is missing, has no rules, or can't be used.
    """
    from dispatchd.hub.config.load import load

    settings = load(config_file, before_app=before_app).github
    key = "github" if settings is None else "github.rules"
    if settings is None or not settings.rules:
        expected = (
            "must be there, with at least one rule: docs/github.md has the smallest one"
        )
        raise ConfigError([Problem(file=config_file, key=key, expected=expected)])
    return settings
