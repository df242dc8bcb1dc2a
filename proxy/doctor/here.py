"""This machine: the sidecar's own addresses, and what a sidecar that runs already says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http
import os
import shlex
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import msgspec

from proxy.doctor.report import Finding
from proxy.doctor.verdicts import judge_metrics, judge_readiness, read_metrics

if TYPE_CHECKING:
    from proxy.config import Bind

_NO_HOST_OF_OURS = "doctor.invalid"
"""A Host that no listener has: what comes with it is answered 421 by the sidecar itself, and goes no further."""
_OURS = "urn:invoisys-proxy:"
_LARGEST_ANSWER = 1024 * 1024
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - asked at, not bound to


class _Answer(NamedTuple):
    status: int
    body: bytes


class _Foreign(Exception):
    """What answers does not speak HTTP."""


class Here:
    """The addresses that one configuration names; each answer is waited for `limit` seconds."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self.runs = False
        """A sidecar answers at the operator's port."""

    async def look_at_admin(self, bind: Bind) -> str:
        """Look who is at the operator's port, and hear what the sidecar says of itself; raises `Finding`."""
        status, reasons = await self._readiness(bind)
        if status is None:
            return self._free(bind)
        self.runs = True
        return judge_readiness(status, reasons)

    async def look_at_metrics(self, bind: Bind) -> str:
        """Read what the sidecar has counted; raises `Finding`."""
        answer = await self._ask(bind, "/metrics")
        try:
            reading = read_metrics(answer.body.decode() if answer else "")
        except ValueError:
            raise _taken(bind, "admin.bind") from None
        return judge_metrics(reading)

    async def look_at_listener(self, bind: Bind, key: str) -> str:
        """Look who is at a listener's address; raises `Finding`."""
        try:
            answer = await self._ask(bind, "/", {"Host": _NO_HOST_OF_OURS})
        except _Foreign:
            raise _taken(bind, key) from None
        if answer is None:
            if self.runs:
                text = f"a sidecar runs, but nothing listens at {bind}"
                mend = "restart the sidecar with this configuration, or try it with the one that it runs with"
                raise Finding("not-listening", text, mend)
            return self._free(bind)
        with contextlib.suppress(msgspec.DecodeError, TypeError, AttributeError):
            if msgspec.json.decode(answer.body)["type"].startswith(_OURS):
                return "a sidecar listens there"
        raise _taken(bind, key)

    async def _readiness(self, bind: Bind) -> tuple[str | None, list[str]]:
        try:
            answer = await self._ask(bind, "/readyz")
            if answer is None:
                return None, []
            said = msgspec.json.decode(answer.body)
            return str(said["status"]), [str(reason) for reason in said["reasons"]]
        except (_Foreign, msgspec.DecodeError, TypeError, KeyError):
            raise _taken(bind, "admin.bind") from None

    async def _ask(self, bind: Bind, path: str, headers: dict[str, str] | None = None) -> _Answer | None:
        """Return the answer to a GET; none where nothing listens. Raises `_Foreign`."""
        connector = aiohttp.UnixConnector(bind.path) if bind.path else aiohttp.TCPConnector()
        host = _EVERY_ADDRESS.get(bind.host) or (f"[{bind.host}]" if ":" in bind.host else bind.host)
        url = f"http://{host or 'localhost'}:{bind.port or http.HTTPStatus.OK}{path}"
        try:
            async with (
                asyncio.timeout(self._limit),
                aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session,
                session.get(url, headers=headers, allow_redirects=False) as response,
            ):
                return _Answer(response.status, await response.content.read(_LARGEST_ANSWER))
        except aiohttp.ClientConnectorError:
            return None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _Foreign from error

    def _free(self, bind: Bind) -> str:
        """Say that the sidecar does not run, if it could; raises `Finding`."""
        try:
            _try_to_bind(bind)
        except OSError as error:
            text = f"nothing listens at {bind}, and the sidecar cannot listen there: {error.strerror or error}"
            mend = "use a port from 1024 on, an address of this machine, or a folder that the sidecar may write to"
            raise Finding("cannot-listen", text, mend) from None
        return "nothing listens there: the sidecar does not run, and the address is free"


def _try_to_bind(bind: Bind) -> None:
    if not bind.path:
        family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((bind.host, bind.port))
    elif not bind.path.startswith("\0"):
        folder = Path(bind.path).parent
        if not os.access(folder, os.W_OK | os.X_OK):
            number = errno.EACCES if folder.exists() else errno.ENOENT
            raise OSError(number, os.strerror(number))


def _taken(bind: Bind, key: str) -> Finding:
    find = f"ss -ltnp 'sport = :{bind.port}'" if bind.port else f"ss -lxp src {shlex.quote(str(bind))}"
    return Finding(
        "port-taken",
        f"another program listens at {bind}",
        f"end that program ({find} shows it), or give {key} another address",
    )
