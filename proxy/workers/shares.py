"""What is limited for the sidecar as a whole is shared out among its workers. Pure.

That is what Invoisys and the memory can bear. How many may wait and how many callers may be connected guards a process
against a flood; it is not shared out, for callers come to the workers unevenly, and one would turn them away while
another has room.
"""

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
            replay_memory=Size(share(limits.replay_memory)),
        ),
    )
