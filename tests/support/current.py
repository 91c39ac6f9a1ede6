"""A configuration in force, for tests that wire parts of the agent by themselves."""

from collections.abc import Mapping
from pathlib import Path

from dispatchd.agent.config.current import CurrentConfig
from dispatchd.agent.config.keys import (
    Checkout,
    Cloud,
    License,
    Limits,
    Log,
    Metrics,
    Telemetry,
)
from dispatchd.agent.config.load import Config
from dispatchd.agent.domain.workflow import Workflow


def current_config(
    folder: Path,
    workflows: Mapping[str, Workflow] | None = None,
    *,
    limits: Limits | None = None,
    history_days: float = 14.0,
) -> CurrentConfig:
    """Return a configuration with short waits, whose state is in a folder."""
    cloud = Cloud(
        url="http://127.0.0.1:9", hold_s=1, poll_interval_s=1, call_timeout_s=1
    )
    return CurrentConfig(
        Config(
            file=folder / "config.toml",
            cloud=cloud,
            secret_file=None,
            checkout=Checkout(),
            license=License(),
            state_folder=folder,
            control_folder=folder,
            history_days=history_days,
            min_free_bytes=0,
            limits=limits or Limits(retry_wait_s=1),
            log=Log(),
            metrics=Metrics(),
            telemetry=Telemetry(),
            workflows=workflows or {},
        )
    )
