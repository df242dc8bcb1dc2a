"""However a server reads what the guard lets pass, it reads what a rule, or a Host of ours, allows."""

from __future__ import annotations

import re
import sys
import unicodedata
from itertools import product
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.config import Rule
from proxy.errors import CallerError, MisdirectedRequest
from proxy.guard import LOOPBACK_HOSTS, Guard, canonical_path

pytestmark = pytest.mark.no_cover  # millions of steps through what other tests cover, at half the time

LOCAL = CIMultiDictProxy(CIMultiDict(Host="localhost"))

# --- Rules ------------------------------------------------------------------------------------------------------------


def without_dots(path: str) -> str:
    """Resolve dot segments as RFC 3986, section 5.2.4, does; empty segments stay."""
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            kept[1:] = kept[1:-1]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/".join(kept) or "/"


READINGS = {
    "decoded": lambda path: unquote(path, errors="replace"),
    "decoded as Latin-1": lambda path: unquote(path, "latin-1"),
    "decoded as IIS does": lambda path: re.sub("%u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), path),
    "without dots": without_dots,
    "slashes joined": lambda path: re.sub("/+", "/", path),
    "without parameters": lambda path: re.sub(";[^/]*", "", path),
    "backslashes turned": lambda path: path.replace("\\", "/"),
    "ended by a NUL": lambda path: path.partition("\0")[0],
    "ended by a query": lambda path: re.split("[?#]", path)[0],
    "as Windows names files": lambda path: re.sub("[. ]+(?=/|$)", "", path),
    "blanks trimmed": lambda path: "/".join(segment.strip() for segment in path.split("/")),
    "in the compatible form": lambda path: unicodedata.normalize("NFKC", path),
    "by the best fit": lambda path: path.translate({0x2215: "/", 0x2044: "/", 0x2216: "\\", 0x2024: ".", 0x2025: ".."}),
    "in lower case": str.lower,
}

RULES = [Rule.parse("GET /api/nfe/*"), Rule.parse("GET /v1/evento/x")]
GUARD = Guard([], rules=RULES)


def lies_under_a_rule(path: str) -> bool:
    path = path.lower()
    return path.startswith("/api/nfe/") or path in ("/api/nfe", "/v1/evento/x")


def passes(target: str) -> bool:
    try:
        GUARD.check("GET", target, LOCAL)
    except CallerError:
        return False
    return True


_TRICKS = [
    "/", "//", ".", "..", "/..", "/../", "/./", "%2e", "%2E%2e", "%252e", "%2f", "%5c", "\\", "%255c", ";", "%3b",
    ";x=1", "%00", "%0a", "%09", "%20", " ", "%25", "%3f", "%23", "?", "%", "%u002e", "%u2215", "%c0%ae", "%c0%af",
    "%e0%80%ae", "%ef%bc%8f", "%ef%bc%8e", "\uff0f", "\uff0e", "\u2215", "\u2024", "\u2025", "%e2%80%a5", "%E3",
    "..;x/", "..%5c", "..\\", "..%20/", "..%00/", "..%255c", "%252e%252e/", "%u002e%u002e/", "..%ef%bc%8f", "..%3b/",
]  # fmt: skip
_PLAIN = ["cte", "CTE", "envio", "/a/", "/b", "a.", "::$DATA", "~1", "+", "*", "%C3%A3", "\u212a", "%61", "2024"]
_pieces = st.lists(
    st.one_of(st.sampled_from(_PLAIN), st.sampled_from(_TRICKS), st.sampled_from(_PLAIN), st.text(max_size=2)),
    max_size=4,
)
_starts = ["/api/nfe/", "/api/nfe/x", "/api/%6efe/", "/api/nfe", "/API/nfe/", "/v1/evento/x", "/v1/evento/", "/"]
_targets = st.tuples(st.sampled_from(_starts), _pieces).map(lambda parts: parts[0] + "".join(parts[1]))


@settings(max_examples=1000, deadline=None)
@given(_targets)
@example("/api/nfe/%2e%2e/cte")
@example("/api/nfe/%252e%252e/cte")
@example("/api/nfe/..%00/cte")
@example("/api/nfe/..%20/cte")
@example("/api/nfe/\u2025/cte")
@example("/api/nfe/%EF%BC%8E%EF%BC%8E/cte")
@example("/v1/evento/x/%2e%2e")
def test_no_plausible_reading_of_what_passes_leaves_its_rule(target: str) -> None:
    if not passes(target):
        return
    path = target.partition("?")[0]
    for order in product(READINGS, repeat=3):
        read = path
        for name in order:
            read = READINGS[name](read)
        assert lies_under_a_rule(unquote(read)), (target, order, read)


@pytest.mark.parametrize(
    ("target", "reading"),
    [
        ("/api/nfe/%2e%2e/cte", ["decoded", "without dots"]),
        ("/api/nfe/%252e%252e/cte", ["decoded", "decoded", "without dots"]),
        ("/api/nfe/..;x/cte", ["without parameters", "without dots"]),
        ("/api/nfe/..%5ccte", ["decoded", "backslashes turned", "without dots"]),
        ("/api/nfe/..%00/cte", ["decoded", "ended by a NUL", "without dots"]),
        ("/api/nfe/..%20/cte", ["decoded", "blanks trimmed", "without dots"]),
        ("/api/nfe/%u002e%u002e/cte", ["decoded as IIS does", "without dots"]),
        ("/api/nfe/..%ef%bc%8fcte", ["decoded", "in the compatible form", "without dots"]),
        ("/api/nfe/..\u2215cte", ["by the best fit", "without dots"]),
    ],
)
def test_the_readings_that_rules_are_held_against_do_leave_them(target: str, reading: list[str]) -> None:
    """The test above could fail: each of these would get out if the guard let it pass."""
    path = target
    for name in reading:
        path = READINGS[name](path)
    assert not lies_under_a_rule(path)
    assert not passes(target)


def test_no_letter_is_read_as_anything_that_parts_a_path() -> None:
    letters = [chr(code) for code in range(0x80, sys.maxunicode + 1) if chr(code).isalpha()]
    assert len(letters) > 100_000
    for letter in letters:
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            read = unicodedata.normalize(form, letter)
            for written in (read, read.lower(), read.upper(), read.casefold()):
                assert not set(written) & set("/\\.;%?#\0"), (letter, form)


@given(st.text("abcdefghijklmnopqrstuvwxyzABC0123456789-_~!$&'()+,=:@ãÉ", min_size=1).filter(lambda text: text != "."))
def test_plain_paths_pass(segment: str) -> None:
    for written in (segment, quote(segment), quote(segment, safe="")):
        assert canonical_path(f"/api/nfe/{written}") == f"/api/nfe/{segment}"
        assert passes(f"/api/nfe/{written}?{quote('a/../;b')}")


# --- Host -------------------------------------------------------------------------------------------------------------

_hosts = st.lists(
    st.one_of(
        st.sampled_from([
            "localhost", "LOCALHOST", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[::1%lo]", "sidecar", ".evil.com",
            "evil", ".nip.io", ":", ":80", ":0", ":65535", ":65536", ":080", ":+80", "@", ",", ", ", "/", "\\", "?",
            "#", " ", "\t", ".", "%00", "\udcff", "\uff18", "\u212a", "\u017f",
        ]),
        st.text(max_size=3),
    ),
    max_size=4,
).map("".join)  # fmt: skip


@settings(max_examples=1000)
@given(_hosts)
@example("localhost")
@example("[::1]:65535")
@example("localhost:80@evil.com")
def test_whatever_host_passes_is_one_of_ours_however_a_url_parser_reads_it(host: str) -> None:
    try:
        Guard(["sidecar"]).check_host(CIMultiDictProxy(CIMultiDict(Host=host)))
    except MisdirectedRequest:
        return
    url = urlsplit(f"http://{host}/")
    assert url.hostname in {name.strip("[]") for name in (*LOOPBACK_HOSTS, "sidecar")}
    assert url.port is None or 0 < url.port <= 65535
    assert (url.username, url.path, url.query, url.fragment) == (None, "/", "", "")
    assert host.isascii()
    assert not set(host) & set(" \t,@/\\%")
