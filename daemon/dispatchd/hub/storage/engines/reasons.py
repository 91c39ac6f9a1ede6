"""Errors of databases, in words."""


def reason_of(error: Exception) -> str:
    """Return a database's error message, in one line and without the statement."""
    said = str(getattr(error, "orig", None) or error).strip()
    return " ".join(said.split()) or type(error).__name__
