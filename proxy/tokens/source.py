"""Where a token comes from: a login, or a store in which somebody else's login left one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.errors import ConfigError, LoginError
from proxy.tokens.store import Kept
from proxy.tokens.token import Moment, Token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.config import Credentials
    from proxy.tokens.life import Life
    from proxy.tokens.login import Grant
    from proxy.tokens.schedule import Schedule
    from proxy.tokens.store import Store, TokenKey
    from proxy.tokens.token import Clock


class TokenSource:
    """Gets tokens for one account and API; `Life` says which of those that others got will do."""

    def __init__(
        self,
        key: TokenKey,
        credentials: Callable[[], Credentials],
        login: Callable[[Credentials], Awaitable[Grant]],
        store: Store,
        *,
        life: Life,
        schedule: Schedule,
        clock: Clock,
        login_took: Callable[[float], None],
    ) -> None:
        """`credentials` is asked anew for every login; `login_took` is told its seconds."""
        self._key = key
        self._credentials = credentials
        self._log_in = login
        self._store = store
        self._life = life
        self._schedule = schedule
        self._clock = clock
        self._login_took = login_took
        self._kept_under: TokenKey | None = None
        self._tried: Credentials | None = None

    async def obtain(self) -> tuple[Token, str]:
        """Log in, unless somebody else has in the meantime; tell which: `granted` or `shared`. Raises `LoginError`."""
        try:
            credentials = self._credentials()
        except ConfigError as error:
            raise LoginError(f"the credentials cannot be read: {error}") from None
        self._tried = credentials
        key = self._kept_under = self._key.of(credentials)
        async with self._store.lock(key):
            kept = await self._store.load(key)
            if kept is not None and self._life.accepts(kept, self._clock()):
                return self._known(kept), "shared"
            return await self._granted(credentials, key, kept), "granted"

    async def _granted(self, credentials: Credentials, key: TokenKey, before: Kept | None) -> Token:
        asked_at = self._clock()
        self._life.logs_in(asked_at)
        try:
            grant = await self._log_in(credentials)
        finally:
            self._login_took(self._clock().monotonic - asked_at.monotonic)
        generation = max(self._life.generation, before.generation if before is not None else 0) + 1
        token = self._token(grant.access_token, generation, asked_at, grant.lifetime)
        await self._store.save(key, Kept(token.value, generation, asked_at.wall, token.expires_at.wall))
        return token

    @property
    def is_shared(self) -> bool:
        """Whether somebody else may have left a token."""
        return self._store.shared and self._kept_under is not None

    async def newer(self) -> Token | None:
        """Return the token that somebody else got after the one that is held, if there is one."""
        kept = await self._store.load(self._kept_under) if self._kept_under is not None else None
        return self._known(kept) if kept is not None and self._life.prefers(kept, self._clock()) else None

    def secret_changed(self) -> bool:
        """Tell whether the credentials are others than those last tried: whoever refused them, here or in the store."""
        try:
            return self._credentials() != self._tried
        except ConfigError:
            return False

    def _known(self, kept: Kept) -> Token:
        """Only the wall clock tells a kept token's age, and that of the sidecar that kept it may be ahead of ours."""
        now = self._clock()
        age = max(0.0, now.wall - kept.obtained_at)
        obtained_at = Moment(kept.obtained_at, now.monotonic - age)
        return self._token(kept.value, kept.generation, obtained_at, kept.expires_at - kept.obtained_at)

    def _token(self, value: str, generation: int, obtained_at: Moment, lifetime: float) -> Token:
        refresh_at = obtained_at.plus(self._schedule.refresh_after(lifetime))
        expires_at = obtained_at.plus(lifetime)
        return Token(value, generation, obtained_at, refresh_at, expires_at, self._key.audience)
