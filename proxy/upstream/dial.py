"""Opening a connection: name, address, TLS. Whatever fails here, not a byte of a request was written."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import aiohappyeyeballs

from proxy.errors import (
    CannotConnect,
    CertificateRejected,
    ConnectionRefused,
    ConnectTimedOut,
    NameNotResolved,
    TlsFailed,
)
from proxy.upstream.egress import tunnel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from aiohappyeyeballs import AddrInfoType

    from proxy.config import EgressProxy

P = TypeVar("P", bound=asyncio.Protocol)
R = TypeVar("R")

_NEXT_ADDRESS_AFTER = 0.25
"""Seconds before the next address is tried beside a silent one (RFC 8305, section 8)."""


def trust(ca_file: str | None) -> ssl.SSLContext:
    """Return the TLS settings for upstream: certificate and host name are always checked.

    A `ca_file` is trusted instead of the system's authorities. Raises `OSError` when it cannot be read, `ssl.SSLError`
    when it holds no certificate.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # which is the least by default in some builds of Python only
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass(frozen=True, slots=True)
class Dialler:
    """Where one API's upstream is, and how to get a connection to it; `timeout` in seconds covers every step."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    timeout: float
    egress: EgressProxy | None = None
    """The proxy to go through; for TLS alone, so that it never sees a token."""

    async def __call__(self, make_protocol: Callable[[], P]) -> P:
        """Return a new connection's protocol; raises `CannotConnect`, by the step that failed."""
        return await self.bounded(self._connect(make_protocol), self.timeout)

    async def bounded(self, step: Awaitable[R], left: float) -> R:
        """Return what a step gives within the seconds that are left; raises `CannotConnect`."""
        try:
            async with asyncio.timeout(left):
                return await step
        except TimeoutError:
            raise ConnectTimedOut(f"no connection to {self.first_hop} within {self.timeout:g} s") from None
        except OSError as error:
            raise self._failure(error) from None

    @property
    def first_hop(self) -> str:
        """Where the connection itself goes, in words."""
        return f"{self.host}:{self.port}" if self.egress is None else f"the egress proxy {self.egress}"

    async def _connect(self, make_protocol: Callable[[], P]) -> P:
        connected = await self.reach(await self.resolve())
        await self.pass_proxy(connected)
        return await self.secure(connected, make_protocol)

    # --- The steps, in their order; each raises `OSError` or `EgressRefused`, and then closes the socket that it had --

    async def resolve(self) -> Sequence[AddrInfoType]:
        """Return the addresses of the first hop."""
        hop = self.egress or self
        try:
            return await asyncio.get_running_loop().getaddrinfo(hop.host, hop.port, type=socket.SOCK_STREAM)
        except UnicodeError:  # a part of more than 63 characters
            raise socket.gaierror(socket.EAI_NONAME, "it is no host name") from None

    async def reach(self, addresses: Sequence[AddrInfoType]) -> socket.socket:
        """Return a socket that is connected to one of the addresses."""
        return await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER, interleave=1, loop=asyncio.get_running_loop()
        )

    async def pass_proxy(self, connected: socket.socket) -> None:
        """Have the egress proxy, if there is one, connect the socket on."""
        if self.egress is None:
            return
        with _closing_on_error(connected):
            await tunnel(connected, self.egress, self.host, self.port)

    async def secure(self, connected: socket.socket, make_protocol: Callable[[], P]) -> P:
        """Return the protocol on a connected socket, over TLS if that is spoken there."""
        with _closing_on_error(connected):
            _, protocol = await asyncio.get_running_loop().create_connection(
                make_protocol, sock=connected, ssl=self.tls, server_hostname=self.host if self.tls else None
            )
            return protocol

    def _failure(self, error: OSError) -> CannotConnect:
        where, hop = f"{self.host}:{self.port}", self.first_hop
        match error:
            case socket.gaierror():
                return NameNotResolved(f"the name of {hop} could not be resolved: {error.strerror}")
            case ssl.SSLCertVerificationError():
                return CertificateRejected(f"the certificate of {where} was rejected: {error.verify_message}")
            case ssl.SSLError():
                return TlsFailed(f"the TLS handshake with {where} failed: {error.reason}")
            case ConnectionRefusedError():
                return ConnectionRefused(f"{hop} refused the connection")
            case _:
                return CannotConnect(f"no connection to {hop}: {error.strerror or type(error).__name__}")


@contextlib.contextmanager
def _closing_on_error(connected: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connected.close()
        raise
