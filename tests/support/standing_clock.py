"""A clock that stands until a test moves it."""

from datetime import datetime

from attrs import define

from support.records import NOW


@define
class StandingClock:
    """A clock of the tracker and the fence, which need no other time than that of now."""

    time: datetime = NOW

    def now(self) -> datetime:
        return self.time

    def since_boot(self) -> float:
        raise NotImplementedError

    def of_file(self, written_ns: int) -> datetime:
        raise NotImplementedError(written_ns)

    def settle(self) -> None:
        raise NotImplementedError
