"""One account's token for one API, kept usable by at most one login at a time."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from proxy.errors import ConfigError, LoginError, LoginTimedOut
from proxy.observe import TokenReading
from proxy.tokens.life import Life
from proxy.tokens.states import LoginState, Step
from proxy.tokens.store import Kept
from proxy.tokens.token import Moment, Token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.config import Credentials
    from proxy.observe import TokenMeter
    from proxy.tokens.login import Grant
    from proxy.tokens.schedule import Schedule
    from proxy.tokens.store import Store, TokenKey
    from proxy.tokens.token import Clock
    from proxy.waiting import WaitingRoom

log = logging.getLogger(__name__)

_SERVING = (Step.SERVE, Step.SERVE_AND_LOGIN)
_JOINING = (Step.LOGIN, Step.JOIN)
_LOOK_EVERY = 1.0
"""Seconds between two looks at credentials that were refused, or at a shared store."""
_SHORTEST_WAIT = 0.1
"""Seconds, at least, until the next look at a schedule that has nothing to do yet."""
_WARN_EVERY = 3600.0
"""Seconds between two warnings that tokens do not live as long as they should."""


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
        meter: TokenMeter,
    ) -> None:
        """`credentials` is asked anew for every login."""
        self._key = key
        self._credentials = credentials
        self._log_in = login
        self._store = store
        self._schedule = schedule
        self._clock = clock
        self._waiting = waiting
        self._meter = meter
        self._life = Life(schedule)
        self._login: asyncio.Task[LoginError | None] | None = None
        self._refused: Credentials | None = None
        self._look: asyncio.Task[None] | None = None
        self._kept_under: TokenKey | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._warned_at = float("-inf")
        self._stopped = False
        meter.read_from(self._reading)

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
        until = self._clock().monotonic + self._schedule.patience
        with self._waiting:
            await self._join(until)
            if self._step() in _JOINING:  # a clock was set while the token was on its way
                await self._join(until)
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
        self._warn_of_losses()
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
            now = self._clock()
            left = self._life.retry_in(now)
            raise type(failure)(failure.detail, retry_after=left)  # one each: a traceback is not shared

    def _start_login(self) -> asyncio.Task[LoginError | None] | None:
        if self._stopped:
            return None
        self._life.began(self._clock())
        self._login = asyncio.get_running_loop().create_task(self._replace(), name=f"login to {self._key.api}")
        return self._login

    async def _replace(self) -> LoginError | None:
        reason = self._life.reason(self._clock())
        try:
            token, result = await self._obtain()
        except LoginError as error:
            return self._fail(error, reason)
        except Exception:
            log.exception("the login failed for a reason that is a defect of the sidecar", extra={"event": "defect"})
            return self._fail(LoginError("the login failed for a reason that is a defect of the sidecar"), reason)
        else:
            self._life.granted(token)
            self._tell(token, reason, result)
            return None
        finally:
            self._login = None

    async def _obtain(self) -> tuple[Token, str]:
        """Return a token that somebody else got in the meantime, or log in; raises `LoginError`."""
        try:
            credentials = self._credentials()
        except ConfigError as error:
            raise LoginError(f"the credentials cannot be read: {error}") from None
        key = self._kept_under = self._key.of(credentials)
        async with self._store.lock(key):
            kept = await self._store.load(key)
            if kept is not None and self._life.accepts(kept, self._clock()):
                return self._known(kept), "shared"
            asked_at = self._clock()
            self._life.logs_in(asked_at)
            self._warn_of_losses()
            try:
                grant = await self._log_in(credentials)
            except LoginError as error:
                self._refused = credentials if error.final else None
                raise
            finally:
                self._meter.login_took(self._clock().monotonic - asked_at.monotonic)
            held = self._life.token.generation if self._life.token is not None else 0
            generation = max(held, kept.generation if kept is not None else 0) + 1
            token = self._token(grant.access_token, generation, asked_at, grant.lifetime)
            await self._store.save(key, Kept(token.value, generation, asked_at.wall, token.expires_at.wall))
            return token, "granted"

    def _known(self, kept: Kept) -> Token:
        """Return a token from the store; only the wall clock tells its age, and a replica's may be ahead of ours."""
        now = self._clock()
        age = max(0.0, now.wall - kept.obtained_at)
        obtained_at = Moment(kept.obtained_at, now.monotonic - age)
        return self._token(kept.value, kept.generation, obtained_at, kept.expires_at - kept.obtained_at)

    def _token(self, value: str, generation: int, obtained_at: Moment, lifetime: float) -> Token:
        refresh_at = obtained_at.plus(self._schedule.refresh_after(lifetime))
        return Token(value, generation, obtained_at, refresh_at, obtained_at.plus(lifetime))

    # --- What the others do -----------------------------------------------------------------------------------------

    async def _look_into_store(self, key: TokenKey) -> None:
        """Take over what another sidecar saved: each then holds the newest token, should no other count upstream."""
        try:
            kept = await self._store.load(key)
            if kept is not None and self._login is None and self._life.prefers(kept, self._clock()):
                token = self._known(kept)
                self._life.shared(token)
                self._tell(token, "look", "shared")
        finally:
            self._look = None
            self._set_timer()

    # --- What is told -------------------------------------------------------------------------------------------------

    def _tell(self, token: Token, reason: str, result: str) -> None:
        self._set_timer()
        self._meter.login_ended(reason, result)
        lifetime = round(token.expires_at.wall - token.obtained_at.wall)
        about = self._about("login", reason=reason, result=result, generation=token.generation, expires_in=lifetime)
        log.info("a new token", extra=about)

    def _fail(self, error: LoginError, reason: str) -> LoginError:
        wait = self._life.failed(error, self._clock())
        self._set_timer()
        self._meter.login_ended(reason, error.name)
        text = "no new token: %s; the next login is in %.0f s"
        log.warning(text, error.detail, wait, extra=self._about("login-failed", reason=reason, error=error.name))
        return error

    def _warn_of_losses(self) -> None:
        now = self._clock()
        if self._life.loses_tokens(now) and now.monotonic - self._warned_at >= _WARN_EVERY:
            self._warned_at = now.monotonic
            text = (
                "upstream rejects good tokens again and again: either paths are forbidden to this user, or something"
                " else logs in as the same user and only the newest token counts; let all share one tokens.store"
            )
            log.warning(text, extra=self._about("tokens-lost", rejections=self._life.rejections))

    def _reading(self) -> TokenReading:
        now, token = self._clock(), self._life.token
        return TokenReading(
            age=None if token is None else token.obtained_at.age(now),
            expires_in=None if token is None else token.expires_at.left(now),
            generation=0 if token is None else token.generation,
            login_state=self._life.login_state(now).value,
            retry_in=self._life.retry_in(now),
            rejections=self._life.rejections,
        )

    def _about(self, event: str, **fields: object) -> dict[str, object]:
        return {"event": event, "api": self._key.api, "account": self._key.account, **fields}

    # --- Timers -------------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._stopped:
            return
        now = self._clock()
        delay = self._life.wakes_at(now) - now.monotonic
        if self._store.shared or self._life.login_state(now) is LoginState.REFUSED:
            delay = min(delay, _LOOK_EVERY)
        self._timer = asyncio.get_running_loop().call_later(max(delay, _SHORTEST_WAIT), self._wake)

    def _wake(self) -> None:
        if self._life.login_state(self._clock()) is LoginState.REFUSED and self._secret_changed():
            self._life.secret_changed()
        if self._step() in (Step.LOGIN, Step.SERVE_AND_LOGIN):
            self._start_login()
        elif self._login is None and self._look is None:
            if self._store.shared and self._kept_under is not None:
                look = self._look_into_store(self._kept_under)
                self._look = asyncio.get_running_loop().create_task(look, name="look into the token store")
            else:
                self._set_timer()  # a timer a little before its time, or a wall clock that was set back since

    def _secret_changed(self) -> bool:
        try:
            return self._credentials() != self._refused
        except ConfigError:
            return False
