"""A plain proxy with aiohttp's own server and client, and a fixed header: what one writes in an afternoon."""

from __future__ import annotations

import asyncio
import os
import ssl

import aiohttp
import uvloop
from aiohttp import web
from yarl import URL

_HOP_BY_HOP = frozenset({"connection", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
_PIECE = 64 * 1024


async def main() -> None:
    """Forward until the process is ended."""
    upstream, authorization = os.environ["UPSTREAM"], f"Bearer {os.environ['TOKEN']}"
    trust = ssl.create_default_context(cafile=os.environ["CA"])

    async def forward(request: web.Request) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        async with client.request(
            request.method,
            URL(upstream + request.raw_path, encoded=True),
            headers=headers | {"Authorization": authorization},
            data=request.content if request.body_exists else None,
            allow_redirects=False,
        ) as answer:
            passed = [(name, value) for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP]
            response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=dict(passed))
            await response.prepare(request)
            async for piece in answer.content.iter_chunked(_PIECE):
                await response.write(piece)
            await response.write_eof()
            return response

    connector = aiohttp.TCPConnector(ssl=trust, limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as client:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", forward)
        runner = web.AppRunner(app, access_log=None, auto_decompress=False)
        await runner.setup()
        host, _, port = os.environ["LISTEN"].rpartition(":")
        await web.TCPSite(runner, host, int(port), backlog=4096).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
