"""The tokens issued, each for one API generation and for its lifetime."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from proxy.fake.faults import Expire

Clock = Callable[[], float]

TOKEN_LENGTH = 299


def api_of(path: str) -> str:
    """The API generation that a path belongs to."""
    return "3.0" if path.startswith("/v1/") else "2.0"


class Tokens:
    """The tokens in force; a token of one API does not open the other."""

    def __init__(self, clock: Clock) -> None:
        self.lifetime = Expire()
        self.only_newest = False
        self._clock = clock
        self._expiries: dict[tuple[str, str], float] = {}

    def issue(self, api: str) -> str:
        """A new token: opaque base64url, as long as the one in the API page's sample."""
        if self.only_newest:
            self._expiries = {key: expiry for key, expiry in self._expiries.items() if key[0] != api}
        token = secrets.token_urlsafe(TOKEN_LENGTH)[:TOKEN_LENGTH]
        self._expiries[api, token] = self._clock() + self.lifetime.lifetime
        return token

    def admits(self, path: str, authorization: str) -> bool:
        """Whether the header opens the path: the scheme in any case (Katana, OAuthBearerAuthenticationHandler)."""
        scheme, _, token = authorization.partition(" ")
        expiry = self._expiries.get((api_of(path), token.strip()))
        return scheme.lower() == "bearer" and expiry is not None and self._clock() < expiry

    def revoke(self) -> None:
        """End all tokens issued so far."""
        self._expiries.clear()
