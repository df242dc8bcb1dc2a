"""SIGTERM under load: whoever had an answer coming gets it, and nobody is left in the dark."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.config import written
from tests.support.processes import Fake, Sidecar, sidecar
from tests.support.wire import connect, read_reply

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 20
CALLERS = 16


async def calls(proxy: Sidecar, first: int) -> list[int]:
    """Issue documents over kept connections until nobody takes a call any more."""
    statuses: list[int] = []
    while True:
        try:
            reader, writer = await connect(proxy.url)
        except ConnectionRefusedError:
            return statuses
        kept = True
        while kept:
            body = b'{"cnpj":"12345678000195","modelo":"55","serie":"1","numero":"%d"}' % (first + len(statuses))
            head = b"POST /api/nfe/envio HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            writer.write(head + body)
            reply = await read_reply(reader)
            statuses.append(reply.status)
            kept = "Connection" not in reply or reply["Connection"] != "close"
        writer.close()


@pytest.mark.parametrize("delay", ["0s", "300ms"])
async def test_no_request_is_lost(fake: Fake, tmp_path: Path, delay: str) -> None:
    answered = 0
    for number in range(ROUNDS // 2):
        with sidecar(fake.url, "-c", written(tmp_path, drain={"delay": delay})) as proxy:
            await fake.reached(logins_granted=number + 1)
            first = number * 10_000_000
            callers = [asyncio.create_task(calls(proxy, first + each * 100_000)) for each in range(CALLERS)]
            await fake.reached(documents=answered + 50)
            proxy.process.signal(signal.SIGTERM)
            statuses = [status for each in await asyncio.gather(*callers) for status in each]
            assert proxy.process.wait() == 0
        # 503 with `not-sent` is an answer: it came after the delay, on a connection that was kept.
        assert set(statuses) <= {200, 503}
        answered += statuses.count(200)
        state = await fake.state()
        assert (state["documents"], state["duplicates"]) == (answered, 0)


async def test_every_answer_of_the_sidecars_own_closes_too(fake: Fake, tmp_path: Path) -> None:
    with sidecar(fake.url, "-c", written(tmp_path, drain={"delay": "2s"})) as proxy:
        callers = [await connect(proxy.url) for _ in range(2)]
        proxy.process.signal(signal.SIGTERM)
        await asyncio.to_thread(proxy.process.event, "stopping")
        for (reader, writer), line, status in zip(callers, ("POST /api/token", "GET /none"), (200, 404), strict=True):
            writer.write(f"{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
            reply = await read_reply(reader)
            assert (reply.status, reply["Connection"]) == (status, "close")
            writer.close()
