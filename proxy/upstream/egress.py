"""The way out through an HTTP proxy: a tunnel by CONNECT (RFC 9110, section 9.3.6), with TLS inside."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # not in its stubs

from proxy.config import EgressProxy
from proxy.errors import ConfigError, EgressRefused

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

_LARGEST_HEAD = 16 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")
_PROXY_AUTHENTICATION_REQUIRED = b"407"


def egress_from(env: Mapping[str, str], host: str) -> EgressProxy | None:
    """Return the proxy that `HTTPS_PROXY` names for a host, unless `NO_PROXY` exempts it; raises `ConfigError`."""
    named = env.get("HTTPS_PROXY") or env.get("https_proxy")
    if not named or proxy_bypass_environment(host, {"no": env.get("NO_PROXY") or env.get("no_proxy") or ""}):
        return None
    try:
        return EgressProxy.parse(named)
    except ValueError as error:
        raise ConfigError(f"environment variable HTTPS_PROXY: expected {error}") from None


async def tunnel(connected: socket.socket, egress: EgressProxy, host: str, port: int) -> None:
    """Have the proxy at the other end of a socket connect it on; raises `EgressRefused`, `OSError`."""
    loop = asyncio.get_running_loop()
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    request = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n".encode()
    if egress.credentials is not None:
        request += b"Proxy-Authorization: Basic %b\r\n" % b64encode(egress.credentials.reveal().encode())
    await loop.sock_sendall(connected, request + b"\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        # A byte at a time: whatever follows the head is not for us to read. It is read once in a connection's life.
        byte = await loop.sock_recv(connected, 1)
        if not byte or len(head) >= _LARGEST_HEAD:
            raise EgressRefused(f"the egress proxy {egress} gave no answer to CONNECT")
        head += byte
    status = found[1] if (found := _STATUS.match(head)) else b"nonsense"
    if not status.startswith(b"2"):
        mend = "; it wants other credentials" if status == _PROXY_AUTHENTICATION_REQUIRED else ""
        raise EgressRefused(f"the egress proxy {egress} answered {status.decode()} to CONNECT{mend}")
