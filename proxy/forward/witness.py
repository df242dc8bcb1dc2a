"""The answers to writes whose callers have left: they are read to their end, since a document may have been made."""

from __future__ import annotations

import asyncio
import time
from copy import copy
from typing import TYPE_CHECKING

from proxy.errors import Outcome, ProxyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.forward.call import Call
    from proxy.forward.traffic import Traffic
    from proxy.observe import AccessLog, RequestLine, RequestMeter
    from proxy.upstream import Exchange


class Witnesses:
    """Those who read on, for one listener; what they hear is logged and counted."""

    def __init__(self, traffic: Traffic, access_log: AccessLog, meter: RequestMeter) -> None:
        self._traffic = traffic
        self._access_log = access_log
        self._meter = meter
        self._tasks: set[asyncio.Task[None]] = set()

    def hear_out(self, call: Call) -> None:
        """Take over the exchange of a call whose caller has left, if it is a write that was sent whole."""
        exchange = call.take_write_under_way()
        if exchange is None:
            return
        end_span = None if call.trace is None else call.trace.hand_over()
        self._traffic.begin()
        witness = asyncio.create_task(self._witness(exchange, copy(call.line), end_span))
        self._tasks.add(witness)
        witness.add_done_callback(self._tasks.discard)

    async def _witness(
        self, exchange: Exchange, line: RequestLine, end_span: Callable[[RequestLine], None] | None
    ) -> None:
        started = time.perf_counter()
        line.error = "caller-gone"
        try:
            while await exchange.read():
                pass
            line.outcome = Outcome.ANSWERED
            line.upstream_status = exchange.response.status
        except ProxyError as error:
            line.outcome, line.detail = error.outcome, error.detail
        finally:
            exchange.release()
            line.ended(started)
            self._access_log.write(line)
            self._traffic.end()
            self._meter.heard(line)
            self._access_log.history.heard(line)
            if end_span is not None:
                end_span(line)
