"""The configuration in force. Whoever needs a value of it asks here at the moment of use, and keeps no copy."""

from attrs import define

from dispatchd.agent.config.load import Config


@define
class CurrentConfig:
    """The only holder of the configuration in force; a reload replaces it."""

    _config: Config

    @property
    def config(self) -> Config:
        """The configuration in force at this moment."""
        return self._config

    def replace(self, config: Config) -> None:
        """Put another configuration in force."""
        self._config = config
