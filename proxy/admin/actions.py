"""What an operator may have done: a token replaced, the sidecar ended. POST only, and not from a web page of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from proxy.errors import ProxyError
from proxy.forward.problem import problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.admin.source import Source
    from proxy.guard import Guard

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refreshed(NamedTuple):
    """What came of replacing one account's token for one API."""

    account: str
    api: str
    error: str | None = None
    """Its name; none where there is a new token."""
    detail: str | None = None


class Actions:
    """The routes that do something."""

    def __init__(self, guard: Guard, source: Source) -> None:
        self._guard = guard
        self._source = source

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_post("/refresh", guarded(self._guard, self._do_refresh))
        router.add_post("/quit", guarded(self._guard, self._do_end))

    async def _do_refresh(self, request: web.Request) -> web.Response:
        results = await self._source.refresh()
        if "text/html" in request.headers.get("Accept", ""):  # the page's form, in a browser without a script
            raise web.HTTPSeeOther("/")
        status = 503 if any(result.error for result in results) else 200
        return web.json_response({"refreshed": [result._asdict() for result in results]}, status=status)

    async def _do_end(self, _request: web.Request) -> web.Response:
        self._source.ask_to_stop()
        return web.json_response({"status": "draining"}, status=202)


def guarded(guard: Guard, handler: Handler) -> Handler:
    """Return a handler that asks the guard first: Host as at a listener, and web pages only of its own origin."""

    async def judged(request: web.Request) -> web.StreamResponse:
        try:
            guard.check_host(request.headers)
            own = request.headers.get("Origin") == f"http://{request.headers.get('Host')}"
            if not own:
                guard.check_browser(request.headers)
        except ProxyError as error:
            fields, body = problem(error, "-")
            headers = [line.split(": ", 1) for line in fields.decode().splitlines()]
            return web.Response(
                status=error.status,
                body=body,
                content_type="application/problem+json",
                headers=[(name, value) for name, value in headers],
            )
        return await handler(request)

    return judged
