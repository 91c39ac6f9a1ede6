"""Logs as HTML: text escaped, a terminal's colours as classes, every other control character inert."""

import re
from html import escape
from typing import Final, Self

from attrs import evolve, frozen

from dispatchd.redaction.escapes import written_out

_LONGEST_LINE: Final = 4000
"""Longest line that is shown (characters); the whole one is in the download."""

_SEQUENCE: Final = re.compile("\x1b\\[([0-9;:]{0,64})([@-~])")
"""Control sequence of a terminal (ECMA-48, 5.4): colours by SGR, others such as moves."""

_SGR: Final = "m"

_ATTRIBUTES: Final = {1: "b", 2: "d", 3: "i", 4: "u"}
"""Classes of the attributes (ECMA-48, 8.3.117)."""

_OFF: Final = {22: "bd", 23: "i", 24: "u"}
"""Attributes that a code ends."""

_BASES: Final = {30: ("f", 0), 90: ("f", 8), 40: ("g", 0), 100: ("g", 8)}
"""First code of each eight colours: of the text or its ground, and the number of the first colour."""

_EIGHT: Final = 8
_PALETTE: Final = 5
_RGB: Final = 2

_COMMAND: Final = re.compile(
    r"[ \t]*(?:::(error|warning|notice|group|endgroup)(?: [^:\n]*)?::|##\[(group|endgroup)\])"
)
_COMMANDS: Final = {
    "error": "b f1",
    "warning": "b f3",
    "notice": "b f4",
    "group": "b",
    "endgroup": "d",
}
"""Classes of a line with a log command of GitHub Actions."""

_TAG: Final = re.compile("<[^>]*>")
_UNTITLED: Final = "(untitled)"
"""Title of a group without one: a fold has to have a name."""

_TOKEN: Final = re.compile(r"[bdiu]{0,4}(?:f(?:1[0-5]|[0-9]))?(?:g(?:1[0-5]|[0-9]))?")


@frozen(kw_only=True)
class Style:
    """Style of a text: attributes, and the classes of its colour and of its ground; empty for the page's own."""

    attributes: str = ""
    colour: str = ""
    ground: str = ""

    @property
    def token(self) -> str:
        """Text for an address, from which `read` makes the style again."""
        return f"{self.attributes}{self.colour}{self.ground}"

    @classmethod
    def read(cls, token: str) -> Self:
        """Return the style of a token; the plain one for any other text."""
        if not _TOKEN.fullmatch(token):
            return cls()
        attributes, rest = re.match("([bdiu]*)(.*)", token).groups()  # type: ignore[union-attr]  # it matches any text
        colour, mark, ground = rest.partition("g")
        return cls(attributes=attributes, colour=colour, ground=mark + ground)

    @property
    def classes(self) -> str:
        """Classes of the style, as in an attribute of HTML."""
        return " ".join(filter(None, (*self.attributes, self.colour, self.ground)))

    def after(self, codes: str) -> "Style":
        """Return the style after a sequence of SGR."""
        style, numbers = self, [_number(code) for code in re.split("[;:]", codes)]
        while numbers:
            code = numbers.pop(0)
            if code in (38, 48):
                style = style.with_palette(code, numbers)
            else:
                style = style.with_code(code)
        return style

    def with_code(self, code: int) -> "Style":
        """Return the style after one code."""
        if code == 0:
            return Style()
        if code in _ATTRIBUTES:
            kept = {*self.attributes, _ATTRIBUTES[code]}
            return evolve(self, attributes="".join(sorted(kept)))
        if code in _OFF:
            kept = {*self.attributes} - {*_OFF[code]}
            return evolve(self, attributes="".join(sorted(kept)))
        if code in (39, 49):
            return evolve(self, colour="") if code == 39 else evolve(self, ground="")  # noqa: PLR2004  # codes of SGR
        for first, (kind, number) in _BASES.items():
            if first <= code < first + _EIGHT:
                return self._with(kind, number + code - first)
        return self

    def with_palette(self, code: int, numbers: list[int]) -> "Style":
        """Return the style after a colour by its number; take the rest of its code from `numbers`."""
        kind = numbers.pop(0) if numbers else 0
        if kind == _RGB:
            del numbers[:3]
        if kind != _PALETTE or not numbers:
            return self
        number = numbers.pop(0)
        # The other colours have no class.
        is_known = number < 2 * _EIGHT
        return self._with("f" if code == 38 else "g", number) if is_known else self  # noqa: PLR2004  # codes of SGR

    def _with(self, kind: str, number: int) -> "Style":
        name = f"{kind}{number}"
        return evolve(self, colour=name) if kind == "f" else evolve(self, ground=name)


def log_html(text: str, style: Style) -> tuple[str, Style]:
    """Return whole lines of a log as HTML, and the style after them.

    Args:
        text: The lines, as their command wrote them.
        style: The style before them.
    """
    lines = []
    for line in text.split("\n"):
        command = _COMMAND.match(line)
        name = _name(command)
        # Of a group its title alone.
        start = command.end() if command and name == "group" else 0
        shown, style = _line(line[start:], style)
        if name == "group" and not _TAG.sub("", shown).strip():
            shown += _UNTITLED
        lines.append(
            f'<span class="{_COMMANDS[name]}">{shown}</span>' if name else shown
        )
    return "\n".join(lines), style


def command_of(line: str) -> str:
    """Return the name of the log command of GitHub Actions that a line is; empty for any other line."""
    return _name(_COMMAND.match(line))


def _name(command: re.Match[str] | None) -> str:
    return (command[1] or command[2]) if command else ""


def _line(line: str, style: Style) -> tuple[str, Style]:
    """Return a line as a terminal shows it: a progress bar has only its last state."""
    begun, back, last = line.rstrip("\r").rpartition("\r")
    if back:
        for sequence in _SEQUENCE.finditer(begun):
            if sequence[2] == _SGR:
                style = style.after(sequence[1])
    parts: list[str] = []
    at, room = 0, _LONGEST_LINE
    for sequence in _SEQUENCE.finditer(last):
        parts.append(_spanned(last[at : sequence.start()][:room], style))
        room = max(0, room - (sequence.start() - at))
        at = sequence.end()
        if sequence[2] == _SGR:
            style = style.after(sequence[1])
    parts.append(_spanned(last[at:][:room], style))
    if len(last) - at > room or not room:
        parts.append(
            f'<span class="d">[... the line has {len(last):,} characters]</span>'
        )
    return "".join(parts), style


def _spanned(text: str, style: Style) -> str:
    if not text:
        return ""
    safe = escape(written_out(text, but="\t"))
    return f'<span class="{style.classes}">{safe}</span>' if style.classes else safe


def _number(code: str) -> int:
    return int(code) if code.isdecimal() and len(code) <= 3 else 0  # noqa: PLR2004  # digits of the largest code
