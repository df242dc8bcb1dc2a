"""One account's token for one API, kept usable by at most one login at a time."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from proxy.errors import ConfigError, LoginError, LoginTimedOut
from proxy.tokens.life import Life
from proxy.tokens.states import LoginState, Step
from proxy.tokens.store import Kept
from proxy.tokens.token import Moment, Token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.config import Credentials
    from proxy.tokens.login import Grant
    from proxy.tokens.schedule import Schedule
    from proxy.tokens.store import Store, TokenKey
    from proxy.tokens.token import Clock
    from proxy.waiting import WaitingRoom

log = logging.getLogger(__name__)

_SERVING = (Step.SERVE, Step.SERVE_AND_LOGIN)
_LOOK_EVERY = 1.0
"""Seconds between two looks at credentials that were refused."""
_LOOK_AGAIN = 0.1
"""Seconds, at least, between two looks at a schedule that has nothing to do yet."""


class Refresher:
    """Gives the token to those who ask, and replaces it: ahead of time, or because upstream rejected it.

    What is to be done is decided by `Life`; here are the login, the store and the timers. The login runs in a task of
    its own. Those who wait for it watch it from outside, so that one of them leaving cancels nothing, and a login's
    failure is told to all of them at once.
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
    ) -> None:
        """`credentials` is asked anew for every login."""
        self._key = key
        self._credentials = credentials
        self._log_in = login
        self._store = store
        self._schedule = schedule
        self._clock = clock
        self._waiting = waiting
        self._life = Life(schedule)
        self._login: asyncio.Task[LoginError | None] | None = None
        self._refused: Credentials | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    # --- What a request asks for ------------------------------------------------------------------------------------

    async def token(self) -> Token:
        """Return a usable token, waiting for the one login in flight where there is none.

        Raises `LoginError` as soon as it is known that there will be none, `Overloaded` when too many wait already.
        """
        match self._step():
            case Step.SERVE:
                return cast("Token", self._life.token)
            case Step.SERVE_AND_LOGIN:
                self._start_login()
                return cast("Token", self._life.token)
            case Step.FAIL:
                raise self._life.refusal(self._clock())
        with self._waiting:
            await self._join()
        if self._step() in _SERVING:
            return cast("Token", self._life.token)
        raise LoginError("the token from the login could not be used any more", retry_after=1)

    def current(self) -> Token | None:
        """Return the token if it is usable now, without waiting."""
        return self._life.token if self._step() in _SERVING else None

    async def renew(self, rejected: Token) -> bool:
        """Wait for another token than the one that upstream answered 401 to; false where no login may be made for it.

        Raises as `token` does.
        """
        if not self.reject(rejected):
            return False
        await self.token()
        return True

    def reject(self, rejected: Token) -> bool:
        """Have a rejected token replaced, without waiting; tell whether it was, is being or will be."""
        renewable = self._life.rejected(rejected, self._clock())
        if self._step() is Step.LOGIN:
            self._start_login()
        return renewable

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

    def stop(self) -> None:
        """End the login in flight and the schedule; no login begins any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._login is not None:
            self._login.cancel()

    # --- The login ----------------------------------------------------------------------------------------------------

    def _step(self) -> Step:
        return self._life.step(self._clock())

    async def _join(self) -> None:
        login = self._login or self._start_login()
        if login is None:
            raise LoginError("the sidecar is stopping", retry_after=1)
        await asyncio.wait([login], timeout=self._schedule.patience)
        if not login.done():
            raise LoginTimedOut(f"no token within {self._schedule.patience:g} s", retry_after=1)
        if login.cancelled():
            raise LoginError("the sidecar is stopping", retry_after=1)
        failure = login.result()
        if failure is not None:
            now = self._clock()
            left = self._life.wakes_at(now) - now.monotonic
            raise type(failure)(failure.detail, retry_after=left)  # one each: a traceback is not shared

    def _start_login(self) -> asyncio.Task[LoginError | None] | None:
        if self._stopped:
            return None
        self._life.began(self._clock())
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

    async def _obtain(self) -> Kept:
        """Return a token that somebody else got in the meantime, or log in; raises `LoginError`."""
        try:
            credentials = self._credentials()
        except ConfigError as error:
            raise LoginError(f"the credentials cannot be read: {error}") from None
        key = self._key.of(credentials)
        async with self._store.lock(key):
            kept = await self._store.load(key)
            if kept is not None and self._life.accepts(kept.value):
                return kept
            self._life.logs_in(self._clock())
            asked_at = self._clock().wall
            try:
                grant = await self._log_in(credentials)
            except LoginError as error:
                self._refused = credentials if error.final else None
                raise
            held = self._life.token.generation if self._life.token is not None else 0
            generation = max(held, kept.generation if kept is not None else 0) + 1
            token = Kept(grant.access_token, generation, asked_at, asked_at + grant.lifetime)
            await self._store.save(key, token)
            return token

    def _adopt(self, kept: Kept) -> None:
        now = self._clock()
        age = max(0.0, now.wall - kept.obtained_at)  # a replica's clock may be ahead of ours
        obtained_at = Moment(kept.obtained_at, now.monotonic - age)
        lifetime = kept.expires_at - kept.obtained_at
        token = Token(
            value=kept.value,
            generation=kept.generation,
            obtained_at=obtained_at,
            refresh_at=obtained_at.plus(self._schedule.refresh_after(lifetime)),
            expires_at=obtained_at.plus(lifetime),
        )
        self._life.granted(token)
        self._set_timer()
        log.info("a new token", extra=self._about("login", generation=token.generation, expires_in=round(lifetime)))

    def _fail(self, error: LoginError) -> LoginError:
        wait = self._life.failed(error, self._clock())
        self._set_timer()
        text = "no new token: %s; the next login is in %.0f s"
        log.warning(text, error.detail, wait, extra=self._about("login-failed", error=error.name))
        return error

    def _about(self, event: str, **fields: object) -> dict[str, object]:
        return {"event": event, "api": self._key.api, "account": self._key.account, **fields}

    # --- Timers -------------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        now = self._clock()
        delay = self._life.wakes_at(now) - now.monotonic
        if self._life.login_state(now) is LoginState.REFUSED:
            delay = min(delay, _LOOK_EVERY)
        self._timer = asyncio.get_running_loop().call_later(max(delay, _LOOK_AGAIN), self._wake)

    def _wake(self) -> None:
        if self._life.login_state(self._clock()) is LoginState.REFUSED and self._secret_changed():
            self._life.secret_changed()
        if self._step() in (Step.LOGIN, Step.SERVE_AND_LOGIN):
            self._start_login()
        elif self._login is None:
            self._set_timer()  # a look, a timer a little before its time, or a wall clock that was set back since

    def _secret_changed(self) -> bool:
        try:
            return self._credentials() != self._refused
        except ConfigError:
            return False
