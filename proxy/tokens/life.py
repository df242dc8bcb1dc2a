"""The life of one token, as a machine: events go in with their time, decisions come out. No I/O."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, cast

from proxy.errors import LoginError, LoginTimedOut
from proxy.tokens.schedule import RateFloor
from proxy.tokens.states import LOGIN, REASONS, STEPS, Event, LoginState, Step, TokenState

if TYPE_CHECKING:
    from proxy.tokens.schedule import Schedule
    from proxy.tokens.store import Kept
    from proxy.tokens.token import Moment, Token


_REMEMBERED = 16
"""Rejected tokens: in a shared store an older one may still stand, or be put there by another sidecar."""

_MANY, _WITHIN = 3, 3600.0
"""So many good tokens rejected within so many seconds, and something else is at work than Invoisys's own revoking."""


class Life:
    """What is known of one account's token for one API. Every change is one of the methods named after an event."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._floor = RateFloor()
        self._login = LoginState.IDLE
        self._rejected: deque[str] = deque(maxlen=_REMEMBERED)  # the values that upstream answered 401 to
        self._lost_at: deque[float] = deque(maxlen=_MANY)
        self._failures = 0  # in a row
        self._retry_at = 0.0  # on the monotonic clock
        self.rejections = 0
        """How many tokens upstream answered 401 to."""
        self.token: Token | None = None
        self._good: Token | None = None  # the same, as long as upstream has not answered 401 to it
        self.failure: LoginError | None = None
        """Of the last login; none after one that succeeded."""

    # --- Decisions ----------------------------------------------------------------------------------------------------

    def step(self, now: Moment) -> Step:
        """Say what a request that needs a token gets."""
        return STEPS[self.token_state(now)][self.login_state(now)]

    def valid_token(self, now: Moment) -> Token | None:
        """Return the token for as long as there is nothing to do about it: what nearly every request gets."""
        good = self._good
        return None if good is None or good.refresh_at.has_come(now) or good.expires_at.has_come(now) else good

    def token_state(self, now: Moment) -> TokenState:
        """Judge the token that is held."""
        token = self.token
        if token is None:
            return TokenState.NONE
        if token.value in self._rejected:
            return TokenState.REJECTED
        if token.expires_at.has_come(now):
            return TokenState.EXPIRED
        return TokenState.DUE if token.refresh_at.has_come(now) else TokenState.VALID

    def login_state(self, now: Moment) -> LoginState:
        """Say what the login is doing."""
        waiting = self._login in (LoginState.BACKING_OFF, LoginState.REFUSED)
        if waiting and now.monotonic >= self._retry_at:
            self._login = LOGIN[self._login, Event.TIME_CAME]
        return self._login

    def wants_login(self, now: Moment) -> bool:
        """Tell whether it is time for a login that nobody waits for: one ahead of time, or after one that failed."""
        idle = self.login_state(now) is LoginState.IDLE
        return idle and (self.failure is not None or self.step(now) is not Step.SERVE)

    def wakes_at(self, now: Moment) -> float:
        """Return when, on the monotonic clock, there is something to do that nobody asks for."""
        if self.token is None or self.login_state(now) in (LoginState.BACKING_OFF, LoginState.REFUSED):
            return self._retry_at
        return self.token.refresh_at.monotonic

    def refusal(self, now: Moment) -> LoginError:
        """Return the error for a request that comes while logins fail: at once, with the reason and the time left."""
        failure = cast("LoginError", self.failure)
        kind = LoginError if isinstance(failure, LoginTimedOut) else type(failure)  # this request did not wait for it
        left = self._retry_at - now.monotonic
        return kind(f"{failure.detail}; the next login is in {left:.0f} s", retry_after=left)

    @property
    def held(self) -> Token:
        """The token, where a step says that one serves."""
        return cast("Token", self.token)

    @property
    def generation(self) -> int:
        """How many tokens there have been."""
        return 0 if self.token is None else self.token.generation

    def retry_in(self, now: Moment) -> float:
        """Return for how many seconds no login is made because the last one failed."""
        failed = self.login_state(now) in (LoginState.BACKING_OFF, LoginState.REFUSED)
        return self._retry_at - now.monotonic if failed else 0.0

    def reason(self, now: Moment) -> str:
        """Say in a word why a login begins now."""
        return "retry" if self.failure is not None else REASONS[self.token_state(now)]

    def accepts(self, kept: Kept, now: Moment) -> bool:
        """Tell whether somebody else's token is news: later than the one held, not rejected, and of known age."""
        if kept.value in self._rejected or kept.is_from_the_future(now.wall):
            return False
        held = self.token
        if held is None:
            return True
        before = kept.generation <= held.generation and kept.obtained_at < held.obtained_at.wall
        return kept.value != held.value and not before

    def prefers(self, kept: Kept, now: Moment) -> bool:
        """Tell whether somebody else's token is news, and got after the one that is held."""
        return self.accepts(kept, now) and (self.token is None or kept.obtained_at > self.token.obtained_at.wall)

    def loses_tokens(self, now: Moment) -> bool:
        """Tell whether so many good tokens were rejected of late that another login may be what revokes them.

        Those for which another sidecar has the next one already do not count.
        """
        return len(self._lost_at) == _MANY and now.monotonic - self._lost_at[0] < _WITHIN

    # --- Events -------------------------------------------------------------------------------------------------------

    def began(self, now: Moment) -> None:
        """A login is in flight."""
        self._login = LOGIN[self.login_state(now), Event.BEGAN]

    def logs_in(self, now: Moment) -> None:
        """Nobody else's token will do: this login counts, if it is a 401 that causes it."""
        if self.token_state(now) is TokenState.REJECTED:
            self._floor.take(now)
            self._lost_at.append(now.monotonic)

    def granted(self, token: Token) -> None:
        """The login gave a token."""
        self._take(token, Event.GRANTED)

    def shared(self, token: Token) -> None:
        """Another sidecar's login gave a token."""
        self._take(token, Event.SHARED)

    def _take(self, token: Token, event: Event) -> None:
        self._login = LOGIN[self._login, event]
        if token.value in self._rejected:
            self._rejected.remove(token.value)  # upstream gives the same one again: its 401 was about permission
        self._failures = 0
        self.failure = None
        self.token = self._good = token

    def failed(self, error: LoginError, now: Moment) -> float:
        """The login failed; return after how many seconds the next one has its time."""
        self._login = LOGIN[self._login, Event.WAS_REFUSED if error.final else Event.FAILED]
        self._failures += 1
        self.failure = error
        wait = self._schedule.retry_after(error, self._failures)
        self._retry_at = now.monotonic + wait
        return wait

    def secret_changed(self) -> None:
        """The credentials are others than those that were refused."""
        self._login = LOGIN[self._login, Event.SECRET_CHANGED]
        self._failures = 0

    def asked(self) -> None:
        """An operator wants a login now."""
        self._login = LOGIN.get((self._login, Event.ASKED), self._login)

    def rejected(self, token: Token, now: Moment) -> bool:
        """Upstream answered 401 to a token; tell whether it was replaced, is being or may be.

        It may not be while logins fail anyway, nor when 401s have caused too many of them: then the 401 is about
        permission, as far as can be told, and the token stays in service.
        """
        if token.value in self._rejected:
            return True
        if self.token is None or self.token.value != token.value:
            self._rejected.append(token.value)  # it may still stand in the store
            return True
        state = self.login_state(now)
        due = self.token_state(now) is not TokenState.VALID  # and so there is a login anyway
        if state is LoginState.IN_FLIGHT or (state is LoginState.IDLE and (due or self._floor.allows(now))):
            self._rejected.append(token.value)
            self._good = None
            self.rejections += 1
            return True
        if state is LoginState.IDLE:
            self._lost_at.append(now.monotonic)
        return False
