"""Cost of redaction, and the amount of text put through it: cases, longest input, time for each megabyte."""

import base64
import json
import random
import string
from collections.abc import Callable
from functools import partial
from typing import Final
from urllib.parse import quote

from bench.harness import timed_s
from dispatchd.redaction.redactor import MARK, Redactor

CASES: Final = 20_000
MEGABYTE: Final = 1_000_000
LINE: Final = (
    '{"timestamp": "2026-11-21T02:30:11.123456Z", "level": "info", "event": "job_attempt_started", '
    '"phase": "running", "job_id": "job-1234567", "workflow": "build", "attempt": 1}\n'
)
COLOURED: Final = "\x1b[32mok\x1b[0m  compile src/module.c -o build/module.o\r\n"
HOSTILE: Final = (
    "\x1b[maaaaaaa",
    "%61",
    "\n10:",
    "a",
    "token:",
    "password: ",
    "://a@",
    "-----END PRIVATE KEY-----",
)
ENCODINGS: Final[tuple[Callable[[str], str], ...]] = (
    str,
    lambda secret: base64.b64encode(secret.encode()).decode(),
    lambda secret: quote(secret, safe=""),
    lambda secret: json.dumps({"x": secret}),
)


def main() -> None:
    """Print counts and times."""
    rng = random.Random(1)  # the same cases each time
    redactor = Redactor.of(word(rng) for _ in range(3))
    longest = survived = 0
    for number in range(CASES):
        secret = word(rng)
        noise = " ".join(word(rng) for _ in range(rng.randrange(40)))
        text = noise + ENCODINGS[number % len(ENCODINGS)](secret) + noise
        longest = max(longest, len(text))
        clean = Redactor.of([secret]).scrub(text)
        survived += secret in clean or MARK not in clean
    print("redaction, 3 known secrets")
    print(f"  generated cases {CASES:,}, longest input {longest:,} characters")
    print(f"  secrets that survived {survived}")
    log = LINE * (MEGABYTE // len(LINE))
    copy_s = timed_s(lambda: log.replace("info", "INFO"))
    log_s = timed_s(lambda: redactor.scrub(log))
    line_s = timed_s(lambda: [redactor.scrub(LINE) for _ in range(1000)]) / 1000
    print(f"  reference: str.replace, 1 MB of log   {copy_s * 1e3:8.2f} ms")
    print(f"  1 MB of log                           {log_s * 1e3:8.1f} ms")
    for name, line in (("with colours", COLOURED), ("in JSON", json.dumps(LINE))):
        other = line * (MEGABYTE // len(line))
        other_s = timed_s(partial(redactor.scrub, other))
        ratio = f"{other_s / log_s:4.1f} times the time of the first"
        print(f"  1 MB of log {name:25} {other_s * 1e3:8.1f} ms   {ratio}")
    print(f"  one log line                          {line_s * 1e6:8.1f} us")
    for part in HOSTILE:
        quarter, whole = (
            part * (size // len(part)) for size in (MEGABYTE // 4, MEGABYTE)
        )
        first_s = timed_s(partial(redactor.scrub, quarter))
        second_s = timed_s(partial(redactor.scrub, whole))
        print(
            f"  1 MB of {part!r:28} {second_s * 1e3:9.1f} ms   4 times the text, "
            f"{second_s / first_s:4.1f} times the time"
        )


def word(rng: random.Random) -> str:
    """Return a text that looks like a secret."""
    letters = string.ascii_letters + string.digits + "+/=-_&%\"\\' "
    return "".join(rng.choice(letters) for _ in range(rng.randrange(8, 40)))


if __name__ == "__main__":
    main()
