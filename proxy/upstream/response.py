"""One answer of upstream as its bytes arrive. No I/O: bytes in, a head and the pieces of a body out.

llhttp parses, strictly; here it is decided what else an answer must be, and when it has ended. Each answer has a parser
of its own, so that nothing of one exchange can reach the next.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from proxy.errors import ConnectionLost, MalformedAnswer

MAX_HEAD = 64 * 1024
"""Bytes of status line and header section together."""

MAX_FIELDS = 200

_BETWEEN = len(b": \r\n")
_FIRST_STATUS = 100
_FIRST_FINAL_STATUS = 200
_PROTOCOL = b"HTTP/"
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Response:
    """The head and body of one answer, interim ones (1xx) skipped.

    The methods named `on_…` are the parser's callbacks.
    """

    __slots__ = (
        "_body_came",
        "_chunked",
        "_head_only",
        "_parser",
        "_pieces",
        "_start",
        "_unparsed",
        "buffered",
        "ended",
        "excess",
        "fields_size",
        "headed",
        "headers",
        "heard",
        "keep_alive",
        "length",
        "names",
        "reason",
        "status",
    )

    def __init__(self, *, head_only: bool) -> None:
        """`head_only`: no body follows, whatever the head says, as in the answer to HEAD (RFC 9110, section 9.3.2)."""
        self._head_only = head_only
        self._unparsed = 0
        self._body_came = False
        self._start = b""
        self._chunked = False
        self._pieces: list[bytes] = []
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self.fields_size = 0
        """Bytes of the header section."""
        self.status = 0
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []
        """Every field line, in the order, the case and the bytes in which it came."""
        self.names: list[bytes] = []
        """Their names, in lower case."""
        self.length: int | None = None
        """The `Content-Length`, where there is one."""
        self.buffered = 0
        """Bytes of the body that `take` would give."""
        self.heard = False
        """A byte has arrived."""
        self.headed = False
        """The head has arrived whole."""
        self.ended = False
        """The last byte has arrived."""
        self.excess = False
        """More has arrived than this one answer."""
        self.keep_alive = False
        """Upstream will read another request on this connection."""

    def feed(self, data: bytes) -> None:
        """Take what upstream sent; raises `MalformedAnswer`."""
        self.heard = True
        if self._parser is None:
            self.excess = self.excess or bool(data.strip(b"\r\n"))  # llhttp too lets empty lines pass behind an answer
            return
        self._check_protocol(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            raise MalformedAnswer("it switches protocols, unasked") from None
        except HttpParserError as error:
            if self.ended:
                self.excess = True
            elif isinstance(error.__context__, MalformedAnswer):
                raise error.__context__ from None
            else:
                raise MalformedAnswer(str(error)) from None
        if self.ended:
            self.close()
        elif not self.headed or not self._body_came:
            self._unparsed += len(data)
            if self._unparsed > MAX_HEAD:  # a field, a chunk extension or a trailer that does not end
                raise _head_too_large()
        self._body_came = False

    def _check_protocol(self, data: bytes) -> None:
        """Refuse the other protocols that llhttp knows."""
        if len(self._start) < len(_PROTOCOL):
            self._start += data[: len(_PROTOCOL) - len(self._start)]
            if not _PROTOCOL.startswith(self._start):
                raise MalformedAnswer("it is not HTTP")

    def close(self) -> None:
        """Let go of the parser: it refers back to this object, and two that hold each other wait for the collector."""
        self._parser = None

    def feed_eof(self) -> None:
        """Take the end of the connection; raises `ConnectionLost` where the answer is not whole."""
        if self.headed and self.length is None and not self._chunked:
            self.ended = True
        if not self.ended:
            raise ConnectionLost("the connection ended before the answer was whole")

    def take(self) -> bytes:
        """Return what has arrived of the body and was not taken yet."""
        pieces, self._pieces, self.buffered = self._pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def keep_only(self, fields: list[tuple[bytes, bytes]]) -> None:
        """Leave out the other field lines."""
        self.headers = fields
        self.names = [name.lower() for name, _ in fields]

    def on_message_begin(self) -> None:
        if self.ended:
            self.excess = True
            return
        self.reason = b""
        self.headers = []
        self.length = None
        self._chunked = False

    def on_status(self, reason: bytes) -> None:
        if not self.ended:
            self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.headed:  # behind that it is a trailer, for which the answer to the caller has no place
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.headed:
            return
        parser = cast("HttpResponseParser", self._parser)
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise MalformedAnswer("its version is neither HTTP/1.1 nor HTTP/1.0")
        self.status = parser.get_status_code()
        if self.status < _FIRST_STATUS:
            raise MalformedAnswer("its status is not one of HTTP")
        if _CONTROL.search(self.reason):
            raise MalformedAnswer("its reason phrase has control characters")
        self._read_fields()
        if self.status < _FIRST_FINAL_STATUS:
            return
        self.headed = True
        self.ended = self._head_only
        # HTTP/1.0 has no transfer codings: whoever sends one may have passed it on unread (RFC 9112, section 6.1).
        self.keep_alive = parser.should_keep_alive() and not (self._chunked and version == "1.0")

    def _read_fields(self) -> None:
        fields = self.headers
        if len(fields) > MAX_FIELDS:
            raise MalformedAnswer(f"it has more than {MAX_FIELDS} header fields")
        self.fields_size = sum(map(len, chain.from_iterable(fields))) + _BETWEEN * len(fields)
        if self.fields_size > MAX_HEAD:
            raise _head_too_large()
        names = self.names = [name.lower() for name, _ in fields]
        if b"content-length" in names:
            self.length = int(fields[names.index(b"content-length")][1])  # llhttp lets no second one pass
        if b"transfer-encoding" in names:
            codings = [value for name, (_, value) in zip(names, fields, strict=True) if name == b"transfer-encoding"]
            if len(codings) > 1 or codings[0].strip(b" ").lower() != b"chunked":
                raise MalformedAnswer("its transfer coding is not just chunked")
            self._chunked = True

    def on_body(self, data: bytes) -> None:
        if self.ended:
            self.excess = True
            return
        if not self.headed:
            raise MalformedAnswer("its interim answer has a body")
        self._body_came = True
        self._unparsed = 0
        self._pieces.append(data)
        self.buffered += len(data)

    def on_message_complete(self) -> None:
        self.ended = self.headed


def _head_too_large() -> MalformedAnswer:
    return MalformedAnswer(f"its head is larger than {MAX_HEAD} bytes")
