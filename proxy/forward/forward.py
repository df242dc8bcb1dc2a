"""The whole way of a request, top to bottom: `Forward._forward`, and `_replay` for the 401."""

from __future__ import annotations

import asyncio
import logging
import time
from itertools import count
from secrets import token_hex
from typing import TYPE_CHECKING, TypeVar, cast

from aiohttp import hdrs

from proxy.errors import (
    CannotConnect,
    ConnectionLost,
    Draining,
    Forbidden,
    HeadersTooLarge,
    InternalError,
    LoginError,
    MalformedRequest,
    Outcome,
    Overloaded,
    ProxyError,
    TargetTooLong,
)
from proxy.forward.answer import Answer
from proxy.forward.call import Call, waited
from proxy.forward.problem import STAND_IN_TOKEN
from proxy.forward.traffic import Traffic
from proxy.forward.witness import Witnesses
from proxy.guard import check_message, is_preflight
from proxy.observe import Inspected, RequestLine

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from proxy.forward.body import Holder
    from proxy.forward.call import Apis
    from proxy.forward.headers import Trail
    from proxy.forward.request import Request
    from proxy.guard import Guard
    from proxy.observe import AccessLog, RequestMeter
    from proxy.tokens import Token
    from proxy.tracing.spans import ListenerTracing, RequestTrace

T = TypeVar("T")

log = logging.getLogger(__name__)

_UNAUTHORIZED = 401
_LARGEST_HELD_401 = 64 * 1024
"""Bytes of a 401's body that are kept while the token is renewed, so that the 401 can still be passed on."""


class Forward:
    """Takes one listener's requests to upstream and the answers back; a caller's connection calls it for each."""

    def __init__(
        self,
        listener: str,
        guard: Guard,
        apis: Apis,
        holder: Holder,
        access_log: AccessLog,
        meter: RequestMeter,
        *,
        trail: Trail | None = None,
        stand_in: bool = True,
    ) -> None:
        """`trail` is what upstream is told of the way so far; `stand_in` has the token endpoint answered."""
        self._listener = listener
        self._guard = guard
        self._apis = apis
        self._trail = trail
        self._holder = holder
        self._access_log = access_log
        self.meter = meter
        self._history = access_log.history
        self._stand_in = stand_in
        self.tracing: ListenerTracing | None = None
        """Makes a span of each request and each exchange."""
        self._ids = (f"{run}-{number:x}" for run in (token_hex(4),) for number in count(1))
        self.traffic = Traffic(meter)
        self._witnesses = Witnesses(self.traffic, access_log, meter)
        self.closing = False
        """Every answer is the last on its connection."""
        self.draining = False
        """No request is taken any more."""

    async def __call__(self, request: Request) -> Answer:
        """Bring a request to its end: one answer, and one line in the log."""
        started = time.perf_counter()
        answer = Answer(request, self._holder.stall)
        if self.closing:
            answer.close_after()
        line = RequestLine(
            request_id=next(self._ids),
            listener=self._listener,
            method=request.method,
            path=request.target.shown,
            peer_uid=request.caller.peer_uid,
            outcome=Outcome.NOT_SENT,
        )
        trace = None if self.tracing is None else self.tracing.begin(line, request.fields, request.version)
        task = cast("asyncio.Task[None]", request.caller.task)
        self.traffic.enter(task)
        try:
            await self._forward(request, answer, line, trace)
        except ProxyError as error:
            self._refuse(request, answer, line, error)
        except ConnectionError:
            line.error = "caller-gone"
            raise
        except asyncio.CancelledError:
            if not self.traffic.was_given_up(task):
                line.error = "caller-gone"
                raise
            self._refuse(request, answer, line, _given_up(line))
        except Exception:
            log.exception("a request met a defect of the sidecar", extra={"event": "defect"})
            self._refuse(request, answer, line, InternalError("a defect of the sidecar; its log tells more"))
        finally:
            self.traffic.leave(task)
            del task  # a cancelled one refers to this frame, which would refer to it: both, and the body, would stay
            line.status, line.bytes_sent = answer.status, answer.sent
            line.ended(started)
            self._access_log.write(line)
            self.traffic.end()
            self.meter.ended(line)
            self._history.ended(line, request.fields, answer.inspected, answer.head)
            if trace is not None:
                trace.end()
        return answer

    async def _forward(self, request: Request, answer: Answer, line: RequestLine, trace: RequestTrace | None) -> None:
        page = self._admit(request, answer)
        line.own = self._answers_itself(request, answer, page)
        if line.own:
            return
        api = self._apis.find(request.target.text)
        line.api = api.name
        if request.expects_continue:
            await api.refresher.token()
            answer.go_on()
        trail = self._trail.lines(request.caller.address, request.host) if self._trail is not None else b""
        with await self._holder.read(request) as body, Call(request, api, body, line, trail, trace) as call:
            if self._history.inspecting:
                answer.inspected = Inspected(request.target.wire, body.held)
            try:
                await call.send(await _token(call))
                if call.exchange.response.status == _UNAUTHORIZED:
                    await _replay(call)
                if self.closing:
                    answer.close_after()
                await answer.relay(call.exchange, api.origin)
            except (asyncio.CancelledError, ConnectionError):
                self._witnesses.hear_out(call)
                raise

    def _admit(self, request: Request, answer: Answer) -> str | None:
        """Raise what keeps a request out; return the origin of the web page that asks, where one does that may."""
        page = self._guard.web_page(request.headers)
        if page is not None:
            answer.share_with(page)  # a refusal too
        if self.draining:
            raise Draining("the sidecar is stopping; another will take its place", retry_after=1)
        check_message(request.version, request.target.wire, request.fields)
        self._guard.check(request.method, request.target.text, request.headers)
        return page

    def _answers_itself(self, request: Request, answer: Answer, page: str | None) -> bool:
        """Answer a web page's preflight, and an ERP that logs in for itself; tell whether it was one of these."""
        asking = page if is_preflight(request.method, request.headers) else None
        if asking is None and not (request.target.asks_for_token and request.method == "POST"):
            return False
        if request.expects_continue and not request.caller.has_all:
            answer.close_after()  # whether a body comes that was not asked for, nobody knows
        if asking is None:
            self._answer_login(answer)
        else:
            answer.allow(asking, request.headers)
        return True

    def _answer_login(self, answer: Answer) -> None:
        if not self._stand_in:
            raise Forbidden(
                "this listener gives no tokens: the sidecar adds the real one to each request", "token-endpoint"
            )
        answer.give(STAND_IN_TOKEN)

    def _refuse(self, request: Request, answer: Answer, line: RequestLine, error: ProxyError) -> None:
        line.outcome, line.error, line.detail = error.outcome, error.name, error.detail
        if answer.begun:
            answer.break_off()
            return
        line.own = True
        if error.cause is not None:
            self.meter.refused(error.cause)
        elif isinstance(error, MalformedRequest | TargetTooLong | HeadersTooLarge):
            self.meter.was_malformed(error.name)
        unread = not request.caller.has_all or isinstance(error, MalformedRequest)
        # What follows a request for another protocol may be no request.
        leaving = request.method == "CONNECT" or hdrs.UPGRADE in request.headers
        if self.closing or self.draining or unread or leaving:
            answer.close_after()
        answer.refuse(error, line.request_id)


async def _replay(call: Call) -> None:
    """Renew the token that upstream answered 401 to, and send the request once more.

    A 401 is decided before a document is processed, so the second exchange cannot issue it twice. Where there is no
    second exchange, the 401 is upstream's last word and is passed on.
    """
    refresher, rejected, token, line = call.api.refresher, call.exchange, call.token, call.line
    if not call.body.replayable or not await rejected.settle(_LARGEST_HELD_401):
        line.replay = "too-large"
        refresher.reject(token)
        return
    rejected.release()
    line.replay = "failed"
    try:
        renewed = await _noted(call, refresher.renew(token))
        if renewed is not None:
            line.replayed = True
            await call.send(renewed)
    except (LoginError, Overloaded, CannotConnect, Draining):
        line.replayed = False  # nothing more was sent
        return
    permitted = line.replayed and call.exchange.response.status != _UNAUTHORIZED
    line.replay = "replayed" if permitted else "permission"


async def _token(call: Call) -> Token:
    """Return the current token, or wait for the one login that brings it."""
    valid = call.api.refresher.valid()
    return await _noted(call, call.api.refresher.token()) if valid is None else valid


async def _noted(call: Call, login: Awaitable[T]) -> T:
    """Wait for a token, and note for how long."""
    asked = time.perf_counter()
    try:
        return await login
    finally:
        call.line.login_ms = waited(asked, call.line.login_ms)


def _given_up(line: RequestLine) -> ProxyError:
    """Say what is known of a request that the sidecar gives up."""
    if line.outcome is Outcome.UNKNOWN:
        return ConnectionLost("the sidecar gave the request up before the answer was whole")
    if line.outcome is Outcome.ANSWERED:  # by a 401: it waited to be sent once more
        return Draining("Invoisys took its token no more, and the sidecar gave it up unprocessed", retry_after=1)
    return Draining("the sidecar gave the request up before it was sent", retry_after=1)
