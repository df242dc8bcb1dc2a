"""Probes: is the sidecar started, is it alive, can it serve? None of them calls upstream."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aiohttp import web

from proxy.admin.actions import Actions, as_json
from proxy.admin.site import Site
from proxy.admin.source import Readiness
from proxy.door import Door
from proxy.guard import Guard, own_names
from proxy.observe import next_step

if TYPE_CHECKING:
    from proxy.admin.source import Source
    from proxy.config import Admin as Config
    from proxy.door import TakeSockets


_MOST_CONNECTIONS = 100
"""The newest is always let in: whoever holds the others must not make an orchestrator think that we are dead."""

_KEEP_ALIVE = 75.0

_SERVING = {Readiness.READY, Readiness.DEGRADED}


class Admin:
    """The operator's port, open from `open` to `close`."""

    def __init__(self, config: Config, source: Source) -> None:
        """Raises `ConfigError`, for an owner or a group that nobody has."""
        self._door = Door(config.bind, config.socket)
        self._source = source
        names = map(str, (*config.hosts, *own_names(config.bind)))
        guard = Guard(names, hosts_key="`admin.hosts`", origins_key=None)
        self._actions = Actions(guard, source)
        self._site = Site(guard, source)
        self._runner: web.AppRunner | None = None

    async def open(self, take_sockets: TakeSockets | None = None) -> str:
        """Listen, and return the address; raises `OSError`."""
        app = web.Application()
        app.router.add_get("/startupz", self._started)
        app.router.add_get("/livez", self._alive)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._exposition)
        self._actions.add_to(app.router)
        self._site.add_to(app.router)
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=_KEEP_ALIVE)
        await self._runner.setup()
        server = cast("web.Server", self._runner.server)

        def send_oldest_away() -> None:
            oldest = next((each for each in server.connections if each.connected), None)
            if oldest is not None:
                oldest.force_close()

        return await self._door.open(
            server,
            lambda: len(server.connections),
            _MOST_CONNECTIONS,
            make_room=send_oldest_away,
            take_sockets=take_sockets,
        )

    async def close(self) -> None:
        """Stop listening."""
        self._door.close()
        self._site.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _started(self, _request: web.Request) -> web.Response:
        reason = "the configuration is loaded, and the listeners are open"  # this port is opened last
        return as_json({"status": "ok", "reasons": [reason]})

    async def _alive(self, _request: web.Request) -> web.Response:
        if await self._source.turns():
            return as_json({"status": "ok", "reasons": ["the event loop turns"]})
        stuck = {"status": "stuck", "reasons": ["no worker's event loop turns"]}
        return as_json({**stuck, "next_steps": [next_step("worker-stuck")]}, 503)

    async def _ready(self, _request: web.Request) -> web.Response:
        readiness, reasons, steps = await self._source.condition()
        told = {"status": readiness, "reasons": reasons}
        return as_json({**told, "next_steps": steps} if steps else told, 200 if readiness in _SERVING else 503)

    async def _exposition(self, request: web.Request) -> web.Response:
        body, media_type = await self._source.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": media_type})
