"""Check the prose of the code and the documentation: `make check` runs it.

A docstring opens with a verb or a noun, so that a stranger reads it once. Some words have a better one of the trade.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

RELATIVE: Final = re.compile(
    r"(What|Who|Whose|Whom|Where|Whether|When|Why|Which|How (long|much|many|often|far|old|late|large)"
    r"|(By|For|In|Of|To|From|Since|With) (what|which|whom|whose|how|when))\b"
)
MOST_RELATIVE: Final = 9
"""Most docstrings that open with a relative clause (count)."""

BANNED: Final = {
    r"\banew\b": "again, from the beginning",
    r"\bput(s|ting)? (it |them )?out\b": "revoke, remove",
    r"\blet(s|ting)? in\b": "add, admit",
    r"\bstands? at\b": "is",
    r"\bno good\b": "invalid",
    r"\bgo(es)? on\b": "continue, run",
    r"\b(pull|take|count|need|say|accept|report|have)s? (it )?no more\b(?! than)": "no longer",
    r"\b(it|has) no more\b(?! than)": "no longer",
    r"\bof which nobody\b": "say it in two sentences",
}
"""Words that take a second reading, each with better ones."""


def main() -> None:
    """Print what has to be reworded; the exit code is 1 if there is something."""
    openings = [*_relative_openings()]
    problems = [*(openings if len(openings) > MOST_RELATIVE else []), *_banned()]
    for line in problems:
        print(line)
    sys.exit(bool(problems))


def _relative_openings() -> Iterator[str]:
    for path in sorted((ROOT / "daemon").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    if RELATIVE.match(text.strip()):
                        line = text.strip().partition("\n")[0]
                        yield f"{path.relative_to(ROOT)}:{node.lineno}: opens with a relative clause: {line}"


def _banned() -> Iterator[str]:
    pages = (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("systemd/*.md"))
    code = (ROOT / "daemon").rglob("*.py")
    for path in sorted((*pages, ROOT / "contracts" / "README.md", *code)):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for pattern, better in BANNED.items():
                if match := re.search(pattern, line, re.IGNORECASE):
                    where = f"{path.relative_to(ROOT)}:{number}"
                    yield f"{where}: {match[0]!r}; better: {better}"


if __name__ == "__main__":
    main()
