"""Plays a case: a socket at each end of the proxy, and every byte that came out of it.

The end of every case is a plain request more, on the caller's connection if it is still open, else on another. Where it
arrives tells what became of both connections; and whatever the case had still in the pipe would arrive before it.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from tests.wire.notation import Step, script, shown

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tests.wire.notation import Case

PATIENCE = 10.0
"""Seconds after which what has not come will not come: then a case has failed."""

_SETTLING = 20
"""Turns of the loop in which everything that lies in the kernel already is read."""

TOKEN_LENGTH = 299
_BEARER = re.compile(rb"(?i)(?<=authorization: )Bearer [A-Za-z0-9_-]{%d}(?=\r\n)" % TOKEN_LENGTH)

_AFTERWARDS = b"GET /api/afterwards HTTP/1.1\r\nHost: localhost\r\n\r\n"
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nafterwards"

_NO_BODY = (b"204", b"304")


class Peer(asyncio.Protocol):
    """One end of a connection: what has come and was not taken yet."""

    def __init__(self, news: asyncio.Event) -> None:
        self._news = news
        self._transport: asyncio.Transport
        self.data = b""
        self.ended = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._news.set()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self._news.set()

    def eof_received(self) -> bool:
        self.ended = True
        self._news.set()
        return True  # the answer may still have to be sent

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = self.lost = True
        self._news.set()

    def send(self, data: bytes) -> None:
        self._transport.write(data)

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def take(self, size: int) -> bytes:
        taken, self.data = self.data[:size], self.data[size:]
        return taken


@dataclass
class Seen:
    """What came to pass; the steps are those of the case, with what was seen in place of what was expected."""

    steps: list[Step]
    caller: str
    upstream: str
    extra: list[str]

    @property
    def text(self) -> str:
        return script(self.steps, self.caller, self.upstream, self.extra)


class Player:
    """Plays one case through the proxy at `address`, being the upstream that listens on `origin`."""

    def __init__(self, case: Case, address: tuple[str, int], origin: socket.socket) -> None:
        self._case = case
        self._address = address
        self._origin = origin
        self._authority = b"%b:%d" % (origin.getsockname()[0].encode(), origin.getsockname()[1])
        self._news = asyncio.Event()
        self._upstreams: list[Peer] = []
        self._current: Peer | None = None  # the upstream connection that carried the last request
        self._callers: list[Peer] = []
        self._extra: list[str] = []
        self._asked_head = False

    async def play(self) -> Seen:
        server = await asyncio.get_running_loop().create_server(self._accepted, sock=self._origin.dup())
        try:
            await self._call()
            steps = [await self._step(step) for step in self._case.steps]
            caller, upstream = await self._afterwards()
        finally:
            server.close()
            for peer in (*self._callers, *self._upstreams):
                peer.abort()
            await self._until(lambda: all(peer.lost for peer in (*self._callers, *self._upstreams)))
        return Seen(steps, caller, upstream, self._extra)

    # --- The steps --------------------------------------------------------------------------------------------------

    async def _step(self, step: Step) -> Step:
        match step.title:
            case "caller sends":
                self._asked_head = step.data.startswith(b"HEAD ")
                self._caller.send(self._meant(step.data))
                return step
            case "upstream sees":
                return Step(step.title, await self._request(step.data))
            case "caller sees":
                return Step(step.title, await self._reply(step.data))
        if self._current is not None:
            self._current.send(self._meant(step.data))
            if step.title.endswith("closes"):
                self._current.close()
        return step

    async def _request(self, expected: bytes) -> bytes:
        """Return the next request that upstream gets; nothing, if the caller is answered without it."""

        def size(peer: Peer) -> int | None:
            if self._normal(peer.data) == expected:
                return len(peer.data)
            return length_of(peer.data) or (len(peer.data) if peer.ended and peer.data else None)

        def arrived() -> bool:
            return any(size(peer) for peer in self._upstreams)

        await self._until(lambda: arrived() or bool(self._caller.data) or self._caller.ended)
        if not arrived():
            await self._settled()
        self._current = next((peer for peer in self._upstreams if size(peer)), None) or next(
            (peer for peer in self._upstreams if peer.data), None
        )
        if self._current is None:
            return b""
        return self._normal(self._current.take(size(self._current) or len(self._current.data)))

    async def _reply(self, expected: bytes) -> bytes:
        """Return the next answer that the caller gets."""
        caller = self._caller

        def size() -> int | None:
            if self._normal(caller.data).startswith(expected):
                return len(expected) + len(caller.data) - len(self._normal(caller.data))
            bodiless = self._asked_head or caller.data[9:12] in _NO_BODY or caller.data[9:10] == b"1"
            return length_of(caller.data, answer=True, bodiless=bodiless)

        def strayed() -> bool:
            return self._case.upstream == "untouched" and self._carrier() is not None

        if await self._until(lambda: size() is not None or caller.ended or strayed()):
            taken = caller.take(size() or len(caller.data))
            return problem_in(taken) or self._normal(taken)
        self._extra.append("the caller waits in vain")
        return self._normal(caller.take(len(caller.data)))

    async def _afterwards(self) -> tuple[str, str]:
        """Send the last request, and tell what became of the connections of caller and upstream."""
        earlier = list(self._upstreams)
        kept = not self._caller.ended
        if kept:
            self._caller.send(_AFTERWARDS)
            await self._until(lambda: self._carrier() is not None or self._caller.ended)
            kept = self._carrier() is not None
        if not kept:
            if self._caller.data:
                self._extra.append(f"the caller sees more:\n{shown(self._caller.data)}")
            await self._call()
            self._caller.send(_AFTERWARDS)
            await self._until(lambda: self._carrier() is not None or self._caller.ended)
        carrier = self._carrier()
        if carrier is None:
            self._extra.append("a plain request afterwards does not reach upstream")
            return ("kept" if kept else "closed"), "?"
        request = carrier.take(length_of(carrier.data) or 0)
        if not request.startswith(_AFTERWARDS.partition(b"\r\n")[0]):
            self._extra.append(f"upstream sees more:\n{shown(self._normal(request + carrier.data))}")
            return ("kept" if kept else "closed"), "?"
        carrier.send(_ANSWER)
        caller = self._caller
        await self._until(lambda: caller.ended or length_of(caller.data, answer=True) is not None)
        head, _, body = caller.data.partition(b"\r\n\r\n")
        if body != b"afterwards" or not head.startswith(b"HTTP/1.1 200 "):
            self._extra.append(f"the answer to a plain request afterwards is\n{shown(caller.data)}")
        return ("kept" if kept else "closed"), await self._end_of(earlier, carrier)

    async def _end_of(self, earlier: list[Peer], carrier: Peer) -> str:
        if not earlier:
            return "untouched"
        others = [peer for peer in earlier if peer is not carrier]
        if not await self._until(lambda: all(peer.ended for peer in others)):
            return "left open"
        self._extra += [f"upstream sees more:\n{shown(self._normal(peer.data))}" for peer in others if peer.data]
        return "kept" if carrier in earlier else "closed"

    def _carrier(self) -> Peer | None:
        return next((peer for peer in self._upstreams if length_of(peer.data) is not None), None)

    # --- Connections ------------------------------------------------------------------------------------------------

    @property
    def _caller(self) -> Peer:
        return self._callers[-1]

    async def _call(self) -> None:
        _, peer = await asyncio.get_running_loop().create_connection(lambda: Peer(self._news), *self._address)
        self._callers.append(peer)

    def _accepted(self) -> Peer:
        self._upstreams.append(Peer(self._news))
        return self._upstreams[-1]

    async def _until(self, holds: Callable[[], bool]) -> bool:
        """Wait until it holds, and tell whether it came to that."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not holds():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def _settled(self) -> None:
        for _ in range(_SETTLING):
            await asyncio.sleep(0)

    # --- Placeholders -----------------------------------------------------------------------------------------------

    def _meant(self, data: bytes) -> bytes:
        return data.replace(b"{upstream}", self._authority)

    def _normal(self, data: bytes) -> bytes:
        return _BEARER.sub(b"{token}", data.replace(self._authority, b"{upstream}"))


def length_of(data: bytes, *, answer: bool = False, bodiless: bool = False) -> int | None:
    """Return the length of the first message; none where it is not whole, or ends with its connection."""
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return None
    fields = {
        name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in data[:end].splitlines())
    }
    if bodiless:
        return end
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        return _length_of_chunks(data, end)
    if b"content-length" in fields:
        end += int(fields[b"content-length"])
        return end if len(data) >= end else None
    return None if answer else end


def _length_of_chunks(data: bytes, start: int) -> int | None:
    while (line_end := data.find(b"\r\n", start)) >= 0:
        size = int(data[start:line_end].partition(b";")[0], 16)
        if not size:
            end = data.find(b"\r\n\r\n", line_end) + 4
            return end if end >= 4 else None
        start = line_end + 2 + size + 2
    return None


_OWN_FIELDS = re.compile(
    rb"Content-Type: application/problem\+json\r\nContent-Length: \d+\r\nCache-Control: no-store\r\n"
    rb"X-Invoisys-Outcome: (not-sent|unknown)\r\nProxy-Status: invoisys-proxy; error=[a-z_]+\r\n"
    rb"(?:(?:Allow|WWW-Authenticate|Retry-After): [^\r\n]+\r\n)?(Connection: close\r\n)?\r\n"
)


def problem_in(data: bytes) -> bytes | None:
    """Return the placeholder for an answer of the sidecar's own; none where it is not one, to the last byte."""
    line, _, rest = data.partition(b"\r\n")
    head = _OWN_FIELDS.match(rest)
    if head is None:
        return None
    body = rest[head.end() :]
    status = int(line.split(b" ")[1])
    if line != b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode()):
        return None
    closing = b" closing" if head[2] else b""
    if not body:  # to HEAD
        return b"{problem - %d %b%b}\r\n" % (status, head[1], closing)
    said = json.loads(body)
    name = said["type"].removeprefix("urn:invoisys-proxy:").encode()
    if (said["status"], said["outcome"].encode()) != (status, head[1]) or not said["detail"] or not said["request_id"]:
        return None
    return b"{problem %b %d %b%b}\r\n" % (name, status, head[1], closing)
