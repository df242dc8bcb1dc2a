"""The event loop that everything runs in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


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
