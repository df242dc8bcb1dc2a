"""What of a header section is shown."""

from __future__ import annotations

import pytest

from proxy.admin.masking import fields_of, shown
from proxy.errors import CannotConnect
from proxy.forward.headers import answer_head
from proxy.forward.problem import own_head, problem

SECRET = "c4n4ry9f8e7d6c5b4a39281706"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Host", "localhost:8080"),
        ("Host", "[::1]:8080"),
        ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0"),
        ("User-Agent", "Apache-HttpClient/4.5.13 (Java/1.8.0_292)"),
        ("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"),
        ("Content-Type", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        ("Accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
        ("Accept-Encoding", "gzip, deflate, br"),
        ("Content-Length", "4194304"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("Date", "Tue, 24 Nov 2026 01:18:47 GMT"),
        ("Server", "Microsoft-IIS/10.0"),
        ("Retry-After", "30"),
        ("X-Invoisys-Outcome", "not-sent"),
        ("Proxy-Status", "invoisys-proxy; error=connection_refused"),
    ],
)
def test_what_is_shown(name: str, value: str) -> None:
    assert list(shown([(name.encode(), value.encode())])) == [(name, value)]


@pytest.mark.parametrize(
    ("name", "value", "masked"),
    [
        ("Authorization", "Bearer abc", "***"),
        ("Cookie", "a=b", "***"),
        ("Set-Cookie", "a=b; Secure", "***"),
        ("Location", "/api/x", "***"),
        ("X-Api-Key", "k", "***"),
        ("X-Anything", "word", "***"),
        ("Referer", "http://localhost/?key=1", "***"),
        ("Host", SECRET, "***"),
        ("User-Agent", f"erp/1.0 {SECRET}", "erp/1.0 ***"),
        ("Content-Type", f"text/plain; boundary={SECRET}", "text/plain; ***"),
        ("traceparent", f"00-{SECRET}", "***"),
        ("User-Agent", "a" * 60, "***"),
    ],
)
def test_what_is_masked(name: str, value: str, masked: str) -> None:
    assert list(shown([(name.encode(), value.encode())])) == [(name, masked)]


def test_a_name_that_is_a_secret_and_bytes_that_are_no_text() -> None:
    assert list(shown([(SECRET.encode(), b"x"), (b"Accept", b"\xff\xfe")])) == [
        ("***", "***"),
        ("Accept", "\\xff\\xfe"),
    ]


def test_the_fields_of_an_answer_s_head() -> None:
    fields = [(b"X-a", b"1: 2"), (b"X-Empty", b""), (b"x-A", b"\xff")]
    head = answer_head(200, b"OK", fields, [name.lower() for name, _ in fields], origin=b"http://x", hop=b"")
    assert fields_of(head) == fields


def test_the_fields_of_the_sidecar_s_own_answer() -> None:
    said, body = problem(CannotConnect("it is not there"), "1-1")
    fields = fields_of(own_head(502, b"application/problem+json", len(body), said) + b"Connection: close\r\n\r\n")
    assert fields[0] == (b"Content-Type", b"application/problem+json")
    assert (b"X-Invoisys-Outcome", b"not-sent") in fields
    assert fields[-1] == (b"Connection", b"close")


def test_there_are_no_fields_where_there_was_no_answer() -> None:
    assert fields_of(b"") == []
