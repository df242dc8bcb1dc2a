"""What can be told of one account's token for one API to whoever looks: its life so far, and its last logins."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from proxy.errors import LoginError
    from proxy.tokens.states import LoginState, TokenState
    from proxy.tokens.token import Token

LAST_LOGINS = 10
"""Logins that are remembered."""


class LoginEnded(NamedTuple):
    """One login; `at` is on the wall clock."""

    at: float
    reason: str
    result: str
    """`granted`, `shared`, or the error's name."""
    detail: str | None = None
    """What the log says of a failure."""


class Story(NamedTuple):
    """The present state, with the last logins, the newest first; times in seconds."""

    token: Token | None
    token_state: TokenState
    login_state: LoginState
    failure: LoginError | None
    retry_in: float
    rejections: int
    logins: tuple[LoginEnded, ...]
