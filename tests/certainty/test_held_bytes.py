"""The budget for held bodies: what a request took out of it comes back, however the request ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.config import written
from tests.support.processes import Fake, Sidecar, sidecar
from tests.support.wire import PATIENCE, connect, read_reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUDGET = 8 * 1024


@pytest.fixture
def proxy(fake: Fake, tmp_path: Path) -> Iterator[Sidecar]:
    limits = {"replay_body": f"{BUDGET}B", "replay_memory": f"{BUDGET}B"}
    with sidecar(fake.url, "-c", written(tmp_path, limits=limits, timeouts={"idle": "200ms"})) as running:
        yield running


async def assert_all_of_it_is_there(fake: Fake, proxy: Sidecar) -> None:
    """A body that takes all of the budget is held: it is sent again after a 401."""
    await fake.do("revoke")
    reply = await proxy.ask("POST", "/api/nfe/envio", b"x" * BUDGET)
    assert reply.status == 200, "the body was not held, because some of the budget was not given back"


async def test_a_body_that_was_held(fake: Fake, proxy: Sidecar) -> None:
    await proxy.issue(1)
    await assert_all_of_it_is_there(fake, proxy)
    await assert_all_of_it_is_there(fake, proxy)


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "stands-still"])
async def test_a_body_that_was_not_sent_to_its_end(fake: Fake, proxy: Sidecar, framing: str, leaves: bool) -> None:
    await proxy.issue(1)
    piece = b"x" * 100 if framing.startswith("Content") else b"64\r\n" + b"x" * 100 + b"\r\n"
    reader, writer = await connect(proxy.url)
    writer.write(f"POST /api/nfe/envio HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode() + piece)
    async with asyncio.timeout(PATIENCE):
        if leaves:
            await proxy.ask("GET", "/api/nfe/getbychaveSTD/1")  # so that the sidecar has met the body
            writer.close()
            await writer.wait_closed()
            proxy.process.event("request")  # the document,
            proxy.process.event("request")  # the look-up,
            proxy.process.event("request")  # and the one who left
        else:
            assert (await read_reply(reader)).status == 408
            writer.close()
    await assert_all_of_it_is_there(fake, proxy)


async def test_a_body_whose_framing_turns_out_malformed(fake: Fake, proxy: Sidecar) -> None:
    await proxy.issue(1)
    reader, writer = await connect(proxy.url)
    head = b"POST /api/nfe/envio HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head + b"64\r\n" + b"x" * 100 + b"\r\n")
    await proxy.ask("GET", "/api/nfe/getbychaveSTD/1")  # so that the sidecar has met the beginning
    writer.write(b"zz\r\n")
    async with asyncio.timeout(PATIENCE):
        assert (await read_reply(reader)).status == 400
    writer.close()
    await assert_all_of_it_is_there(fake, proxy)
