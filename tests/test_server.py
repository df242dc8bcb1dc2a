"""The sidecar from start to stop, within the test."""

from __future__ import annotations

import io
import logging
import os
import socket
from contextlib import ExitStack

import pytest

from proxy.config import load
from proxy.observe import AccessLog
from proxy.observe.forms import JsonForm
from proxy.observe.logs import Lines
from proxy.server import Sidecar
from tests.support.ports import free_port

SETTINGS = {
    "INVOISYS_USERNAME": "someone",
    "INVOISYS_PASSWORD": "a-secret",
    "INVOISYS_ADMIN": "127.0.0.1:0",
    "INVOISYS_API_2_0_URL": "http://127.0.0.1:9",
    "INVOISYS_API_2_0_TOKEN_URL": "http://127.0.0.1:9/api/token",
}


async def test_an_address_that_is_given_up_is_closed_when_the_change_is_told() -> None:
    """Blocking calls: the sidecar gets no turn of the event loop between the change and the caller."""
    first, second = free_port(), free_port()
    access_log = AccessLog(Lines(io.BytesIO()), JsonForm(), logging.CRITICAL)
    sidecar = Sidecar(load(None, SETTINGS | {"INVOISYS_LISTEN": f"127.0.0.1:{first}"}), os.environ, access_log)
    await sidecar.start()
    with ExitStack() as stack:
        socket.create_connection(("127.0.0.1", first)).close()
        await sidecar.change(load(None, SETTINGS | {"INVOISYS_LISTEN": f"127.0.0.1:{second}"}))
        with pytest.raises(ConnectionRefusedError):
            stack.enter_context(socket.create_connection(("127.0.0.1", first)))
        stack.enter_context(socket.create_connection(("127.0.0.1", second)))
    await sidecar.stop()
