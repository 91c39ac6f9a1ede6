"""Rules of an engine that can be judged from outside: the table. docs/engines.md has them for people."""

from collections.abc import Awaitable, Callable
from typing import Final

from attrs import frozen

from dispatchd.agent.engine_check import runs, starts
from dispatchd.agent.engine_check.bench import Bench


@frozen(kw_only=True)
class Rule:
    """One rule. `play` raises Broken or NotJudged."""

    number: str
    words: str
    play: Callable[[Bench], Awaitable[None]]


RULES: Final = (
    Rule(
        number="1.1",
        words="A start begins once, and not before its identity is recorded",
        play=runs.begins_once,
    ),
    Rule(
        number="1.2",
        words="A start whose record fails never begins",
        play=runs.never_begins_unrecorded,
    ),
    Rule(
        number="1.3",
        words="A start whose permission is over never begins, and says so",
        play=runs.never_begins_late,
    ),
    Rule(
        number="1.4",
        words="Exit codes are those of the command: 0, 7, 255, and 128 and the number of a signal",
        play=runs.exit_codes,
    ),
    Rule(
        number="1.5",
        words="What a command writes is in its file, in order and to the last byte",
        play=runs.whole_output,
    ),
    Rule(
        number="1.6",
        words="A command gets its folder, its variables and its brief as they are, and nothing of the daemon's environment",
        play=runs.surroundings,
    ),
    Rule(
        number="1.7",
        words="A payload of 25 MiB arrives whole",
        play=runs.large_payload,
    ),
    Rule(
        number="1.8",
        words="A secret reaches the command, and no list of processes or of the engine",
        play=runs.hidden_secret,
    ),
    Rule(
        number="1.9",
        words="A command that is ended gets SIGTERM, and its exit code counts",
        play=runs.graceful_stop,
    ),
    Rule(
        number="1.10",
        words="Two orders to end an attempt, and one after its end, are as good as one",
        play=runs.stopped_twice,
    ),
    Rule(
        number="1.11",
        words="A command that ignores SIGTERM is killed",
        play=runs.killed_stop,
    ),
    Rule(
        number="1.12",
        words="What a command leaves running is ended, and doesn't hold its end up",
        play=runs.nothing_left,
    ),
    Rule(
        number="1.13",
        words="An order of the engine itself ends a script by SIGTERM, and may be repeated",
        play=runs.told_by_stop_alone,
    ),
    Rule(
        number="2.1",
        words="A daemon killed before the record has started nothing",
        play=starts.killed_unrecorded,
    ),
    Rule(
        number="2.2",
        words="A daemon killed at any moment after the record has started once or never, and the next one knows which",
        play=starts.killed_recorded,
    ),
    Rule(
        number="2.3",
        words="An attempt outlives its daemon, and the next one follows it to its end",
        play=starts.killed_running,
    ),
    Rule(
        number="2.4",
        words="An attempt that ended while no daemon ran keeps its exit code",
        play=starts.ended_meanwhile,
    ),
    Rule(
        number="2.5",
        words="A start that is submitted again, because the answer was lost, begins once",
        play=starts.answer_lost,
    ),
    Rule(
        number="2.6",
        words="An id that the engine does not know is no success, and runs nothing",
        play=starts.unknown_id,
    ),
    Rule(
        number="2.7",
        words="While the engine does not answer nothing is decided, and afterwards all continues",
        play=starts.unreachable,
    ),
    Rule(
        number="2.8",
        words="A start that no record owns is found at the engine, and taken back",
        play=starts.orphans,
    ),
)
"""Every rule, by its number."""
