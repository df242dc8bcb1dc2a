"""One request on its way upstream: what is sent, the exchange that carries it, and what is known of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, cast

from proxy.errors import (
    CannotConnect,
    ConnectionLost,
    Draining,
    InternalError,
    LoginError,
    NoSuchApi,
    Outcome,
    Overloaded,
)
from proxy.forward.headers import names_of, request_head

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy.forward.body import Body
    from proxy.forward.echo import Echoes
    from proxy.forward.request import Request
    from proxy.observe import RequestLine
    from proxy.tokens import Refresher, Token
    from proxy.tracing.spans import RequestTrace
    from proxy.upstream import Exchange, Pool

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that ask for no change of state (RFC 9110, section 9.2.1)."""


@dataclass(frozen=True, slots=True)
class Api:
    """One API generation of one account, as the way of a request needs it."""

    name: str
    prefix: str
    authority: bytes
    origin: bytes
    refresher: Refresher
    pool: Pool
    echoes: Echoes


class Apis:
    """Which API a request is for, by the beginning of its path."""

    def __init__(self, apis: Sequence[Api], absent: Mapping[str, str] | None = None) -> None:
        """`absent` explains, by prefix, why an API is not there."""
        self._apis = apis
        self._absent = absent or {}

    def find(self, target: str) -> Api:
        """Return the API that a target is for; raises `NoSuchApi`."""
        for api in self._apis:
            if target.startswith(api.prefix):
                return api
        for prefix, why in self._absent.items():
            if target.startswith(prefix):
                raise NoSuchApi(why)
        prefixes = ", ".join(api.prefix for api in self._apis)
        raise NoSuchApi(f"the paths of the configured APIs begin with {prefixes}")


_NOTICEABLE = 0.001
"""Seconds. No login and no connection over a network comes sooner; what takes less was there."""


def waited(asked: float, before: float | None = None) -> float | None:
    """Return for how many milliseconds somebody has waited since then and `before`, if at all."""
    seconds = time.perf_counter() - asked
    return round(seconds * 1000 + (before or 0.0), 3) if seconds > _NOTICEABLE else before


class Call:
    """A request that has passed the guard. It holds at most one exchange, from `send` to the end of the context."""

    __slots__ = ("_exchange", "_request", "_token", "_trail", "api", "body", "line", "trace")

    def __init__(
        self,
        request: Request,
        api: Api,
        body: Body,
        line: RequestLine,
        trail: bytes = b"",
        trace: RequestTrace | None = None,
    ) -> None:
        """`trail` are field lines that tell upstream of the way so far; `trace` makes a span of each exchange."""
        self._request = request
        self._trail = trail
        self.api = api
        self.body = body
        self.line = line
        self.trace = trace
        self._token: Token | None = None
        self._exchange: Exchange | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def exchange(self) -> Exchange:
        """The one that `send` made last."""
        return cast("Exchange", self._exchange)

    @property
    def token(self) -> Token:
        """The one that `send` sent last."""
        return cast("Token", self._token)

    async def send(self, token: Token) -> None:
        """Send the request, once, with a token that is good now, and return when the head of the answer is there.

        The one thing that is sent again is a GET or HEAD on a connection that was kept from before and ended without a
        byte of answer: upstream had closed it, and reading twice does no harm.

        Raises `CannotConnect`, `Overloaded` and `LoginError` while nothing is sent, then what `Exchange.send` raises.
        """
        self.release()
        exchange = self.api.pool.begin_at_once(head_only=self._request.method == "HEAD")
        if exchange is None:
            exchange, token = await self._begin()
        try:
            await self._send(exchange, token)
        except ConnectionLost as lost:
            if self.line.resent or not self._was_stale():
                raise
            self.line.resent = True
            self.release()
            try:
                exchange, token = await self._begin(fresh=True)
            except (CannotConnect, Overloaded, LoginError, Draining):
                raise lost from None  # the first time, something was sent
            await self._send(exchange, token)

    async def _begin(self, *, fresh: bool = False) -> tuple[Exchange, Token]:
        """Wait for a connection and a token that are good at the same time: the wait for one may outlive the other."""
        head_only = self._request.method == "HEAD"
        asked = time.perf_counter()
        try:
            while True:
                exchange = await self.api.pool.begin(head_only=head_only, fresh=fresh)
                token = self.api.refresher.current()
                if token is not None:
                    return exchange, token
                exchange.release()
                await self.api.refresher.token()
        finally:
            self.line.waiting_ms = waited(asked, self.line.waiting_ms)

    async def _send(self, exchange: Exchange, token: Token) -> None:
        """Write the request; until then nothing is awaited, so that the connection is still good, and the token."""
        self._exchange, self._token = exchange, token
        if token.audience is not exchange.audience and token.audience != exchange.audience:
            raise InternalError("the token belongs to another server than the connection; nothing was sent")
        request, line, trace = self._request, self.line, self.trace
        fields, names, trail = request.fields, request.names, self._trail
        if trace is not None:
            fields, trail = trace.sends(self.api.origin, fields, trail)
            names = names_of(fields)
        head = request_head(
            request.line,
            fields,
            names,
            authority=self.api.authority,
            authorization=token.authorization,
            framing=self.body.framing,
            trail=trail,
        )
        started = time.perf_counter()
        line.outcome = Outcome.UNKNOWN  # from here on, until there is an answer
        await exchange.send(head, self.body.wire)
        self.api.echoes.strip(exchange.response, token)
        line.outcome = Outcome.ANSWERED
        line.upstream_ms = round((time.perf_counter() - started) * 1000, 3)
        if trace is not None:
            trace.answered(exchange.response.status)

    def release(self) -> None:
        """Give the connection back; an answer that was read whole can still be passed on."""
        if self._exchange is not None:
            self._exchange.release()

    def _was_stale(self) -> bool:
        may_repeat = self._request.method in ("GET", "HEAD") and self.body.replayable
        return may_repeat and self.exchange.kept and not self.exchange.response.heard

    def take_write_under_way(self) -> Exchange | None:
        """Return the exchange of a write that was sent whole and is not answered to the end; it is the taker's then.

        Such a write may have made a document, whether its caller is there to hear of it or not.
        """
        exchange = self._exchange
        if exchange is None or self._request.method in _SAFE or not exchange.sent_whole or exchange.response.ended:
            return None
        self._exchange = None
        return exchange
