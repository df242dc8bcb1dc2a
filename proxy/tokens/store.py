"""Where tokens are kept: one small protocol, and what a kept token is."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

import msgspec

from proxy.tokens.token import TOKEN68

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from proxy.config import Credentials, Origin

_MOST_AHEAD = 300.0
"""Seconds by which another replica's clock may be ahead of ours."""


class TokenKey(NamedTuple):
    """What a token belongs to.

    A sandbox's token never reaches production, and a changed password never finds the old token: both stand in the key.
    """

    environment: str
    account: str
    api: str
    token_url: str
    credentials: str = ""
    """A digest, not the credentials themselves."""
    audience: Origin | None = None
    """The one server that the token may be sent to."""

    def of(self, credentials: Credentials) -> TokenKey:
        """Return the key of a token that these credentials got."""
        secret = f"{credentials.username}\0{credentials.password.reveal()}".encode("utf-8", "surrogateescape")
        return self._replace(credentials=hashlib.sha256(secret).hexdigest())

    @property
    def digest(self) -> str:
        """One short name for all of it."""
        return hashlib.sha256("\0".join(map(str, self)).encode("utf-8", "surrogateescape")).hexdigest()[:32]


class Kept(msgspec.Struct, frozen=True):
    """A token as others read it: by the wall clock, the only one that processes share. Times in seconds."""

    value: Annotated[str, msgspec.Meta(pattern=rf"\A(?:{TOKEN68.pattern})\Z")]
    generation: int
    obtained_at: float
    expires_at: float

    def is_from_the_future(self, now: float) -> bool:
        """Tell whether it was kept when a clock was wrong, so that nobody knows how old it is."""
        return self.obtained_at > now + _MOST_AHEAD

    def __repr__(self) -> str:
        return f"Kept(generation={self.generation})"


class Place(Protocol):
    """Keeps the last token of each key."""

    async def load(self, key: TokenKey) -> Kept | None:
        """Return the last token kept, unless it has expired."""

    async def save(self, key: TokenKey, token: Kept) -> None:
        """Keep a token in place of the one before."""

    def lock(self, key: TokenKey) -> AbstractAsyncContextManager[None]:
        """Be the only one, of all who share the store, that logs in for a key.

        Who has waited for the lock looks into the store first: another may have logged in.
        """

    async def close(self) -> None:
        """Let go of files and connections."""


class Store(Place, Protocol):
    """A place that never raises: one that fails is as good as an empty one."""

    shared: bool
    """Whether other processes may keep a token here."""
    failures: int
    """How many times it has stopped working."""

    @property
    def failing(self) -> bool:
        """Whether it does not work now, so that nothing is shared."""
