from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.forward.headers import Field, Framing, Trail, answer_head, names_of, request_head

HOST = b"api.invoisys.test"
BEARER = b"Bearer real"
OURS = {"authority": HOST, "authorization": BEARER}
ORIGIN = b"https://api.invoisys.test"


def sent(*fields: Field, framing: Framing | None = None, trail: bytes = b"") -> bytes:
    """Return what goes upstream after the request line."""
    line = b"GET /api/nfe HTTP/1.1"
    head = request_head(line, fields, names_of(fields), framing=framing or Framing(), trail=trail, **OURS)
    start = line + b"\r\n"
    assert head.startswith(start)
    assert head.endswith(b"\r\n\r\n")
    return head[len(start) : -2]


def given_back(*fields: Field, hop: bytes = b"") -> bytes:
    """Return what goes to the caller after the status line."""
    head = answer_head(200, b"OK", fields, names_of(fields), origin=ORIGIN, hop=hop)
    start = b"HTTP/1.1 200 OK\r\n"
    assert head.startswith(start)
    assert head.endswith(b"\r\n\r\n")
    return head[len(start) : -2]


# --- Requests ---------------------------------------------------------------------------------------------------------


def test_the_request_line() -> None:
    head = request_head(b"PROPFIND /api/nfe?q=a%20b&%E3 HTTP/1.1", [], [], framing=Framing(), **OURS)
    assert head == (
        b"PROPFIND /api/nfe?q=a%20b&%E3 HTTP/1.1\r\nHost: api.invoisys.test\r\nAuthorization: Bearer real\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("fields", "framing", "expected"),
    [
        ([], Framing(), b"Host: api.invoisys.test\r\nAuthorization: Bearer real\r\n"),
        (
            [(b"Accept", b"*/*"), (b"Host", b"localhost:8080"), (b"User-Agent", b"erp")],
            Framing(),
            b"Accept: */*\r\nHost: api.invoisys.test\r\nUser-Agent: erp\r\nAuthorization: Bearer real\r\n",
        ),
        (
            [(b"hOST", b"a"), (b"AUTHORIZATION", b"Bearer own"), (b"content-length", b"3"), (b"X", b"y")],
            Framing(3),
            b"hOST: api.invoisys.test\r\nAUTHORIZATION: Bearer real\r\ncontent-length: 3\r\nX: y\r\n",
        ),
        (
            [(b"Authorization", b"Basic a"), (b"X", b"y"), (b"authorization", b"Bearer b")],
            Framing(),
            b"Host: api.invoisys.test\r\nAuthorization: Bearer real\r\nX: y\r\n",
        ),
        (
            [(b"Transfer-Encoding", b"chunked"), (b"X", b"y")],
            Framing(7),
            b"Host: api.invoisys.test\r\nX: y\r\nAuthorization: Bearer real\r\nContent-Length: 7\r\n",
        ),
        (
            [(b"Transfer-Encoding", b"chunked"), (b"X", b"y")],
            Framing(chunked=True),
            b"Host: api.invoisys.test\r\nX: y\r\nAuthorization: Bearer real\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            [(b"Content-Length", b"0")],
            Framing(0),
            b"Host: api.invoisys.test\r\nContent-Length: 0\r\nAuthorization: Bearer real\r\n",
        ),
    ],
)
def test_what_is_ours_to_say(fields: list[Field], framing: Framing, expected: bytes) -> None:
    assert sent(*fields, framing=framing) == expected


@pytest.mark.parametrize(
    "name",
    [
        b"Connection",
        b"Keep-Alive",
        b"Proxy-Connection",
        b"Proxy-Authorization",
        b"Proxy-Authenticate",
        b"TE",
        b"Trailer",
        b"Transfer-Encoding",
        b"Upgrade",
        b"Expect",
        b"EXPECT",
        b"upgrade",
    ],
)
def test_what_ends_at_the_sidecar(name: bytes) -> None:
    assert sent((b"A", b"1"), (name, b"x"), (b"B", b"2")) == (
        b"Host: api.invoisys.test\r\nA: 1\r\nB: 2\r\nAuthorization: Bearer real\r\n"
    )


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        ([b"close"], b"X-One: 1\r\nx-two: 2\r\n"),
        ([b"x-one"], b"x-two: 2\r\n"),
        ([b"close, X-ONE ,\tX-Two"], b""),
        ([b"X-One", b"keep-alive,x-two"], b""),
        ([b""], b"X-One: 1\r\nx-two: 2\r\n"),
        ([b",,"], b"X-One: 1\r\nx-two: 2\r\n"),
        ([b"x-one x-two"], b"X-One: 1\r\nx-two: 2\r\n"),
    ],
)
def test_fields_that_are_nominated_for_this_hop(connection: list[bytes], expected: bytes) -> None:
    nominating = [(b"Connection", value) for value in connection]
    fields = sent(*nominating, (b"X-One", b"1"), (b"x-two", b"2"))
    assert fields == b"Host: api.invoisys.test\r\n" + expected + b"Authorization: Bearer real\r\n"


def test_what_is_ours_cannot_be_nominated_away() -> None:
    fields = [(b"Connection", b"host, authorization, content-length"), (b"Host", b"a"), (b"Content-Length", b"5")]
    assert sent(*fields, framing=Framing(5)) == (
        b"Host: api.invoisys.test\r\nContent-Length: 5\r\nAuthorization: Bearer real\r\n"
    )


def test_bytes_are_passed_on_as_they_are() -> None:
    assert sent((b"x-RAZAO", b"A\xc7\xc3O  \t"), (b"Cookie", b"a=1; b=2"), (b"X-RAZAO", b""), (b"x-RAZAO", b"2")) == (
        b"Host: api.invoisys.test\r\n"
        b"x-RAZAO: A\xc7\xc3O  \t\r\nCookie: a=1; b=2\r\nX-RAZAO: \r\nx-RAZAO: 2\r\n"
        b"Authorization: Bearer real\r\n"
    )


@pytest.mark.parametrize(
    ("trail", "caller", "expected"),
    [
        (Trail(), "10.0.0.7", b""),
        (Trail(via=True), "10.0.0.7", b"Via: 1.1 invoisys-proxy\r\n"),
        (Trail(forwarded="forwarded"), "10.0.0.7", b'Forwarded: for=10.0.0.7;host="erp:8080";proto=http\r\n'),
        (Trail(forwarded="forwarded"), "fd00::7", b'Forwarded: for="[fd00::7]";host="erp:8080";proto=http\r\n'),
        (Trail(forwarded="forwarded"), "", b'Forwarded: for=unknown;host="erp:8080";proto=http\r\n'),
        (
            Trail(forwarded="x-forwarded"),
            "fd00::7",
            b"X-Forwarded-For: fd00::7\r\nX-Forwarded-Host: erp:8080\r\nX-Forwarded-Proto: http\r\n",
        ),
        (Trail(forwarded="x-forwarded"), "", b"X-Forwarded-Host: erp:8080\r\nX-Forwarded-Proto: http\r\n"),
        (
            Trail(via=True, forwarded="forwarded"),
            "10.0.0.7",
            b'Forwarded: for=10.0.0.7;host="erp:8080";proto=http\r\nVia: 1.1 invoisys-proxy\r\n',
        ),
    ],
)
def test_what_is_told_of_the_way(trail: Trail, caller: str, expected: bytes) -> None:
    """A caller on a Unix socket has no address."""
    lines = trail.lines(caller, "erp:8080")
    assert lines == expected
    assert sent(trail=lines) == b"Host: api.invoisys.test\r\nAuthorization: Bearer real\r\n" + lines


@pytest.mark.parametrize(
    ("trail", "expected"),
    [
        (Trail(forwarded="forwarded"), b"Forwarded: for=10.0.0.7;proto=http\r\n"),
        (Trail(forwarded="x-forwarded"), b"X-Forwarded-For: 10.0.0.7\r\nX-Forwarded-Proto: http\r\n"),
    ],
)
def test_the_way_of_a_request_without_a_host(trail: Trail, expected: bytes) -> None:
    assert trail.lines("10.0.0.7", "") == expected


# --- Answers ----------------------------------------------------------------------------------------------------------


def test_the_status_line() -> None:
    assert answer_head(299, b"N\xe3o  sei", [], [], origin=ORIGIN, hop=b"") == b"HTTP/1.1 299 N\xe3o  sei\r\n\r\n"
    assert answer_head(200, b"", [], [], origin=ORIGIN, hop=b"A: b\r\n") == b"HTTP/1.1 200 \r\nA: b\r\n\r\n"


def test_an_answers_bytes_are_passed_on_as_they_are() -> None:
    fields = [
        (b"Content-Type", b"application/json"),
        (b"Set-Cookie", b"a=1"),
        (b"server", b"Microsoft-IIS/10.0"),
        (b"set-cookie", b"b=\xe3 \t"),
        (b"Authorization", b"odd, but theirs"),
        (b"Host", b"odd, but theirs"),
        (b"Expect", b"odd, but theirs"),
        (b"WWW-Authenticate", b"Bearer"),
        (b"Content-Length", b"3"),
    ]
    assert given_back(*fields, hop=b"Connection: close\r\n") == (
        b"Content-Type: application/json\r\n"
        b"Set-Cookie: a=1\r\n"
        b"server: Microsoft-IIS/10.0\r\n"
        b"set-cookie: b=\xe3 \t\r\n"
        b"Authorization: odd, but theirs\r\n"
        b"Host: odd, but theirs\r\n"
        b"Expect: odd, but theirs\r\n"
        b"WWW-Authenticate: Bearer\r\n"
        b"Content-Length: 3\r\n"
        b"Connection: close\r\n"
    )


@pytest.mark.parametrize(
    "name",
    [
        b"Connection",
        b"Keep-Alive",
        b"Proxy-Connection",
        b"Proxy-Authenticate",
        b"TE",
        b"Trailer",
        b"Transfer-Encoding",
        b"Upgrade",
        b"X-Invoisys-Outcome",
        b"x-invoisys-OUTCOME",
    ],
)
def test_what_is_not_for_the_caller(name: bytes) -> None:
    assert given_back((b"A", b"1"), (name, b"not-sent"), (b"B", b"2")) == b"A: 1\r\nB: 2\r\n"


def test_fields_of_an_answer_that_are_nominated() -> None:
    assert given_back((b"X-Hop", b"1"), (b"Connection", b"close, x-hop"), (b"B", b"2")) == b"B: 2\r\n"


def test_the_length_cannot_be_nominated_away() -> None:
    """Without it the caller would take the next answer for the rest of this one, or wait for ever."""
    assert given_back((b"Connection", b"content-length"), (b"Content-Length", b"5")) == b"Content-Length: 5\r\n"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (b"https://api.invoisys.test/api/nfe?x=1#y", b"/api/nfe?x=1#y"),
        (b"https://api.invoisys.test", b"/"),
        (b"https://api.invoisys.test/", b"/"),
        (b"https://api.invoisys.test?x=1", b"/?x=1"),
        (b"https://api.invoisys.test#y", b"/#y"),
        (b"HTTPS://API.Invoisys.TEST/Api", b"/Api"),
        (b"https://api.invoisys.test//evil.test/", b"https://api.invoisys.test//evil.test/"),
        (b"https://api.invoisys.test.evil.test/", b"https://api.invoisys.test.evil.test/"),
        (b"https://api.invoisys.test@evil.test/", b"https://api.invoisys.test@evil.test/"),
        (b"https://api.invoisys.test:8443/", b"https://api.invoisys.test:8443/"),
        (b"http://api.invoisys.test/", b"http://api.invoisys.test/"),
        (b"https://other.test/https://api.invoisys.test/", b"https://other.test/https://api.invoisys.test/"),
        (b"/already/relative", b"/already/relative"),
        (b"//api.invoisys.test/", b"//api.invoisys.test/"),
        (b"", b""),
    ],
)
def test_a_redirection_to_upstream_stays_on_the_sidecar(location: bytes, expected: bytes) -> None:
    assert given_back((b"A", b"1"), (b"LOCATION", location), (b"B", b"2")) == (
        b"A: 1\r\nLOCATION: " + expected + b"\r\nB: 2\r\n"
    )


def test_where_a_location_is_no_redirection() -> None:
    fields = ((b"Content-Location", b"https://api.invoisys.test/a"), (b"Link", b"<https://api.invoisys.test/b>"))
    assert given_back(*fields) == (
        b"Content-Location: https://api.invoisys.test/a\r\nLink: <https://api.invoisys.test/b>\r\n"
    )


# --- Any fields -------------------------------------------------------------------------------------------------------

HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
}  # fmt: skip

_special = sorted(HOP_BY_HOP | {b"host", b"authorization", b"content-length", b"expect", b"x-invoisys-outcome"})


def _any_case(name: bytes) -> st.SearchStrategy[bytes]:
    return st.lists(st.booleans(), min_size=len(name), max_size=len(name)).map(
        lambda upper: bytes(
            byte - 32 if up and 97 <= byte <= 122 else byte for up, byte in zip(upper, name, strict=True)
        )
    )


_names = st.one_of(
    st.sampled_from(_special).flatmap(_any_case),
    st.sampled_from([b"accept", b"cookie", b"x-a", b"x-b", b"via"]).flatmap(_any_case),
    st.text(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=9
    ).map(str.encode),
)
_values = st.binary(max_size=20).map(
    lambda value: bytes(byte for byte in value if byte == 9 or (byte >= 32 and byte != 127))
)
_options = st.sampled_from([b"x-a", b"X-B", b"close", b"Via", b" cookie\t", b"Content-Length", b""])
_nominations = st.lists(_options, max_size=4).map(b",".join)
_fields = st.lists(
    st.one_of(st.tuples(_names, _values), st.tuples(_any_case(b"connection"), _nominations)), max_size=12
)
_framings = st.one_of(st.just(Framing()), st.just(Framing(chunked=True)), st.integers(0, 10**12).map(Framing))


def nominated(fields: list[Field]) -> set[bytes]:
    values = [value for name, value in fields if name.lower() == b"connection"]
    options = {option.strip(b" \t").lower() for value in values for option in value.split(b",")}
    return options - {b"content-length"}  # nobody can do without it


def parsed(lines: bytes) -> list[Field]:
    found = []
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        found.append((name, value))
    return found


@given(fields=_fields, framing=_framings)
def test_any_end_to_end_field_reaches_upstream(fields: list[Field], framing: Framing) -> None:
    ours = {b"host", b"authorization", b"content-length", b"expect"}
    left_out = HOP_BY_HOP | ours | nominated(fields)
    got = parsed(sent(*fields, framing=framing))
    end_to_end = [(name, value) for name, value in fields if name.lower() not in left_out]
    said_by_us = ours | {b"transfer-encoding"}
    assert [(name, value) for name, value in got if name.lower() not in said_by_us] == end_to_end

    def values(wanted: bytes) -> list[bytes]:
        return [value for name, value in got if name.lower() == wanted]

    assert values(b"host") == [HOST]
    assert values(b"authorization") == [BEARER]
    assert values(b"content-length") == ([] if framing.length is None else [b"%d" % framing.length])
    assert values(b"transfer-encoding") == ([b"chunked"] if framing.chunked else [])


@given(fields=_fields, framing=_framings)
def test_what_is_ours_stands_in_the_place_of_theirs(fields: list[Field], framing: Framing) -> None:
    got = [name for name, _ in parsed(sent(*fields, framing=framing))]
    theirs: list[bytes] = []
    replaced = {b"host", b"authorization"} | ({b"content-length"} if framing.length is not None else set())
    for name, _ in fields:
        if name.lower() in replaced:
            replaced.remove(name.lower())
            theirs.append(name)
        elif name.lower() not in HOP_BY_HOP | nominated(fields) | {
            b"host", b"authorization", b"content-length", b"expect"
        }:  # fmt: skip
            theirs.append(name)
    at = 1 if b"host" in replaced else 0
    assert got[at : at + len(theirs)] == theirs


@given(fields=_fields)
def test_any_end_to_end_field_reaches_the_caller(fields: list[Field]) -> None:
    fields = [(name, value) for name, value in fields if name.lower() != b"content-length"]
    left_out = HOP_BY_HOP | {b"x-invoisys-outcome"} | nominated(fields)
    got = parsed(given_back(*fields))
    assert got == [(name, value) for name, value in fields if name.lower() not in left_out]
