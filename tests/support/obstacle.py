"""A disk that refuses one file: a folder stands where it has to go."""

from pathlib import Path

from attrs import define, field


@define
class Obstacle:
    """Keeps a file from being written; what was there is kept beside it, and comes back."""

    file: Path
    _aside: Path = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._aside = self.file.with_name(f".kept-{self.file.name}")

    def put_up(self) -> None:
        if self.file.exists():
            self.file.rename(self._aside)
        self.file.mkdir()

    def take_away(self) -> None:
        self.file.rmdir()
        if self._aside.exists():
            self._aside.rename(self.file)
