"""Callers' connections, whose requests go to a function of a test."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from proxy.caller import Callers
from proxy.config import Bind, Socket, Timeouts
from proxy.door import Door
from proxy.forward.answer import Answer
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from proxy.forward import Request

    Handler = Callable[[Request, Answer], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(handler: Handler, stall: float = PATIENCE) -> AsyncIterator[str]:
    """Take callers in as a listener does, for a handler that writes its own answers."""

    async def handle(request: Request) -> Answer:
        answer = Answer(request, stall)
        await handler(request, answer)
        return answer

    server = Callers(handle, lambda _: None, Door(Bind("127.0.0.1", 0), Socket(), lambda _: None), Timeouts(), None)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        async with asyncio.timeout(PATIENCE):
            yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        await server.shutdown(0.1)  # with 0, aiohttp would wait for ever
