"""The login: one POST to the token URL, and a strict reading of what comes back."""

from __future__ import annotations

import asyncio
import html
import logging
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, urlencode

import aiohttp
import msgspec

from proxy.errors import (
    CredentialsRefused,
    GrantRefused,
    LoginError,
    LoginNonsense,
    LoginServerFailed,
    LoginThrottled,
    LoginTimedOut,
    LoginUnreachable,
)
from proxy.tokens.token import TOKEN68, system_clock

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping, Sequence

    from proxy.config import Credentials, EgressProxy
    from proxy.tokens.token import Clock

log = logging.getLogger(__name__)

DEFAULT_LIFETIME = 3600.0
"""Seconds that a token is taken to live where the login does not say."""

SHORTEST_LIFETIME = 1.0
LONGEST_LIFETIME = 7 * 24 * 3600.0
"""A lifetime beyond these is not believed: one of a moment would make a storm of logins."""

_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate",  # what aiohttp asks for by itself depends on the version of Python
    "Content-Type": "application/x-www-form-urlencoded",
}
_LARGEST_ANSWER = 64 * 1024
_LONGEST_REASON = 200
_MOST_SKEW = 60.0
"""Seconds; a clock that is further off breaks more than tokens: certificates, the date of issue."""

_OK = 200
_BAD_REQUEST = 400
_UNAUTHORIZED = 401
_TOO_MANY_REQUESTS = 429
_FIRST_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class Grant:
    """What a login gave: a token and its lifetime in seconds."""

    access_token: str = field(repr=False)
    lifetime: float
    assumed: bool = False
    """The lifetime is ours: the login gave none that can be used."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the token endpoint answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def read_grant(answer: Answer, secrets: Sequence[str] = ()) -> Grant:
    """Read a token response (RFC 6749, section 5.1; the API page «Token de Acesso»).

    Raises the `LoginError` that fits what came instead; upstream's own words in it may quote what was sent to it, so
    `secrets` are masked there. The token must be token68 (RFC 9110, section 11.2): nothing
    else can be put into a header without a chance of splitting it.
    """
    if answer.status != _OK:
        raise _refusal(answer, secrets)
    fields = _json_object(answer.body)
    token = fields.get("access_token")
    if not isinstance(token, str) or not TOKEN68.fullmatch(token):
        raise LoginNonsense("the login answered 200 without a usable access_token")
    kind = fields.get("token_type", "bearer")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise LoginNonsense("the login gave a token that is not a bearer token")
    lifetime = _lifetime(fields.get("expires_in"))
    return Grant(token, DEFAULT_LIFETIME, assumed=True) if lifetime is None else Grant(token, lifetime)


def _lifetime(said: object) -> float | None:
    if isinstance(said, str) and said.isascii() and said.isdigit():
        said = float(said)  # int() refuses very many digits
    if isinstance(said, bool) or not isinstance(said, int | float) or not SHORTEST_LIFETIME <= said <= LONGEST_LIFETIME:
        return None
    return float(said)


def clock_skew(date: str | None, asked: float, answered: float) -> float | None:
    """Return by how many seconds our clock is ahead of the server's `Date` (RFC 9110, section 6.6.1), if it gave one.

    The field has whole seconds and was written between the two times of ours, so the truth is within half a second and
    half of the time that the answer took.
    """
    theirs = _date(date)
    return None if theirs is None else (asked + answered) / 2 - (theirs + 0.5)


def _date(text: str | None) -> float | None:
    """Read an HTTP-date as seconds since 1970."""
    try:
        moment = parsedate_to_datetime(text or "")
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _refusal(answer: Answer, secrets: Sequence[str]) -> LoginError:
    if answer.status == _TOO_MANY_REQUESTS:
        return LoginThrottled("the login server asks for fewer logins", retry_after=_retry_after(answer.headers))
    if answer.status >= _FIRST_SERVER_ERROR:
        return LoginServerFailed(f"the login server answered {answer.status}", retry_after=_retry_after(answer.headers))
    try:
        fields = _json_object(answer.body)
    except LoginNonsense:
        fields = {}
    reason = next(
        (text for key in ("error_description", "mensagem", "error") if (text := _text(fields, key, secrets))), ""
    )
    said = f"{answer.status}: {reason}" if reason else f"{answer.status}"
    match answer.status, fields.get("error"):
        case _, "unsupported_grant_type":
            return GrantRefused(f"the token URL does not take grant_type=password ({said})")
        case _, "credenciais_invalidas" | "invalid_grant" | "invalid_client":
            return CredentialsRefused(f"Invoisys refused the credentials ({said})")
        case (int(status), _) if status == _UNAUTHORIZED or (status == _BAD_REQUEST and "mensagem" in fields):
            return CredentialsRefused(f"Invoisys refused the credentials ({said})")
    return LoginNonsense(f"the login answered {said}")


def _json_object(body: bytes) -> dict[str, Any]:
    """Read JSON in UTF-8, or in Latin-1: a refusal that an old server words in Portuguese is a refusal all the same."""
    try:
        body.decode()
    except UnicodeDecodeError:
        body = body.decode("latin-1").encode()
    try:
        return msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        what = "an empty body" if not body.strip() else "something that is not a JSON object"
        raise LoginNonsense(f"the login answered with {what}") from None


def _text(fields: Mapping[str, object], key: str, secrets: Sequence[str]) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        return ""
    for secret in secrets:  # before anything is cut, for a half is not found any more
        value = value.replace(secret, "***")
    return "".join(char for char in value if char.isprintable())[:_LONGEST_REASON]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Read seconds, or a date, which is held against the answer's own (RFC 9110, section 10.2.3)."""
    value = headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    until, now = _date(value), _date(headers.get("Date"))
    return None if until is None or now is None else max(0.0, until - now)


def _spellings(credentials: Credentials) -> Iterator[str]:
    """Give the ways in which an answer may quote credentials, longer ones first: they may hold shorter ones."""
    for secret in (credentials.password.reveal(), credentials.username):
        written = secret.encode("utf-8", "surrogateescape")
        ways = {secret, html.escape(secret), quote(written), quote(written, safe=""), quote_plus(written)}
        yield from sorted(ways | {way.replace("%40", "@") for way in ways}, key=len, reverse=True)


class Login:
    """How one account logs in to one API."""

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext | None,
        limit: float,
        egress: EgressProxy | None = None,
        clock: Clock = system_clock,
    ) -> None:
        """`limit` in seconds bounds the whole of a login."""
        self._url = url
        self._tls = tls
        self._limit = limit
        self._proxy = None if egress is None else f"http://{egress.host}:{egress.port}"
        self._proxy_headers = _proxy_headers(egress)
        self._clock = clock
        self._warned: set[str] = set()
        self.skew: float | None = None
        """Seconds by which our clock was ahead of the login server's at the last login."""
        self.status: int | None = None
        """What the last login was answered, if it was."""

    async def __call__(self, credentials: Credentials) -> Grant:
        """Log in once; raises `LoginError`."""
        asked = self._clock().wall
        self.status = None
        try:
            async with asyncio.timeout(self._limit):
                answer = await self._post(credentials)
        except TimeoutError:
            raise LoginTimedOut(f"the login was not answered within {self._limit:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise LoginUnreachable(f"the login server could not be reached: {_cause(error)}") from None
        self.status = answer.status
        self.skew = clock_skew(answer.headers.get("Date"), asked, self._clock().wall)
        self._warn_of_skew()
        grant = read_grant(answer, tuple(_spellings(credentials)))
        self._warn(
            "expires-in-unusable",
            f"the login gave no usable expires_in; the token is taken to live {DEFAULT_LIFETIME:g} s",
            grant.assumed,
        )
        return grant

    def _warn_of_skew(self) -> None:
        skew = self.skew or 0.0
        side = "ahead of" if skew > 0 else "behind"
        text = f"this machine's clock is {abs(skew):.0f} s {side} the login server's; let it be set by NTP"
        self._warn("clock-skew", text, abs(skew) > _MOST_SKEW)

    def _warn(self, event: str, text: str, holds: bool) -> None:  # noqa: FBT001 - what is warned of holds or not
        """Warn once until it does not hold any more."""
        if holds and event not in self._warned:
            log.warning("%s", text, extra={"event": event})
        (self._warned.add if holds else self._warned.discard)(event)

    async def _post(self, credentials: Credentials) -> Answer:
        # A session for each login: there are two a day, and a kept connection would be a dead one.
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls or True, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
            ) as session,
            session.post(
                self._url,
                data=_form(credentials),
                headers=_HEADERS,
                allow_redirects=False,
                proxy=self._proxy,
                proxy_headers=self._proxy_headers,
            ) as response,
        ):
            body = b""
            while len(body) < _LARGEST_ANSWER and (more := await response.content.read(_LARGEST_ANSWER - len(body))):
                body += more
            return Answer(response.status, response.headers, body)


def _form(credentials: Credentials) -> bytes:
    fields = {
        "grant_type": "password",
        "username": credentials.username,
        "password": credentials.password.reveal(),
    }
    return urlencode(fields, errors="surrogateescape").encode()  # a variable may hold bytes that are not UTF-8


def _proxy_headers(egress: EgressProxy | None) -> dict[str, str]:
    if egress is None or egress.credentials is None:
        return {}
    return {"Proxy-Authorization": f"Basic {b64encode(egress.credentials.reveal().encode()).decode()}"}


_CAUSES = (
    (aiohttp.ClientHttpProxyError, "the egress proxy refused the tunnel"),
    (aiohttp.ClientProxyConnectionError, "the egress proxy could not be reached"),
    (aiohttp.ClientConnectorDNSError, "its name could not be resolved"),
    (aiohttp.ClientConnectorCertificateError, "its certificate was rejected"),
    (aiohttp.ClientSSLError, "the TLS handshake failed"),
)


def _cause(error: Exception) -> str:
    """Say in words what went wrong; the library's own would quote addresses and credentials of a proxy."""
    for kind, cause in _CAUSES:
        if isinstance(error, kind):
            return cause
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.strerror or "the connection failed"
    return "the connection broke off"
