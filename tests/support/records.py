"""Records for tests."""

from datetime import UTC, datetime

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
