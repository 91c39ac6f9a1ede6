"""What every test has."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests as the daemon runs."""
    return "asyncio"
