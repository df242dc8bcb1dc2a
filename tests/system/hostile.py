"""An Invoisys that tells every secret it hears to whoever asks: behaviour is set by assigning functions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    Reply = Callable[[str, bytes, bytes], bytes]
    """What is answered to a target, a head and a body."""

_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n", re.IGNORECASE)
_BEARER = re.compile(rb"\r\nAuthorization: Bearer ([^\r]*)\r\n")


def plain(status: str, body: bytes = b"", fields: bytes = b"") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n".encode()
    return b"%b%b\r\n%b" % (head, fields, body)


def bearer(head: bytes) -> bytes:
    found = _BEARER.search(head)
    return found[1] if found else b""


class Hostile:
    """One server for logins and calls; each login takes the next of `tokens`, the last one again and again."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = list(tokens)
        self.login: Reply = self.grant
        self.answer: Reply = lambda _target, _head, _body: plain("200 OK", b"{}")
        self.heard: list[bytes] = []
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    def grant(self, _target: str, _head: bytes, _body: bytes) -> bytes:
        token = self._tokens.pop(0) if len(self._tokens) > 1 else self._tokens[0]
        said = {"access_token": token, "token_type": "bearer", "expires_in": 92843}
        return plain("200 OK", json.dumps(said).encode(), b"X-Token: %b\r\n" % token.encode())

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Listen, and give the URL."""
        visits: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            visits.add(asyncio.create_task(self._serve(reader, writer)))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for visit in visits:
                visit.cancel()
            await asyncio.gather(*visits, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            found = _LENGTH.search(head)
            body = await reader.readexactly(int(found[1])) if found else b""
            self.heard.append(head + body)
            target = head.split(b" ")[1].decode()
            login = target.endswith("/token")
            if not login:
                self.arrived.set()
                await self.go_on.wait()
            writer.write((self.login if login else self.answer)(target, head, body))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()
