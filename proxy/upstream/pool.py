"""The connections to one API's upstream: the most recently used first, so that the others may go idle and close."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import TYPE_CHECKING

from proxy.errors import CannotConnect, ConnectionLost, Draining
from proxy.observe import PoolReading
from proxy.upstream.connection import CAUSES, Connection, Exchange, Timeouts

if TYPE_CHECKING:
    from proxy.config import Origin
    from proxy.upstream.dial import Dialler
    from proxy.waiting import WaitingRoom

IDLE_LIMIT = 45.0
"""Seconds that a connection rests before it is closed: the load balancer in front of Invoisys closes at 60."""


class Pool:
    """At most `connections` exchanges at once, over connections that are kept open between them."""

    def __init__(
        self,
        dial: Dialler,
        timeouts: Timeouts,
        connections: int,
        waiting: WaitingRoom,
        audience: Origin | None = None,
    ) -> None:
        """`audience` is the server that is dialled: the only one whose token may be sent over these connections."""
        self._dial = dial
        self._audience = audience
        self._timeouts = timeouts
        self._slots = asyncio.Semaphore(connections)
        self._waiting = waiting
        self._idle: deque[Connection] = deque()  # the longest idle on the left
        self._busy: set[Connection] = set()
        self._closed = False
        self._connections = connections
        self._opened = 0
        self._reused = 0
        self._ended = Counter(dict.fromkeys(CAUSES, 0))

    async def begin(self, *, head_only: bool = False, fresh: bool = False) -> Exchange:
        """Return an exchange on an open connection, of which nothing is written yet; whoever holds it releases it.

        `head_only` tells that the answer has no body, as the answer to HEAD; `fresh` asks for a connection that was not
        kept from before. To be sure that the connection is still good when the first byte is written, nothing may be
        awaited in between. Raises `CannotConnect` or `Overloaded`, and `Draining` after `close`.
        """
        if self._slots.locked():
            with self._waiting:
                await self._slots.acquire()
        else:
            await self._slots.acquire()
        try:
            connection = None if fresh else self._rested()
            if connection is None:
                connection = await self._fresh()
            else:
                self._reused += 1
        except BaseException:
            self._slots.release()
            raise
        self._busy.add(connection)
        return connection.begin(head_only=head_only)

    def _rested(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh():
                return connection
            connection.close("upstream")
        return None

    async def _fresh(self) -> Connection:
        if self._closed:
            raise Draining("the sidecar has stopped", retry_after=1)
        connection = await self._dial(lambda: Connection(self._timeouts, self._freed, self._ended, self._audience))
        self._opened += 1
        if not connection.is_open():
            raise CannotConnect(f"{self._dial.host}:{self._dial.port} closed the connection at once")
        return connection

    def _freed(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if not connection.closed:
            connection.rest(IDLE_LIMIT)
            self._idle.append(connection)
        while self._idle and self._idle[0].closed:
            self._idle.popleft()
        self._slots.release()

    def close(self) -> None:
        """Close every connection, those with an exchange under way too, and open no more."""
        self._closed = True
        for connection in (*self._idle, *self._busy):
            connection.fail(ConnectionLost("the sidecar stopped before the answer was whole"), "stopped")

    def reading(self) -> PoolReading:
        """Tell how many connections there are, and what became of the others."""
        idle = sum(connection.is_open() for connection in self._idle)
        return PoolReading(idle, len(self._busy), self._connections, self._opened, self._reused, self._ended)
