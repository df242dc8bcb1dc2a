"""Where the requests on one connection begin and end. No I/O: bytes in, pieces for the parser out.

A parser takes in all that it is given, and what it makes of one request can reach another: a malformed one takes those
before it along, an offer to leave HTTP those behind it, and nobody is told where a request began. So it gets one
request at a time, and no byte beyond it.
"""

from __future__ import annotations

import re

from proxy.errors import HeadersTooLarge, MalformedRequest, TargetTooLong
from proxy.forward import ascii_line
from proxy.guard import MAX_HEAD, MAX_TARGET

LONGEST_LINE = 16 * MAX_TARGET
"""Bytes of a request line as the parser sees it, with 8-bit bytes written out in ASCII."""

_LONGEST_BEGUN = MAX_TARGET + 64
"""Bytes of a request line that has not come whole: a method, a target, and the most of a version."""

_LARGEST_HEAD = 2 * MAX_HEAD
"""Bytes of a head that does not end."""

_LONGEST_CHUNK_LINE = 4096
"""Bytes of a chunk's size and extensions, or of a trailer's field."""

_OTHER_PROTOCOLS = (b"RTSP/", b" ICE/")
"""What llhttp takes in the place of HTTP at the end of a request line."""

_REQUEST_LINE = re.compile(rb"[A-Z]+ [^ ]+ HTTP/1\.[01]\r")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;|\r\n)")
_LINE_BREAK = len(b"\r\n")
_HEAD_END = b"\r\n\r\n"


class Intake:
    """The bytes of one connection, as its requests ask for them: a head, then the body that the head tells of."""

    __slots__ = (
        "_chunks",
        "_end",
        "_head_size",
        "_left",
        "_stopped",
        "has_trailers",
        "head_ended",
        "in_head",
        "waiting",
        "whole",
    )

    def __init__(self) -> None:
        self._head_size = 0  # of the request under way, as far as the parser has it
        self._end = b""  # what the parser got last of a head, should the head's end be cut in two
        self._left = 0  # bytes of a body with a length
        self._chunks: Chunks | None = None
        self._stopped = False
        self.waiting = b""
        """What waits for its request's turn, or for the rest of its first line."""
        self.in_head = False
        """A head has begun and has not come whole."""
        self.head_ended = False
        """The last piece was the end of a head; `expect` is to follow."""
        self.has_trailers = False
        """Trailer fields have come with a request: the parser carries the last of them into the next one."""
        self.whole = False
        """The last piece was the end of a request; `proceed` is to follow."""

    def add(self, data: bytes) -> None:
        """Take what the caller has sent."""
        if not self._stopped:
            self.waiting = self.waiting + data if self.waiting else data

    def take(self) -> bytes:
        """Return the next piece for the parser; none where more has to come first, or the request is whole.

        Raises `MalformedRequest`, `TargetTooLong` and `HeadersTooLarge`; `stop` is to follow then.
        """
        if self.whole or not self.waiting:
            return b""
        if self._chunks is not None:
            piece = self._first(self._chunks.measure(self.waiting))
            self.whole, self.has_trailers = self._chunks.ended, self._chunks.trailers
        elif self._left:
            piece = self._first(self._left)
            self._left -= len(piece)
            self.whole = not self._left
        else:
            piece = self._head_piece()
            self._head_size += len(piece)
            self.in_head = not self.head_ended and (self._head_size > 0 or bool(self.waiting))
        return piece

    def expect(self, *, length: int, chunked: bool) -> None:
        """Know from a head what body follows it."""
        self.head_ended = False
        self._left = length
        self._chunks = Chunks() if chunked else None
        self.whole = not length and not chunked

    def proceed(self) -> None:
        """Go on to the next request, where one is whole."""
        self.whole = False
        self._head_size = 0
        self._end = b""
        self._chunks = None

    def stop(self) -> None:
        """Let go by whatever comes from now on."""
        self._stopped = True
        self.waiting = b""
        self.whole = self.in_head = self.head_ended = False

    def _first(self, size: int) -> bytes:
        data = self.waiting
        if size >= len(data):
            self.waiting = b""
            return data
        self.waiting = data[size:]
        return data[:size]

    def _head_piece(self) -> bytes:
        if self._head_size > _LARGEST_HEAD:
            raise HeadersTooLarge(f"the header section has more than {MAX_HEAD} bytes")
        if not self._head_size and not self._read_line():
            return b""
        seen = self._end + self.waiting
        end = seen.find(_HEAD_END)
        if end >= 0:
            self.head_ended = True
            return self._first(end + len(_HEAD_END) - len(self._end))
        self._end = seen[1 - len(_HEAD_END) :]
        return self._first(len(self.waiting))

    def _read_line(self) -> bool:
        """Write a request line in ASCII; tell whether there is anything for the parser.

        A line that has not come whole waits, unless it is none: the parser is to say so at once.
        """
        data = self.waiting = self.waiting.lstrip(b"\r\n")  # RFC 9112, section 2.2: before a request there may be any
        end = data.find(b"\n")
        if end < 0:
            if len(data) > _LONGEST_BEGUN:
                raise TargetTooLong(f"the request target is longer than {MAX_TARGET} bytes")
            return bool(data) and not data[:1].isupper()
        line = data[:end]
        if line[-9:-4] in _OTHER_PROTOCOLS:
            raise MalformedRequest("the protocol is not HTTP")
        if not line.isascii() and _REQUEST_LINE.fullmatch(line):
            self.waiting = ascii_line(line) + data[end:]
        return True


class Chunks:
    """Where a body in chunks ends (RFC 9112, section 7.1). Whether it is well-formed, the parser judges."""

    __slots__ = ("_in_trailers", "_left", "_line", "ended", "trailers")

    def __init__(self) -> None:
        self._left = 0  # bytes of a chunk, with the line break behind it
        self._line = b""
        self._in_trailers = False
        self.ended = False
        """The body has come to its end."""
        self.trailers = False
        """Trailer fields have come behind the last chunk."""

    def measure(self, data: bytes) -> int:
        """Return how many of the next bytes belong to the body; raises `MalformedRequest`."""
        at = 0
        while at < len(data) and not self.ended:
            if self._left:
                passed = min(self._left, len(data) - at)
                self._left -= passed
                at += passed
                continue
            end = data.find(b"\n", at) + 1
            self._line += data[at : end or len(data)]
            at = end or len(data)
            if len(self._line) > _LONGEST_CHUNK_LINE:
                raise MalformedRequest("the framing of the body is malformed")
            if end:
                self._read_line()
        return at

    def _read_line(self) -> None:
        line, self._line = self._line, b""
        if self._in_trailers:
            self.ended = line == b"\r\n"
            self.trailers = self.trailers or not self.ended
            return
        size = _CHUNK_SIZE.match(line)
        if size is None:
            raise MalformedRequest("the framing of the body is malformed")
        self._left = int(size[1], 16)
        self._in_trailers = not self._left
        if self._left:
            self._left += _LINE_BREAK
