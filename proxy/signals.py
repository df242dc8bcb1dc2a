"""The signals that a running sidecar heeds, on every system: to stop, and to read its configuration again."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
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


class StopAsked:
    """Whether the sidecar was asked to stop, and then to stop at once: that is who asks again in the same way.

    `POST /quit` and a signal are one wish: an orchestrator sends SIGTERM after a hook that has called `/quit`.
    """

    def __init__(self) -> None:
        self._ways: set[str] = set()
        self._asked = asyncio.Event()

    def ask(self, way: Literal["signal", "quit"]) -> None:
        """Ask for the end."""
        if not self._ways or way in self._ways:
            self._asked.set()
        self._ways.add(way)

    async def wait(self) -> None:
        """Return when the sidecar is to stop; the next time, when it is to stop at once."""
        await self._asked.wait()
        self._asked.clear()
