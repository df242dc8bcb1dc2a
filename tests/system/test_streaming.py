"""Large bodies stream through, with memory that does not grow with them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.wire import PATIENCE, connect, read_reply

if TYPE_CHECKING:
    from tests.support.processes import Fake, Sidecar
    from tests.support.wire import Reply

MIB = 1024 * 1024
UPLOAD = 30 * MIB
PIECE = bytes(64 * 1024)


async def upload(url: str, *, chunked: bool) -> Reply:
    """Send 30 MiB as fast as they are taken, and read the answer whenever it comes."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await connect(url)
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {UPLOAD}"
        writer.write(f"POST /api/nfe/envio HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode())
        piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE

        async def send() -> None:
            for _ in range(UPLOAD // len(PIECE)):
                writer.write(piece)
                await writer.drain()
            if chunked:
                writer.write(b"0\r\n\r\n")

        sending = asyncio.create_task(send())
        try:
            return await read_reply(reader)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.close()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_an_upload_streams_through(fake: Fake, proxy: Sidecar, chunked: bool) -> None:
    await proxy.issue(0)
    before = proxy.process.resident
    proxy.process.forget_peak()
    reply = await upload(proxy.url, chunked=chunked)
    assert reply.status == 200
    assert proxy.process.peak - before < 8 * MIB
    state = await fake.state()
    assert (state["documents"], state["duplicates"]) == (2, 0)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_an_upload_that_meets_a_401_gets_it_and_the_next_call_works(
    fake: Fake, proxy: Sidecar, chunked: bool
) -> None:
    await proxy.issue(0)
    await fake.do("revoke")
    reply = await upload(proxy.url, chunked=chunked)
    assert reply.status == 401
    assert "X-Invoisys-Outcome" not in reply
    assert (await proxy.issue(1)).status == 200
    state = await fake.state()
    assert (state["logins"], state["documents"], state["duplicates"]) == (2, 2, 0)


async def test_a_large_answer_streams_through(fake: Fake, proxy: Sidecar) -> None:
    await fake.do("inbox", documents=40, size=600_000)
    path = "/v1/nfe-entrada/eventos-nsui/12345678000195/0"
    await proxy.ask("GET", "/v1/cte-entrada/eventos-nsui/12345678000195/999999")
    before = proxy.process.resident
    proxy.process.forget_peak()
    reply = await proxy.ask("GET", path)
    assert reply.status == 200
    assert len(reply.body) > 30 * MIB
    assert proxy.process.peak - before < 8 * MIB
