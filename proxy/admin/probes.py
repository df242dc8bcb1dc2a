"""Probes: is the sidecar started, is it alive, can it serve? None of them calls upstream."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.config import Bind
    from proxy.observe import Metrics


class Readiness(StrEnum):
    """Whether requests can be served."""

    READY = "ready"
    DEGRADED = "degraded"  # on a valid token, while its renewal fails
    NOT_READY = "not-ready"
    DRAINING = "draining"


class Condition(NamedTuple):
    """Readiness, and the reasons in words."""

    readiness: Readiness
    reasons: tuple[str, ...] = ()


_SERVING = {Readiness.READY, Readiness.DEGRADED}


class Admin:
    """The operator's port, open from `open` to `close`."""

    def __init__(self, bind: Bind, condition: Callable[[], Condition], metrics: Metrics) -> None:
        self._bind = bind
        self._condition = condition
        self._metrics = metrics
        self._runner: web.AppRunner | None = None

    async def open(self) -> str:
        """Listen, and return the address; raises `OSError`."""
        app = web.Application()
        app.router.add_get("/startupz", self._alive)  # it is answered only once the listeners are open
        app.router.add_get("/livez", self._alive)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._exposition)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        if self._bind.path:
            await web.UnixSite(self._runner, self._bind.path).start()
            return str(self._bind)
        await web.TCPSite(self._runner, self._bind.host, self._bind.port).start()
        return f"http://{replace(self._bind, port=self._runner.addresses[0][1])}"

    async def close(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _alive(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _ready(self, _request: web.Request) -> web.Response:
        readiness, reasons = self._condition()
        status = 200 if readiness in _SERVING else 503
        return web.json_response({"status": readiness, "reasons": reasons}, status=status)

    async def _exposition(self, request: web.Request) -> web.Response:
        body, media_type = self._metrics.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": media_type})
