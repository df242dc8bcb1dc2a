"""The body of a request: held whole up to the replay cap, or streaming on behind what was read."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from aiohttp import hdrs, web

from proxy.errors import BrokenUpload, MalformedRequest, SlowBody, StalledUpload
from proxy.forward.headers import Framing

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from aiohttp import StreamReader

    from proxy.forward.request import Request

_LARGEST_LENGTH = 2**53
"""Bytes; the parser takes the largest length that it can count to for none at all."""


_LEAST_PACE = 1024
"""Bytes a second; what is slower holds its place for next to nothing."""


class Patience:
    """How long one caller is waited for: `stall` seconds for any byte, and for all of them as if at the least pace.

    Only the time counts in which the sidecar waits for the caller, not that in which the caller waits for Invoisys.
    """

    def __init__(self, stall: float) -> None:
        self._stall = stall
        self._left = stall

    async def read(self, content: StreamReader) -> bytes:
        """Return what has come, or else what comes next, `b""` at the end; raises `SlowBody`."""
        piece = content.read_nowait()
        if not piece and not content.is_eof():
            piece = await self._wait(content)
        self._left += len(piece) / _LEAST_PACE
        return piece

    async def _wait(self, content: StreamReader) -> bytes:
        allowed = min(self._stall, self._left)
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(allowed):
                return await content.readany()
        except TimeoutError:
            if allowed < self._stall:
                raise SlowBody(f"the body came at less than {_LEAST_PACE} bytes a second") from None
            raise SlowBody(f"no byte of the body came for {self._stall:g} s") from None
        finally:
            self._left -= clock() - began


class HeldBytes:
    """The budget for the held bytes of all requests together; past it, bodies stream."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def take(self, size: int) -> bool:
        """Take so many bytes out of the budget, if they are there."""
        if self.taken + size > self.limit:
            return False
        self.taken += size
        return True

    def give_back(self, size: int) -> None:
        """Return so many bytes to the budget."""
        self.taken -= size


@dataclass(slots=True)
class Body:
    """What goes upstream as the body, and how its end is told there."""

    framing: Framing
    wire: bytes | AsyncIterable[bytes]
    _held: int = 0
    _budget: HeldBytes | None = field(default=None, repr=False)

    @property
    def held(self) -> bytes | None:
        """The whole body, where it is held."""
        return self.wire if isinstance(self.wire, bytes) else None

    @property
    def replayable(self) -> bool:
        """Whether the whole body is held, so that it can be sent a second time."""
        return isinstance(self.wire, bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Give what was held back to the budget."""
        if self._budget is not None:
            self._budget.give_back(self._held)


_NO_BODY = Body(Framing(), b"")


@dataclass(frozen=True, slots=True)
class Holder:
    """Reads bodies: `cap` in bytes for each, `budget` for all, `stall` in seconds that a caller may stand still."""

    cap: int
    budget: HeldBytes
    stall: float

    async def read(self, request: Request) -> Body:
        """Return the request's body, read up to its end or the cap.

        Raises `MalformedRequest` and `SlowBody`; from iterating over a streaming body come `BrokenUpload` and
        `StalledUpload`, because part of it has gone upstream by then.
        """
        said = request.headers.get(hdrs.CONTENT_LENGTH)
        chunked = hdrs.TRANSFER_ENCODING in request.headers
        if said is None and not chunked:
            return _NO_BODY
        length = None if said is None else int(said)
        if length is not None and length > _LARGEST_LENGTH:
            raise MalformedRequest("the Content-Length is not one that a body can have")
        # Where the length is known, all of it is taken at once: a thousand bodies that are held in part help nobody.
        held = length or 0
        if held > self.cap or not self.budget.take(held):
            return Body(
                Framing(length, chunked), _stream(deque(), request.content, Patience(self.stall), chunked=chunked)
            )
        pieces: deque[bytes] = deque()
        patience = Patience(self.stall)
        came = 0
        try:
            while piece := await _piece(request.content, patience):
                pieces.append(piece)
                came += len(piece)
                if came > held:
                    if came > self.cap or not self.budget.take(came - held):
                        wire = _stream(pieces, request.content, patience, chunked=chunked)
                        return Body(Framing(length, chunked), wire, held, self.budget)
                    held = came
        except BaseException:
            self.budget.give_back(held)
            raise
        return Body(Framing(came), b"".join(pieces), held, self.budget)


async def _piece(content: StreamReader, patience: Patience) -> bytes:
    try:
        return await patience.read(content)
    except web.RequestPayloadError as error:
        error.__traceback__ = None  # `content` keeps it, and it this frame: both would wait for the collector
    raise MalformedRequest("the framing of the body is malformed")


async def _stream(
    pieces: deque[bytes], content: StreamReader, patience: Patience, *, chunked: bool
) -> AsyncIterator[bytes]:
    try:
        while piece := pieces.popleft() if pieces else await _piece(content, patience):
            yield b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
    except SlowBody as error:
        raise StalledUpload(error.detail) from None
    except MalformedRequest as error:
        raise BrokenUpload(error.detail) from None
    if chunked:
        yield b"0\r\n\r\n"
