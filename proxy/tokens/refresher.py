"""One account's token for one API, kept usable by at most one login at a time."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from proxy.errors import LoginError, LoginTimedOut
from proxy.tokens.states import STEPS, LoginState, RateFloor, Schedule, Step, token_state
from proxy.tokens.token import Token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.tokens.login import Grant
    from proxy.tokens.memory import MemoryStore, TokenKey
    from proxy.tokens.token import Clock
    from proxy.waiting import WaitingRoom

log = logging.getLogger(__name__)


_LOOK_AGAIN = 0.1
"""Seconds, at least, between two looks at a schedule that has nothing to do yet."""


class Refresher:
    """Gives the token to those who ask, and replaces it: ahead of time, or because upstream rejected it.

    The login runs in a task of its own. Those who wait for it watch it from outside, so that one of them leaving
    cancels nothing, and a login's failure is told to all of them at once.
    """

    def __init__(
        self,
        key: TokenKey,
        login: Callable[[], Awaitable[Grant]],
        store: MemoryStore,
        *,
        schedule: Schedule,
        clock: Clock,
        waiting: WaitingRoom,
        patience: float,
    ) -> None:
        """`patience` is for how many seconds a request waits for a login."""
        self._key = key
        self._log_in = login
        self._store = store
        self._schedule = schedule
        self._clock = clock
        self._waiting = waiting
        self._patience = patience
        self._floor = RateFloor()

        self._token: Token | None = None
        self._rejected = 0  # the highest generation that upstream answered 401 to
        self._login: asyncio.Task[LoginError | None] | None = None
        self._failure: LoginError | None = None  # of the last login; none after one that succeeded
        self._failures = 0
        self._retry_at = 0.0  # on the monotonic clock
        self._timer: asyncio.TimerHandle | None = None

    # --- What a request asks for ------------------------------------------------------------------------------------

    async def token(self) -> Token:
        """Return a usable token, waiting for the one login in flight where there is none.

        Raises `LoginError` as soon as it is known that there will be none, `Overloaded` when too many wait already.
        """
        match self._step():
            case Step.SERVE:
                return cast("Token", self._token)
            case Step.SERVE_AND_LOGIN:
                self._start_login()
                return cast("Token", self._token)
            case Step.FAIL:
                raise self._refusal()
        with self._waiting:
            await self._join()
        if self._step() in (Step.SERVE, Step.SERVE_AND_LOGIN):
            return cast("Token", self._token)
        raise LoginError("the token from the login could not be used any more", retry_after=1)

    def current(self) -> Token | None:
        """Return the token if it is usable now, without waiting."""
        return self._token if self._step() in (Step.SERVE, Step.SERVE_AND_LOGIN) else None

    async def renew(self, rejected: Token) -> bool:
        """Wait for a token newer than the one that upstream answered 401 to; false where no login may be made for it.

        Raises as `token` does.
        """
        if not self.reject(rejected):
            return False
        await self.token()
        return True

    def reject(self, rejected: Token) -> bool:
        """Have a rejected token replaced, without waiting; tell whether it was, is being or will be.

        It is not while logins fail anyway, nor when 401s have caused too many of them: then the 401 is about
        permission, as far as can be told, and the token stays in service.
        """
        if self._token is not None and self._token.generation > rejected.generation:
            return True
        if self._rejected >= rejected.generation or self._login_state() is LoginState.IN_FLIGHT:
            self._rejected = max(self._rejected, rejected.generation)
            return True
        if self._login_state() is LoginState.BACKING_OFF or not self._floor.take(self._clock()):
            return False
        self._rejected = rejected.generation
        self._start_login()
        return True

    # --- From start to stop -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Get the first token now, before anybody asks."""
        if self._step() is Step.LOGIN:
            self._start_login()

    def report(self) -> tuple[bool, str | None]:
        """Tell whether there is a usable token, and in words what keeps a new one away."""
        usable = self._step() in (Step.SERVE, Step.SERVE_AND_LOGIN)
        if self._failure is not None:
            return usable, self._failure.detail
        return usable, None if usable else "the first login is under way"

    def stop(self) -> None:
        """End the login in flight and the schedule."""
        if self._timer is not None:
            self._timer.cancel()
        if self._login is not None:
            self._login.cancel()

    # --- Inside -----------------------------------------------------------------------------------------------------

    def _step(self) -> Step:
        return STEPS[token_state(self._token, self._rejected, self._clock())][self._login_state()]

    def _login_state(self) -> LoginState:
        if self._login is not None:
            return LoginState.IN_FLIGHT
        if self._failure is not None and self._clock().monotonic < self._retry_at:
            return LoginState.BACKING_OFF
        return LoginState.IDLE

    def _refusal(self) -> LoginError:
        failure = cast("LoginError", self._failure)
        wait = self._retry_at - self._clock().monotonic
        kind = LoginError if isinstance(failure, LoginTimedOut) else type(failure)
        return kind(f"{failure.detail}; the next login is in {wait:.0f} s", retry_after=wait)

    async def _join(self) -> None:
        login = self._login or self._start_login()
        await asyncio.wait([login], timeout=self._patience)
        if not login.done():
            raise LoginTimedOut(f"no token within {self._patience:g} s", retry_after=1)
        if login.cancelled():
            raise LoginError("the sidecar is stopping", retry_after=1)
        failure = login.result()
        if failure is not None:
            raise type(failure)(failure.detail, retry_after=self._retry_at - self._clock().monotonic)

    def _start_login(self) -> asyncio.Task[LoginError | None]:
        self._login = asyncio.get_running_loop().create_task(self._replace(), name=f"login to {self._key.api}")
        return self._login

    async def _replace(self) -> LoginError | None:
        try:
            self._adopt(await self._obtain())
        except LoginError as error:
            return self._fail(error)
        except Exception:
            log.exception("the login failed for a reason that is a defect of the sidecar", extra={"event": "defect"})
            return self._fail(LoginError("the login failed for a reason that is a defect of the sidecar"))
        else:
            return None
        finally:
            self._login = None

    async def _obtain(self) -> Token:
        stored = await self._store.load(self._key)
        if stored is not None and stored.generation > max(self._rejected, self._generation):
            return stored
        asked_at = self._clock()
        grant = await self._log_in()
        token = Token(
            value=grant.access_token,
            generation=max(self._rejected, self._generation, stored.generation if stored else 0) + 1,
            obtained_at=asked_at,
            refresh_at=asked_at.plus(self._schedule.refresh_after(grant.lifetime)),
            expires_at=asked_at.plus(grant.lifetime),
        )
        await self._store.save(self._key, token)
        return token

    @property
    def _generation(self) -> int:
        return self._token.generation if self._token is not None else 0

    def _adopt(self, token: Token) -> None:
        self._token = token
        self._failure = None
        self._failures = 0
        self._set_timer(token.refresh_at.monotonic)
        log.info(
            "a new token",
            extra={
                "event": "login",
                "api": self._key.api,
                "account": self._key.account,
                "generation": token.generation,
                "expires_in": round(token.expires_at.monotonic - token.obtained_at.monotonic),
            },
        )

    def _fail(self, error: LoginError) -> LoginError:
        self._failures += 1
        wait = self._schedule.retry_after(error, self._failures)
        self._failure = error
        self._retry_at = self._clock().monotonic + wait
        self._set_timer(self._retry_at)
        log.warning(
            "no new token: %s; the next login is in %.0f s",
            error.detail,
            wait,
            extra={
                "event": "login-failed",
                "api": self._key.api,
                "account": self._key.account,
                "error": error.name,
                "failures": self._failures,
            },
        )
        return error

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, at - self._clock().monotonic)
        self._timer = asyncio.get_running_loop().call_later(delay, self._wake)

    def _wake(self) -> None:
        if self._step() in (Step.LOGIN, Step.SERVE_AND_LOGIN):
            self._start_login()
        elif self._login is None and self._token is not None:
            # It fired a little before its time, or the wall clock was set back since.
            self._set_timer(max(self._token.refresh_at.monotonic, self._clock().monotonic + _LOOK_AGAIN))
