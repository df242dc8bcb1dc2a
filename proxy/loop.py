"""The event loop that everything runs in."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_COLLECT_EVERY = 20_000
"""Objects more than before, until the collector looks: what a request leaves behind ends without it."""


def spare_collector() -> None:
    """Have the collector pass over what is there at start, which stays, and look less often at what comes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)


def within_loop(work: Coroutine[None, None, int]) -> int:
    """Run in uvloop where it is there; it is not on Windows."""
    try:
        import uvloop  # noqa: PLC0415 - the same
    except ImportError:
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    else:
        new_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(work)
