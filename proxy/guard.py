"""May a request pass? Pure decisions; the listeners and the operator's port both ask here.

The port needs no credentials, and what passes it acts as the company before the tax office. So the Host must be one of
ours (a web page that rebinds its name to a loopback address keeps its own name), a browser must come from an origin
that was let in, and whatever is not plain forwarding is refused here.
"""

from __future__ import annotations

import hmac
import re
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from aiohttp import HttpVersion10, HttpVersion11, hdrs
from multidict import istr

from proxy.errors import (
    BadTarget,
    CallerTokenRequired,
    Forbidden,
    HeadersTooLarge,
    MalformedRequest,
    MethodNotAllowed,
    MisdirectedRequest,
    NotImplementedHere,
    TargetTooLong,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aiohttp import HttpVersion
    from multidict import CIMultiDictProxy

    from proxy.config import Bind, Rule

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")

MAX_TARGET = 16 * 1024
MAX_HEAD = 64 * 1024
MAX_FIELDS = 200

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(?::(?P<port>[1-9][0-9]{0,4}))?")
_LARGEST_PORT = 65535
_LONGEST_HOST = 260
"""Characters: a name of the DNS has 253 at most, and then comes a port."""

_SEC_FETCH_SITE = istr("Sec-Fetch-Site")
_OF_NO_OTHER_SITE = frozenset({"none", "same-origin"})
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token: RFC 9110, section 5.6.2
_AMBIGUOUS = re.compile(r"//|/[. ]+(?:/|$)|[;%?#\\\x00-\x1f\x7f]")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")


def canonical_path(target: str) -> str | None:
    """Return the path of a request target, decoded; none where two servers could read it differently.

    An encoded slash, a dot segment, a double slash, a parameter or a second layer of encoding has no canonical form;
    nor has a sign beyond ASCII that is no letter, since some servers read a full-width slash as a slash. Such a path
    matches no rule, so that no trick of writing widens one.
    """
    raw = target.partition("?")[0]
    try:
        path = unquote_to_bytes(raw.encode("utf-8", "surrogateescape")).decode("utf-8")
    except UnicodeDecodeError:
        return None
    if _AMBIGUOUS.search(path) or "%2f" in raw.lower() or not all(map(str.isalpha, _BEYOND_ASCII.findall(path))):
        return None
    return path


@lru_cache(256)
def _host_name(value: str) -> str | None:
    """Return the name of a Host field in lower case; none where the field is malformed."""
    match = _HOST.fullmatch(value)
    if match is None or (match["port"] is not None and not 0 < int(match["port"]) <= _LARGEST_PORT):
        return None
    return match["name"].lower()


def is_preflight(method: str, headers: CIMultiDictProxy[str]) -> bool:
    """Tell whether a browser asks beforehand what a web page may send (the Fetch standard, section 3.2.2)."""
    return method == "OPTIONS" and hdrs.ORIGIN in headers and hdrs.ACCESS_CONTROL_REQUEST_METHOD in headers


class Guard:
    """Decides for one listener; `check` raises the error that fits, or lets pass."""

    def __init__(
        self,
        hosts: Iterable[str],
        *,
        origins: Iterable[str] = (),
        caller_tokens: Callable[[], Sequence[bytes]] | None = None,
        rules: Iterable[Rule] = (),
        hosts_key: str = "`hosts` of the listener",
        origins_key: str | None = "`origins` of the listener",
    ) -> None:
        """`hosts` are names and addresses beside the loopback ones; `caller_tokens` gives those that are good now.

        The keys are where the configuration lets further ones in.
        """
        self._hosts = frozenset(host.lower() for host in (*LOOPBACK_HOSTS, *hosts))
        self._origins = frozenset(origins)
        self._caller_tokens = caller_tokens
        self._rules = tuple(rules)
        self._hosts_key = hosts_key
        self._origins_mend = f"add it to {origins_key}" if origins_key else "only this port's own page is"

    def check(self, method: str, target: str, headers: CIMultiDictProxy[str]) -> None:
        """Raise the `CallerError` that says why the request may not pass.

        A preflight brings no caller token, and asks for the method of the request to come. What this lets pass as one
        must be answered here, and never be forwarded.
        """
        self.check_host(headers)
        self.check_browser(headers)
        check_form(method, target, headers)
        if is_preflight(method, headers):
            method = _requested_method(headers)
        elif self._caller_tokens is not None:
            _check_caller_token(headers, self._caller_tokens())
        if self._rules:
            self._check_rules(method, target)

    def check_host(self, headers: CIMultiDictProxy[str]) -> None:
        """Let only our own names pass; a request without Host is HTTP/1.0, which no browser speaks."""
        values = headers.getall(hdrs.HOST, ())
        if values and (len(values) > 1 or len(values[0]) > _LONGEST_HOST or _host_name(values[0]) not in self._hosts):
            raise MisdirectedRequest(f"this Host is not one of the sidecar's; add it to {self._hosts_key}")

    def check_browser(self, headers: CIMultiDictProxy[str]) -> None:
        """Keep out web pages of origins that were not let in (the Fetch standard's Origin and Sec-Fetch-Site)."""
        if hdrs.ORIGIN in headers:
            if self.web_page(headers) is None:
                raise Forbidden(f"this browser origin is not let in; {self._origins_mend}", "origin")
        elif _SEC_FETCH_SITE in headers and not _OF_NO_OTHER_SITE.issuperset(headers.getall(_SEC_FETCH_SITE)):
            raise Forbidden("a web page of another site may not call the sidecar", "origin")

    def web_page(self, headers: CIMultiDictProxy[str]) -> str | None:
        """Return the origin of the web page that asks, if it is one that was let in."""
        if not self._origins:
            return None
        origins = headers.getall(hdrs.ORIGIN, ())
        return origins[0] if len(origins) == 1 and origins[0] in self._origins else None

    def _check_rules(self, method: str, target: str) -> None:
        path = canonical_path(target)
        if path is None or not any(rule.allows(method, path) for rule in self._rules):
            raise Forbidden("no rule of this listener lets this method and path pass", "rule")


def _check_caller_token(headers: CIMultiDictProxy[str], good: Sequence[bytes]) -> None:
    fields = headers.getall(hdrs.AUTHORIZATION, ())
    scheme, _, token = fields[0].partition(" ") if len(fields) == 1 else ("", "", "")
    given = token.strip(" ").encode("utf-8", "surrogateescape")
    # Every token is compared, so that the time taken tells nothing.
    right = [hmac.compare_digest(given, caller_token) for caller_token in good]
    if scheme.lower() != "bearer" or not any(right):
        raise CallerTokenRequired("this listener wants its caller token as `Authorization: Bearer`")


def _requested_method(headers: CIMultiDictProxy[str]) -> str:
    methods = headers.getall(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
    if len(methods) > 1 or not _METHOD.fullmatch(methods[0]):
        raise MalformedRequest("`Access-Control-Request-Method` is not a method")
    return methods[0]


def own_names(bind: Bind) -> list[str]:
    """Return the Host that an address stands for, unless it stands for every address."""
    if bind.path or bind.host in ("0.0.0.0", "::"):  # noqa: S104 - looked for, not bound to
        return []
    return [f"[{bind.host}]" if ":" in bind.host else bind.host]


def check_message(version: HttpVersion, target: bytes, fields: Sequence[tuple[bytes, bytes]]) -> None:
    """Refuse what is larger than is forwarded, and what the parser lets pass although its version forbids it."""
    if version != HttpVersion11:
        if version != HttpVersion10:
            raise MalformedRequest("the version is neither HTTP/1.1 nor HTTP/1.0")
        if any(name.lower() == b"transfer-encoding" for name, _ in fields):
            raise MalformedRequest("HTTP/1.0 has no transfer codings")  # RFC 9112, section 6.1
    if len(target) > MAX_TARGET:
        raise TargetTooLong(f"the request target is longer than {MAX_TARGET} bytes")
    if len(fields) > MAX_FIELDS or sum(map(len, chain.from_iterable(fields))) > MAX_HEAD:
        raise HeadersTooLarge(f"the header section has more than {MAX_FIELDS} fields or {MAX_HEAD} bytes")


def check_form(method: str, target: str, headers: CIMultiDictProxy[str]) -> None:
    """Refuse what is not a plain request for a path."""
    if method == "CONNECT":
        raise MethodNotAllowed("the sidecar is not a tunnel")
    if target == "*":
        raise NotImplementedHere("`*` is not forwarded; ask for a path")
    if not target.startswith("/"):
        raise BadTarget("the request target must be a path; is the sidecar set as an HTTP proxy? It is a server")
    if "#" in target:
        raise BadTarget("the request target must not hold a fragment")
    if hdrs.TRANSFER_ENCODING in headers:
        codings = headers.getall(hdrs.TRANSFER_ENCODING)
        if len(codings) > 1 or codings[0].strip().lower() != "chunked":
            raise NotImplementedHere("the only transfer coding is chunked")
    # Other offers to upgrade (Java's HttpClient offers h2c) may be ignored: RFC 9110, section 7.8.
    if hdrs.UPGRADE in headers and "websocket" in headers[hdrs.UPGRADE].lower():
        raise NotImplementedHere("WebSockets are not forwarded")
