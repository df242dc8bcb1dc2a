"""The page's news, as server-sent events (the HTML standard, section 9.2): what has changed, once a second."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from proxy.admin.page import rows, sections
from proxy.admin.texts import words_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.admin.status import Status
    from proxy.admin.texts import Words

MOST_STREAMS = 16
"""Pages that are kept up to date at a time; one more is told to come again."""

_EVERY = 1.0
_PATIENCE = 10.0
"""Seconds that a reader may take for one event before it is cut: it comes again by itself."""

_LARGEST_BUFFER = 64 * 1024
"""Bytes that are kept for a reader that does not take them."""


class Stream:
    """Feeds the pages that are open."""

    def __init__(self, read: Callable[[int], Awaitable[Status]], run: str) -> None:
        """`read` gives the present state of this `run`, with the requests after the one of that number."""
        self._read = read
        self._run = run
        self._open: set[asyncio.Task[None]] = set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Send news until the reader leaves, or is too slow."""
        if len(self._open) >= MOST_STREAMS:
            return web.json_response({"status": "too many pages are open"}, status=503, headers={"Retry-After": "5"})
        words = words_for(request.headers.get("Accept-Language", ""))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        last = _number(request.query.get("last"), request.query.get("run"), self._run)
        feed = asyncio.ensure_future(self._feed(request, response, words, last))
        self._open.add(feed)
        feed.add_done_callback(self._open.discard)
        try:
            await asyncio.wait([feed])
        finally:
            feed.cancel()
        # Where there is nothing to tell at the moment, the page comes again.
        with contextlib.suppress(asyncio.CancelledError, ConnectionError, web.HTTPServiceUnavailable):
            feed.result()
        return response

    def close(self) -> None:
        """End every stream."""
        for feed in self._open:
            feed.cancel()

    async def _feed(self, request: web.Request, response: web.StreamResponse, words: Words, last: int) -> None:
        await response.prepare(request)
        transport = request.transport
        if transport is not None:
            transport.set_write_buffer_limits(high=_LARGEST_BUFFER)
        said: dict[str, str] = {}
        await response.write(b"retry: 1000\n\n")
        while True:
            status = await self._read(last)
            event, said = news(status, words, said)
            last = status.requests[0].number if status.requests else last
            try:
                async with asyncio.timeout(_PATIENCE):
                    await response.write(event)
            except TimeoutError:
                if transport is not None:
                    transport.abort()
                return
            await asyncio.sleep(_EVERY)


def news(status: Status, words: Words, said: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    """Return an event with what is new since what was `said`, and what is said by now."""
    now: dict[str, str] = dict(sections(status, words))
    changed = {name: html for name, html in now.items() if said.get(name) != html}
    data = {"run": status.run, "sections": changed, "rows": rows(status.requests, words)}
    return b"data: %b\n\n" % msgspec.json.encode(data, enc_hook=str), now


def _number(last: str | None, run: str | None, this_run: str) -> int:
    """Return which request a page knows last; what it knows of an earlier run counts for nothing."""
    return int(last) if run == this_run and last and last.isascii() and last.isdigit() else 0
