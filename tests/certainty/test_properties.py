"""Whatever bytes callers and upstream may send: what is passed on is what came, and what is no HTTP is refused."""

from __future__ import annotations

import asyncio
import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import pytest
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.certainty.world import OK, World, framing_of
from tests.support.config import written
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.certainty.origin import Parsed

pytestmark = pytest.mark.no_cover  # millions of steps through what other tests cover, less than half the time

CAP = 64
QUIET = 0.5
"""Seconds after which a request that is not whole will get no answer."""

TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
NOT_PASSED_ON = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"authorization",
    b"content-length",
    b"expect",
    b"host",
    b"origin",
    b"sec-fetch-site",
    b"location",
    b"x-invoisys-outcome",
}
TRY = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Loop:
    """The world, and the loop that it lives in."""

    def __init__(self, runner: asyncio.Runner, world: World) -> None:
        self._runner = runner
        self.world = world

    def tell(self, *pieces: bytes, answer: Sequence[bytes] = (OK,), quiet: float = PATIENCE) -> Parsed:
        self.world.answer = list(answer)
        return self._runner.run(self.world.tell(pieces, quiet))

    @property
    def met(self) -> list[bytes]:
        return self.world.met


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    config = written(tmp_path_factory.mktemp("world"), limits={"replay_body": f"{CAP}B"}, timeouts={"idle": "300ms"})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        world = World()
        runner.run(world.open(config))
        yield Loop(runner, world)
        runner.run(world.close())


def some(alphabet: Iterable[int], most: int, least: int = 0) -> st.SearchStrategy[bytes]:
    """Byte strings of an alphabet."""
    return st.lists(st.sampled_from(sorted(alphabet)), min_size=least, max_size=most).map(bytes)


TARGETS = some({*range(0x21, 0x100)} - {ord("#"), 0x7F}, 80).map(lambda rest: b"/api/" + rest)
NAMES = some(TOKEN, 20, 1).filter(lambda name: name.lower() not in NOT_PASSED_ON)
VALUES = some({0x09, *range(0x20, 0x7F), *range(0x80, 0x100)}, 40).map(lambda value: value.strip(b" \t"))
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=12)
BODIES = st.binary(max_size=3 * CAP)
CUTS = st.lists(st.integers(0, 400), max_size=4)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:stop] for start, stop in pairwise(places) if start != stop]


def lines(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in fields)


class Request(NamedTuple):
    """A request as upstream has it."""

    first: bytes
    fields: list[tuple[bytes, bytes]]
    framing: bytes | None
    body: bytes


def only_request(met: list[bytes]) -> Request:
    """Read what upstream met, strictly: one request, and not a byte more."""
    (raw,) = met
    head, there, rest = raw.partition(b"\r\n\r\n")
    assert there
    first, *field_lines = head.split(b"\r\n")
    assert re.fullmatch(rb"[!-~]+ [\x21-\x7e\x80-\xff]+ HTTP/1\.1", first), first
    fields = []
    for line in field_lines:
        name, colon, value = line.partition(b": ")
        assert colon, line
        assert set(name) <= set(TOKEN), line
        assert not set(value) & {0x00, 0x0A, 0x0D}, line
        fields.append((name, value))
    framing = framing_of(head)
    if framing == b"chunked":
        body = unchunk(rest)
    else:
        body = rest
        assert len(rest) == int(framing or 0), raw
    return Request(first, fields, framing, body)


def unchunk(data: bytes) -> bytes:
    body = b""
    while True:
        match = re.match(rb"([0-9a-f]+)\r\n", data)
        assert match, data
        size = int(match[1], 16)
        data = data[match.end() :]
        assert data[size : size + 2] == b"\r\n", data
        if size == 0:
            assert data == b"\r\n"
            return body
        body, data = body + data[:size], data[size + 2 :]


@given(target=TARGETS, cuts=CUTS)
@example(target=b"/api/%2F%28//./;%zz?", cuts=[])
@example(target=b"/api/\xff\x80%~%~~%~FF", cuts=[6, 7])
@TRY
def test_a_target_reaches_upstream_byte_for_byte(loop: Loop, target: bytes, cuts: list[int]) -> None:
    request = b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % target
    told = loop.tell(*split(request, cuts))
    assert (told.status, told.outcome, told.body) == (200, None, b"OK")
    assert only_request(loop.met).first == b"GET %b HTTP/1.1" % target


def however_written(word: bytes) -> st.SearchStrategy[bytes]:
    """A path in any of the ways that a server may take for the same: in any case, with each byte encoded or not."""
    ways = [
        st.sampled_from([bytes([each]), bytes([each]).upper(), b"%%%02x" % each, b"%%25%02X" % each]) for each in word
    ]
    return st.tuples(*ways).map(b"".join)


@given(
    path=however_written(b"/token"),
    before=st.sampled_from([b"/api", b"/api/", b"/api/.", b"/api/x/.."]),
    after=st.sampled_from([b"", b"/", b"?x=y", b";x", b"//"]),
    cuts=CUTS,
)
@example(path=b"/token", before=b"/api", after=b"", cuts=[])
@TRY
def test_a_login_of_the_callers_own_never_goes_further(
    loop: Loop, path: bytes, before: bytes, after: bytes, cuts: list[int]
) -> None:
    form = b"username=erp&password=must-stay-here"
    head = b"POST %b%b%b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" % (before, path, after)
    told = loop.tell(*split(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(form), form), cuts))
    assert loop.met == []
    assert (told.status, told.outcome) == (200, None)
    assert told.body.startswith(b'{"access_token"')


@given(fields=FIELDS, cuts=CUTS)
@example(fields=[(b"X-A", b"\xe7\xe3o"), (b"x-a", b""), (b"X-a", b"a\tb")], cuts=[])
@TRY
def test_fields_reach_upstream_in_order_case_and_bytes(
    loop: Loop, fields: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    request = b"GET /api/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%b\r\n" % lines(fields)
    told = loop.tell(*split(request, cuts))
    assert (told.status, told.outcome) == (200, None)
    host, *arrived, token = only_request(loop.met).fields
    assert host[0] == b"Host"
    assert token[0] == b"Authorization"
    assert arrived == fields


@given(fields=FIELDS, reason=VALUES, cuts=CUTS)
@TRY
def test_fields_reach_the_caller_in_order_case_and_bytes(
    loop: Loop, fields: list[tuple[bytes, bytes]], reason: bytes, cuts: list[int]
) -> None:
    answer = b"HTTP/1.1 299 %b\r\n%bContent-Length: 3\r\n\r\nabc" % (reason, lines(fields))
    request = b"GET /api/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    told = loop.tell(request, answer=split(answer, cuts))
    assert (told.status, told.outcome, told.body, told.whole) == (299, None, b"abc", True)
    assert list(told.fields) == [*fields, (b"Content-Length", b"3"), (b"Connection", b"close")]


@given(
    body=BODIES,
    chunks=st.none() | CUTS,
    extension=st.sampled_from([b"", b";a=b", b';a="b"']),
    trailer=st.sampled_from([b"", b"X-T: v\r\n"]),
    cuts=CUTS,
    method=st.sampled_from([b"POST", b"GET", b"PUT", b"DELETE"]),
)
@TRY
def test_bodies_reach_upstream_whole_however_they_come(
    loop: Loop, body: bytes, chunks: list[int] | None, extension: bytes, trailer: bytes, cuts: list[int], method: bytes
) -> None:
    if chunks is None:
        framing, wire = b"Content-Length: %d" % len(body), body
    else:
        framing = b"Transfer-Encoding: chunked"
        wire = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in split(body, chunks))
        wire += b"0\r\n%b\r\n" % trailer
    head = b"%b /api/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%b\r\n\r\n" % (method, framing)
    told = loop.tell(*split(head + wire, cuts))
    assert (told.status, told.outcome) == (200, None)
    arrived = only_request(loop.met)
    assert arrived.body == body
    if len(body) <= CAP or chunks is None:
        assert arrived.framing == b"%d" % len(body)
    else:
        assert arrived.framing == b"chunked"


@given(garbage=st.binary(max_size=300), cuts=CUTS)
@example(garbage=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", cuts=[])
@example(garbage=b"GET /api/x\r\n", cuts=[])
@example(garbage=b"PRI * HTTP/2.0\r\n\r\nSM\r\n", cuts=[])
@TRY
def test_garbage_from_a_caller_goes_no_further(loop: Loop, garbage: bytes, cuts: list[int]) -> None:
    told = loop.tell(*split(garbage + b"\r\n\r\n", cuts), quiet=QUIET)
    assert loop.met == []
    assert told.status == 0 or (400 <= told.status < 600 and told.outcome == "not-sent")


REQUEST = (
    b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 10\r\nX-A: b\r\n\r\n0123456789"
)
CHUNKED_REQUEST = (
    b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;x=y\r\n01234\r\n5\r\n56789\r\n0\r\nX-T: v\r\n\r\n"
)
ANSWER = b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 10\r\n\r\n0123456789"
CHUNKED_ANSWER = (
    b"HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n"
)


class Change(NamedTuple):
    """What becomes of a message on its way: `gone` bytes at a place are replaced."""

    place: int
    gone: int
    new: bytes

    def of(self, message: bytes) -> bytes:
        place = self.place % (len(message) + 1)
        return message[:place] + self.new + message[place + self.gone :]


CHANGES = st.builds(
    Change,
    st.integers(0, 500),
    st.integers(0, 3),
    st.binary(max_size=3)
    | st.sampled_from([b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"\r\n ", b"Content-Length: 1\r\n"])
    | st.just(b"Transfer-Encoding: chunked\r\n"),
)


@given(request=st.sampled_from([REQUEST, CHUNKED_REQUEST]), change=CHANGES, cuts=CUTS)
@settings(TRY, max_examples=400)
def test_a_damaged_request_is_refused_or_is_one_request_upstream(
    loop: Loop, request: bytes, change: Change, cuts: list[int]
) -> None:
    told = loop.tell(*split(change.of(request), cuts), quiet=QUIET)
    if told.status == 0:
        return  # it is not whole, or its caller got no answer; upstream may have met its beginning, and no more
    if told.outcome is not None:
        assert told.outcome == "unknown" or loop.met == []
        return
    if not loop.met:
        assert told.body.startswith(b'{"access_token"')
        return
    only_request(loop.met)


@given(garbage=st.binary(max_size=300), cuts=CUTS)
@example(garbage=b"", cuts=[])
@example(garbage=b"HTTP/1.1\r\n\r\n", cuts=[])
@example(garbage=b"HTTP/2.0 200 OK\r\n\r\n", cuts=[])
@TRY
def test_garbage_from_upstream_is_no_answer(loop: Loop, garbage: bytes, cuts: list[int]) -> None:
    told = loop.tell(REQUEST, answer=split(garbage, cuts))
    assert (told.status, told.outcome, told.whole) == (502, "unknown", True)
    assert len(loop.met) == 1


@pytest.mark.parametrize("status", [b"020", b"103", b"199"])
@pytest.mark.parametrize("together", [True, False])
def test_the_body_of_an_interim_answer_never_reaches_the_caller(loop: Loop, status: bytes, together: bool) -> None:
    interim = b"HTTP/1.1 %b X\r\nContent-Length: 3\r\n\r\nabc" % status
    told = loop.tell(REQUEST, answer=[interim + OK] if together else [interim, OK])
    assert (told.status, told.outcome, told.whole) == (502, "unknown", True)


@given(answer=st.sampled_from([ANSWER, CHUNKED_ANSWER]), change=CHANGES, cuts=CUTS)
@settings(TRY, max_examples=400)
def test_a_damaged_answer_is_told_as_such_or_passed_on_as_it_was_said(
    loop: Loop, answer: bytes, change: Change, cuts: list[int]
) -> None:
    damaged = change.of(answer)
    told = loop.tell(REQUEST, answer=split(damaged, cuts))
    assert len(loop.met) == 1
    if told.outcome is not None:
        assert (told.status, told.outcome, told.whole) == (502, "unknown", True)
        return
    # An empty line before the first is skipped (RFC 9112, section 2.2, has servers do so).
    first = re.match(rb"[\r\n]*HTTP/1\.[01] ([0-9]{3})[ \r]", damaged)
    assert first, damaged
    assert told.status == int(first[1])
    if told.whole:
        assert told.body in (damaged if answer is ANSWER else b"0123456789" + damaged), "a body that nobody sent"
