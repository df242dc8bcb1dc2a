from __future__ import annotations

import gc
import weakref
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import ConnectionLost, MalformedAnswer, Outcome
from proxy.upstream import Response
from proxy.upstream.response import MAX_FIELDS, MAX_HEAD

if TYPE_CHECKING:
    from collections.abc import Iterable

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"
REFUSED = b"HTTP/1.1 403 Forbidden\r\nX-Second: yes\r\nContent-Length: 6\r\n\r\nsecond"


def fed(*pieces: bytes, head_only: bool = False) -> Response:
    response = Response(head_only=head_only)
    for piece in pieces:
        response.feed(piece)
    return response


def one_by_one(data: bytes) -> Iterable[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


class Seen(NamedTuple):
    """What is left of an answer when all of it was read."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    length: int | None
    body: bytes
    ended: bool
    excess: bool
    keep_alive: bool

    @classmethod
    def of(cls, response: Response) -> Seen:
        return cls(
            response.status,
            response.reason,
            response.headers,
            response.length,
            response.take(),
            response.ended,
            response.excess,
            response.keep_alive,
        )


# --- Heads ------------------------------------------------------------------------------------------------------------


def test_an_answer_in_one_piece() -> None:
    response = fed(b"HTTP/1.1 200 Tudo certo\r\nContent-Length: 5\r\nX-Other: 1\r\n\r\nhello")
    assert response.status == 200
    assert response.reason == b"Tudo certo"
    assert response.headers == [(b"Content-Length", b"5"), (b"X-Other", b"1")]
    assert response.length == 5
    assert response.buffered == 5
    assert response.take() == b"hello"
    assert response.headed
    assert response.ended
    assert response.keep_alive
    assert not response.excess


def test_an_answer_byte_by_byte() -> None:
    response = Response(head_only=False)
    head_length = len(HELLO) - 5
    for at, byte in enumerate(one_by_one(HELLO), start=1):
        assert not response.ended
        response.feed(byte)
        assert response.heard
        assert response.headed is (at >= head_length)
        assert response.buffered == max(0, at - head_length)
    assert Seen.of(response) == Seen.of(fed(HELLO))


def test_nothing_has_begun_before_the_first_byte() -> None:
    response = Response(head_only=False)
    assert not response.heard
    assert response.take() == b""


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"HTTP/1.1 200\r\n", b""),
        (b"HTTP/1.1 200 \r\n", b""),
        (b"HTTP/1.1 200 N\xe3o \xff\r\n", b"N\xe3o \xff"),
        (b"HTTP/1.1 200 a  b\t \r\n", b"a  b\t "),
    ],
)
def test_a_reason_is_kept_as_it_came(head: bytes, reason: bytes) -> None:
    assert fed(head + b"Content-Length: 0\r\n\r\n").reason == reason


def test_field_lines_are_kept_as_they_came() -> None:
    response = fed(
        OK,
        b"X-a: \xe3\x80\xff  \r\n",
        b"set-cookie: a=1\r\n",
        b"Set-Cookie:a=2\r\n",
        b"SET-COOKIE:\t a=1\r\n",
        b"x-A: once, again\r\n",
        b"X-Empty:\r\n",
        b"!#$%&'*+.^_`|~9: odd but legal\r\n",
        b"content-LENGTH: 0\r\n\r\n",
    )
    assert response.headers == [
        (b"X-a", b"\xe3\x80\xff  "),
        (b"set-cookie", b"a=1"),
        (b"Set-Cookie", b"a=2"),
        (b"SET-COOKIE", b"a=1"),
        (b"x-A", b"once, again"),
        (b"X-Empty", b""),
        (b"!#$%&'*+.^_`|~9", b"odd but legal"),
        (b"content-LENGTH", b"0"),
    ]


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (OK, True),
        (OK + b"Connection: close\r\n", False),
        (OK + b"Connection: CLOSE\r\n", False),
        (OK + b"Connection: foo, close\r\n", False),
        (OK + b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_whether_upstream_reads_another_request(head: bytes, kept: bool) -> None:
    response = fed(head + b"Content-Length: 0\r\n\r\n")
    assert response.ended
    assert response.keep_alive is kept


def test_chunks_in_http_1_0_end_the_connection() -> None:
    """RFC 9112, section 6.1: whoever sends them may have passed them on unread."""
    head = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = Response(head_only=False)
    try:
        response.feed(head + b"2\r\nhi\r\n0\r\n\r\n")
    except MalformedAnswer:
        return
    assert not response.keep_alive


# --- Interim answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 100\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\nContent-Length: 7\r\nX-Interim: 1\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-Interim: 1\r\n\r\n",
        b"HTTP/1.1 199 Unheard of\r\n\r\n",
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_interim_answers_are_skipped(interim: bytes, whole: bool) -> None:
    response = fed(interim + HELLO) if whole else fed(*one_by_one(interim + HELLO))
    assert Seen.of(response) == Seen.of(fed(HELLO))


def test_an_interim_answer_alone_is_no_head() -> None:
    response = fed(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert response.heard
    assert not response.headed
    with pytest.raises(ConnectionLost):
        response.feed_eof()


@pytest.mark.parametrize("fields", [b"", b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"Content-Length: 0\r\n"])
def test_a_change_of_protocol_is_refused(fields: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        fed(b"HTTP/1.1 101 Switching Protocols\r\n" + fields + b"\r\n" + HELLO)


def test_an_interim_answer_with_a_body_is_refused() -> None:
    with pytest.raises(MalformedAnswer):
        fed(b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + HELLO)


def test_an_offer_to_upgrade_changes_nothing() -> None:
    response = fed(OK + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nhi")
    assert response.take() == b"hi"
    assert response.ended


# --- Bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        OK + b"Content-Length: 5\r\n\r\n",
        CHUNKED,
        OK + b"\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    ],
)
def test_the_answer_to_head_ends_with_its_head(head: bytes) -> None:
    response = fed(head, head_only=True)
    assert response.ended
    assert response.take() == b""
    assert not response.excess
    response.feed_eof()


@pytest.mark.parametrize("more", [b"hello", b"5\r\nhello\r\n0\r\n\r\n", REFUSED])
@pytest.mark.parametrize("head", [OK + b"Content-Length: 5\r\n\r\n", CHUNKED, OK + b"\r\n"])
@pytest.mark.parametrize("apart", [True, False])
def test_a_body_in_the_answer_to_head_is_excess(head: bytes, more: bytes, apart: bool) -> None:
    response = fed(head, more, head_only=True) if apart else fed(head + more, head_only=True)
    assert response.excess
    assert response.take() == b""
    assert response.status == 200
    assert (b"X-Second", b"yes") not in response.headers


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("framing", [b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_some_answers_have_no_body_whatever_they_say(status: bytes, framing: bytes) -> None:
    response = fed(b"HTTP/1.1 " + status + b"\r\n" + framing + b"\r\n")
    assert response.ended
    assert response.take() == b""
    assert not response.excess
    assert response.keep_alive


def test_a_body_where_there_can_be_none_is_excess() -> None:
    response = fed(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello")
    assert response.excess
    assert response.take() == b""


@pytest.mark.parametrize("length", [b"5", b" 5", b"\t5 \t", b"00005"])
def test_a_length_may_be_written_widely(length: bytes) -> None:
    response = fed(OK + b"Content-Length:" + length + b"\r\n\r\nhello")
    assert response.length == 5
    assert response.take() == b"hello"
    assert response.ended


def test_a_body_of_no_length() -> None:
    response = fed(OK + b"Content-Length: 0\r\n\r\n")
    assert response.ended
    assert response.length == 0
    assert response.take() == b""


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhello\r\n0\r\n\r\n",
        b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b'2;name=value;other="q;\\" v"\r\nhe\r\n03;x\r\nllo\r\n000;last\r\n\r\n',
        b"5\r\nhello\r\n0\r\nX-Trailer: 1\r\nX-Other: 2\r\n\r\n",
    ],
)
def test_chunks_with_extensions_and_trailers(body: bytes) -> None:
    for response in (fed(CHUNKED + body), fed(*one_by_one(CHUNKED + body))):
        assert response.take() == b"hello"
        assert response.headers == [(b"Transfer-Encoding", b"chunked")]
        assert response.ended
        assert response.length is None
        assert response.keep_alive
        assert not response.excess


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b"CHUNKED", b"  chunked  "])
def test_chunked_may_be_written_widely(value: bytes) -> None:
    assert fed(OK + b"transfer-ENCODING:" + value + b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n").take() == b"hi"


@pytest.mark.parametrize("value", [b"chunked\t", b"chunked \t ", b"\tchunked"])
def test_tabs_around_chunked_do_not_change_the_framing(value: bytes) -> None:
    response = Response(head_only=False)
    try:
        response.feed(OK + b"Transfer-Encoding:" + value + b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
    except MalformedAnswer:
        return
    assert response.take() == b"hi"


def test_a_body_up_to_the_end_of_the_connection() -> None:
    response = fed(OK + b"\r\n", b"no ", b"length")
    assert not response.ended
    assert response.buffered == 9
    assert response.take() == b"no length"
    assert response.take() == b""
    assert response.buffered == 0
    response.feed_eof()
    assert response.ended
    assert not response.keep_alive


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"HTTP/1.1 20",
        OK,
        OK + b"Content-Length: 5\r\n",
        HELLO[:-5],
        HELLO[:-1],
        CHUNKED,
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\nX-Trailer: 1\r\n",
    ],
)
def test_an_answer_cut_short_is_lost(beginning: bytes) -> None:
    response = fed(beginning)
    with pytest.raises(ConnectionLost) as error:
        response.feed_eof()
    assert error.value.outcome is Outcome.UNKNOWN
    assert not response.ended


def test_the_end_of_the_connection_after_a_whole_answer_is_fine() -> None:
    response = fed(HELLO)
    response.feed_eof()
    assert response.take() == b"hello"


# --- What is more than one answer -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more", [b"x", REFUSED, b"\x00", b"HTTP/1.1 100 Continue\r\n\r\n" + REFUSED, CHUNKED + b"1\r\nx\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize(
    "answer",
    [
        HELLO,
        CHUNKED + b"5\r\nhello\r\n0\r\n\r\n",
        OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
@pytest.mark.parametrize("how", ["in one piece", "apart", "byte by byte"])
def test_nothing_of_a_second_answer_reaches_the_first(answer: bytes, more: bytes, how: str) -> None:
    pieces = {"in one piece": [answer + more], "apart": [answer, more], "byte by byte": one_by_one(answer + more)}
    response = fed(*pieces[how])
    assert response.excess
    assert Seen.of(response)._replace(excess=False) == Seen.of(fed(answer))


@pytest.mark.parametrize("pieces", [[HELLO + b"\r\n"], [HELLO, b"\r\n"], one_by_one(HELLO + b"\r\n")])
def test_an_empty_line_after_an_answer_is_neither_body_nor_another_answer(pieces: list[bytes]) -> None:
    response = fed(*pieces)
    assert response.take() == b"hello"
    assert not response.excess


# --- What is not one well-formed answer -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"ICE/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 N\x00o\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 \x1b[2J\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    ],
)
def test_a_malformed_status_line(data: bytes) -> None:
    with pytest.raises(MalformedAnswer) as error:
        fed(data)
    assert error.value.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 1_0\r\n",
        b"Content-Length: 1 0\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: \r\n",
        b"Content-Length: 18446744073709551616\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: identity\r\nContent-Length: 0\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: \r\n",
        b"A: b\nContent-Length: 0\r\n",
        b"A: b\rc\r\nContent-Length: 0\r\n",
        b"Content-Length: 0\r\nA: b\r\n folded\r\n",
        b"Content-Length: 0\r\nA: b\r\n\tfolded\r\n",
        b" A: b\r\nContent-Length: 0\r\n",
        b"A: b\x00c\r\nContent-Length: 0\r\n",
        b"A: b\x01c\r\nContent-Length: 0\r\n",
        b"A: b\x7f\r\nContent-Length: 0\r\n",
        b"A\x00: b\r\nContent-Length: 0\r\n",
        b"A : b\r\nContent-Length: 0\r\n",
        b"A b: c\r\nContent-Length: 0\r\n",
        b"\xe3: c\r\nContent-Length: 0\r\n",
        b": b\r\nContent-Length: 0\r\n",
        b"no colon\r\nContent-Length: 0\r\n",
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_malformed_header_section(fields: bytes, whole: bool) -> None:
    data = OK + fields + b"\r\n"
    with pytest.raises(MalformedAnswer):
        fed(*([data] if whole else one_by_one(data)))


def test_a_bare_line_feed_before_the_body() -> None:
    with pytest.raises(MalformedAnswer):
        fed(OK + b"Content-Length: 5\r\n\nhello")


@pytest.mark.parametrize(
    "body",
    [
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloworld\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"5;a\x00b\r\nhello\r\n0\r\n\r\n",
        b"5;a\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
        b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    ],
)
def test_malformed_chunks(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        fed(CHUNKED + body)


def test_as_many_fields_as_may_be() -> None:
    response = fed(OK + b"A: b\r\n" * (MAX_FIELDS - 1) + b"Content-Length: 0\r\n\r\n")
    assert len(response.headers) == MAX_FIELDS == 200
    with pytest.raises(MalformedAnswer, match="more than 200 header fields"):
        fed(OK + b"A: b\r\n" * MAX_FIELDS + b"Content-Length: 0\r\n\r\n")


def test_a_head_as_large_as_may_be() -> None:
    end = b"Content-Length: 0\r\n"
    room = MAX_HEAD - len(b"A: \r\n") - len(end)
    assert fed(OK + b"A: " + b"x" * room + b"\r\n" + end + b"\r\n").ended
    with pytest.raises(MalformedAnswer, match="its head is larger than 65536 bytes"):
        fed(OK + b"A: " + b"x" * (room + 1) + b"\r\n" + end + b"\r\n")


@pytest.mark.parametrize("size", [1, 1000, MAX_HEAD])
def test_the_size_of_a_head_in_pieces(size: int) -> None:
    def pieces(length: int) -> list[bytes]:
        head = OK + b"A: " + b"x" * length + b"\r\nContent-Length: 0\r\n\r\n"
        return [head[start : start + size] for start in range(0, len(head), size)]

    assert fed(*pieces(MAX_HEAD - 100)).ended
    with pytest.raises(MalformedAnswer, match="its head is larger than 65536 bytes"):
        fed(*pieces(MAX_HEAD))


@pytest.mark.parametrize("size", [1, 1000, MAX_HEAD])
@pytest.mark.parametrize("start", [b"HTTP/1.1 200 ", OK + b"A: ", OK, b""])
def test_a_head_that_never_ends(start: bytes, size: int) -> None:
    unit = {b"": b"\r\n", OK: b"A"}.get(start, b"x")
    with pytest.raises(MalformedAnswer):
        fed(start, *[unit * size] * (2 * MAX_HEAD // size))


def test_interim_answers_that_never_end() -> None:
    with pytest.raises(MalformedAnswer, match="its head is larger"):
        fed(*[b"HTTP/1.1 100 Continue\r\n\r\n"] * MAX_HEAD)


@pytest.mark.parametrize("rest", [b"", b"hello"])
def test_a_head_too_large_is_refused_in_one_piece_too(rest: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        fed(OK + b"A: " + b"x" * MAX_HEAD + b"\r\nContent-Length: 5\r\n\r\n" + rest)


def test_a_body_is_not_counted_as_head() -> None:
    body = b"x" * (2 * MAX_HEAD)
    assert fed(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body).take() == body


def test_a_trailer_that_never_ends() -> None:
    with pytest.raises(MalformedAnswer):
        fed(CHUNKED + b"2\r\nhi\r\n0\r\nX-Trailer: ", *[b"x" * 4096] * 64)


# --- Any way of cutting an answer into pieces gives the same ----------------------------------------------------------

_names = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_!", min_size=1, max_size=12).map(
    lambda name: b"X-" + name.encode()
)
_values = st.binary(max_size=24).map(
    lambda value: bytes(byte for byte in value if byte == 9 or (byte >= 32 and byte != 127)).lstrip(b" \t")
)
_fields = st.lists(st.tuples(_names, _values), max_size=8)
_reasons = st.binary(max_size=16).map(
    lambda reason: bytes(byte for byte in reason if byte >= 32 and byte != 127).lstrip(b" ")
)


class Made(NamedTuple):
    """An answer that was made up, and what must be read from it."""

    data: bytes
    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


@st.composite
def answers(draw: st.DrawFn) -> Made:
    status = draw(st.sampled_from([200, 201, 206, 302, 400, 401, 404, 422, 500, 503, 599]))
    reason = draw(_reasons)
    headers = draw(_fields)
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    body = b"".join(chunks)
    if draw(st.booleans()):
        framing = (b"Content-Length", b"%d" % len(body))
        wire = body
    else:
        framing = (b"Transfer-Encoding", b"chunked")
        extension = draw(st.sampled_from([b"", b";a=b", b';q="x;y"']))
        trailer = draw(st.sampled_from([b"", b"X-Trailer: 1\r\n"]))
        lines = [b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks]
        wire = b"".join(lines) + b"0\r\n" + trailer + b"\r\n"
    headers.insert(draw(st.integers(0, len(headers))), framing)
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nX-A: b\r\n\r\n"]))
    section = b"".join(b"%b: %b\r\n" % field for field in headers)
    head = b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, reason, section)
    return Made(interim + head + wire, status, reason, headers, body)


@given(made=answers(), cuts=st.lists(st.integers(0, 2000), max_size=12))
@example(made=Made(HELLO, 200, b"OK", [(b"Content-Length", b"5")], b"hello"), cuts=list(range(len(HELLO))))
def test_any_pieces_give_the_same_answer(made: Made, cuts: list[int]) -> None:
    edges = sorted({0, len(made.data), *(cut % (len(made.data) + 1) for cut in cuts)})
    response = fed(*(made.data[start:end] for start, end in pairwise(edges)))
    assert response.status == made.status
    assert response.reason == made.reason
    assert response.headers == made.headers
    assert response.take() == made.body
    assert response.ended
    assert response.keep_alive
    assert not response.excess


@given(made=answers(), cut=st.integers(0, 2000))
def test_no_beginning_of_an_answer_is_a_whole_one(made: Made, cut: int) -> None:
    response = fed(made.data[: cut % len(made.data)])
    assert not response.ended
    with pytest.raises(ConnectionLost):
        response.feed_eof()


@given(st.binary(max_size=300))
@example(CHUNKED + b"\xff")
def test_no_bytes_break_it(data: bytes) -> None:
    response = Response(head_only=False)
    try:
        for byte in one_by_one(data):
            response.feed(byte)
        response.feed_eof()
    except (MalformedAnswer, ConnectionLost):
        return
    assert response.ended


# --- Memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [HELLO, HELLO[:-1]])
def test_an_answer_does_not_wait_for_the_collector(data: bytes) -> None:
    class Watched(Response):
        __slots__ = ("__weakref__",)

    response = Watched(head_only=False)
    response.feed(data)
    response.close()
    watch = weakref.ref(response)
    gc.disable()
    try:
        del response
        assert watch() is None
    finally:
        gc.enable()


def test_what_comes_after_an_answer_was_closed_is_excess() -> None:
    response = fed(HELLO[:-1])
    response.close()
    response.feed(b"o")
    assert response.excess
    assert response.take() == b"hell"
