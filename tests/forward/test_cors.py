"""What browsers are told: to the byte for the sidecar's own words, and by RFC 9110 for what is passed on."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.errors import MalformedRequest
from proxy.forward.cors import preflight_head, shared_with, without_cors
from proxy.forward.headers import names_of

PAGE = "http://localhost:3000"


def headers(*fields: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict((("Access-Control-Request-Method", "POST"), *fields)))


def test_an_answer_is_shared_with_the_page_that_asked_and_with_no_other() -> None:
    assert shared_with(PAGE) == (
        b"Access-Control-Allow-Origin: http://localhost:3000\r\n"
        b"Access-Control-Expose-Headers: X-Invoisys-Outcome, Proxy-Status, Retry-After, *\r\n"
        b"Vary: Origin\r\n"
    )


def test_a_preflight_is_answered_with_what_it_asks_for() -> None:
    asked = headers(
        ("Access-Control-Request-Headers", "authorization,content-type"),
        ("Access-Control-Request-Private-Network", "true"),
    )
    assert preflight_head(PAGE, asked) == (
        b"HTTP/1.1 204 No Content\r\n"
        b"Access-Control-Allow-Origin: http://localhost:3000\r\n"
        b"Access-Control-Allow-Methods: POST\r\n"
        b"Access-Control-Allow-Headers: authorization,content-type\r\n"
        b"Access-Control-Allow-Private-Network: true\r\n"
        b"Access-Control-Max-Age: 7200\r\n"
        b"Vary: Origin\r\n"
    )


@pytest.mark.parametrize("private", [(), (("Access-Control-Request-Private-Network", "false"),)])
def test_nothing_is_allowed_that_was_not_asked_for(private: tuple[tuple[str, str], ...]) -> None:
    head = preflight_head(PAGE, headers(*private))
    assert b"Allow-Headers" not in head
    assert b"Private-Network" not in head


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [(["a"], b"a"), (["a, b"], b"a, b"), (["a ,\tb"], b"a ,\tb"), (["a", "b"], b"a, b"), (["x-1_!#$%&'*+.^`|~"], None)],
)
def test_the_names_that_are_asked_for(fields: list[str], allowed: bytes | None) -> None:
    head = preflight_head(PAGE, headers(*(("Access-Control-Request-Headers", field) for field in fields)))
    assert b"Access-Control-Allow-Headers: %b\r\n" % (allowed or fields[0].encode()) in head


@pytest.mark.parametrize(
    "names", [",", "a,", ",a", "a,,b", "a b", "a;b", "a:b", "(a)", "é", "\udce9", "a\r\nX: y", '"a"']
)
def test_names_that_are_none_are_refused(names: str) -> None:
    with pytest.raises(MalformedRequest):
        preflight_head(PAGE, headers(("Access-Control-Request-Headers", names)))


def test_two_voices_on_one_matter_become_one() -> None:
    others = [(b"Vary", b"Accept"), (b"Content-Type", b"text/plain"), (b"X-Access-Control-Y", b"z")]
    fields = [
        (b"Access-Control-Allow-Origin", b"*"),
        others[0],
        (b"access-control-EXPOSE-headers", b"X"),
        others[1],
        (b"Access-Control-Allow-Credentials", b"true"),
        others[2],
    ]
    assert without_cors(fields, names_of(fields)) == (others, names_of(others))
