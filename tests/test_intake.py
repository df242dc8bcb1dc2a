"""Where requests begin and end, however their bytes arrive."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from httptools import HttpParserError, HttpRequestParser
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import HeadersTooLarge, MalformedRequest, TargetTooLong
from proxy.guard import MAX_HEAD, MAX_TARGET
from proxy.intake import Chunks, Intake

if TYPE_CHECKING:
    from collections.abc import Iterable

GET = b"GET /api/1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
PLAIN = b"POST /api/2 HTTP/1.1\r\nContent-Length: 42\r\n\r\nPOST /api/3 HTTP/1.1\r\nHost: localhost\r\n\r\n1"
CHUNKED = (
    b"POST /api/4 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'a;b="c"\r\n0\r\n\r\nGET /\r\n1\r\n\n\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\n'
)
EMPTY_CHUNKED = b"POST /api/5 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


def requests(pieces: Iterable[bytes], intake: Intake | None = None) -> list[bytes]:
    """Return the requests that are whole, as the parser would get them, each taken up as soon as the one before is."""
    intake = intake or Intake()
    whole: list[bytes] = []
    under_way = b""
    for arriving in pieces:
        intake.add(arriving)
        while piece := intake.take():
            under_way += piece
            if intake.head_ended:
                length = re.search(rb"Content-Length: (\d+)", under_way)
                intake.expect(length=int(length[1]) if length else 0, chunked=b"chunked" in under_way)
            if intake.whole:
                whole.append(under_way)
                under_way = b""
                intake.proceed()
    return whole


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(marks)]


@given(
    st.lists(st.sampled_from([GET, PLAIN, CHUNKED, EMPTY_CHUNKED]), min_size=1, max_size=5), st.lists(st.integers(0))
)
@example([CHUNKED, GET], list(range(len(CHUNKED + GET))))
def test_each_request_is_handed_over_as_it_came_however_it_is_cut(sent: list[bytes], places: list[int]) -> None:
    assert requests(cut(b"".join(sent), places)) == sent


def test_nothing_of_the_next_request_is_handed_over_before_this_one_is_done_with() -> None:
    intake = Intake()
    intake.add(GET + PLAIN)
    assert intake.take() == GET
    assert intake.head_ended
    intake.expect(length=0, chunked=False)
    assert (intake.whole, intake.take(), intake.waiting) == (True, b"", PLAIN)
    intake.proceed()
    head = PLAIN[: PLAIN.index(b"POST", 1)]
    assert intake.take() == head
    intake.expect(length=42, chunked=False)
    assert head + intake.take() == PLAIN
    assert intake.whole


@pytest.mark.parametrize("lead", [b"", b"\r\n", b"\n\r\n", GET, GET + b"\r\n"])
def test_a_request_line_beyond_ascii_is_written_out_wherever_its_request_begins(lead: bytes) -> None:
    line = b"GET /api/\xe9 HTTP/1.1\r\n\r\n"
    for pieces in ([lead + line], cut(lead + line, range(len(lead + line)))):
        (*_, last) = requests(pieces)
        assert re.fullmatch(rb"GET /api/~[0-9a-f]{8}~e9~ HTTP/1.1\r\n\r\n", last)


def test_a_field_that_looks_like_a_request_line_is_left_alone() -> None:
    request = b"GET /api/1 HTTP/1.1\r\nX-A: 1GET /\xe9 HTTP/1.1\r\nX-B: 2\r\n\r\n"
    begun = request.index(b"GET", 1)
    assert requests([GET + request[:begun], request[begun:]]) == [GET, request]


def test_a_line_waits_for_its_end_and_anything_else_does_not() -> None:
    for data, handed_on in {
        b"GET /api": b"",
        b"\r\nGET /api": b"",
        b"\r\n": b"",
        b"\x16\x03\x01": b"\x16\x03\x01",  # TLS
        b"get /api": b"get /api",
    }.items():
        intake = Intake()
        intake.add(data)
        assert intake.take() == handed_on, data
    intake = Intake()
    intake.add(b"GET /" + b"a" * (MAX_TARGET + 64))
    with pytest.raises(TargetTooLong):
        intake.take()


def test_it_is_known_whether_a_head_has_begun() -> None:
    intake = Intake()
    seen = []
    for data in (b"\r\n", b"G", b"ET / HTTP/1.1\r\nA: 1\r\n\r", b"\n"):
        intake.add(data)
        intake.take()
        seen.append(intake.in_head)
    assert seen == [False, True, True, False]
    intake.expect(length=2, chunked=False)
    intake.add(b"12G")
    assert not intake.in_head
    assert intake.take() == b"12"
    assert not intake.in_head  # what waits has its turn to come
    intake.proceed()
    assert intake.take() == b""
    assert intake.in_head
    intake.stop()
    assert not intake.in_head


def test_a_head_without_an_end_is_too_large() -> None:
    field = b"X-A: " + b"a" * 1000 + b"\r\n"
    with pytest.raises(HeadersTooLarge):
        requests([b"GET / HTTP/1.1\r\n", *[field] * (2 * MAX_HEAD // len(field) + 2)])


def test_once_it_is_stopped_nothing_is_kept() -> None:
    intake = Intake()
    intake.add(GET)
    intake.stop()
    intake.add(GET)
    assert (intake.take(), intake.waiting, intake.whole) == (b"", b"", False)


# --- Chunks -----------------------------------------------------------------------------------------------------------


class Llhttp:
    """Where llhttp, which parses in aiohttp's server too, finds the end of a body in chunks; none where it refuses."""

    def __init__(self) -> None:
        self.ended = False
        self._parser = HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")

    def on_message_complete(self) -> None:
        self.ended = True

    def end_in(self, body: bytes) -> int | None:
        with suppress(HttpParserError):
            for at in range(len(body)):
                self._parser.feed_data(body[at : at + 1])
                if self.ended:
                    return at + 1
        return None


def end_in(body: bytes, places: Iterable[int] = ()) -> int | None:
    chunks, at = Chunks(), 0
    with suppress(MalformedRequest):
        for piece in cut(body, places):
            at += chunks.measure(piece)
            if chunks.ended:
                return at
    return None


LINES = st.sampled_from([
    b"0\r\n", b"\r\n", b"1\r\n", b"a;b=c\r\n", b"A \r\n", b"00\r\n", b"2\r\nab\r\n", b"1\n", b"X: 1\r\n", b"X\r\n",
    b"-1\r\n", b"+1\r\n", b"0x1\r\n", b"1_0\r\n", b" 1\r\n", b"1;\n", b"\n", b"\r", b"ab", b"0", b";",
    b"ffffffffffffffff\r\n",
])  # fmt: skip


@given(st.lists(LINES, max_size=8).map(b"".join), st.lists(st.integers(0), max_size=8))
@example(b"0\r\n\r\n", [])
@example(b"5\r\n0\r\n\r\n\r\n0\r\nX: 1\r\n\r\nGET", [])
def test_where_llhttp_finds_an_end_there_it_is(body: bytes, places: list[int]) -> None:
    """Where only one of the two sees one, the connection ends: nothing is read in two ways."""
    theirs, ours = Llhttp().end_in(body), end_in(body, places)
    assert ours == end_in(body)
    assert None in (theirs, ours) or theirs == ours


def test_a_line_that_does_not_end_is_malformed() -> None:
    with pytest.raises(MalformedRequest):
        Chunks().measure(b"1;" + b"a" * 4096)


def test_trailers_are_noticed() -> None:
    for body, trailers in {b"0\r\n\r\n": False, b"0\r\nX: 1\r\n\r\n": True}.items():
        chunks = Chunks()
        chunks.measure(body)
        assert (chunks.ended, chunks.trailers) == (True, trailers)
