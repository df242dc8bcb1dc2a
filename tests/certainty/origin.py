"""An upstream whose every byte is under control: it stops reading, or answering, exactly where a test says.

Everything here blocks, and one thread does it all: the test hands the caller's request over, plays upstream, and reads
what the caller is told, in whichever order the sidecar brings it about.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

_RESET = struct.pack("ii", 1, 0)
_PIECE = 64 * 1024


class End(StrEnum):
    """How a connection ends."""

    RESET = "reset"
    CLOSE = "close"
    """An orderly end of the TCP connection; over TLS one that was not announced, as from an attacker or a crash."""
    NOTIFY = "close-notify"
    """Over TLS: announced, then closed."""


class PeerGone(Exception):
    """The sidecar closed its side."""


class Spent(Exception):
    """As many bytes of the raw stream have passed as may."""


class Upstream:
    """One connection that the sidecar made. Over TLS both streams are known: the raw one and the one within."""

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        self.sock = sock
        self.saw = b""
        """What was read of the request under way."""
        self.took = 0
        """Bytes of the raw stream that were read."""
        self.gave = 0
        """Bytes of the raw stream that were written."""
        self.greeted = 0
        """Bytes of the raw stream that were written before the sidecar could take the handshake for done."""
        self.may_take: int | None = None
        self.may_give: int | None = None
        """The raw totals at which the connection is spent."""
        self.arrived = False
        """Bytes of the request were there, whether they were read or not."""
        self.served = 0
        """Exchanges brought to their end."""
        self.said_all = False
        """The whole answer was written."""
        self.ended = False
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tls = None
        if tls is not None:
            self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = tls.wrap_bio(self._in, self._out, server_side=True)

    def handshake(self) -> None:
        if self._tls is None:
            return
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self.greeted = self.gave
                self._in.write(self._recv(_PIECE))
            else:
                self._flush()
                return

    def read(self, total: int) -> None:
        """Read until `saw` has so many bytes, and not one more."""
        while len(self.saw) < total:
            self.saw += self._read(total - len(self.saw))
            self.arrived = True

    def read_request(self) -> None:
        """Read one whole request."""
        while b"\r\n\r\n" not in self.saw:
            self.read(len(self.saw) + 1)
        head, _, _ = self.saw.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        self.read(len(head) + 4 + (int(lengths[0].split(b":")[1]) if lengths else 0))

    def write(self, data: bytes) -> None:
        if self._tls is None:
            self._send(data)
            return
        if data:
            self._tls.write(data)
        self._flush()

    def serve(self, answer: bytes) -> None:
        """Bring one good exchange to its end."""
        self.read_request()
        self.write(answer)
        self.served += 1
        self.saw = b""
        self.arrived = False

    def wait_for_bytes(self) -> bool:
        """Wait until something can be read, and tell whether it is bytes and not the end."""
        select.select([self.sock], [], [], PATIENCE)
        self.arrived = bool(self.sock.recv(1, socket.MSG_PEEK))
        return self.arrived

    def end(self, how: End) -> None:
        """End the connection, from this side."""
        if self.ended:
            return
        self.ended = True
        try:
            if how is End.RESET:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self.sock.close()
                return
            if how is End.NOTIFY and self._tls is not None:
                with contextlib.suppress(ssl.SSLError):
                    self._tls.unwrap()
                self._flush()
            self.sock.shutdown(socket.SHUT_WR)
        except (OSError, Spent):
            pass  # the sidecar was first

    def let_go(self) -> None:
        """Wait for the sidecar to close its side too, and be done with it."""
        if self.sock.fileno() < 0:
            return
        with contextlib.suppress(ConnectionError):
            while self.sock.recv(_PIECE):
                pass
        self.sock.close()

    def _read(self, most: int) -> bytes:
        if self._tls is None:
            return self._recv(most)
        while True:
            try:
                data = self._tls.read(most)
            except ssl.SSLWantReadError:
                self._in.write(self._recv(_PIECE))
            except ssl.SSLZeroReturnError:
                raise PeerGone from None
            else:
                if not data:
                    raise PeerGone
                return data

    def _flush(self) -> None:
        self._send(self._out.read())

    def _recv(self, most: int) -> bytes:
        if self.may_take is not None:
            most = min(most, self.may_take - self.took)
            if most <= 0:
                raise Spent
        try:
            data = self.sock.recv(most)
        except ConnectionError:
            raise PeerGone from None
        if not data:
            raise PeerGone
        self.took += len(data)
        return data

    def _send(self, data: bytes) -> None:
        spent = False
        if self.may_give is not None and len(data) > self.may_give - self.gave:
            data, spent = data[: self.may_give - self.gave], True
        try:
            self.sock.sendall(data)
        except ConnectionError:
            raise PeerGone from None
        self.gave += len(data)
        if spent:
            raise Spent


class Parsed(NamedTuple):
    """As much of an answer as there is."""

    status: int = 0
    fields: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    whole: bool = False
    """It ended where its framing says, or with the connection where that is its framing."""

    @property
    def outcome(self) -> str | None:
        return dict(self.fields).get(b"X-Invoisys-Outcome", b"").decode() or None


def parse(raw: bytes, *, ended: bool) -> Parsed:
    """Read one answer of the sidecar; `ended` tells that its connection has come to an orderly end."""
    head, there, rest = raw.partition(b"\r\n\r\n")
    if not there:
        return Parsed()
    first, *lines = head.split(b"\r\n")
    status = int(first.split(b" ")[1])
    fields = tuple((name, value) for name, _, value in (line.partition(b": ") for line in lines))
    framing = {name.lower(): value for name, value in fields}
    if b"content-length" in framing:
        return Parsed(status, fields, rest, len(rest) == int(framing[b"content-length"]))
    if framing.get(b"transfer-encoding") == b"chunked":
        return Parsed(status, fields, *_unchunked(rest))
    if status in (204, 304):
        return Parsed(status, fields, rest, not rest)
    return Parsed(status, fields, rest, ended)


class Told:
    """What a caller is told, as its bytes come in."""

    def __init__(self, url: str, request: bytes) -> None:
        host, _, port = url.rpartition("://")[2].partition(":")
        self.sock = socket.create_connection((host, int(port)), PATIENCE)
        self.sock.sendall(request)
        self.over = False
        """Nothing more will come."""
        self._raw = b""
        self._parsed = Parsed()

    @property
    def status(self) -> int:
        return self._parsed.status

    @property
    def outcome(self) -> str | None:
        return self._parsed.outcome

    @property
    def body(self) -> bytes:
        return self._parsed.body

    @property
    def whole(self) -> bool:
        return self._parsed.whole

    def receive(self) -> None:
        """Take what is there."""
        try:
            data = self.sock.recv(_PIECE)
        except ConnectionError:
            self.over = True
            return
        self._raw += data
        self._parsed = parse(self._raw, ended=not data)
        self.over = self.whole or not data

    def read(self) -> None:
        """Read to the end of the answer."""
        while not self.over:
            self.receive()

    def close(self) -> None:
        self.sock.close()


def _unchunked(data: bytes) -> tuple[bytes, bool]:
    body = b""
    while True:
        line, there, rest = data.partition(b"\r\n")
        if not there:
            return body, False
        size = int(line, 16)
        if size == 0:
            return body, rest == b"\r\n"
        body += rest[:size]
        if len(rest) < size + 2:
            return body, False
        data = rest[size + 2 :]


class Origin:
    """Where the sidecar's connections come in."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=16)
        scheme, host = ("https", "localhost") if tls else ("http", "127.0.0.1")
        self.url = f"{scheme}://{host}:{self.listening.getsockname()[1]}"

    def accept(self) -> Upstream:
        self.listening.settimeout(PATIENCE)
        return Upstream(self.listening.accept()[0], self._tls)

    def meets_nobody(self) -> bool:
        """Whether no further connection stands before the door."""
        return not select.select([self.listening], [], [], 0)[0]

    def close(self) -> None:
        self.listening.close()

    def arrivals(self, told: Told, kept: Upstream | None) -> Iterator[Upstream]:
        """Give each connection on which something arrives, until the caller has been told all."""
        deadline = time.monotonic() + PATIENCE
        while not told.over:
            assert time.monotonic() < deadline, "the caller is never told"
            watched = [self.listening, told.sock]
            if kept is not None and not kept.ended:
                watched.append(kept.sock)
            ready, _, _ = select.select(watched, [], [], PATIENCE)
            if kept is not None and kept.sock in ready:
                yield kept
                kept = None
            elif self.listening in ready:
                yield self.accept()
            elif told.sock in ready:
                told.receive()
