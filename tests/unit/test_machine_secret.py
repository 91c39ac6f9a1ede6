"""The machine's secret in its file: read again for the next call, but for calls that follow at once."""

from pathlib import Path

import pytest

from dispatchd.agent.endpoint.credentials import ConfiguredCredentials
from dispatchd.errors import Unauthorized
from dispatchd.redaction.known_secrets import KnownSecrets
from support.clock import advance


@pytest.fixture
def credentials(tmp_path: Path) -> ConfiguredCredentials:
    file = tmp_path / "secret"
    file.write_text("the-first-one\n")
    return ConfiguredCredentials(
        license_id="l", server_id="s", secret_file=file, known=KnownSecrets()
    )


async def test_a_changed_secret_counts_a_second_later(
    credentials: ConfiguredCredentials,
) -> None:
    before = await credentials.secret("pull")
    credentials.secret_file.write_text("the-second-one\n")
    await advance(1)

    assert (before, await credentials.secret("pull")) == (
        "the-first-one",
        "the-second-one",
    )
    known = credentials.known.scrub("the-first-one, the-second-one")
    assert known == "[redacted], [redacted]"


async def test_a_secret_that_can_no_longer_be_read_is_not_used_on(
    credentials: ConfiguredCredentials,
) -> None:
    await credentials.secret("pull")
    credentials.secret_file.unlink()
    await advance(1)

    for call in ("pull", "finish"):
        with pytest.raises(Unauthorized, match="can't be read"):
            await credentials.secret(call)


async def test_calls_that_follow_at_once_share_a_look(
    credentials: ConfiguredCredentials,
) -> None:
    await credentials.secret("pull")
    credentials.secret_file.unlink()

    assert await credentials.secret("accept") == "the-first-one"
