"""Look-ups in an untrusted payload: a value of another kind than expected counts as absent."""

from dispatchd.protocol.job import Json


def at(payload: Json, *path: str) -> Json:
    """Return the value at a path of names, or None."""
    for name in path:
        if not isinstance(payload, dict):
            return None
        payload = payload.get(name)
    return payload


def text(payload: Json, *path: str) -> str:
    """Return the string at a path, or an empty one."""
    value = at(payload, *path)
    return value if isinstance(value, str) else ""


def number(payload: Json, *path: str) -> int | None:
    """Return the whole number at a path, or None."""
    value = at(payload, *path)
    return value if type(value) is int else None
