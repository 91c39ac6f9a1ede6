"""World: the decisions of one search, each asked once for the same values."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from attrs import define, evolve, field

from explore.bindings import ENDED, NOW, Decisions, HubError, HubJob, TrackedJob
from explore.model import Call, Hub, Scenario

T = TypeVar("T")


class Bug(Exception):
    """A decision raised what no caller expects."""


@define
class World:
    """The decisions of a search, each asked once for the same values, and numbers for values that are equal."""

    decisions: Decisions
    scenario: Scenario
    _by_value: dict[Any, tuple[int, Any]] = field(factory=dict, init=False)
    """A number, and the first of the values that equal it."""
    _by_identity: dict[int, tuple[int, Any]] = field(factory=dict, init=False)
    """The same for these first ones, which are faster to find so."""
    _answers: dict[Any, Any] = field(factory=dict, init=False)

    def number(self, value: Any) -> int:
        """Return a number that equal values share."""
        return self._find(value)[0]

    def same(self, value: T) -> T:
        """Return the one value that stands for all that equal it."""
        first: T = self._find(value)[1]
        return first

    def _find(self, value: Any) -> tuple[int, Any]:
        known = self._by_identity.get(id(value)) or self._by_value.get(value)
        if known is None:
            known = self._by_value[value] = len(self._by_value), value
            self._by_identity[id(value)] = known
        return known

    def ask(self, decide: Callable[..., T], *args: Any) -> T:
        """Return what is decided, or raise what was raised.

        Raises:
            HubError: The hub refuses it.
            Bug: Anything else was raised.
        """
        key = decide, *(self._short(each) for each in args)
        answer = self._answers.get(key)
        if answer is None:
            answer = self._answers[key] = self._asked(decide, args)
        result, raised = answer
        if raised is not None:
            raise raised
        decided: T = result
        return decided

    def _short(self, value: Any) -> Any:
        return self.number(value) if type(value) in _NUMBERED else value

    def _asked(
        self, decide: Callable[..., Any], args: tuple[Any, ...]
    ) -> tuple[Any, Exception | None]:
        try:
            return self.plain(decide(*args)), None
        except HubError as error:
            return None, error
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
            return None, Bug(f"{type(error).__name__}: {error}")

    def plain(self, value: Any) -> Any:
        """Return a value without what doesn't matter to any decision: times, counts, the story so far."""
        if isinstance(value, TrackedJob):
            return self.same(evolve(value, steps=(), changed_at=NOW, received_at=NOW))
        if isinstance(value, HubJob):
            most = {name: min(getattr(value, name), 1) for name in _COUNTED}
            # Of what goes on it says what becomes of it if it comes back.
            says = (
                "superseded"
                if value.state not in ENDED and value.result_summary
                else ""
            )
            return self.same(evolve(value, result_summary=says, **most))
        if type(value) is tuple:
            return tuple(self.plain(each) for each in value)
        return value


_NUMBERED: Final = (TrackedJob, HubJob, Hub, Call)
_COUNTED: Final = ("accepts", "finishes", "deliveries", "claimed_at")
