from __future__ import annotations

from urllib.parse import quote

import pytest
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from proxy import guard
from proxy.config import Rule
from proxy.errors import (
    BadTarget,
    CallerError,
    CallerTokenRequired,
    Forbidden,
    HeadersTooLarge,
    MalformedRequest,
    MethodNotAllowed,
    MisdirectedRequest,
    NotImplementedHere,
    Outcome,
    TargetTooLong,
)
from proxy.guard import Guard, canonical_path, check_form, check_message


def headers(*fields: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(fields))


LOCAL = ("Host", "localhost:8080")

# --- Host -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "LocalHost:8080",
        "127.0.0.1",
        "127.0.0.1:1",
        "localhost:65535",
        "[::1]",
        "[::1]:8080",
        "sidecar",
        "Sidecar:8080",
        "erp.internal",
        "[fd00::7]:80",
        "[FD00::7]",
        "10.0.0.7",
    ],
)
def test_our_own_names(host: str) -> None:
    Guard(["sidecar", "ERP.internal", "[fd00::7]", "10.0.0.7"]).check("GET", "/api/nfe", headers(("host", host)))


@pytest.mark.parametrize(
    "host",
    [
        "",
        " ",
        "evil.com",
        "localhost.evil.com",
        "evil.localhost",
        "127.0.0.1.nip.io",
        "127.0.0.2",
        "127.1",
        "0.0.0.0",
        "0177.0.0.1",
        "2130706433",
        "0x7f000001",
        "::1",
        "::1:8080",
        "[::]",
        "[::1",
        "::1]",
        "[::1]x",
        "[::1].evil.com",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::1%lo]",
        "[localhost]",
        "localhost.",
        "localhost/",
        "localhost/api",
        "localhost:8080/",
        "localhost?x",
        "localhost#x",
        "localhost,localhost",
        "localhost, evil.com",
        "evil.com, localhost",
        "localhost evil.com",
        "user@localhost",
        "user:password@localhost",
        "localhost@evil.com",
        "localhost:80@evil.com",
        "localhost:",
        "localhost:0",
        "localhost:00000",
        "localhost:65536",
        "localhost:99999",
        "localhost:080",
        "localhost:080000",
        "localhost:80a",
        "localhost:-1",
        "localhost: 80",
        "localhost:80:80",
        "localhost:٨٠",
        "localhost:\uff18\uff10",
        "localhost:+80",
        "localhost:80,81",
        ":8080",
        "localhost\\",
        "localhost\n",
        "localhost\t",
        " localhost",
        "loca1host",
        "localhos\u017f",
        "lo\u00adcalhost",
        "%6cocalhost",
    ],
)
def test_names_of_others(host: str) -> None:
    with pytest.raises(MisdirectedRequest) as error:
        Guard([]).check("GET", "/api/nfe", headers(("Host", host)))
    assert error.value.status == 421
    assert error.value.outcome is Outcome.NOT_SENT


@pytest.mark.parametrize("second", ["localhost", "evil.com", ""])
def test_two_hosts(second: str) -> None:
    for pair in (("localhost", second), (second, "localhost")):
        with pytest.raises(MisdirectedRequest):
            Guard([]).check("GET", "/", headers(*(("Host", host) for host in pair)))


def test_no_host() -> None:
    Guard([]).check("GET", "/api/nfe", headers())


def test_the_longest_name_there_can_be_and_one_that_is_longer() -> None:
    """A name that cannot be ours is not remembered: its length is whatever a caller likes."""
    longest = ".".join(["a" * 63] * 3 + ["a" * 61])
    Guard([longest]).check_host(headers(("Host", f"{longest}:65535")))
    before = guard._host_name.cache_info()
    with pytest.raises(MisdirectedRequest):
        Guard([longest]).check_host(headers(("Host", f"{longest}aaaaaaaa")))
    assert guard._host_name.cache_info() == before


# --- Browsers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("Sec-Fetch-Site", "none")],
        [("Sec-Fetch-Site", "same-origin")],
        [("Origin", "https://erp.example")],
        [("origin", "https://erp.example"), ("Sec-Fetch-Site", "cross-site")],
        [("Origin", "http://localhost:3000")],
    ],
)
def test_callers_that_are_let_in(fields: list[tuple[str, str]]) -> None:
    guard = Guard([], origins=["https://erp.example", "http://localhost:3000"])
    guard.check("POST", "/api/nfe", headers(LOCAL, *fields))


@pytest.mark.parametrize(
    "fields",
    [
        [("Origin", "https://evil.com")],
        [("Origin", "null")],
        [("Origin", "")],
        [("Origin", "https://erp.example.evil.com")],
        [("Origin", "https://erp.example:8443")],
        [("Origin", "http://erp.example")],
        [("Origin", "https://erp.example, https://evil.com")],
        [("Origin", "https://evil.com"), ("Sec-Fetch-Site", "same-origin")],
        [("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "same-site")],
        [("Sec-Fetch-Site", "")],
        [("sec-fetch-site", "anything new")],
    ],
)
def test_web_pages_that_are_kept_out(fields: list[tuple[str, str]]) -> None:
    with pytest.raises(Forbidden) as error:
        Guard([], origins=["https://erp.example"]).check("POST", "/api/nfe", headers(LOCAL, *fields))
    assert error.value.status == 403
    assert error.value.outcome is Outcome.NOT_SENT


def test_no_origin_is_let_in_unless_it_is_named() -> None:
    with pytest.raises(Forbidden):
        Guard([]).check("GET", "/", headers(LOCAL, ("Origin", "http://localhost:8080")))


# --- Caller tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization",
    ["Bearer one", "bearer two", "BEARER one", "Bearer  two", "Bearer one "],
)
def test_the_right_caller_token(authorization: str) -> None:
    guard = Guard([], caller_tokens=lambda: [b"one", b"two"])
    guard.check("GET", "/api/nfe", headers(LOCAL, ("authorization", authorization)))


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Bearer on")],
        [("Authorization", "Bearer one2")],
        [("Authorization", "Bearer ONE")],
        [("Authorization", "Bearer onetwo")],
        [("Authorization", "Bearer one two")],
        [("Authorization", "Bearer one, Bearer two")],
        [("Authorization", "Basic one")],
        [("Authorization", "one")],
        [("Authorization", "Bearer\tone")],
        [("Authorization", "Bearer \udce3")],
        [("Authorization", "Bearer três")],
        [("Authorization", "Bearer one\u00a0")],
        [("Authorization", "Bearer \u212bne")],
        [("Authorization", "Bearer wrong"), ("Authorization", "Bearer one")],
        [("Authorization", "Bearer one"), ("Authorization", "Bearer wrong")],
        [("Authorization", "Bearer one"), ("authorization", "Bearer one")],
        [("Proxy-Authorization", "Bearer one")],
    ],
)
def test_a_wrong_caller_token(fields: list[tuple[str, str]]) -> None:
    with pytest.raises(CallerTokenRequired) as error:
        Guard([], caller_tokens=lambda: [b"one", b"two"]).check("GET", "/api/nfe", headers(LOCAL, *fields))
    assert error.value.status == 401
    assert error.value.outcome is Outcome.NOT_SENT


def test_without_caller_tokens_any_credentials_pass() -> None:
    Guard([]).check("GET", "/api/nfe", headers(LOCAL, ("Authorization", "Basic x")))


# --- Form -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "error"),
    [
        ("CONNECT", "api.invoisys.test:443", MethodNotAllowed),
        ("CONNECT", "/api/nfe", MethodNotAllowed),
        ("OPTIONS", "*", NotImplementedHere),
        ("GET", "*", NotImplementedHere),
        ("GET", "http://localhost/api/nfe", BadTarget),
        ("GET", "HTTPS://api.invoisys.test/api/nfe", BadTarget),
        ("GET", "api/nfe", BadTarget),
        ("GET", "", BadTarget),
        ("GET", "?x=1", BadTarget),
        ("GET", "\\api", BadTarget),
        ("GET", "/api/nfe#x", BadTarget),
        ("GET", "/api/nfe?x=1#", BadTarget),
        ("GET", "#", BadTarget),
    ],
)
def test_targets_that_are_no_path(method: str, target: str, error: type[CallerError]) -> None:
    with pytest.raises(error):
        check_form(method, target, headers())
    with pytest.raises(error):
        Guard([]).check(method, target, headers(LOCAL))


@pytest.mark.parametrize("target", ["/", "/*", "/api/nfe?x=*", "//", "/api/../x", "/api/nfe?u=http://x/", "/%23"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PROPFIND"])
def test_targets_that_are_a_path(method: str, target: str) -> None:
    check_form(method, target, headers())


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "CHUNKED", " chunked "])
def test_chunks(coding: str) -> None:
    check_form("POST", "/", headers(("transfer-encoding", coding)))


@pytest.mark.parametrize(
    "codings",
    [["gzip"], ["gzip, chunked"], ["chunked, chunked"], ["identity"], [""], ["chunked", "chunked"], ["gzip", "chunked"],
     ["chunked;q=1"], ["xchunked"]],
)  # fmt: skip
def test_other_transfer_codings(codings: list[str]) -> None:
    with pytest.raises(NotImplementedHere) as error:
        check_form("POST", "/", headers(*(("Transfer-Encoding", coding) for coding in codings)))
    assert error.value.status == 501


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "h2c, websocket", "websocket/13"])
def test_a_web_socket(upgrade: str) -> None:
    with pytest.raises(NotImplementedHere):
        check_form("GET", "/", headers(("Connection", "Upgrade"), ("upgrade", upgrade)))


@pytest.mark.parametrize("upgrade", ["h2c", "TLS/1.0", ""])
def test_other_upgrades_are_ignored(upgrade: str) -> None:
    check_form("GET", "/", headers(("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", upgrade)))


# --- Size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [HttpVersion10, HttpVersion11])
def test_what_is_as_large_as_may_be(version: HttpVersion) -> None:
    check_message(version, b"/" * 16384, [(b"a", b"b")] * 200)
    check_message(version, b"/", [(b"a", b"x" * 65535)])
    check_message(version, b"/" + b"\xe3" * 16383, [])
    check_message(version, b"/" + "ã".encode() * 8191, [])


@pytest.mark.parametrize("version", [HttpVersion(0, 9), HttpVersion(1, 2), HttpVersion(2, 0), HttpVersion(3, 1)])
def test_other_versions(version: HttpVersion) -> None:
    with pytest.raises(MalformedRequest):
        check_message(version, b"/", [])


def test_chunks_belong_to_http_1_1() -> None:
    fields = [(b"transfer-ENCODING", b"chunked")]
    check_message(HttpVersion11, b"/", fields)
    with pytest.raises(MalformedRequest):
        check_message(HttpVersion10, b"/", fields)


@pytest.mark.parametrize("target", [b"/" * 16385, b"/" + b"\xe3" * 16384, b"/" + "ã".encode() * 8192])
def test_a_target_that_is_too_long(target: bytes) -> None:
    with pytest.raises(TargetTooLong) as error:
        check_message(HttpVersion11, target, [])
    assert error.value.status == 414


@pytest.mark.parametrize(
    "fields", [[(b"a", b"b")] * 201, [(b"a", b"x" * 65536)], [(b"x" * 100, b"y" * 400)] * 132, [(b"x" * 65537, b"")]]
)
def test_a_header_section_that_is_too_large(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(HeadersTooLarge) as error:
        check_message(HttpVersion11, b"/", fields)
    assert error.value.status == 431


# --- Rules ------------------------------------------------------------------------------------------------------------


RULES = [Rule.parse(text) for text in ("GET /api/nfe/*", "POST /api/nfe/envio", "* /api/São")]


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/api/nfe/"),
        ("GET", "/api/nfe/status"),
        ("GET", "/api/nfe/a/b/c"),
        ("GET", "/api/nfe/a?x=1"),
        ("GET", "/api/nfe/%61"),
        ("GET", "/api/nfe/a%20b"),
        ("GET", "/api/nfe/a..b"),
        ("GET", "/api/nfe/.a"),
        ("GET", "/api/%6Efe/a"),
        ("GET", "/api/nfe/a?x=/../..//;"),
        ("GET", "/api/nfe/a?inicio=01%2F02%2F2024"),
        ("GET", "/api/nfe/a?inicio=01%2f02%2f2024&x=%25"),
        ("POST", "/api/nfe/envio"),
        ("POST", "/api/nfe/envi%6f?x"),
        ("PUT", "/api/S%C3%A3o"),
        ("DELETE", "/api/São"),
    ],
)
def test_what_a_rule_lets_pass(method: str, target: str) -> None:
    Guard([], rules=RULES).check(method, target, headers(LOCAL))


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/api/nfe/status"),
        ("get", "/api/nfe/status"),
        ("HEAD", "/api/nfe/status"),
        ("GET", "/api/nfe"),
        ("GET", "/api/nfex"),
        ("GET", "/API/nfe/status"),
        ("GET", "/api/NFE/status"),
        ("GET", "/"),
        ("GET", "/api/nfe/../cte"),
        ("GET", "/api/nfe/.."),
        ("GET", "/api/nfe/."),
        ("GET", "/api/nfe/./a"),
        ("GET", "/api/nfe/%2e%2e/cte"),
        ("GET", "/api/nfe/%2E."),
        ("GET", "/api/nfe/.%2e/cte"),
        ("GET", "/api/nfe/%2e"),
        ("GET", "/api/nfe//cte"),
        ("GET", "//api/nfe/a"),
        ("GET", "/api/nfe//"),
        ("GET", "/api/nfe/a;b"),
        ("GET", "/api/nfe/;/a"),
        ("GET", "/api/nfe/a%3Bb"),
        ("GET", "/api/nfe%2Fa"),
        ("GET", "/api/nfe/a%2fb"),
        ("GET", "/api/nfe/..%2fcte"),
        ("GET", "/api/nfe/%252f"),
        ("GET", "/api/nfe/..%252f"),
        ("GET", "/api/nfe/%252e%252e/cte"),
        ("GET", "/api/nfe/%25"),
        ("GET", "/api/nfe/%"),
        ("GET", "/api/nfe/%zz"),
        ("GET", "/api/nfe/a\\b"),
        ("GET", "/api/nfe/..\\cte"),
        ("GET", "/api/nfe/%5c..%5ccte"),
        ("GET", "/api/nfe/%00"),
        ("GET", "/api/nfe/%0a"),
        ("GET", "/api/nfe/%7f"),
        ("GET", "/api/nfe/..."),
        ("GET", "/api/nfe/..%20/cte"),
        ("GET", "/api/nfe/%20../cte"),
        ("GET", "/api/nfe/%20"),
        ("GET", "/api/nfe/%ff"),
        ("GET", "/api/nfe/%c0%ae%c0%ae/cte"),
        ("GET", "/api/nfe/..%c0%afcte"),
        ("GET", "/api/nfe/%e0%80%ae%e0%80%ae/cte"),
        ("GET", "/api/nfe/%ef%bc%8e%ef%bc%8e/cte"),
        ("GET", "/api/nfe/..%ef%bc%8fcte"),
        ("GET", "/api/nfe/..\u2215cte"),
        ("GET", "/api/nfe/\u2025/cte"),
        ("GET", "/api/nfe/%u002e%u002e/cte"),
        ("GET", "/api/nfe/..%u2216cte"),
        ("GET", "/api/nfe/a%3f/../cte"),
        ("GET", "/api/nfe/a%23b"),
        ("GET", "/api/nfe/a%c2%a0"),
        ("GET", "/api/nfe/a%c2%85"),
        ("GET", "/api/nfe/\udce3"),
        ("GET", "/api/nfe/..%0a"),
        ("POST", "/api/nfe/envio/"),
        ("POST", "/api/nfe/envio%20"),
        ("POST", "/api/nfe/envi"),
        ("POST", "/api/nfe/envio%3Fx"),
    ],
)
def test_what_no_rule_lets_pass(method: str, target: str) -> None:
    with pytest.raises(Forbidden) as error:
        Guard([], rules=RULES).check(method, target, headers(LOCAL))
    assert error.value.outcome is Outcome.NOT_SENT


@pytest.mark.parametrize("target", ["/api/nfe/../cte", "/api//nfe", "/api/a;b", "/api/%2f", "/api/%ff"])
def test_without_rules_every_path_passes(target: str) -> None:
    Guard([]).check("GET", target, headers(LOCAL))


_plain = st.text(
    st.one_of(
        st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/;%\\?#"),
        st.characters(min_codepoint=128, categories=["Lu", "Ll", "Lt", "Lm", "Lo"]),
    ),
    min_size=1,
)
_segments = st.lists(_plain.filter(lambda segment: segment.strip(".") != ""), max_size=5)


@given(segments=_segments, query=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20))
@example(segments=["São", "...x", "a.b"], query="a=%2F&b=//..;")
def test_a_plain_path_is_its_own_canonical_form(segments: list[str], query: str) -> None:
    path = "/" + "/".join(segments)
    assert canonical_path(path) == path
    assert canonical_path(quote(path)) == path
    assert canonical_path(f"{quote(path)}?{query}") == path


_tricks = st.lists(
    st.one_of(
        st.sampled_from(
            ["/", ".", "..", "%2e", "%2F", "%5c", "\\", "//", ";", "%", "%25", "%00", "%C3%A3", "?", "\udce3"]
        ),
        st.text("abcdefé%2eEfF/.", max_size=4),
    ),
    max_size=8,
).map(lambda parts: "/" + "".join(parts))


@given(_tricks)
@example("/%2e%2e/")
@example("/a/%252e%252e/")
def test_a_canonical_path_can_be_read_in_one_way_only(target: str) -> None:
    path = canonical_path(target)
    if path is None:
        return
    segments = path.split("/")[1:]
    assert not any(segment and not segment.strip(". ") for segment in segments)
    assert "" not in segments[:-1]
    assert not set("%;?#\\") & set(path)
    assert path.isprintable() or not any(character < " " or character == "\x7f" for character in path)
    assert "%2f" not in target.partition("?")[0].lower()
    # Read once more, by whoever decodes again, it is the same.
    assert canonical_path(quote(path)) == path


@given(_tricks)
def test_no_trick_leaves_the_path_that_a_rule_names(target: str) -> None:
    guard = Guard([], rules=[Rule.parse("GET /api/nfe/*")])
    try:
        guard.check("GET", "/api/nfe" + target, headers(LOCAL))
    except (Forbidden, BadTarget):
        return
    segments = (canonical_path("/api/nfe" + target) or "").split("/")
    assert segments[:3] == ["", "api", "nfe"]
    assert len(segments) > 3
    assert ".." not in segments


# --- The order --------------------------------------------------------------------------------------------------------


def test_a_stranger_learns_nothing_more() -> None:
    guard = Guard([], caller_tokens=lambda: [b"one"], rules=[Rule.parse("GET /api/*")])
    with pytest.raises(MisdirectedRequest):
        guard.check("CONNECT", "*", headers(("Host", "evil.com"), ("Origin", "https://evil.com")))
    with pytest.raises(Forbidden, match="origin"):
        guard.check("CONNECT", "*", headers(LOCAL, ("Origin", "https://evil.com")))
    with pytest.raises(MethodNotAllowed):
        guard.check("CONNECT", "*", headers(LOCAL))
    with pytest.raises(CallerTokenRequired):
        guard.check("DELETE", "/v1/x", headers(LOCAL))
    with pytest.raises(Forbidden, match="rule"):
        guard.check("DELETE", "/v1/x", headers(LOCAL, ("Authorization", "Bearer one")))
    guard.check("GET", "/api/x", headers(LOCAL, ("Authorization", "Bearer one")))
