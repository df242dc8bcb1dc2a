"""A caller's connection, at the moments in which two things happen at once."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, cast

from proxy.errors import Draining
from tests.support.callers import serving
from tests.support.wire import connect, read_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from proxy.caller import CallerConnection
    from proxy.forward import Request
    from proxy.forward.answer import Answer

GET = b"GET /api/nfe HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Served:
    """A connection that has been served once and rests, from both ends; every request gets `{}`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def handle(self, request: Request, answer: Answer) -> None:
        self.requests.append(request)
        answer.give(b"{}")

    @property
    def connection(self) -> CallerConnection:
        return cast("CallerConnection", self.requests[0].caller)

    @contextlib.asynccontextmanager
    async def once(self) -> AsyncIterator[asyncio.StreamReader]:
        async with serving(self.handle) as url:
            reader, writer = await connect(url)
            writer.write(GET)
            await read_reply(reader)
            yield reader
            writer.close()


async def test_a_request_that_comes_while_its_caller_is_to_leave_is_answered() -> None:
    served = Served()
    async with served.once() as reader:
        served.connection.data_received(GET)
        served.connection.leave()
        assert (await read_reply(reader)).status == 200
        assert await reader.read() == b""
        assert len(served.requests) == 2


async def test_a_request_that_comes_while_its_connection_is_cut_goes_nowhere() -> None:
    served = Served()
    async with served.once() as reader:
        served.connection.data_received(GET)
        served.connection.force_close()
        assert await reader.read() == b""
        assert len(served.requests) == 1


async def test_what_is_left_of_an_upload_that_was_given_up_is_read(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever read it has yet to hear that it was given up."""

    async def give_up(request: Request, answer: Answer) -> None:
        upload = asyncio.create_task(request.content.readany())
        await asyncio.sleep(0)  # now it waits for more
        upload.cancel()
        answer.refuse(Draining("the sidecar gave the request up"), "-")

    async with serving(give_up) as url:
        reader, writer = await connect(url)
        for _ in range(2):
            writer.write(b"POST /api/nfe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n")
            assert (await read_reply(reader)).status == 503
            writer.write(b"12345")
        writer.close()
    assert not caplog.records
