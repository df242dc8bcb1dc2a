"""One account's token for one API, kept usable by at most one login at a time."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from proxy.errors import LoginError, LoginTimedOut
from proxy.tokens.life import Life
from proxy.tokens.record import Record
from proxy.tokens.source import TokenSource
from proxy.tokens.states import LoginState, Step

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.config import Credentials
    from proxy.observe import TokenMeter
    from proxy.tokens.login import Grant
    from proxy.tokens.schedule import Schedule
    from proxy.tokens.store import Store, TokenKey
    from proxy.tokens.story import Story
    from proxy.tokens.token import Clock, Token
    from proxy.waiting import WaitingRoom

log = logging.getLogger(__name__)

_SERVING = (Step.SERVE, Step.SERVE_AND_LOGIN)
_JOINING = (Step.LOGIN, Step.JOIN)
_LOOK_EVERY = 1.0
"""Seconds between two looks at credentials that were refused, or at a shared store."""
_SHORTEST_WAIT = 0.1
"""Seconds, at least, until the next look at a schedule that has nothing to do yet."""


class Refresher:
    """Gives the token to those who ask, and replaces it: ahead of time, or because upstream rejected it.

    What is to be done is decided by `Life`, and how a token is got is known to `TokenSource`; here they meet requests
    and timers. The login runs in a task of its own. Those who wait for it watch it from outside, so that one of them
    leaving cancels nothing, and a login's failure is told to all of them at once.
    """

    def __init__(
        self,
        key: TokenKey,
        credentials: Callable[[], Credentials],
        login: Callable[[Credentials], Awaitable[Grant]],
        store: Store,
        *,
        schedule: Schedule,
        clock: Clock,
        waiting: WaitingRoom,
        meter: TokenMeter,
    ) -> None:
        """`credentials` is asked anew for every login."""
        self._schedule = schedule
        self._clock = clock
        self._waiting = waiting
        self._life = Life(schedule)
        self._record = Record(key, self._life, meter, clock)
        self._source = TokenSource(
            key,
            credentials,
            login,
            store,
            life=self._life,
            schedule=schedule,
            clock=clock,
            login_took=meter.login_took,
        )
        self._name = f"login to {key.api}"
        self._login: asyncio.Task[LoginError | None] | None = None
        self._look: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self.reason = ""
        """Why the last login began, in a word."""

    # --- What a request asks for ------------------------------------------------------------------------------------

    async def token(self) -> Token:
        """Return a usable token, waiting for the one login in flight where there is none.

        Raises `LoginError` as soon as it is known that there will be none, `Overloaded` when too many wait already.
        """
        match self._step():
            case Step.SERVE:
                return self._life.held
            case Step.SERVE_AND_LOGIN:
                self._start_login()
                return self._life.held
            case Step.FAIL:
                raise self._life.refusal(self._clock())
        until = self._clock().monotonic + self._schedule.patience
        with self._waiting:
            await self._join(until)
            if self._step() in _JOINING:  # a clock was set while the token was on its way
                await self._join(until)
        if self._step() in _SERVING:
            return self._life.held
        raise LoginError("the token from the login could not be used any more", retry_after=1)

    def current(self) -> Token | None:
        """Return the token if it is usable now, without waiting."""
        return self.valid() or (self._life.token if self._step() in _SERVING else None)

    def valid(self) -> Token | None:
        """Return the token if it is usable now and need not be replaced yet; else `token` is to be asked."""
        return self._life.valid_token(self._clock())

    async def renew(self, rejected: Token) -> Token | None:
        """Wait for another token than the one that upstream answered 401 to; none where no login may be made for it.

        Raises as `token` does.
        """
        return await self.token() if self.reject(rejected) else None

    def reject(self, rejected: Token) -> bool:
        """Have a rejected token replaced, without waiting; tell whether it was, is being or will be."""
        renewable = self._life.rejected(rejected, self._clock())
        self._record.warn_of_lost_tokens()
        if self._step() is Step.LOGIN:
            self._start_login()
        return renewable

    # --- What an operator asks for ----------------------------------------------------------------------------------

    @property
    def in_use(self) -> bool:
        """Whether anybody has wanted a token yet."""
        return self._login is not None or self._life.token is not None or self._life.failure is not None

    async def refresh(self) -> None:
        """Replace the token now, whatever its state, and wait for that; raises `LoginError`.

        Credentials that were refused are not tried again before their time, unless they have changed: ten impatient
        operators must not have an account locked.
        """
        if self._life.login_state(self._clock()) is LoginState.REFUSED:
            if not self._source.secret_changed():
                raise self._life.refusal(self._clock())
            self._life.secret_changed()
        self._life.asked()
        await self._join(self._clock().monotonic + self._schedule.patience)

    # --- From start to stop -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Get the first token now, before anybody asks."""
        if self._step() is Step.LOGIN:
            self._start_login()

    def report(self) -> tuple[bool, str | None]:
        """Tell whether there is a usable token, and in words what keeps a new one away."""
        usable = self._step() in _SERVING
        if self._life.failure is not None:
            return usable, self._life.failure.detail
        return usable, None if usable else "the first login is under way"

    async def settled(self) -> None:
        """Return when no login is in flight."""
        while self._login is not None and not self._login.done():  # one that ended before it began has stayed
            await asyncio.wait([self._login])

    def story(self) -> Story:
        """Tell of the token and its last logins."""
        return self._record.story()

    def stop(self) -> None:
        """End the login in flight and the schedule; no login begins any more."""
        self._stopped = True
        for work in (self._timer, self._login, self._look):
            if work is not None:
                work.cancel()

    # --- The login ----------------------------------------------------------------------------------------------------

    def _step(self) -> Step:
        return self._life.step(self._clock())

    async def _join(self, until: float) -> None:
        login = self._login or self._start_login()
        if login is None:
            raise LoginError("the sidecar is stopping", retry_after=1)
        await asyncio.wait([login], timeout=max(0.0, until - self._clock().monotonic))
        if not login.done():
            raise LoginTimedOut(f"no token within {self._schedule.patience:g} s", retry_after=1)
        if login.cancelled():
            raise LoginError("the sidecar is stopping", retry_after=1)
        failure = login.result()
        if failure is not None:
            left = self._life.retry_in(self._clock())
            raise type(failure)(failure.detail, retry_after=left)  # one each: a traceback is not shared

    def _start_login(self) -> asyncio.Task[LoginError | None] | None:
        if self._stopped:
            return None
        now = self._clock()
        self.reason = self._life.reason(now)
        work = self._replace(self.reason)
        self._life.began(now)
        self._login = asyncio.get_running_loop().create_task(work, name=self._name)
        return self._login

    async def _replace(self, reason: str) -> LoginError | None:
        try:
            token, result = await self._source.obtain()
        except LoginError as error:
            return self._failed(error, reason)
        except Exception:
            log.exception("the login failed for a reason that is a defect of the sidecar", extra={"event": "defect"})
            return self._failed(LoginError("the login failed for a reason that is a defect of the sidecar"), reason)
        else:
            self._life.granted(token)
            self._record.new_token(token, reason, result)
            return None
        finally:
            self._login = None
            self._record.warn_of_lost_tokens()  # now it is known whether somebody else had another
            self._set_timer()

    def _failed(self, error: LoginError, reason: str) -> LoginError:
        wait = self._life.failed(error, self._clock())
        self._record.failure(error, reason, wait)
        return error

    # --- Ahead of those who ask -------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._stopped:
            return
        now = self._clock()
        delay = self._life.wakes_at(now) - now.monotonic
        if self._source.is_shared or self._life.login_state(now) is LoginState.REFUSED:
            delay = min(delay, _LOOK_EVERY)
        self._timer = asyncio.get_running_loop().call_later(max(delay, _SHORTEST_WAIT), self._wake)

    def _wake(self) -> None:
        if self._life.login_state(self._clock()) is LoginState.REFUSED and self._source.secret_changed():
            self._life.secret_changed()
        if self._life.wants_login(self._clock()):
            self._start_login()
        elif self._source.is_shared and self._login is None and self._look is None:
            self._look = asyncio.get_running_loop().create_task(self._look_around(), name="look into the token store")
        elif self._login is None:
            self._set_timer()  # a timer a little before its time, or a wall clock that was set back since

    async def _look_around(self) -> None:
        """Take over what another sidecar got: all hold the newest token then, should no other count upstream."""
        try:
            token = await self._source.newer()
            if token is not None and self._login is None:
                self._life.shared(token)
                self._record.new_token(token, "look", "shared")
        finally:
            self._look = None
            self._set_timer()
