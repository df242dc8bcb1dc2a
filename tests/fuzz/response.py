"""What must hold for any bytes that upstream may send, however they are split; for the fuzzer and for the tests."""

from __future__ import annotations

from typing import NamedTuple

from proxy.errors import ConnectionLost, MalformedAnswer
from proxy.upstream import Response


class Seen(NamedTuple):
    """All that can be told of an answer after its connection has ended."""

    fault: str | None
    status: int
    reason: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    headed: bool
    ended: bool
    excess: bool
    keep_alive: bool


def read(pieces: list[bytes], *, head_only: bool) -> Seen:
    """Read an answer from its pieces; only `MalformedAnswer` and `ConnectionLost` may come out."""
    response = Response(head_only=head_only)
    fault, body = None, b""
    try:
        for piece in pieces:
            before = _state(response)
            response.feed(piece)
            if before.ended:
                assert before == _state(response)._replace(excess=before.excess), "it changed after its end"
            assert response.headed or not response.ended, "it ended before it had a head"
            assert response.headed == (response.status >= 200), "its head is whole, and its status is not final"
            taken = response.take()
            assert response.buffered == 0
            body += taken
        if not response.ended:
            response.feed_eof()
    except MalformedAnswer:
        fault = "malformed"
    except ConnectionLost:
        fault = "lost"
    else:
        assert response.ended
    if fault is None and response.length is not None and not head_only and response.status not in (204, 304):
        assert len(body) == response.length
    if head_only:
        assert body == b""
    return _state(response)._replace(fault=fault, body=body)


def _state(response: Response) -> Seen:
    return Seen(
        None,
        response.status,
        response.reason,
        tuple(response.headers),
        b"",
        response.headed,
        response.ended,
        response.excess,
        response.keep_alive,
    )


def split(data: bytes, sizes: bytes) -> list[bytes]:
    """Split by sizes that repeat; no sizes, one piece."""
    pieces = []
    place = turn = 0
    while place < len(data):
        size = 1 + sizes[turn % len(sizes)] if sizes else len(data)
        pieces.append(data[place : place + size])
        place += size
        turn += 1
    return pieces


def check(case: bytes) -> None:
    """Check one case: a byte of flags and counts, the sizes of the pieces, and what upstream sends."""
    if not case:
        return
    head_only, count = bool(case[0] & 1), case[0] >> 4
    sizes, data = case[1 : 1 + count], case[1 + count :]
    whole = read([data] if data else [], head_only=head_only)
    parts = read(split(data, sizes), head_only=head_only)
    if whole.fault == "malformed" or parts.fault == "malformed":
        # What was fed before the fault may have been enough for a head, or even for the whole answer.
        assert whole.fault == parts.fault or parts.ended or whole.ended, (whole, parts)
        return
    assert parts == whole, "the same bytes mean something else in pieces"
