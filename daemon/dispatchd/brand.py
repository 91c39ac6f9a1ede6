"""The brand of a program: the names under which a vendor ships it. Given once, in the vendor's own console script.

Everything in it has to be known before a configuration is found, so no configuration holds it.
"""

import re
from typing import Final

from attrs import Attribute, field, frozen

from dispatchd import __version__
from dispatchd.errors import UsageError

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)
_LONGEST_NAME: Final = 24
"""Longest name (characters): with `-hub` behind it, it is a name of a user of Linux."""

_PREFIX: Final = re.compile(r"[A-Z][A-Z0-9_]*[A-Z0-9]", re.ASCII)
_USER_AGENT: Final = re.compile(r"[!-~]+( [!-~]+)*", re.ASCII)

_VARIABLE: Final = re.compile(
    r"\bDISPATCHD_(CONFIG|LICENSE|LICENSE_KEY|LICENSE_FILE|HUB_CONFIG|HUB_URL|HUB_TOKEN)\b"
)
"""Variables that the program reads. What its runs get is the contract's, and has no brand."""

COMMANDS: Final = (
    *("run", "status", "jobs", "show", "logs", "block", "resolve", "cancel", "replay"),
    *("drain", "pause", "resume", "reload", "explain", "license", "join", "activate"),
    *("deactivate", "doctor", "bug-report", "config", "service", "hub", "conformance"),
    *("engine", "completion", "quickstart", "demo"),
)
"""Commands of the program, by which its name in a message is told from the same word of somebody else."""

_OF_A_FILE: Final = re.compile(r'(?<![\w-])(?<!=")(?<!= ")dispatchd\b')
"""The name in a file that comes with the program, but as a value of a setting, such as that of Prometheus' label `job`."""

_IN_A_MESSAGE: Final = re.compile(
    rf"(?<![\w/.@-])dispatchd(?= (?:{'|'.join(COMMANDS)})(?![\w-])|(?:-hub|@[\w%-]*)?\.service\b)"
)

_OWN_MANUAL: Final = re.compile(r"^Documentation=man:dispatchd\(1\)\n", re.MULTILINE)


@frozen(kw_only=True)
class Brand:
    """Names of a vendor's program. Units, users and folders follow from its name."""

    name: str = field()
    """Name of the command, and of its units, user and folders."""
    environment_prefix: str = field()
    """Beginning of the variables that it reads, such as `ACME` of `ACME_CONFIG`; by default made of the name."""
    user_agent: str = field()
    """Header `User-Agent` towards the endpoint; by default the name and the release of dispatchd."""

    @environment_prefix.default
    def _prefix_of_name(self) -> str:
        return self.name.upper().replace("-", "_")

    @user_agent.default
    def _name_and_release(self) -> str:
        return f"{self.name}/{__version__}"

    @name.validator
    def _check_name(self, _: "Attribute[str]", value: str) -> None:
        if _NAME.fullmatch(value) is None or len(value) > _LONGEST_NAME:
            reason = f"use up to {_LONGEST_NAME} of a-z, 0-9 and -, as for a user"
            raise UsageError(cannot=f"use the name {value!r}", reason=reason)

    @environment_prefix.validator
    def _check_prefix(self, _: "Attribute[str]", value: str) -> None:
        if _PREFIX.fullmatch(value) is None:
            reason = "use A-Z, 0-9 and _, without _ at the end"
            raise UsageError(
                cannot=f"use the environment prefix {value!r}", reason=reason
            )

    @user_agent.validator
    def _check_user_agent(self, _: "Attribute[str]", value: str) -> None:
        if _USER_AGENT.fullmatch(value) is None:
            reason = "use printable ASCII"
            raise UsageError(cannot=f"use the User-Agent {value!r}", reason=reason)

    def variable(self, name: str) -> str:
        """Return the name of a variable that the program reads, such as `ACME_CONFIG` for `CONFIG`."""
        return f"{self.environment_prefix}_{name}"

    def file_text(self, text: str) -> str:
        """Return the text of a file that comes with the program, under this brand."""
        if self == DISPATCHD:
            return text
        named = _OF_A_FILE.sub(self.name, _OWN_MANUAL.sub("", text))
        return _VARIABLE.sub(self._renamed, named)

    def help_text(self, text: str) -> str:
        """Return a text of the command line's help under this brand."""
        named = re.sub(r"(?<![\w-])dispatchd\b", self.name, text)
        return _VARIABLE.sub(self._renamed, named)

    def message(self, text: str) -> str:
        """Return a message with the commands, units and variables in it under this brand; paths and names of others stay."""
        if self == DISPATCHD:
            return text
        return _VARIABLE.sub(self._renamed, _IN_A_MESSAGE.sub(self.name, text))

    def _renamed(self, found: re.Match[str]) -> str:
        return self.variable(found[1])


DISPATCHD: Final = Brand(name="dispatchd")
"""The program under its own name."""
