"""The agent: pulls jobs from an endpoint, runs them on this machine, and reports their ends. Opened in `serve.py`, wired in `wiring.py`.

`Agent` runs it inside of another program of Python; see docs/vendor.md. It is loaded when it is asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dispatchd.agent.embedding import Agent

__all__ = ["Agent"]


def __getattr__(name: str) -> object:
    """Return the member that is loaded late.

    Raises:
        AttributeError: There is none of that name.
    """
    if name == "Agent":
        from dispatchd.agent.embedding import Agent  # noqa: PLC0415  # all of the agent

        return Agent
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
