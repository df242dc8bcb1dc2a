"""A worker: a sidecar without an operator's port, which does what the supervising process asks, and ends with it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections import defaultdict
from typing import TYPE_CHECKING

from msgspec.structs import replace

from proxy.admin.status import request
from proxy.assembly import open_configured
from proxy.errors import ConfigError
from proxy.loop import spare_collector, within_loop
from proxy.observe import set_up
from proxy.server import Sidecar, StartError
from proxy.workers.channel import Channel, decode
from proxy.workers.desk import DeskStore
from proxy.workers.sockets import take
from proxy.workers.sums import counted
from proxy.workers.words import Orders, Reading, Span, View

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.admin import Refreshed
    from proxy.admin.status import Details
    from proxy.observe import AccessLog
    from proxy.systemd import Address, Taken
    from proxy.workers.words import Handed

_MICROSECONDS = 1_000_000


def main(channel: int, hand: int) -> int:
    """Serve until the supervising process asks for the end, or ends; both arguments are descriptors of sockets."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # systemd and a terminal send them to all; who obeys is the supervisor
    return within_loop(_work(socket.socket(fileno=channel), socket.socket(fileno=hand)))


async def _work(end: socket.socket, hand: socket.socket) -> int:
    worker = _Inside(hand)
    worker.channel = await Channel.over(
        end,
        {
            "serve": worker.serve,
            "change": worker.change,
            "look": worker.look,
            "view": worker.view,
            "find": worker.find,
            "refresh": worker.refresh,
            "begin to stop": worker.begin_to_stop,
            "finish": worker.finish,
            "stop": worker.stop,
        },
    )
    await worker.channel.run()
    await worker.end()
    return 0


class _Inside:
    channel: Channel

    def __init__(self, hand: socket.socket) -> None:
        self._hand = hand
        self._sockets: defaultdict[Address, list[Taken]] = defaultdict(list)
        self._sidecar: Sidecar | None = None
        self._finish: asyncio.Task[None] | None = None
        self._access_log: AccessLog

    @property
    def _serving(self) -> Sidecar:
        if self._sidecar is None:
            raise ConfigError("the worker does not serve yet")
        return self._sidecar

    # --- What it is asked -----------------------------------------------------------------------------------------

    async def serve(self, body: bytes) -> None:
        orders = decode(body, Orders)
        self._receive(orders.sockets)
        config = orders.config
        self._access_log = set_up(
            config.log.level, orders.log_form, sys.stdout.buffer, colours=orders.colours, worker=orders.number
        )
        own = config.tokens.store.kind == "memory"
        store = DeskStore(self.channel, config.timeouts.login) if own else open_configured(config)
        sidecar = Sidecar(config, os.environ, self._access_log, take_sockets=self._take, store=store)
        try:
            await sidecar.start()
        except StartError as error:
            raise ConfigError(str(error)) from None
        spare_collector()
        self._sidecar = sidecar

    async def change(self, body: bytes) -> None:
        orders = decode(body, Orders)
        self._receive(orders.sockets)
        await self._serving.change(orders.config)

    async def look(self, _body: bytes) -> Reading:
        source = self._serving.source
        return Reading(await source.condition(), counted(source.collect()))

    async def view(self, body: bytes) -> View:
        span, source = decode(body, Span), self._serving.source
        clock = span.until / _MICROSECONDS
        steps, offset = source.history.steps(clock), source.offset()
        past = (each._replace(number=int(each.at * _MICROSECONDS)) for each in source.history.since(0))
        requests = [request(each, offset) for each in past if span.since < each.number <= span.until]
        return View(replace(await source.status(since=source.history.number), requests=requests), steps)

    async def find(self, body: bytes) -> list[Details]:
        return await self._serving.source.find(decode(body, str))

    async def refresh(self, _body: bytes) -> list[Refreshed]:
        return await self._serving.source.refresh()

    async def begin_to_stop(self, _body: bytes) -> None:
        self._serving.begin_to_stop()

    async def finish(self, _body: bytes) -> Reading:
        if self._finish is None:
            self._finish = asyncio.ensure_future(self._serving.finish())
        await asyncio.shield(self._finish)
        return await self.look(b"")

    async def stop(self, _body: bytes) -> None:
        """End at once, whoever still waits."""
        if self._finish is not None:
            self._finish.cancel()
        self._finish = asyncio.ensure_future(self._serving.stop())
        await asyncio.shield(self._finish)

    # --- The end --------------------------------------------------------------------------------------------------

    async def end(self) -> None:
        """Finish what is in flight, unless that was done: the supervising process wants the end, or has ended."""
        if self._sidecar is None:
            return
        if self._finish is None:
            self._sidecar.begin_to_stop()
            self._finish = asyncio.ensure_future(self._sidecar.finish())
        await asyncio.wait([self._finish])
        self._access_log.flush()

    # --- Sockets --------------------------------------------------------------------------------------------------

    def _receive(self, handed: Iterable[Handed]) -> None:
        for address, taken in take(self._hand, list(handed)):
            self._sockets[address].append(taken)

    def _take(self, address: Address) -> Taken | None:
        there = self._sockets.get(address)
        return there.pop(0) if there else None
