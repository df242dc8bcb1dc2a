"""Bytes on sockets: a client that sends exactly what it is told, and reads one answer."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

PATIENCE = 30.0
"""Seconds after which a test that waits for bytes has failed."""


@dataclass(frozen=True)
class Reply:
    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: bytes

    def __getitem__(self, name: str) -> str:
        (value,) = [value for key, value in self.fields if key.lower() == name.lower()]
        return value

    def __contains__(self, name: str) -> bool:
        return any(key.lower() == name.lower() for key, _ in self.fields)

    def json(self) -> Any:
        return json.loads(self.body)


class BrokenOff(Exception):
    """The connection ended inside an answer."""


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return await asyncio.open_unix_connection(parts.path)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def read_reply(reader: asyncio.StreamReader, *, head_only: bool = False) -> Reply:
    """Read one answer, by its framing; raises `BrokenOff`."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        _, status, reason = first.split(" ", 2)
        fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        reply = Reply(int(status), reason, fields, b"")
        if head_only or reply.status in (204, 304) or reply.status < 200:
            return reply
        return Reply(reply.status, reason, fields, await _body(reader, reply))
    except asyncio.IncompleteReadError as error:
        raise BrokenOff(f"after {error.partial!r}") from None


async def _body(reader: asyncio.StreamReader, reply: Reply) -> bytes:
    if "Content-Length" in reply:
        return await reader.readexactly(int(reply["Content-Length"]))
    if "Transfer-Encoding" not in reply:
        return await reader.read()
    pieces = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        pieces.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return b"".join(pieces)


async def send(url: str, request: bytes, *, head_only: bool = False) -> Reply:
    """Send raw bytes on a connection of their own and read one answer."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await connect(url)
        try:
            writer.write(request)
            return await read_reply(reader, head_only=head_only)
        finally:
            writer.close()


async def ask(
    url: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Reply:
    """Send a plain request and read the answer."""
    host = urlsplit(url).netloc or "localhost"
    fields = {"Host": host} | (headers or {})
    if body is not None:
        fields.setdefault("Content-Length", str(len(body)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    request = f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
    return await send(url, request + (body or b""), head_only=method == "HEAD")
