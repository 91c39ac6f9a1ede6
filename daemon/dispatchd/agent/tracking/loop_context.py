"""Context of the loops: the configuration in force, time and chance, and what they report about themselves."""

import random

from attrs import field, frozen

from dispatchd.agent.config.current import CurrentConfig
from dispatchd.agent.config.load import Config
from dispatchd.agent.tracking.activity import Activity
from dispatchd.agent.tracking.liveness import Liveness
from dispatchd.agent.tracking.ports import Clock
from dispatchd.concurrency.bug_fence import BugFence


@frozen(kw_only=True)
class Context:
    """Objects that every loop of a daemon shares, whatever it does."""

    current: CurrentConfig
    clock: Clock
    random: random.Random
    bugs: BugFence
    activity: Activity = field(factory=Activity)
    liveness: Liveness = field(factory=Liveness)

    @property
    def config(self) -> Config:
        """The configuration in force at this moment."""
        return self.current.config
