"""What is told of a token's life: in the log, and in the metrics."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from proxy.observe import TokenReading
from proxy.tokens.story import LAST_LOGINS, LoginEnded, Story

if TYPE_CHECKING:
    from proxy.errors import LoginError
    from proxy.observe import TokenMeter
    from proxy.tokens.life import Life
    from proxy.tokens.store import TokenKey
    from proxy.tokens.token import Clock, Token

log = logging.getLogger(__name__)

_WARN_EVERY = 3600.0
"""Seconds between two warnings that tokens do not live as long as they should."""


class Record:
    """Writes down what happens to one account's token for one API."""

    def __init__(self, key: TokenKey, life: Life, meter: TokenMeter, clock: Clock) -> None:
        self._key = key
        self._life = life
        self._meter = meter
        self._clock = clock
        self._warned_at = float("-inf")
        self._logins: deque[LoginEnded] = deque(maxlen=LAST_LOGINS)  # the newest first
        meter.read_from(self._reading)

    def new_token(self, token: Token, reason: str, result: str) -> None:
        """There is a new token: `granted`, or `shared` by another sidecar."""
        self._meter.login_ended(reason, result)
        self._logins.appendleft(LoginEnded(self._clock().wall, reason, result))
        lifetime = round(token.expires_at.wall - token.obtained_at.wall)
        about = {"reason": reason, "result": result, "generation": token.generation, "expires_in": lifetime}
        log.info("a new token", extra=self._about("login", **about))

    def failure(self, error: LoginError, reason: str, wait: float) -> None:
        """A login failed, and the next has its time in `wait` seconds."""
        self._meter.login_ended(reason, error.name)
        self._logins.appendleft(LoginEnded(self._clock().wall, reason, error.name, error.detail))
        text = "no new token: %s; the next login is in %.0f s"
        log.warning(text, error.detail, wait, extra=self._about("login-failed", reason=reason, error=error.name))

    def warn_of_lost_tokens(self) -> None:
        """Say so where upstream answered 401 to many tokens: one is nothing, many have a cause."""
        now = self._clock().monotonic
        if self._life.loses_tokens(self._clock()) and now - self._warned_at >= _WARN_EVERY:
            self._warned_at = now
            text = (
                "upstream rejects good tokens again and again: either paths are forbidden to this user, or something"
                " else logs in as the same user and only the newest token counts; let all share one tokens.store"
            )
            log.warning(text, extra=self._about("tokens-lost", rejections=self._life.rejections))

    def story(self) -> Story:
        """Tell of the token and its last logins."""
        now, life = self._clock(), self._life
        return Story(
            life.token,
            life.token_state(now),
            life.login_state(now),
            life.failure,
            life.retry_in(now),
            life.rejections,
            tuple(self._logins),
        )

    def _about(self, event: str, **fields: object) -> dict[str, object]:
        return {"event": event, "api": self._key.api, "account": self._key.account, **fields}

    def _reading(self) -> TokenReading:
        now, life = self._clock(), self._life
        return TokenReading(
            age=None if life.token is None else life.token.obtained_at.age(now),
            expires_in=None if life.token is None else life.token.expires_at.left(now),
            generation=life.generation,
            login_state=life.login_state(now).value,
            retry_in=life.retry_in(now),
            rejections=life.rejections,
        )
