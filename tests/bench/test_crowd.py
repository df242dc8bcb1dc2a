from __future__ import annotations

import asyncio
from itertools import count
from typing import TYPE_CHECKING

import pytest

from bench.bulk import TIMES, transfer
from bench.crowd import NO_ANSWER, ask_all, callers, get_request
from bench.upstream import LARGE, invoice
from tests.support.origin import upstream

if TYPE_CHECKING:
    from tests.support.origin import Visit


async def test_everybody_is_answered_or_known_not_to_be() -> None:
    numbers = count()

    async def answer(visit: Visit) -> None:
        await visit.head()
        if next(numbers) == 2:
            visit.close()
            return
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Le")
        await visit.say(b"ngth: 3\r\n\r\nyes")

    async with upstream(answer) as origin, callers(origin.port, 5) as crowd:
        replies = await ask_all(crowd, get_request(origin.port, "/"))
    assert sorted(reply.status for reply in replies) == [NO_ANSWER, 200, 200, 200, 200]
    assert all(reply.asked <= reply.came for reply in replies)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_transfer_down_is_taken_to_its_end(chunked: bool) -> None:
    piece = bytes(1024 * 1024)

    async def answer(visit: Visit) -> None:
        while True:
            await visit.head()
            framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % LARGE
            await visit.say(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing)
            for _ in range(LARGE // len(piece)):
                await visit.say(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if chunked:
                await visit.say(b"0\r\n\r\n")

    async with upstream(answer) as origin:
        took = await asyncio.to_thread(transfer, origin.port, "/", up=False, chunked=chunked)
    assert len(took) == TIMES


async def test_a_large_transfer_that_is_cut_is_an_error() -> None:
    async def answer(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nbegun" % LARGE)
        visit.close()

    async with upstream(answer) as origin:
        with pytest.raises(ValueError, match="cut"):
            await asyncio.to_thread(transfer, origin.port, "/", up=False, chunked=False)


def test_the_invoice_is_of_its_size() -> None:
    assert 30 * 1024 <= len(invoice()) < 31 * 1024
