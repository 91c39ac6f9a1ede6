"""Source of a secret, as the machine's owner configured it; never its value."""

from attrs import frozen


@frozen(kw_only=True)
class SecretSource:
    """Secret by name; exactly one of the other fields is set.

    `file` is an absolute path, `credential` a file name in $CREDENTIALS_DIRECTORY (systemd.exec(5)),
    `env` a variable of the daemon's own environment, `command` an argument vector that prints it.
    """

    name: str
    file: str = ""
    credential: str = ""
    env: str = ""
    command: tuple[str, ...] = ()
