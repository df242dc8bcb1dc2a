"""Opening a connection: name, address, TLS. Whatever fails here, not a byte of a request was written."""

from __future__ import annotations

import asyncio
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
    from collections.abc import Callable

    from proxy.config import EgressProxy

P = TypeVar("P", bound=asyncio.Protocol)

_NEXT_ADDRESS_AFTER = 0.25
"""Seconds before the next address is tried beside a silent one (RFC 8305, section 8)."""


def trust(ca_file: str | None) -> ssl.SSLContext:
    """Return the TLS settings for upstream: certificate and host name are always checked.

    A `ca_file` is trusted instead of the system's authorities. Raises `OSError` when it cannot be read, `ssl.SSLError`
    when it holds no certificate.
    """
    context = ssl.create_default_context(cafile=ca_file)
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
        try:
            async with asyncio.timeout(self.timeout):
                return await self._connect(make_protocol)
        except TimeoutError:
            raise ConnectTimedOut(f"no connection to {self._first_hop()} within {self.timeout:g} s") from None
        except OSError as error:
            raise self._failure(error) from None

    def _first_hop(self) -> str:
        return f"{self.host}:{self.port}" if self.egress is None else f"the egress proxy {self.egress}"

    async def _connect(self, make_protocol: Callable[[], P]) -> P:
        loop = asyncio.get_running_loop()
        hop = self.egress or self
        addresses = await loop.getaddrinfo(hop.host, hop.port, type=socket.SOCK_STREAM)
        connected = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER, interleave=1, loop=loop
        )
        try:
            if self.egress is not None:
                await tunnel(connected, self.egress, self.host, self.port)
            _, protocol = await loop.create_connection(
                make_protocol, sock=connected, ssl=self.tls, server_hostname=self.host if self.tls else None
            )
        except BaseException:
            connected.close()
            raise
        return protocol

    def _failure(self, error: OSError) -> CannotConnect:
        where, hop = f"{self.host}:{self.port}", self._first_hop()
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
