"""One request on its way upstream: what is sent, the exchange that carries it, and what is known of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, cast

from proxy.errors import ConnectionLost, Outcome
from proxy.forward.headers import request_head
from proxy.forward.target import raw_target

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.forward.body import Body
    from proxy.observe import RequestLine
    from proxy.tokens import Refresher, Token
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


class Call:
    """A request that has passed the guard. It holds at most one exchange, from `send` to the end of the context."""

    def __init__(self, request: web.BaseRequest, api: Api, body: Body, line: RequestLine) -> None:
        self.request = request
        self.api = api
        self.body = body
        self.line = line
        self._exchange: Exchange | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._exchange is not None:
            self._exchange.release()

    @property
    def exchange(self) -> Exchange:
        """The one that `send` made last."""
        return cast("Exchange", self._exchange)

    async def send(self, token: Token) -> None:
        """Send the request, once, and return when the head of the answer is there.

        The one thing that is sent again is a GET or HEAD on a connection that was kept from before and ended without a
        byte of answer: upstream had closed it, and reading twice does no harm.

        Raises what `Pool.begin` and `Exchange.send` raise; the first of them while nothing is sent.
        """
        request, body = self.request, self.body
        head = request_head(
            request.method.encode(),
            raw_target(request.raw_path),
            request.raw_headers,
            authority=self.api.authority,
            authorization=token.authorization,
            framing=body.framing,
        )
        try:
            await self._send(head)
        except ConnectionLost:
            if request.method not in ("GET", "HEAD") or not body.replayable or not self._was_stale():
                raise
            self.line.resent = True
            await self._send(head, fresh=True)

    async def _send(self, head: bytes, *, fresh: bool = False) -> None:
        if self._exchange is not None:
            self._exchange.release()
        self._exchange = await self.api.pool.begin(head_only=self.request.method == "HEAD", fresh=fresh)
        started = time.perf_counter()
        self.line.outcome = Outcome.UNKNOWN  # from here on, until there is an answer
        await self._exchange.send(head, self.body.wire)
        self.line.outcome = Outcome.ANSWERED
        self.line.upstream_ms = round((time.perf_counter() - started) * 1000, 3)

    def _was_stale(self) -> bool:
        return self._exchange is not None and self._exchange.kept and not self._exchange.response.begun

    def take_write_under_way(self) -> Exchange | None:
        """Return the exchange of a write that was sent whole and is not answered to the end; it is the taker's then.

        Such a write may have made a document, whether its caller is there to hear of it or not.
        """
        exchange = self._exchange
        if exchange is None or self.request.method in _SAFE or not exchange.sent_whole or exchange.response.ended:
            return None
        self._exchange = None
        return exchange
