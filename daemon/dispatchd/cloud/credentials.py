"""The machine's credentials: who it is, and the secret that proves it, read anew at each call."""

from pathlib import Path

from attrs import define

from dispatchd.errors import Unauthorized
from dispatchd.known_secrets import KnownSecrets


@define(kw_only=True)
class Credentials:
    """A machine's identity at the endpoint.

    The secret stays in its file, so that rotating it needs no restart. Each one that has been read
    joins the `known` secrets.
    """

    license_id: str
    server_id: str
    secret_file: Path
    known: KnownSecrets

    def secret(self, call: str) -> str:
        """Return the machine's secret, without surrounding white space.

        Args:
            call: What it is needed for, for the error.

        Raises:
            Unauthorized: There is none to be had now.
        """
        try:
            secret = self.secret_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise Unauthorized(
                call=call,
                reason=f"the machine secret {self.secret_file} can't be read: {reason}",
            ) from error
        if not secret:
            raise Unauthorized(
                call=call, reason=f"the machine secret {self.secret_file} is empty"
            )
        self.known.know("machine", [secret])
        return secret
