"""Headers of HTTP answers, from any server: one that can't be read counts as absent."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final
from urllib.parse import parse_qsl, urlsplit

_YEARS: Final = range(1970, 9000)
"""Years of a valid date. A sum with it has to stay below the year 10,000 (`datetime.MAXYEAR`)."""


def http_date(value: str) -> datetime | None:
    """Return the time in an HTTP date (RFC 9110, 5.6.7), in UTC, or None."""
    try:
        date = parsedate_to_datetime(value)
        # A date without a zone is invalid.
        utc = None if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return utc if utc is not None and utc.year in _YEARS else None


def seconds(value: str) -> float | None:
    """Return a number of seconds (RFC 9110, 10.2.3, delay-seconds), or None."""
    value = value.strip()
    # Twelve digits hold the longest valid value, a time since the epoch.
    return float(value[:12]) if value.isascii() and value.isdigit() else None


def query_of(address: str) -> Mapping[str, str]:
    """Return the query of an address, as of a Link header; empty for an address that can't be read."""
    try:
        return dict(parse_qsl(urlsplit(address).query))
    except ValueError:
        return {}


def no_cookies() -> CookieJar:
    """Return a jar that stores nothing: one cookie that can't be sent would break every later call."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))
