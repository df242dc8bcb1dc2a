"""Where callers come in: one address, from its opening to the end of its last connection."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from proxy.caller import Callers
from proxy.door import Door
from proxy.unix import uids_of

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.caller import Patience
    from proxy.config import Listener as Config
    from proxy.door import TakeSockets
    from proxy.forward import Forward

_LOOK_EVERY = 0.02
"""Seconds between two looks at whether slow callers have taken their answers."""

_LINGER = 0.5
"""Seconds in which a caller on a kept connection may ask once more, and hear that the sidecar is stopping."""

_LAST_WORDS = 0.1
"""Seconds for a cut request to end in."""


class Listener:
    """One address, open from `open` to `close`."""

    def __init__(self, config: Config, forward: Forward, patience: Patience) -> None:
        """Raises `ConfigError`, for a user or a group that nobody has."""
        self.address = config.bind
        """What makes another listener this one's successor."""
        self.forward = forward
        self._door = Door(config.bind, config.socket, forward.meter.was_cut_short)
        self._uids = uids_of(config.uids) if config.bind.path else None
        self._patience = patience
        self._callers: Callers | None = None

    async def open(self, most: int, take_sockets: TakeSockets | None = None) -> str:
        """Let at most so many callers in at a time, and return the address; raises `OSError`.

        `take_sockets` gives those that are open already, if there are any.
        """
        self._callers = Callers(self.forward, self.forward.meter.was_malformed, self._door, self._patience, self._uids)
        inside = self._callers.inside
        address = await self._door.open(self._callers, inside, most, take_sockets=take_sockets)
        self._callers.sweep()
        return address

    def take_over(self, before: Listener, most: int) -> None:
        """Go on where another listener at the same address was: its callers stay, and their next requests come here.

        `most` is as in `open`. The other can take over again, as if nothing had been.
        """
        self._door, self._callers = before._door, before._callers
        self._door.most = most
        if self._callers is not None:
            self._callers.handler, self._callers.on_malformed = self.forward, self.forward.meter.was_malformed
            self._callers.patience, self._callers.uids = self._patience, self._uids

    def part(self) -> None:
        """Have those leave who would not be let in any more, each after the request that is under way."""
        if self._callers is not None:
            self._callers.part()

    async def shut(self) -> None:
        """Take no further connections, but those that are at the door already."""
        await self._door.shut()

    def close(self) -> None:
        """Take no further connections, from now on."""
        self._door.close()

    async def finish(self, timeout: float) -> None:  # noqa: ASYNC109 - no error: what takes longer is cut
        """Wait up to `timeout` seconds for the requests in flight, and for slow callers to take their answers.

        Until then, and a moment longer, a connection without a request stays open: to close it could meet a request on
        its way, whose caller would not know what became of it. A request that comes now is answered that the sidecar is
        stopping.
        """
        if self._callers is None:
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._callers.connections and loop.time() < began + _LINGER:  # noqa: ASYNC110 - the same
                    await asyncio.sleep(_LOOK_EVERY)
                await self.forward.traffic.emptied()
                while any(map(_unsent, self._callers.connections)):  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(_LOOK_EVERY)

    async def end(self) -> None:
        """End every connection."""
        if self._callers is not None:
            await self._callers.shutdown(_LAST_WORDS)


def _unsent(connection: web.RequestHandler) -> bool:
    return connection.transport is not None and connection.transport.get_write_buffer_size() > 0
