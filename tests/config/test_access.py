"""Host names, browser origins and rules: what is read, what is refused, and where that is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import BrowserOrigin, HostName, Rule, redacted
from proxy.guard import canonical_path

if TYPE_CHECKING:
    from .conftest import Load, Refuse

HOST = "a host name or an address, with no port, such as invoisys-proxy, 10.0.0.7 or [fd00::7]"
ORIGIN = "one origin, with no path, such as http://localhost:3000 or https://erp.example"
RULE = (
    "a method and a path, such as GET /api/* or POST /api/nfe/envio: the path decoded, with no query, "
    "and `*` only behind its last slash"
)
DOTS = "a path without dot segments"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("invoisys-proxy", "invoisys-proxy"),
        ("erp_proxy", "erp_proxy"),
        ("ERP.Internal", "erp.internal"),
        ("10.0.0.7", "10.0.0.7"),
        ("[FD00::7]", "[fd00::7]"),
    ],
)
def test_host_names(text: str, name: str) -> None:
    assert HostName.parse(text) == HostName(name)
    assert str(HostName.parse(text)) == name


@pytest.mark.parametrize(
    "text",
    ["", "*", "*.erp", "erp:8080", "http://erp", "erp/", "erp.", ".erp", "-erp", "a b", "a,b", "user@erp", "fd00::7",
     "[fd00::7]:80", "[erp]", "[10.0.0.7]", "[::1%lo]", "[:]", "são", "erp\n"],
)  # fmt: skip
def test_no_host_names(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        HostName.parse(text)
    assert str(caught.value) == HOST


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("http://localhost:3000", "http://localhost:3000"),
        ("https://erp.example", "https://erp.example"),
        ("HTTPS://ERP.Example", "https://erp.example"),
        ("https://erp.example:443", "https://erp.example"),
        ("http://erp.example:80", "http://erp.example"),
        ("http://erp.example:443", "http://erp.example:443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"),
        ("tauri://localhost", "tauri://localhost"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
    ],
)
def test_browser_origins(text: str, canonical: str) -> None:
    assert str(BrowserOrigin.parse(text)) == canonical
    assert BrowserOrigin.parse(canonical) == BrowserOrigin.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "*", "null", "https://*", "https://*.erp.example", "erp.example", "//erp.example", "https://erp.example/",
     "https://erp.example/app", "https://erp.example?x", "https://erp.example#x", "https://user@erp.example",
     "https://erp.example:", "https://erp.example:0", "https://erp.example:65536", "https://erp.example:+80",
     "https://erp.example:080", "https://a, https://b", "https://a https://b", "https://são.example", "file://",
     "http://[::1", "http://[erp]", "http://[10.0.0.7]", "https://erp.example\n"],
)  # fmt: skip
def test_no_browser_origins(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        BrowserOrigin.parse(text)
    assert str(caught.value) == ORIGIN


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("GET /api/*", Rule("GET", "/api/", prefix=True)),
        ("POST /api/nfe/envio", Rule("POST", "/api/nfe/envio", prefix=False)),
        ("GET /api/nfe/", Rule("GET", "/api/nfe/", prefix=False)),
        ("* /", Rule("*", "/", prefix=False)),
        ("* /*", Rule("*", "/", prefix=True)),
        ("DELETE /api/São", Rule("DELETE", "/api/São", prefix=False)),
        ("GET /a..b/.c/...d", Rule("GET", "/a..b/.c/...d", prefix=False)),
    ],
)
def test_rules(text: str, rule: Rule) -> None:
    assert Rule.parse(text) == rule
    assert str(rule) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((text, RULE) for text in (
            "", "/api/*", "GET", "GET api", "get /api", "GET  /api", "GET /api ", " GET /api", "GET /*/x", "GET /a**",
            "GET\t/a", "GET,POST /a", "** /a", "GET /a b", "PROPFIND /a*", "GET /api/nfe*", "GET /a//b", "GET //",
            "GET /a%20b", "GET /a?b=1", "GET /a#b", "GET /a;b", "GET /a\\b", "GET /a\n", "GET http://localhost/a",
        )),
        ("GET /..", DOTS),
        ("GET /../*", DOTS),
        ("GET /a/./b", DOTS),
        ("GET /a/../b", DOTS),
        ("GET /a/...", DOTS),
    ],
)  # fmt: skip
def test_no_rules(text: str, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        Rule.parse(text)
    assert str(caught.value) == expected


@given(st.from_regex(r"\A(?:/[!-~]{1,5}){1,4}/?\Z"))
def test_a_rule_that_is_read_can_be_met(path: str) -> None:
    try:
        rule = Rule.parse(f"GET {path}")
    except ValueError:
        return
    met = rule.path + ("x" if rule.prefix else "")
    assert canonical_path(met) == met
    assert rule.allows("GET", met)
    assert Rule.parse(str(rule)) == rule


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("hosts", "['erp:8080']", f'1:22: listeners[0].hosts[0]: expected {HOST}, found "erp:8080"'),
        ("hosts", "[erp, null]", "1:27: listeners[0].hosts[1]: expected text, found nothing"),
        ("origins", "['*']", f'1:24: listeners[0].origins[0]: expected {ORIGIN}, found "*"'),
        ("origins", "['null']", f'1:24: listeners[0].origins[0]: expected {ORIGIN}, found "null"'),
        ("rules", "['GET /*', 'GET']", f'1:32: listeners[0].rules[1]: expected {RULE}, found "GET"'),
        ("rules", "['GET /a/../b']", f'1:22: listeners[0].rules[0]: expected {DOTS}, found "GET /a/../b"'),
    ],
)
def test_what_could_never_match_is_told_with_its_place(refuse: Refuse, key: str, value: str, fault: str) -> None:
    assert refuse(f"listeners: [{{{key}: {value}}}]") == [f"config.yaml:{fault}"]


def test_they_are_shown_as_they_count(accept: Load) -> None:
    text = redacted(accept("listeners: [{hosts: [ERP], origins: ['https://ERP.example:443'], rules: ['GET /api/*']}]"))
    for shown in ("- erp\n", "- https://erp.example\n", "- GET /api/*\n"):
        assert shown in text
