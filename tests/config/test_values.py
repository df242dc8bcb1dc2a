from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Bind, Duration, FileMode, HttpUrl, Identity, Origin, Size, StoreAddress

DURATION = "a duration such as 500ms, 30s, 5m, 12h or 1d"
UNIT = "a unit after the number (ms, s, m, h or d)"
SIZE = "a size such as 512B, 64KiB, 4MiB or 1GiB"
SIZE_UNIT = "a unit after the number (B, KiB, MiB or GiB)"
BIND = "an address such as 127.0.0.1:8080, [::1]:8080 or unix:/path"
BIND_ADDRESS = "an address before the port: 127.0.0.1:8080 for this machine alone, 0.0.0.0:8080 for others too"
ORIGIN = "https://host or https://host:port, with no path after it"
URL = "a URL such as https://host/path, with no fragment"
HTTPS = "https:// (plain http:// is for loopback hosts alone)"
STORE = "memory, file:/path, redis://host:6379/0 or rediss://user:password@host:6379/0"
USERINFO = "a URL without a user name or password in it"


@pytest.mark.parametrize(
    ("text", "seconds", "canonical"),
    [
        ("500ms", 0.5, "500ms"),
        ("30s", 30, "30s"),
        ("1m", 60, "1m"),
        ("90s", 90, "90s"),
        ("60m", 3600, "1h"),
        ("12h", 43200, "12h"),
        ("1d", 86400, "1d"),
        ("1.5h", 5400, "90m"),
        ("0.25ms", 0.00025, "0.25ms"),
        ("0d", 0, "0s"),
    ],
)
def test_durations(text: str, seconds: float, canonical: str) -> None:
    assert Duration.parse(text) == seconds
    assert str(Duration.parse(text)) == f"{Duration.parse(text)}" == canonical


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30", UNIT),
        ("1.5", UNIT),
        ("", DURATION),
        ("30 s", DURATION),
        ("30S", DURATION),
        ("-1s", DURATION),
        ("1h30m", DURATION),
        ("30s\n", DURATION),
        ("٣s", DURATION),
        ("1e3s", DURATION),
    ],
)
def test_no_durations(text: str, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        Duration.parse(text)
    assert str(caught.value) == expected


@given(st.floats(min_value=0, max_value=1e9))
def test_a_duration_survives_its_text(seconds: float) -> None:
    assert Duration.parse(str(Duration(seconds))) == seconds


@pytest.mark.parametrize(
    ("text", "size", "canonical"),
    [
        ("512B", 512, "512B"),
        ("64KiB", 65536, "64KiB"),
        ("4MiB", 4194304, "4MiB"),
        ("1GiB", 1073741824, "1GiB"),
        ("1024KiB", 1048576, "1MiB"),
        ("0GiB", 0, "0B"),
    ],
)
def test_sizes(text: str, size: int, canonical: str) -> None:
    assert Size.parse(text) == size
    assert str(Size.parse(text)) == f"{Size.parse(text)}" == canonical


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", SIZE_UNIT),
        ("1_024", SIZE_UNIT),
        ("", SIZE),
        ("4MB", SIZE),
        ("4 MiB", SIZE),
        ("-1B", SIZE),
        ("0.5MiB", SIZE),
    ],
)
def test_no_sizes(text: str, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        Size.parse(text)
    assert str(caught.value) == expected


@given(st.integers(min_value=0, max_value=10**15 - 1))
def test_a_size_survives_its_text(size: int) -> None:
    assert Size.parse(str(Size(size))) == size


@pytest.mark.parametrize(("text", "mode"), [("0660", 0o660), ("0600", 0o600), ("0000", 0), ("0777", 0o777)])
def test_file_modes(text: str, mode: int) -> None:
    assert FileMode.parse(text) == mode
    assert str(FileMode.parse(text)) == f"{FileMode.parse(text)}" == text


@pytest.mark.parametrize("text", ["660", "432", "", "0o660", "0680", "1777", "00660", "0660\n", "rw-rw----"])
def test_no_file_modes(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        FileMode.parse(text)
    assert str(caught.value) == 'four octal digits in quotes, such as "0660"'


@pytest.mark.parametrize("text", ["erp", "_apt", "www-data", "ERP.prod", "host$", "0", "1000", "4294967294"])
def test_identities(text: str) -> None:
    assert Identity.parse(text) == text


@pytest.mark.parametrize("text", ["", "-1", "4294967295", "10000000000", "a b", "1000x", "a:b", "erp\n", "é"])
def test_no_identities(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        Identity.parse(text)
    assert str(caught.value) == "a name or a number, such as erp or 1000"


@pytest.mark.parametrize(
    ("text", "bind", "loopback"),
    [
        ("127.0.0.1:8080", Bind("127.0.0.1", 8080), True),
        ("127.8.9.10:0", Bind("127.8.9.10", 0), True),
        ("localhost:65535", Bind("localhost", 65535), True),
        ("[::1]:8080", Bind("::1", 8080), True),
        ("unix:/run/x.sock", Bind(path="/run/x.sock"), True),
        ("unix:@x", Bind(path="\0x"), True),
        ("0.0.0.0:8080", Bind("0.0.0.0", 8080), False),
        ("[::]:8080", Bind("::", 8080), False),
        ("[::ffff:127.0.0.1]:8080", Bind("::ffff:127.0.0.1", 8080), False),
        ("10.0.0.1:8080", Bind("10.0.0.1", 8080), False),
        ("erp.local:8080", Bind("erp.local", 8080), False),
    ],
)
def test_binds(text: str, bind: Bind, loopback: bool) -> None:
    assert Bind.parse(text) == bind
    assert str(bind) == text
    assert bind.is_loopback is loopback


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":8080", BIND_ADDRESS),
        ("8080", BIND_ADDRESS),
        ("", BIND),
        ("127.0.0.1", BIND),
        ("127.0.0.1:65536", BIND),
        ("127.0.0.1:http", BIND),
        ("::1:8080", BIND),
        ("[::g]:8080", BIND),
        ("[1.2.3]:8080", BIND),
        ("*:8080", BIND),
        ("http://127.0.0.1:8080", BIND),
        ("unix:", BIND),
        ("unix:run/x.sock", BIND),
    ],
)
def test_no_binds(text: str, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        Bind.parse(text)
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("text", "origin", "authority", "canonical"),
    [
        ("https://a.com.br", Origin("https", "a.com.br", 443), "a.com.br", "https://a.com.br"),
        ("https://A.com.br/", Origin("https", "a.com.br", 443), "a.com.br", "https://a.com.br"),
        ("https://a:443", Origin("https", "a", 443), "a", "https://a"),
        ("https://a:80", Origin("https", "a", 80), "a:80", "https://a:80"),
        ("https://[2001:DB8::1]:8443", Origin("https", "2001:db8::1", 8443), "[2001:db8::1]:8443", None),
        ("http://127.0.0.1:80", Origin("http", "127.0.0.1", 80), "127.0.0.1", "http://127.0.0.1"),
        ("http://[::1]:9", Origin("http", "::1", 9), "[::1]:9", "http://[::1]:9"),
        ("http://LocalHost:9", Origin("http", "localhost", 9), "localhost:9", "http://localhost:9"),
    ],
)
def test_origins(text: str, origin: Origin, authority: str, canonical: str | None) -> None:
    assert Origin.parse(text) == origin
    assert origin.authority == authority
    assert str(origin) == (canonical or f"{origin.scheme}://{authority}")
    assert Origin.parse(str(origin)) == origin
    assert origin.ssl is text.startswith("https:")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ORIGIN),
        ("a.com", ORIGIN),
        ("ftp://a.com", ORIGIN),
        ("https://", ORIGIN),
        ("https://a.com/x", ORIGIN),
        ("https://a.com//", ORIGIN),
        ("https://a.com?x", ORIGIN),
        ("https://a.com#x", ORIGIN),
        ("https://a.com:0", ORIGIN),
        ("https://a.com:65536", ORIGIN),
        ("https://a.com:", ORIGIN),
        ("https://[::g]", ORIGIN),
        ("https://a b", ORIGIN),
        ("https://a.com\n", ORIGIN),
        ("https://é.com", ORIGIN),
        ("http://a.com", HTTPS),
        ("http://0.0.0.0", HTTPS),
        ("http://localhost.evil.com", HTTPS),
        ("http://127.0.0.1.nip.io", HTTPS),
        ("http://0x7f.1", HTTPS),
        ("http://0x7f000001", HTTPS),
        ("http://2130706433", HTTPS),
        ("http://127.1", HTTPS),
        ("http://0127.0.0.1", HTTPS),
        ("http://[::ffff:127.0.0.1]", HTTPS),
        ("http://[::]", HTTPS),
        ("https://u@a.com", USERINFO),
        ("https://u:p@a.com/", USERINFO),
        ("//u:p@a.com/", USERINFO),
    ],
)
def test_no_origins(text: str, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        Origin.parse(text)
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("text", "url", "canonical"),
    [
        ("https://a/api/token", HttpUrl(Origin("https", "a", 443), "/api/token"), "https://a/api/token"),
        ("https://A:443/API?x=1&y=?", HttpUrl(Origin("https", "a", 443), "/API?x=1&y=?"), "https://a/API?x=1&y=?"),
        ("https://a", HttpUrl(Origin("https", "a", 443), "/"), "https://a/"),
        ("https://a/", HttpUrl(Origin("https", "a", 443), "/"), "https://a/"),
        ("https://a/x@y", HttpUrl(Origin("https", "a", 443), "/x@y"), "https://a/x@y"),
        ("http://[::1]:9/x", HttpUrl(Origin("http", "::1", 9), "/x"), "http://[::1]:9/x"),
    ],
)
def test_urls(text: str, url: HttpUrl, canonical: str) -> None:
    assert HttpUrl.parse(text) == url
    assert str(url) == canonical


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://a/x#y", URL),
        ("https://a?x", URL),
        ("https://a/x y", URL),
        ("https://a/é", URL),
        ("/api/token", URL),
        ("http://a/api/token", HTTPS),
        ("https://u:p@a/api/token", USERINFO),
    ],
)
def test_no_urls(text: str, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        HttpUrl.parse(text)
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("text", "kind", "where", "shown"),
    [
        ("memory", "memory", "memory", "memory"),
        ("file:/run/proxy/tokens.json", "file", "file:/run/proxy/tokens.json", "file:/run/proxy/tokens.json"),
        ("file:///run/proxy/tokens.json", "file", "file:/run/proxy/tokens.json", "file:/run/proxy/tokens.json"),
        ("file:/t", "file", "file:/t", "file:/t"),
        ("file:/a b@c/é", "file", "file:/a b@c/é", "file:/a b@c/é"),
        ("redis://redis/0", "redis", "redis://redis/0", "redis://redis/0"),
        ("redis://[::1]:6379/15", "redis", "redis://[::1]:6379/15", "redis://[::1]:6379/15"),
        ("redis://u:p@redis:6379/0", "redis", "redis://u:p@redis:6379/0", "redis://***@redis:6379/0"),
        ("rediss://:p@10.0.0.1/0", "rediss", "rediss://:p@10.0.0.1/0", "rediss://***@10.0.0.1/0"),
    ],
)
def test_store_addresses(text: str, kind: str, where: str, shown: str) -> None:
    address = StoreAddress.parse(text)
    assert (address.kind, address.where.reveal(), str(address)) == (kind, where, shown)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Memory",
        "memory:",
        "file:",
        "file:/",
        "file:///",
        "file:tokens.json",
        "file:/run/proxy/",
        "file://host/tokens.json",
        "file:/a\0b",
        "file:/a\n",
        "redis",
        "redis://",
        "redis://redis",
        "redis://redis:6379",
        "redis://redis/x",
        "redis://redis:0/0",
        "redis://redis:65536/0",
        "redis://[::g]/0",
        "redis://u@redis/0",
        "redis://redis/0?x=1",
        "unix:/run/redis.sock",
    ],
)
def test_no_store_addresses(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        StoreAddress.parse(text)
    assert str(caught.value) == STORE


def test_values_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Bind("localhost", 1).port = 2  # type: ignore[misc]
    assert len({Origin("https", "a", 443), Origin("https", "a", 443)}) == 1
