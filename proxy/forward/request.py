"""A request, as its caller's connection has taken it in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from aiohttp import HttpVersion11, hdrs

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
    leaving: bool
    """The answer under way is the last on this connection."""

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What brings its requests to their end, one after the other; none once it has gone."""

    @property
    def address(self) -> str:
        """Where the caller is; empty on a Unix socket."""

    @property
    def has_all(self) -> bool:
        """Whether all of the request under way has come."""

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
    def host(self) -> str:
        """The Host it is for; empty in HTTP/1.0."""
        return self.headers.get(hdrs.HOST, "")

    @property
    def expects_continue(self) -> bool:
        """Whether the caller waits to be asked for the body (RFC 9110, section 10.1.1)."""
        return (
            hdrs.EXPECT in self.headers
            and self.version >= HttpVersion11
            and self.headers[hdrs.EXPECT].lower() == "100-continue"
        )
