from __future__ import annotations

import re
import string

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from proxy.forward.target import ascii_line, is_token_path, masked, restored

KEY = "35240612345678000195550010000012341123456789"
NEW_KEY = "35240612ABC34501DE35550010000012341123456789"

# --- Bytes that a URL does not know -----------------------------------------------------------------------------------


def raw(target: str) -> bytes:
    return target.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    "line",
    [
        b"GET /api/nfe HTTP/1.1",
        "GET /api/nfe?razão=São HTTP/1.1".encode(),
        "GET /api/nfe?razão=São HTTP/1.1".encode("latin-1"),
        b"GET /\x80\xff\xc3\xc3\xa3 HTTP/1.1",
        b"GET /~00~%~E3~ HTTP/1.1",
    ],
)
def test_a_request_line_comes_through_a_parser_of_ascii(line: bytes) -> None:
    written = ascii_line(line)
    assert written.isascii()
    assert raw(restored(written.decode())) == line


def test_a_line_in_ascii_is_not_touched() -> None:
    line = b"GET /api/nfe?a=%E3%~ HTTP/1.1"
    assert ascii_line(line) == line
    assert restored("/api/nfe?a=%E3%~") == "/api/nfe?a=%E3%~"


def test_utf_8_is_read_as_such() -> None:
    assert restored(ascii_line("/São".encode()).decode()) == "/São"
    assert restored(ascii_line(b"/S\xe3o").decode()) == "/S\udce3o"


@given(st.binary())
@example(b"~\xe3~\xe3")
@example(b"\xe3~0")
def test_any_line_comes_back(line: bytes) -> None:
    assume(b"\n" not in line)
    assert raw(restored(ascii_line(line).decode())) == line


# --- Who logs in for itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/api/token",
        "/api/token/",
        "/api/token?x=1",
        "/API/Token",
        "//api//token",
        "/./api/./token",
        "/x/../api/token",
        "/api/token/.",
        "/api/%74oken",
        "/api%2Ftoken",
        "/api%2ftoken",
        "/%61%70%69/token",
        "/api/%2574oken",
        "/api%252Ftoken",
        "/api\\token",
        "/api%5Ctoken",
        "/api/token;jsessionid=1",
        "/api/token%3Bx",
        "/api;x=1/token",
        "/../api/token",
    ],
)
def test_a_login_in_disguise_is_one(target: str) -> None:
    assert is_token_path(target)


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/api",
        "/api/",
        "/api/tokens",
        "/api/token/x",
        "/api/x/token",
        "/v1/token",
        "/xapi/token",
        "/api/nfe?path=/api/token",
        "/api/to%20ken",
        "/api-token",
        "",
    ],
)
def test_other_paths_are_no_login(target: str) -> None:
    assert not is_token_path(target)


# --- What stands in the log -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/", "/"),
        ("/api/nfe/envio", "/api/nfe/envio"),
        ("/api/nfe/", "/api/nfe/"),
        ("/api/nfe?", "/api/nfe?"),
        ("/api/nfe?chave=1", "/api/nfe?chave=***"),
        ("/api/nfe?chave=", "/api/nfe?chave=***"),
        ("/api/nfe?cnpj=1&modelo=55&x", "/api/nfe?cnpj=***&modelo=***&x"),
        ("/api/nfe?a=b=c?d", "/api/nfe?a=***"),
        ("/api/nfe?=secret", "/api/nfe?=***"),
        ("/api/nfe?0123456789abcdef", "/api/nfe?***"),
        ("/api/nfe?0123456789abcdef=1", "/api/nfe?***=***"),
        ("/api/nfe?numeroDaNotaFiscal=1", "/api/nfe?numeroDaNotaFiscal=***"),
        (f"/api/nfe/{KEY}", f"/api/nfe/{KEY}"),
        (f"/api/nfe/{NEW_KEY}/xml", f"/api/nfe/{NEW_KEY}/xml"),
        (f"/api/nfe/{KEY}0", "/api/nfe/***"),
        (f"/api/nfe/{KEY[:-1]}", "/api/nfe/***"),
        (f"/api/nfe?chave={KEY}", "/api/nfe?chave=***"),
        (f"/api/nfe?{KEY}", "/api/nfe?***"),
        ("/api/nfeentrada/adicionareventovinculo/3f2a9c", "/api/nfeentrada/adicionareventovinculo/3f2a9c"),
        ("/api/nfeentrada/adicionareventovinculo/3f2a9c0d1e2b3a4c", "/api/nfeentrada/adicionareventovinculo/***"),
        ("/api/123456789012345", "/api/123456789012345"),
        ("/api/1234567890123456", "/api/***"),
        ("/api/a-long-name_of_words", "/api/a-long-name_of_words"),
        ("/api/" + "x" * 41, "/api/***"),
        ("/api/eyJhbGciOi.eyJzdWIi", "/api/***"),
        ("/api/d3b07384-d9a0-4c9b-8f6a-0c1d2e3f4a5b", "/api/***"),
        ("/São", "/S\\xe3o"),
        ("/S\udce3o", "/S\\udce3o"),
    ],
)
def test_what_is_shown_of_a_target(target: str, shown: str) -> None:
    assert masked(target) == shown


_words = st.text(string.ascii_letters, min_size=1, max_size=12)
_secrets = st.text(
    "".join(sorted(set(string.printable) - set(string.whitespace) - set("&#*/"))), min_size=1, max_size=60
).filter(lambda value: any(character in string.digits for character in value))


@given(path=st.lists(_words, max_size=4), query=st.lists(st.tuples(_words, _secrets), min_size=1, max_size=5))
def test_the_value_of_a_query_is_never_shown(path: list[str], query: list[tuple[str, str]]) -> None:
    target = "/" + "/".join(path) + "?" + "&".join(f"{key}={value}" for key, value in query)
    shown = masked(target)
    assert not any(value in shown for _, value in query)
    assert shown == "/" + "/".join(path) + "?" + "&".join(f"{key}=***" for key, _ in query)


_segments = st.text(st.characters(exclude_characters="/?&", exclude_categories=[]), max_size=60)


@given(st.lists(_segments, max_size=5), st.lists(_segments, max_size=3))
@example(["x" * 16, "y" * 41], ["0" * 16])
def test_nothing_long_and_opaque_is_shown(path: list[str], query: list[str]) -> None:
    shown = masked("/" + "/".join(path) + ("?" + "&".join(query) if query else ""))
    assert shown.isascii()
    for segment in re.split(r"[/?&]", shown):
        if "\\" in segment:
            continue  # what is not ASCII is written longer than it is
        opaque = re.search(r"[0-9]", segment) or not re.fullmatch(r"[A-Za-z]+|[a-z_-]+", segment.partition("=")[0])
        assert not opaque or len(segment) < 16 + len("=***") or re.fullmatch(r"[0-9]{6}[0-9A-Z]{12}[0-9]{26}", segment)
