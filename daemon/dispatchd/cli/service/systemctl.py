"""Calls of systemd's own programs, each of which is said."""

import shutil
import subprocess
from pathlib import Path
from typing import Final, Self

from attrs import frozen

from dispatchd.cli.brand import brand
from dispatchd.cli.terminal import echo
from dispatchd.errors import NotReachable

_BOOTED: Final = Path("/run/systemd/system")
"""Folder that exists where systemd is the init system (sd_booted(3))."""

_LONGEST_S: Final = 180.0
"""Longest wait for a call (seconds): a start may take 90 s."""


@frozen(kw_only=True)
class Systemd:
    """The manager of the system, or of this user. Without `is_called`, calls are only said, or skipped."""

    is_user: bool
    is_called: bool
    is_said: bool

    @classmethod
    def of(cls, *, is_user: bool, is_elsewhere: bool, is_dry_run: bool) -> Self:
        """Return the manager for a command.

        Raises:
            NotReachable: There is none.
        """
        is_called = not (is_elsewhere or is_dry_run)
        if is_called and not (_BOOTED.is_dir() and shutil.which("systemctl")):
            reason = f"systemd doesn't run this machine; use --root for an image, or run {brand().name} as it is"
            raise NotReachable(cannot="change services", reason=reason)
        return cls(is_user=is_user, is_called=is_called, is_said=not is_elsewhere)

    def settle(self) -> None:
        """Make users and folders, and have systemd read its units again."""
        if not self.is_user:
            conf = f"{brand().name}.conf"
            self._run("systemd-sysusers", conf)
            self._run("systemd-tmpfiles", "--create", conf)
        self.reload()

    def reload(self) -> None:
        """Have systemd read its units again."""
        self.call("daemon-reload")

    def stop(self, unit: str, *, with_runs: bool) -> None:
        """Stop and disable a unit that may not exist; its runs, which outlive a stop, are ended on request."""
        self.call("disable", "--now", unit, must=False)
        if with_runs:
            self.call("kill", "--kill-whom=all", "--signal=KILL", unit, must=False)

    def call(self, *arguments: str, must: bool = True) -> None:
        """Call systemctl.

        Raises:
            NotReachable: It fails, and `must` not.
        """
        scope = ("--user",) if self.is_user else ()
        self._run("systemctl", *scope, *arguments, must=must)

    def _run(self, *command: str, must: bool = True) -> None:
        if not self.is_called:
            if self.is_said:
                echo(f"would run     {' '.join(command)}")
            return
        try:
            done = subprocess.run(  # noqa: S603  # the commands of this module
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_LONGEST_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotReachable(cannot=f"run {command[0]}", reason=str(error)) from error
        if done.returncode == 0:
            echo(f"ran           {' '.join(command)}")
        elif must:
            reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise NotReachable(cannot=f"run {' '.join(command)}", reason=reason)
