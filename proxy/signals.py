"""The signals that a running sidecar heeds, on every system: to stop, and to read its configuration again."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


def listen(loop: asyncio.AbstractEventLoop, stop: Callable[[], None], read_again: Callable[[], None]) -> None:
    """Have SIGTERM and SIGINT call `stop`, and SIGHUP `read_again`; on Windows, Ctrl-C and Ctrl-Break call `stop`."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(signal.SIGHUP, read_again)
    except NotImplementedError:  # Windows, which has no SIGHUP either
        for name in ("SIGINT", "SIGBREAK", "SIGTERM"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda *_: loop.call_soon_threadsafe(stop))
