"""The way to one server of Invoisys, one step at a time: name, connection, egress proxy, TLS, and the server's time."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from proxy.doctor.mends import network_finding
from proxy.doctor.verdicts import judge_certificate, judge_clock
from proxy.errors import ProxyError
from proxy.tokens.login import clock_skew
from proxy.upstream import Pool
from proxy.waiting import WaitingRoom

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Sequence
    from typing import TypeVar

    from aiohappyeyeballs import AddrInfoType

    from proxy.upstream import Dialler

    R = TypeVar("R")

_SHOWN = 3
"""Addresses that are shown of a name that has many."""


@dataclass(frozen=True, slots=True)
class _Limits:
    """How long the server may take for an answer without a body, in seconds."""

    response: float
    idle: float


class Way:
    """The way to one server. Each step leaves behind what the next one needs, and all have `timeouts.connect` together.

    A step returns what it found in words, or raises `Finding`.
    """

    def __init__(self, api: str, dial: Dialler, answers_within: float) -> None:
        """`api` is the one whose keys name the server; `answers_within` is in seconds."""
        self.dial = dial
        self.server = f"{dial.host}:{dial.port}"
        self._api = api
        self._limits = _Limits(answers_within, answers_within)
        self._left = dial.timeout
        self._addresses: Sequence[AddrInfoType]
        self._socket: socket.socket | None = None

    async def resolve(self) -> str:
        """Look the name up: the server's, or that of the egress proxy, which looks up the server's."""
        self._addresses = await self._step(self.dial.resolve())
        found = list(dict.fromkeys(str(address[4][0]) for address in self._addresses))
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return f"{(self.dial.egress or self.dial).host} is at {', '.join(found[:_SHOWN])}{more}"

    async def reach(self) -> str:
        """Connect."""
        self._socket = await self._step(self.dial.reach(self._addresses))
        return f"connected to {self.dial.first_hop}"

    async def pass_proxy(self) -> str:
        """Ask the egress proxy for a tunnel."""
        await self._step(self.dial.pass_proxy(self._connected()))
        return f"{self.dial.egress} lets us through"

    async def secure(self) -> str:
        """Shake hands, which checks the chain and the host name, and look when the certificate ends."""
        connected, self._socket = self._connected(), None
        protocol = await self._step(self.dial.secure(connected, _Nothing))
        tls = protocol.transport.get_extra_info("ssl_object")
        protocol.transport.abort()
        ends = ssl.cert_time_to_seconds(str(tls.getpeercert()["notAfter"]))
        return judge_certificate(ends, time.time(), self.server)

    async def compare_clocks(self) -> str:
        """Ask the server for its time, by a HEAD without a token."""
        pool = Pool(self.dial, self._limits, 1, WaitingRoom(0))
        try:
            exchange = await pool.begin(head_only=True)
            asked = time.time()
            await exchange.send(f"HEAD / HTTP/1.1\r\nHost: {_authority(self.dial)}\r\n\r\n".encode(), b"")
            date = next((value for name, value in exchange.response.headers if name.lower() == b"date"), b"")
            exchange.release()
        except ProxyError as error:
            raise self._finding(error) from None
        finally:
            pool.close()
        return judge_clock(clock_skew(date.decode("latin-1"), asked, time.time()), self.server)

    def close(self) -> None:
        """Let go of a connection that no further step took over."""
        if self._socket is not None:
            self._socket.close()

    def _connected(self) -> socket.socket:
        return cast("socket.socket", self._socket)

    async def _step(self, step: Awaitable[R]) -> R:
        began = time.monotonic()
        try:
            return await self.dial.bounded(step, self._left)
        except ProxyError as error:
            raise self._finding(error) from None
        finally:
            self._left = max(0.0, self._left - (time.monotonic() - began))

    def _finding(self, error: ProxyError) -> Exception:
        hop = self.dial.egress or self.dial
        return network_finding(error, api=self._api, hop=f"{hop.host}:{hop.port}", server=self.server)


class _Nothing(asyncio.Protocol):
    """Holds a connection on which nothing is said."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)


def _authority(dial: Dialler) -> str:
    host = f"[{dial.host}]" if ":" in dial.host else dial.host
    return host if dial.port == (443 if dial.tls else 80) else f"{host}:{dial.port}"
