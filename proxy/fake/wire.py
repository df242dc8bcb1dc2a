"""How bodies are read and answers sent: whole, or broken off where a fault says so."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import TYPE_CHECKING

from aiohttp import web

from proxy.fake.faults import AnswerMode, Answers, Framing
from proxy.fake.service import Body

if TYPE_CHECKING:
    from aiohttp import StreamReader

    from proxy.fake.answers import Answer

_KEPT = 4 << 20
_LINGER = 1.0
_SERVER = {"Server": "fake-invoisys"}


async def read(content: StreamReader) -> Body:
    """Read a body to its end, keeping it only up to 4 MiB."""
    digest = sha256()
    kept = bytearray()
    whole = True
    async for chunk in content.iter_any():
        digest.update(chunk)
        whole = whole and len(kept) + len(chunk) <= _KEPT
        if whole:
            kept += chunk
    return Body(bytes(kept) if whole else None, digest.hexdigest())


def respond(answer: Answer) -> web.Response:
    """The answer, for the server to send whole."""
    return web.Response(status=answer.status, body=answer.body, headers={**_SERVER, **answer.headers})


async def send(request: web.Request, answer: Answer, fault: Answers) -> web.StreamResponse:
    """Send the answer as far as the fault lets it come, then break off if it is to."""
    match fault.mode:
        case AnswerMode.CUT_BEFORE:
            return hang_up(request, web.Response())
        case AnswerMode.CUT_DURING:
            return hang_up(request, await _send_half(request, answer, fault.framing))
        case AnswerMode.CUT_AFTER:
            return hang_up(request, await _send_whole(request, respond(answer)))
        case _:
            return respond(answer)


def hang_up(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection behind what was written; the server drops the rest of the response."""
    if request.transport is not None:
        request.transport.close()
    return response


async def send_early(request: web.Request, answer: Answer) -> web.StreamResponse:
    """Answer with the body still on its way, and close without reading it."""
    response = respond(answer)
    response.force_close()
    await _send_whole(request, response)
    # Closing on unread bytes resets the connection, and the caller could lose the answer: half a close comes first.
    if request.transport is not None and request.transport.can_write_eof():
        request.transport.write_eof()
        await asyncio.sleep(_LINGER)
    return hang_up(request, response)


async def _send_whole(request: web.Request, response: web.Response) -> web.StreamResponse:
    await response.prepare(request)
    await response.write_eof()
    return response


async def _send_half(request: web.Request, answer: Answer, framing: Framing | None) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers={**_SERVER, **answer.headers})
    if framing is Framing.CHUNKED:
        response.enable_chunked_encoding()
    else:
        response.content_length = len(answer.body)
    await response.prepare(request)
    await response.write(answer.body[: len(answer.body) // 2])
    return response
