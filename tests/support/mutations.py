"""Real webhooks with something about them changed at random, and what a hub has to make of them."""

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
from attrs import define, field

from support.github_events import REAL, comment, event_of, pull_request
from support.github_hub import send
from support.hub import Hub

_VALUES: list[Any] = [
    *(None, [], {}, "", 0, -1, 2**63, 2**200, 1.5, True, "\0", "\ud800"),
    *("x" * 5000, "🚀\u202e\n", [[]] * 50, {"id": {"id": {}}}, "../..", "a/b"),
]
_ACTIONS = ["opened", "rerequested", "created", "nonsense"]


def mutated(payload: Any, chance: random.Random) -> Any:
    """Return a payload with one thing about it changed."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            places.extend((value, key) for key in value)
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            places.extend((value, index) for index in range(len(value)))
            for item in value:
                walk(item)

    payload = json.loads(json.dumps(payload))
    walk(payload)
    # What is read is near the top, so that it is hit more often than chance alone would.
    top = [(payload, key) for key in payload]
    holder, key = chance.choice(chance.choice([places, top]) or [({"": 0}, "")])
    if chance.random() < 0.15 and isinstance(holder, dict):
        del holder[key]
        return payload
    holder[key] = chance.choice([*_VALUES, chance.choice(_ACTIONS)])
    if chance.random() < 0.2 and isinstance(payload, dict):
        items = list(payload.items())
        chance.shuffle(items)
        payload = dict(items)
    return payload


@define
class Flood:
    """Sends mutated webhooks, several at a time; each has to be answered with a reason, and none with an error."""

    server: Hub
    chance: random.Random
    goes_on: Callable[[], bool] = lambda: True
    statuses: Counter[int] = field(factory=Counter)
    _real: list[tuple[str, Any]] = field(init=False)
    _events: list[str] = field(init=False)
    _made: set[str] = field(factory=set, init=False)
    """What was made before: a hub knows a body again, and that is another test."""

    def __attrs_post_init__(self) -> None:
        self._real = [(event_of(path), json.loads(path.read_text())) for path in REAL]
        self._real += [
            ("pull_request", pull_request()),
            ("issue_comment", comment("/run deploy")),
        ]
        known = sorted({event for event, _ in self._real})
        self._events = [*known, "nonsense", "x" * 1000, "ping\x7f"]

    async def run(self, count: int, *, at_once: int = 8) -> None:
        """Send some, fewer if it doesn't go on."""
        mutations = iter([self._mutation() for _ in range(count)])

        async def some() -> None:
            for event, payload in mutations:
                if not self.goes_on():
                    return
                reply = await send(self.server, event, payload)
                self.statuses[reply.status_code] += 1
                assert reply.status_code < 500, (event, payload)
                assert reply.json()["reason"], (event, payload)

        async with anyio.create_task_group() as tasks:
            for _ in range(at_once):
                tasks.start_soon(some)

    def _mutation(self) -> tuple[str, Any]:
        while True:
            event, payload = self._any_mutation()
            body = json.dumps(payload)
            if body not in self._made:
                self._made.add(body)
                return event, payload

    def _any_mutation(self) -> tuple[str, Any]:
        event, payload = self.chance.choice(self._real)
        if self.chance.random() < 0.1:
            event = self.chance.choice(self._events)
        for _ in range(self.chance.choice([1, 1, 2, 4])):
            payload = mutated(payload, self.chance) if payload else payload
        return event, payload
