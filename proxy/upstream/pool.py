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


class _Places:
    """So many exchanges at a time. Who finds none free waits in a queue, in which a place goes from hand to hand."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._queue: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take a place, if one is free; nobody waits then."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def wait(self) -> None:
        """Wait for a place behind those who wait already, and take it."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except BaseException:
            if not turn.cancelled():
                self.give_back()  # it came in the moment in which its taker left
            elif turn in self._queue:
                self._queue.remove(turn)
            raise

    def give_back(self) -> None:
        """Hand a place to the next who waits."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():  # else its taker is about to leave
                turn.set_result(None)
                return
        self._free += 1


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
        self._places = _Places(connections)
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
        if not self._places.take():
            with self._waiting:
                await self._places.wait()
        try:
            connection = (None if fresh else self._rested()) or await self._fresh()
        except BaseException:
            self._places.give_back()
            raise
        return self._begin(connection, head_only=head_only)

    def begin_at_once(self, *, head_only: bool = False) -> Exchange | None:
        """Return what `begin` would, on a connection that was kept from before; none where that takes any waiting."""
        if not self._places.take():
            return None
        connection = self._rested()
        if connection is None:
            self._places.give_back()
            return None
        return self._begin(connection, head_only=head_only)

    def _begin(self, connection: Connection, *, head_only: bool) -> Exchange:
        self._busy.add(connection)
        return connection.begin(head_only=head_only)

    def _rested(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh():
                self._reused += 1
                return connection
            connection.close("upstream")
        return None

    async def _fresh(self) -> Connection:
        self._check_open()
        connection = await self._dial(lambda: Connection(self._timeouts, self._freed, self._ended, self._audience))
        self._opened += 1
        try:
            self._check_open()  # it may have been closed since
        except Draining:
            connection.close("stopped")
            raise
        if not connection.is_open():
            raise CannotConnect(f"{self._dial.host}:{self._dial.port} closed the connection at once")
        return connection

    def _check_open(self) -> None:
        if self._closed:
            raise Draining("the sidecar has stopped", retry_after=1)

    def _freed(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if not connection.closed:
            connection.rest(IDLE_LIMIT)
            self._idle.append(connection)
        while self._idle and self._idle[0].closed:
            self._idle.popleft()
        self._places.give_back()

    def close(self) -> None:
        """Close every connection, those with an exchange under way too, and open no more."""
        self._closed = True
        for connection in (*self._idle, *self._busy):
            connection.fail(ConnectionLost("the sidecar stopped before the answer was whole"), "stopped")

    def reading(self) -> PoolReading:
        """Tell how many connections there are, and what became of the others."""
        idle = sum(connection.is_open() for connection in self._idle)
        return PoolReading(idle, len(self._busy), self._connections, self._opened, self._reused, self._ended)
