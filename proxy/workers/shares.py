"""What is limited for the sidecar as a whole is shared out among its workers. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from proxy.config import Size

if TYPE_CHECKING:
    from proxy.config import Config


def share_of(config: Config, worker: int) -> Config:
    """Return the configuration of a worker, from 1: all shares together are what is configured."""
    limits, count = config.limits, config.workers

    def share(whole: int) -> int:
        return whole // count + (worker <= whole % count)

    return replace(
        config,
        limits=replace(
            limits,
            connections=share(limits.connections),
            waiting=share(limits.waiting),
            caller_connections=share(limits.caller_connections),
            replay_memory=Size(share(limits.replay_memory)),
        ),
    )
