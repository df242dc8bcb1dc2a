"""Upstream's connection is cut after every single byte, and what the caller is told is what upstream truly saw."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.certainty.origin import End, PeerGone, Spent, Told, Upstream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.certainty.conftest import Stage

pytestmark = pytest.mark.no_cover  # the sidecar is a process of its own, and nothing of it runs here

DOCUMENT = b'{"cnpj":"12345678000195","modelo":"55","serie":"1","numero":"1"}'
TARGET = b"/api/nfe/getbychaveSTD/35"


def request(method: str, version: str = "1.1") -> bytes:
    body = DOCUMENT if method == "POST" else b""
    framing = b"Content-Length: %d\r\n" % len(body) if body else b""
    return b"%b %b HTTP/%b\r\nHost: localhost\r\n%b\r\n%b" % (
        method.encode(),
        TARGET,
        version.encode(),
        framing,
        body,
    )


class Answer(NamedTuple):
    """What upstream has to say."""

    head: bytes
    payload: bytes
    body: bytes
    status: int = 200
    until_close: bool = False

    @property
    def wire(self) -> bytes:
        return self.head + self.payload


LENGTH = Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n", b'{"key":"1"}', b'{"key":"1"}')
CHUNKED = Answer(
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b'5\r\n{"key\r\n6;x=y\r\n":"1"}\r\n0\r\nDigest: z\r\n\r\n',
    b'{"key":"1"}',
)
UNTIL_CLOSE = Answer(b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n", b'{"key":"1"}', b'{"key":"1"}', until_close=True)
INTERIM = Answer(
    b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\n",
    b"null",
    b"null",
    status=201,
)
EMPTY = Answer(b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n", b"", b"", status=204)
ANSWERS = {
    "length": LENGTH,
    "chunked": CHUNKED,
    "until-close": UNTIL_CLOSE,
    "interim": INTERIM,
    "no-body": EMPTY,
}


@dataclass(frozen=True)
class Cut:
    """Where upstream stops, and how. What is not given goes on to its end."""

    end: End
    take: int | None = None
    """Bytes of the request that are read."""
    give: int | None = None
    """Bytes of the answer that are written."""
    raw_take: int | None = None
    raw_give: int | None = None
    """The same, in bytes of the raw TLS stream, handshake included."""

    def play(self, upstream: Upstream, answer: Answer) -> None:
        """Be upstream on one connection, until the cut."""
        if self.raw_take is not None:
            upstream.may_take = upstream.took + self.raw_take
        if self.raw_give is not None:
            upstream.may_give = upstream.gave + self.raw_give
        with contextlib.suppress(Spent, PeerGone):
            if not upstream.served:
                upstream.handshake()
            if self.take is None:
                upstream.read_request()
                upstream.write(answer.wire[: self.give])
                upstream.said_all = self.give is None or self.give >= len(answer.wire)
            else:
                upstream.read(self.take)
        upstream.end(self.end)


@dataclass
class Played:
    """What came of one request: what the caller was told, and on which connections upstream met it."""

    cut: Cut
    answer: Answer
    told: Told
    met: list[Upstream]

    def said_all(self) -> bool:
        return any(upstream.said_all for upstream in self.met)

    def saw_any(self) -> bool:
        return any(upstream.saw for upstream in self.met)

    def check(self, *, tls: bool) -> None:
        told, answer, cut = self.told, self.answer, self.cut
        if self.said_all() and not answer.until_close:
            assert told.whole, (cut, "a whole answer did not reach the caller")
            assert told.outcome is None, (cut, "upstream answered, and the caller was told otherwise")
        if told.outcome is not None:
            assert told.whole, (cut, "the sidecar's own answer is not whole")
            assert told.status == 502, cut
            assert told.outcome in ("not-sent", "unknown"), cut
            if self.saw_any():
                assert told.outcome == "unknown", (cut, "upstream saw a byte")
            return
        assert told.status == answer.status, (cut, "the caller was told nothing", told.status)
        if not told.whole:
            assert answer.body.startswith(told.body), cut
            assert told.body != answer.body or answer.until_close or answer is CHUNKED or answer.body == b"", cut
            return
        assert told.body == answer.body, (cut, "a truncated answer ended as if it were whole")
        assert self.said_all(), (cut, "the caller has a whole answer, and upstream did not give one")
        if answer.until_close:
            assert cut.end is (End.NOTIFY if tls else End.CLOSE), (cut, "the end was not told, and passed on as one")


def play(stage: Stage, method: str, answer: Answer, cut: Cut, *, reused: bool, version: str = "1.1") -> Played:
    origin, proxy, _ = stage
    kept = None
    if reused:
        first = Told(proxy.url, request("GET"))
        kept = origin.accept()
        kept.handshake()
        kept.serve(LENGTH.wire)
        first.read()
        first.close()
    told = Told(proxy.url, request(method, version))
    met = []
    for upstream in origin.arrivals(told, kept):
        met.append(upstream)
        assert len(met) <= 2, (cut, "upstream met the request a third time")
        cut.play(upstream, answer)
    for upstream in met:
        upstream.let_go()
    told.close()
    assert origin.meets_nobody(), (cut, "the request arrives again after its answer")
    if reused:
        assert met[0] is kept, (cut, "the kept connection was not used")
    played = Played(cut, answer, told, met)
    played.check(tls=stage.tls)
    return played


def ends(*, tls: bool) -> tuple[End, ...]:
    return tuple(End) if tls else (End.RESET, End.CLOSE)


def cuts(last: int, *, tls: bool, turn: int) -> Iterator[tuple[int, End]]:
    """Every position, the ways to end taking turns: which comes first is `turn`. All of them at the first and last."""
    ways = ends(tls=tls)
    for position in range(last + 1):
        if position in (0, 1, last - 1, last):
            yield from ((position, end) for end in ways)
        else:
            yield position, ways[(position + turn) % len(ways)]


def measure(stage: Stage, method: str) -> int:
    """Return how many bytes a request has when it reaches upstream."""
    told = Told(stage.proxy.url, request(method))
    upstream = stage.origin.accept()
    upstream.handshake()
    upstream.read_request()
    size = len(upstream.saw)
    upstream.write(LENGTH.wire)
    told.read()
    assert (told.status, told.body, told.whole) == (200, LENGTH.body, True)
    told.close()
    upstream.end(End.RESET)
    return size


def both(reused: bool, method: str) -> int:
    """On how many connections upstream may meet a request that it gave no byte of an answer to."""
    return 2 if reused and method == "GET" else 1


@pytest.mark.parametrize("reused", [False, True], ids=["fresh", "reused"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_cut_inside_the_request(scene: Stage, method: str, reused: bool) -> None:
    size = measure(scene, method)
    for position, end in cuts(size, tls=scene.tls, turn=reused + (method == "GET")):
        cut = Cut(end, take=position)
        played = play(scene, method, LENGTH, cut, reused=reused)
        assert played.told.outcome == "unknown" or (position == 0 and not reused), cut
        assert len(played.met) == both(reused, method), (cut, "sent again, or not sent again")


@pytest.mark.parametrize("reused", [False, True], ids=["fresh", "reused"])
def test_a_cut_inside_a_request_that_streams(streaming: Stage, reused: bool) -> None:
    for position, end in cuts(measure(streaming, "POST"), tls=False, turn=reused):
        cut = Cut(end, take=position)
        played = play(streaming, "POST", LENGTH, cut, reused=reused)
        assert played.told.outcome == "unknown" or (position == 0 and not reused), cut
        assert len(played.met) == 1, (cut, "sent again")


@pytest.mark.parametrize(
    ("version", "method", "reused"),
    [
        ("1.1", "POST", False),
        ("1.1", "POST", True),
        ("1.1", "GET", False),
        ("1.1", "GET", True),
        ("1.0", "POST", False),
    ],
    ids=["POST-fresh", "POST-reused", "GET-fresh", "GET-reused", "old-caller"],
)
@pytest.mark.parametrize("framing", ANSWERS)
def test_a_cut_inside_the_answer(scene: Stage, framing: str, version: str, method: str, reused: bool) -> None:
    answer = ANSWERS[framing]
    turn = reused + (method == "GET") + (version == "1.0")
    for position, end in cuts(len(answer.wire), tls=scene.tls, turn=turn):
        if answer.until_close and position >= len(answer.head):
            if end is End.CLOSE and not scene.tls:
                continue  # nothing in the protocol tells this end from the right one
            if end is End.NOTIFY and position < len(answer.wire):
                continue  # nor this
        cut = Cut(end, give=position)
        played = play(scene, method, answer, cut, reused=reused, version=version)
        assert played.saw_any(), cut
        assert played.told.outcome in ("unknown", None), cut
        assert len(played.met) == (both(reused, method) if position == 0 else 1), (cut, "sent again")
        if position < len(answer.head):
            assert played.told.outcome == "unknown", (cut, "there was no head to pass on")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_an_answer_that_lasts_until_the_connection_ends_reaches_the_caller(scene: Stage, version: str) -> None:
    end = End.NOTIFY if scene.tls else End.CLOSE
    played = play(scene, "POST", UNTIL_CLOSE, Cut(end), reused=False, version=version)
    assert (played.told.status, played.told.body, played.told.whole) == (200, UNTIL_CLOSE.body, True)


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_kept_connection_that_ends_unused_is_replaced_without_a_word(scene: Stage, method: str) -> None:
    for end in ends(tls=scene.tls):
        first = Told(scene.proxy.url, request("GET"))
        kept = scene.origin.accept()
        kept.handshake()
        kept.serve(LENGTH.wire)
        first.read()
        first.close()
        kept.end(end)
        played = play(scene, method, LENGTH, Cut(End.RESET), reused=False)
        assert (played.told.status, played.told.body, played.told.whole) == (200, LENGTH.body, True)
        assert played.told.outcome is None
        assert len(played.met) == 1
        kept.let_go()


def test_a_read_that_met_a_stale_connection_is_answered_on_the_fresh_one(scene: Stage) -> None:
    size = measure(scene, "GET")
    for end in ends(tls=scene.tls):
        for position in (0, 1, 2, size - 1, size):
            first = Told(scene.proxy.url, request("GET"))
            kept = scene.origin.accept()
            kept.handshake()
            kept.serve(LENGTH.wire)
            first.read()
            first.close()
            told = Told(scene.proxy.url, request("GET"))
            assert kept.wait_for_bytes()
            Cut(end, take=position).play(kept, LENGTH)
            fresh = scene.origin.accept()
            fresh.handshake()
            fresh.serve(LENGTH.wire)
            told.read()
            assert (told.status, told.body, told.whole) == (200, LENGTH.body, True), (end, position)
            told.close()
            fresh.end(End.RESET)
            kept.let_go()
            assert scene.origin.meets_nobody()


class Streams(NamedTuple):
    """How many bytes of a raw TLS stream each part of an exchange takes."""

    greeted: int
    """Written by upstream before the sidecar could take the handshake for done."""
    taken: int
    given: int


def measure_raw(stage: Stage, method: str, *, reused: bool) -> Streams:
    first = Told(stage.proxy.url, request("GET" if reused else method))
    upstream = stage.origin.accept()
    upstream.handshake()
    upstream.serve(LENGTH.wire)
    first.read()
    first.close()
    took, gave = (upstream.took, upstream.gave) if reused else (0, 0)
    if reused:
        told = Told(stage.proxy.url, request(method))
        upstream.serve(LENGTH.wire)
        told.read()
        told.close()
    upstream.end(End.RESET)
    return Streams(upstream.greeted, upstream.took - took, upstream.gave - gave)


def positions(total: int, *, handshake: int) -> Iterator[int]:
    """Every position, but of a handshake every fifth, and all around its end."""
    for position in range(total + 1):
        if position >= handshake - 8 or position % 5 == 0:
            yield position


@pytest.mark.parametrize("reused", [False, True], ids=["fresh", "reused"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_cut_of_the_raw_tls_stream_on_its_way_up(over_tls: Stage, method: str, reused: bool) -> None:
    streams = measure_raw(over_tls, method, reused=reused)
    for position in positions(streams.taken, handshake=0):
        cut = Cut(End.RESET if position % 2 else End.CLOSE, raw_take=position)
        played = play(over_tls, method, LENGTH, cut, reused=reused)
        if played.met[0].gave == 0 and not reused:
            assert played.told.outcome == "not-sent", (cut, "the handshake was not done")
        else:
            assert played.told.outcome == "unknown" or played.said_all() or not played.saw_any(), cut
        assert len(played.met) <= both(reused, method), (cut, "sent again")


@pytest.mark.parametrize("reused", [False, True], ids=["fresh", "reused"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_cut_of_the_raw_tls_stream_on_its_way_down(over_tls: Stage, method: str, reused: bool) -> None:
    streams = measure_raw(over_tls, method, reused=reused)
    for position in positions(streams.given, handshake=0 if reused else streams.greeted):
        cut = Cut(End.RESET if position % 2 else End.CLOSE, raw_give=position)
        played = play(over_tls, method, LENGTH, cut, reused=reused)
        # A signature in the handshake is now and then a byte or two shorter.
        if played.met[0].said_all:
            assert position >= streams.given - 4, cut
        elif played.saw_any():
            assert played.told.outcome == "unknown", (cut, "the answer was in one record, which was cut")
        elif not reused and position < streams.greeted - 4:
            assert played.told.outcome == "not-sent", (cut, "the handshake was not done")
        assert len(played.met) <= both(reused, method), (cut, "sent again")
