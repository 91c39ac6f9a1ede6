"""Where a secret comes from, as the machine's owner configured it; never its value."""

from attrs import frozen


@frozen(kw_only=True)
class SecretSource:
    """One secret by name; exactly one of the others is set.

    `file` is an absolute path, `credential` a file name in $CREDENTIALS_DIRECTORY (systemd.exec(5)),
    `env` a variable of the daemon's own environment, `command` an argument vector that prints it.
    """

    name: str
    file: str = ""
    credential: str = ""
    env: str = ""
    command: tuple[str, ...] = ()
