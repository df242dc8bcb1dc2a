"""A plain request to an address of the sidecar's own, as a probe makes it."""

from __future__ import annotations

import contextlib
import http.client
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.config import Bind

_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - a wildcard is no address to ask
_LARGEST_ANSWER = 1024 * 1024


def ask(bind: Bind, path: str, headers: Mapping[str, str] | None = None, *, timeout: float) -> tuple[int, bytes]:
    """Return the status of the answer to a GET, and its body.

    `timeout` in seconds bounds each wait. Raises `OSError`, or `http.client.HTTPException` where no HTTP is spoken.
    """
    host = _EVERY_ADDRESS.get(bind.host, bind.host)
    connection = http.client.HTTPConnection(host or "localhost", bind.port, timeout=timeout)
    with contextlib.closing(connection):
        if bind.path:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(timeout)
            connection.sock.connect(bind.path)
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read(_LARGEST_ANSWER)
