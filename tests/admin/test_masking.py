"""What of a header section is shown."""

from __future__ import annotations

import pytest

from proxy.admin.masking import shown

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
    ],
)
def test_what_is_shown(name: str, value: str) -> None:
    assert list(shown([(name.encode(), value.encode())])) == [(name, value)]


@pytest.mark.parametrize(
    ("name", "value", "masked"),
    [
        ("Authorization", "Bearer abc", "***"),
        ("Cookie", "a=b", "***"),
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
