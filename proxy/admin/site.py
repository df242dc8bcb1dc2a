"""The status page's routes: the page, one request, the state as JSON, the news, and the page's own files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from proxy.admin.actions import guarded
from proxy.admin.page import details_page, page
from proxy.admin.rows import Filter
from proxy.admin.stream import Stream
from proxy.admin.texts import words_for

if TYPE_CHECKING:
    from proxy.admin.source import Source
    from proxy.guard import Guard

_STATIC = Path(__file__).with_name("static")
_FILES = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}

_FIELDS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with none at all, a form's Origin would be null
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_LONGEST_FILTER = 200


class Site:
    """Everything that a person looks at."""

    def __init__(self, guard: Guard, source: Source) -> None:
        self._guard = guard
        self._source = source
        self._files = {name: (_STATIC / name).read_bytes() for name in _FILES}
        self._stream = Stream(source.status, source.run)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        for path, handler in (
            ("/", self._page),
            ("/requests/{request_id}", self._details),
            ("/status", self._status),
            ("/events", self._stream.answer),
            ("/static/{name}", self._file),
        ):
            router.add_get(path, guarded(self._guard, handler))

    def close(self) -> None:
        """End the news."""
        self._stream.close()

    async def _page(self, request: web.Request) -> web.Response:
        chosen = Filter(request.query.get("q", "")[:_LONGEST_FILTER], "failed" in request.query)
        words = words_for(request.headers.get("Accept-Language", ""))
        return _html(page(await self._source.status(), words, chosen))

    async def _details(self, asked: web.Request) -> web.Response:
        request_id = asked.match_info["request_id"]
        found = await self._source.find(request_id)
        words = words_for(asked.headers.get("Accept-Language", ""))
        if not found:
            request_id = "—"  # what somebody else wrote is not repeated
        return _html(details_page(found, request_id, words), 200 if found else 404)

    async def _status(self, _request: web.Request) -> web.Response:
        body = msgspec.json.encode(await self._source.status())
        return web.Response(body=body, content_type="application/json", headers=_FIELDS)

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._files:
            raise web.HTTPNotFound
        return web.Response(body=self._files[name], content_type=_FILES[name], charset="utf-8", headers=_FIELDS)


def _html(text: str, status: int = 200) -> web.Response:
    headers = _FIELDS | {"Vary": "Accept-Language"}
    return web.Response(text=text, status=status, content_type="text/html", headers=headers)
