"""A request, as its caller's connection has taken it in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from aiohttp import hdrs

from proxy.forward.headers import names_of
from proxy.forward.target import Target, read_target

if TYPE_CHECKING:
    import asyncio

    from aiohttp import HttpVersion, StreamReader
    from aiohttp.http import RawRequestMessage
    from multidict import CIMultiDictProxy

    from proxy.forward.headers import Field

__all__ = ["Caller", "Request", "Target"]


class Caller(Protocol):
    """The connection that a request came on."""

    transport: asyncio.Transport | None
    """None where the caller has gone."""
    peer_uid: int | None
    """The user at the other end of a Unix socket, where it is known."""

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What brings its requests to their end, one after the other; none once it has gone."""

    @property
    def address(self) -> str:
        """Where the caller is; empty on a Unix socket."""

    @property
    def writing_paused(self) -> bool:
        """Whether the caller does not read what was written to it."""

    async def drain(self) -> None:
        """Wait until the caller has read most of what was written to it."""


class Request:
    """What one caller asks. Nothing in it changes any more, but that `content` is read."""

    __slots__ = ("caller", "content", "fields", "headers", "keep_alive", "method", "names", "target", "version")

    def __init__(self, message: RawRequestMessage, content: StreamReader, caller: Caller) -> None:
        self.caller = caller
        self.content = content
        """The body, as it arrives."""
        self.method: str = message.method
        self.target: Target = read_target(message.path)
        self.version: HttpVersion = message.version
        self.headers: CIMultiDictProxy[str] = message.headers
        self.fields: tuple[Field, ...] = message.raw_headers
        """Every field line, in the order, the case and the bytes in which it came."""
        self.names = names_of(self.fields)
        """Their names, in lower case."""
        self.keep_alive: bool = not message.should_close
        """The caller may send another request on this connection."""

    @property
    def line(self) -> bytes:
        """The request line for upstream (RFC 9112, section 3)."""
        return b"%b %b HTTP/1.1" % (self.method.encode(), self.target.wire)

    @property
    def has_body(self) -> bool:
        """Whether a body follows, be it an empty one (RFC 9112, section 6.3)."""
        return hdrs.CONTENT_LENGTH in self.headers or hdrs.TRANSFER_ENCODING in self.headers
