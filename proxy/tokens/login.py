"""The login: one POST to the token URL, and a strict reading of what comes back."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from proxy.config import Credentials, EgressProxy

log = logging.getLogger(__name__)

DEFAULT_LIFETIME = 3600.0
"""Seconds that a token is taken to live where the login does not say."""

LONGEST_LIFETIME = 7 * 24 * 3600.0

_LARGEST_ANSWER = 64 * 1024
_LONGEST_REASON = 200
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*")

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


@dataclass(frozen=True, slots=True)
class Answer:
    """What the token endpoint answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def read_grant(answer: Answer) -> Grant:
    """Read a token response (RFC 6749, section 5.1; the API page «Token de Acesso»).

    Raises the `LoginError` that fits what came instead. The token must be token68 (RFC 9110, section 11.2): nothing
    else can be put into a header without a chance of splitting it.
    """
    if answer.status != _OK:
        raise _refusal(answer)
    fields = _json_object(answer.body)
    token = fields.get("access_token")
    if not isinstance(token, str) or not _TOKEN68.fullmatch(token):
        raise LoginNonsense("the login answered 200 without a usable access_token")
    kind = fields.get("token_type", "bearer")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise LoginNonsense("the login gave a token that is not a bearer token")
    return Grant(token, _lifetime(fields.get("expires_in")))


def _lifetime(said: object) -> float:
    if isinstance(said, str) and said.isascii() and said.isdigit():
        said = int(said)
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 < said <= LONGEST_LIFETIME:
        log.warning(
            "the login gave no usable expires_in; the token is taken to live %g s",
            DEFAULT_LIFETIME,
            extra={"event": "expires-in-unusable"},
        )
        return DEFAULT_LIFETIME
    return float(said)


def _refusal(answer: Answer) -> LoginError:
    if answer.status == _TOO_MANY_REQUESTS:
        return LoginThrottled("the login server asks for fewer logins", retry_after=_retry_after(answer.headers))
    if answer.status >= _FIRST_SERVER_ERROR:
        return LoginServerFailed(f"the login server answered {answer.status}", retry_after=_retry_after(answer.headers))
    try:
        fields = _json_object(answer.body)
    except LoginNonsense:
        fields = {}
    reason = next((text for key in ("error_description", "mensagem", "error") if (text := _text(fields, key))), "")
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
    try:
        return msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"), type=dict[str, Any])
    except msgspec.DecodeError:
        what = "an empty body" if not body.strip() else "something that is not a JSON object"
        raise LoginNonsense(f"the login answered with {what}") from None


def _text(fields: Mapping[str, object], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        return ""
    return "".join(char for char in value if char.isprintable())[:_LONGEST_REASON]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else None


class Login:
    """How one account logs in to one API."""

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext | None,
        limit: float,
        egress: EgressProxy | None = None,
    ) -> None:
        """`limit` in seconds bounds the whole of a login."""
        self._url = url
        self._tls = tls
        self._limit = limit
        self._proxy = None if egress is None else f"http://{egress.host}:{egress.port}"
        self._proxy_auth = _basic(egress)

    async def __call__(self, credentials: Credentials) -> Grant:
        """Log in once; raises `LoginError`."""
        try:
            async with asyncio.timeout(self._limit):
                answer = await self._post(credentials)
        except TimeoutError:
            raise LoginTimedOut(f"the login was not answered within {self._limit:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise LoginUnreachable(f"the login server could not be reached: {_cause(error)}") from None
        try:
            return read_grant(answer)
        except LoginError as error:
            # Upstream's own words may quote what was sent to it.
            for secret in (credentials.password.reveal(), credentials.username):
                error.detail = error.detail.replace(secret, "***")
            raise

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
                data={
                    "grant_type": "password",
                    "username": credentials.username,
                    "password": credentials.password.reveal(),
                },
                headers={"Accept": "application/json"},
                allow_redirects=False,
                proxy=self._proxy,
                proxy_auth=self._proxy_auth,
            ) as response,
        ):
            body = await response.content.read(_LARGEST_ANSWER)
            while len(body) < _LARGEST_ANSWER and (more := await response.content.read(_LARGEST_ANSWER - len(body))):
                body += more
            return Answer(response.status, response.headers, body)


def _basic(egress: EgressProxy | None) -> aiohttp.BasicAuth | None:
    if egress is None or egress.credentials is None:
        return None
    user, _, password = egress.credentials.reveal().partition(":")
    return aiohttp.BasicAuth(user, password, "utf-8")


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
