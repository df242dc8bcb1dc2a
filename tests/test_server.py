"""The sidecar from start to stop, within the test."""

from __future__ import annotations

import asyncio
import errno
import gc
import io
import logging
import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from proxy.caller import Callers
from proxy.config import Config, load
from proxy.listener import Listener
from proxy.observe import AccessLog
from proxy.observe.forms import JsonForm
from proxy.observe.logs import Lines
from proxy.server import Sidecar
from tests.support.config import written
from tests.support.ports import free_port
from tests.support.processes import Fake, environment
from tests.support.wire import ask, connect

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {
    "INVOISYS_USERNAME": "someone",
    "INVOISYS_PASSWORD": "a-secret",
    "INVOISYS_ADMIN": "127.0.0.1:0",
    "INVOISYS_API_2_0_URL": "http://127.0.0.1:9",
    "INVOISYS_API_2_0_TOKEN_URL": "http://127.0.0.1:9/api/token",
}


def a_sidecar(config: Config) -> Sidecar:
    return Sidecar(config, os.environ, AccessLog(Lines(io.BytesIO()), JsonForm(), logging.CRITICAL))


def listeners_there_are() -> int:
    gc.collect()
    return sum(isinstance(each, Callers) for each in gc.get_objects())


async def test_a_refused_change_finishes_what_came_in_meanwhile_and_leaves_nothing(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (f"127.0.0.1:{free_port()}" for _ in range(3))
    opened, slowly = asyncio.Event(), asyncio.Event()
    really = Listener.open

    async def late(self: Listener, *arguments: Any) -> str:
        if str(self.address) == third:
            opened.set()
            await slowly.wait()
            raise OSError(errno.EADDRINUSE, "address already in use")
        return await really(self, *arguments)

    monkeypatch.setattr(Listener, "open", late)

    def with_(response: str, *binds: str) -> Config:
        listeners, timeouts = [{"bind": bind} for bind in binds], {"response": response}
        return load(written(tmp_path, listeners=listeners, timeouts=timeouts), environment(fake.url, LISTEN=""))

    before = listeners_there_are()
    sidecar = a_sidecar(with_("60s", first))
    await sidecar.start()
    changing = asyncio.create_task(sidecar.change(with_("50s", first, second, third)))
    await opened.wait()
    await fake.do("answers", mode="slow", delay=1, times=1)
    under_way = asyncio.create_task(ask(f"http://{second}", "POST", "/api/nfe/envio", b"{}"))
    await fake.reached(requests=1)
    slowly.set()
    with pytest.raises(OSError, match="already in use"):
        await changing
    del changing
    with pytest.raises(ConnectionRefusedError):
        await connect(f"http://{second}")
    assert not under_way.done()
    ((rooms, leaving),) = sidecar._left.items()
    pools, refreshers = [*rooms.pools.values()], [*rooms.refreshers.values()]
    assert not {*pools, *refreshers} & {*sidecar._rooms.pools.values(), *sidecar._rooms.refreshers.values()}
    del rooms
    assert (await under_way).status == 200
    await leaving
    assert not sidecar._left
    assert all(pool._closed for pool in pools)
    assert all(refresher._stopped for refresher in refreshers)
    assert (await ask(f"http://{first}", "GET", "/api/nfe/getbychaveSTD/1")).status == 200
    del leaving, pools, refreshers, under_way
    assert listeners_there_are() == before + 1
    await sidecar.stop()


async def test_an_address_that_is_given_up_is_closed_when_the_change_is_told() -> None:
    """Blocking calls: the sidecar gets no turn of the event loop between the change and the caller."""
    first, second = free_port(), free_port()
    sidecar = a_sidecar(load(None, SETTINGS | {"INVOISYS_LISTEN": f"127.0.0.1:{first}"}))
    await sidecar.start()
    with ExitStack() as stack:
        socket.create_connection(("127.0.0.1", first)).close()
        await sidecar.change(load(None, SETTINGS | {"INVOISYS_LISTEN": f"127.0.0.1:{second}"}))
        with pytest.raises(ConnectionRefusedError):
            stack.enter_context(socket.create_connection(("127.0.0.1", first)))
        stack.enter_context(socket.create_connection(("127.0.0.1", second)))
    await sidecar.stop()
