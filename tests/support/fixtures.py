"""GitHub's own example payloads, as they were published."""

from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parents[1] / "fixtures"


@frozen
class Example:
    """One real payload: its event's name, and the file with its exact text."""

    event: str
    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def name(self) -> str:
        return f"{self.path.parts[-3]}-{self.event}-{self.path.stem}"


def examples() -> list[Example]:
    """Return every example, sorted by path."""
    return [
        Example(path.parent.name, path)
        for path in sorted(ROOT.glob("github-webhooks*/*/*.json"))
    ]
