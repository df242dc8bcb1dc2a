"""A stream of news, with a reader under the test's hand."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING

from aiohttp import web

from proxy.admin import Condition, Readiness, stream
from proxy.admin.status import Rooms, Status, gather
from proxy.admin.stream import Stream
from proxy.observe import History
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    import pytest

LARGE = "x" * 4_000_000


async def test_a_reader_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_PATIENCE", 0.2)
    monkeypatch.setattr(stream, "_EVERY", 0)
    history, asked = History(), 0

    async def read(since: int) -> Status:
        nonlocal asked
        asked += 1
        reasons = (f"{LARGE}{asked}",)  # what is new each time, and does not fit into the buffers between
        return gather(
            Rooms("sandbox", [], {}, {}, {}, 0, 1),
            history,
            Condition(Readiness.READY, reasons),
            time.time(),
            since=since,
        )

    events = Stream(read, history.run)
    app = web.Application()
    app.router.add_get("/events", events.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    loop = asyncio.get_running_loop()
    with socket.create_connection(runner.addresses[0]) as reader:
        reader.setblocking(False)
        await loop.sock_sendall(reader, b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            assert await loop.sock_recv(reader, 100)
            (feed,) = events._open
            await asyncio.wait([feed])
        assert feed.exception() is None
        assert not events._open
        read_later = 0
        try:
            while piece := await loop.sock_recv(reader, 1 << 20):
                read_later += len(piece)
        except ConnectionResetError:
            pass
        assert read_later < 3 * len(LARGE) * asked
    await runner.cleanup()
