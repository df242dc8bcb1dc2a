"""What an operator may have done: a token replaced, the sidecar ended. POST only, and not from a web page of others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from proxy.errors import ProxyError
from proxy.forward.problem import problem
from proxy.observe import next_step

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

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
        return as_json({"refreshed": [_told(result) for result in results]}, status)

    async def _do_end(self, _request: web.Request) -> web.Response:
        self._source.ask_to_stop()
        return as_json({"status": "draining"}, 202)


def _told(result: Refreshed) -> dict[str, str | None]:
    step = {} if result.error is None else {"next_step": next_step("login-failed", result.error)}
    return result._asdict() | step


def as_json(body: Mapping[str, object], status: int = 200) -> web.Response:
    """Answer in JSON that a person can read: Invoisys speaks Portuguese."""
    text = json.dumps(body, ensure_ascii=False)
    encoded = text.encode("utf-8", "backslashreplace")  # of a lone surrogate, that makes the escape which JSON has
    return web.Response(body=encoded, status=status, content_type="application/json", charset="utf-8")


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
