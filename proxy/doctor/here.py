"""This machine: the sidecar's own addresses, and what a sidecar that runs already says of itself."""

from __future__ import annotations

import asyncio
import errno
import http.client
import os
import shlex
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from proxy.asking import ask
from proxy.doctor.report import Finding
from proxy.doctor.verdicts import judge_metrics, judge_readiness, read_metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.config import Bind
    from proxy.doctor.report import Step

_NO_HOST_OF_OURS = "doctor.invalid"
"""A Host that no listener has: what comes with it is answered 421 by the sidecar itself, and goes no further."""
_OURS = "urn:invoisys-proxy:"


class _Readiness(msgspec.Struct):
    """What /readyz says."""

    status: str
    reasons: list[str]


class _Problem(msgspec.Struct):
    """What tells whose an answer is (RFC 9457)."""

    type: str


class _Foreign(Exception):
    """What answers does not speak HTTP."""


class Here:
    """The addresses that one configuration names; each answer is waited for `limit` seconds."""

    def __init__(self, limit: float, logins: Sequence[Step] = ()) -> None:
        """`logins` are the steps that have tried them; one that failed is what keeps the sidecar from being ready."""
        self._limit = limit
        self._logins = logins
        self.runs = False
        """A sidecar answers at the operator's port."""

    async def look_at_admin(self, bind: Bind) -> str:
        """Look who is at the operator's port, and hear what the sidecar says of itself; raises `Finding`."""
        try:
            answer = await self._ask(bind, "/readyz")
            said = None if answer is None else msgspec.json.decode(answer, type=_Readiness)
        except (_Foreign, ValueError):
            raise _taken(bind, "admin.bind") from None
        if said is None:
            return self._free(bind)
        self.runs = True
        return judge_readiness(said.status, said.reasons, self._logins)

    async def look_at_metrics(self, bind: Bind) -> str:
        """Read what the sidecar has counted; raises `Finding`."""
        try:
            answer = await self._ask(bind, "/metrics")
            reading = read_metrics(answer.decode() if answer else "")
        except (_Foreign, ValueError):
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
        try:
            ours = msgspec.json.decode(answer, type=_Problem).type.startswith(_OURS)
        except ValueError:
            ours = False
        if not ours:
            raise _taken(bind, key)
        return "a sidecar listens there"

    async def _ask(self, bind: Bind, path: str, headers: dict[str, str] | None = None) -> bytes | None:
        """Return the body of the answer to a GET; none where nothing listens. Raises `_Foreign` or `Finding`."""
        try:
            _, body = await asyncio.to_thread(ask, bind, path, headers, timeout=self._limit)
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except PermissionError as error:
            text = f"{bind} cannot be reached: {error.strerror}"
            mend = "run this as the user that the sidecar runs as, or as one of its group"
            raise Finding("cannot-reach", text, mend) from None
        except (OSError, http.client.HTTPException) as error:
            raise _Foreign from error
        return body

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
