"""What a request has brought goes with its end, however it ends: nothing waits for the garbage collector."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from tests.support.config import written
from tests.support.processes import sidecar
from tests.support.wire import PATIENCE, ask, connect, read_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.processes import Fake, Sidecar

MIB = 1024 * 1024
BODY = bytes(4 * MIB)
REQUEST = b"POST /api/nfe/envio HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
REQUESTS = 20


@contextlib.asynccontextmanager
async def caller(proxy: Sidecar) -> AsyncIterator[asyncio.StreamReader]:
    """Connect, and send a body as large as is held."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await connect(proxy.url)
        try:
            writer.write(REQUEST)
            await writer.drain()
            yield reader
        finally:
            writer.close()


async def status_of(proxy: Sidecar) -> int:
    async with caller(proxy) as reader:
        return (await read_reply(reader)).status


def assert_gone(proxy: Sidecar, before: int) -> None:
    """Show that less is there of all bodies than a quarter."""
    assert proxy.process.resident - before < REQUESTS * len(BODY) // 4


async def test_a_connection_at_rest_holds_no_body(proxy: Sidecar) -> None:
    await status_of(proxy)
    before = proxy.process.resident
    async with contextlib.AsyncExitStack() as resting:
        for _ in range(REQUESTS):
            reader = await resting.enter_async_context(caller(proxy))
            await read_reply(reader)
        assert_gone(proxy, before)


async def test_a_request_that_fails_leaves_nothing(fake: Fake, proxy: Sidecar) -> None:
    await fake.do("answers", mode="cut-before")
    assert await status_of(proxy) == 502
    before = proxy.process.resident
    assert {await status_of(proxy) for _ in range(REQUESTS)} == {502}
    assert_gone(proxy, before)


async def test_a_request_without_an_answer_in_time_leaves_nothing(fake: Fake, tmp_path: Path) -> None:
    await fake.do("answers", mode="slow", delay=60)
    with sidecar(fake.url, "-c", written(tmp_path, timeouts={"response": "50ms"})) as proxy:
        assert await status_of(proxy) == 504
        before = proxy.process.resident
        assert {await status_of(proxy) for _ in range(REQUESTS)} == {504}
        assert_gone(proxy, before)


async def test_a_caller_that_leaves_leaves_nothing(fake: Fake, tmp_path: Path) -> None:
    """Even where the answer to its write is heard out."""
    await fake.do("answers", mode="slow", delay=60)
    with sidecar(fake.url, "-c", written(tmp_path, timeouts={"response": "1s"})) as proxy:
        before = proxy.process.resident
        for number in range(REQUESTS):
            async with caller(proxy):
                await fake.reached(requests=number + 1)
        for _ in range(REQUESTS):
            await asyncio.to_thread(proxy.process.event, "request")
        assert_gone(proxy, before)


async def test_fields_that_nominate_thousands_of_others_leave_nothing(proxy: Sidecar) -> None:
    """A set of names takes far more room than the field."""
    path = "/api/nfe/getbychaveSTD/1"
    await ask(proxy.url, "GET", path)
    before = proxy.process.resident
    for number in range(70):
        names = ",".join(f"{number:x}-{each:x}" for each in range(7_000))
        assert (await ask(proxy.url, "GET", path, headers={"Connection": names})).status == 200
    assert proxy.process.resident - before < 30 * MIB
