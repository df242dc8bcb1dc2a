"""What systemd is told and what it hands over, where it started the sidecar: sd_notify(3), sd_listen_fds(3)."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import MutableMapping

Address = str | tuple[str, int]
"""A path, or a host and a port."""

log = logging.getLogger(__name__)

_FIRST_DESCRIPTOR = 3
_MICROSECONDS = 1_000_000


class Taken(NamedTuple):
    """Sockets that listen at an address already."""

    sockets: list[socket.socket]
    """One, or more where a name has several addresses."""
    stays: bool
    """Whether whoever handed them over goes on with them, so that nobody is lost when they are closed here."""


class Supervisor:
    """systemd, or nobody: then nothing is told and nothing was handed over."""

    def __init__(self, env: MutableMapping[str, str]) -> None:
        """Take what is meant for this process out of the environment, so that no child takes it for its own."""
        address = env.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        mine = env.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_every = _seconds(env.pop("WATCHDOG_USEC", "")) / 2 if mine else 0.0
        """Seconds between two signs of life; 0 where none are asked for."""
        mine = env.pop("LISTEN_PID", "") == str(os.getpid())
        count = int(env.pop("LISTEN_FDS", "0")) if mine else 0
        env.pop("LISTEN_FDNAMES", None)
        self._sockets = [_adopted(_FIRST_DESCRIPTOR + number) for number in range(count)]

    def ready(self, status: str) -> None:
        """Tell that the sidecar has started, or that it has read its configuration again."""
        self._tell(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Tell that the configuration is read again; `ready` ends that."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Tell that the sidecar stops."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """Give a sign of life."""
        self._tell("WATCHDOG=1")

    def take_sockets(self, address: Address) -> Taken | None:
        """Return the listening socket at a path, or at a host and port, if it was handed over; once."""
        for each in self._sockets:
            if _address(each) == address:
                self._sockets.remove(each)
                return Taken([each], stays=True)
        return None

    def tell_left(self) -> None:
        """Warn of sockets that nobody took."""
        for address in self.addresses_left():
            text = "systemd handed over a socket at %s, where nothing is configured to listen"
            log.warning(text, address, extra={"event": "socket-not-taken"})

    def addresses_left(self) -> list[Address]:
        """Return the addresses of sockets that nobody took."""
        return [_address(each) for each in self._sockets]

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        # Whoever supervises is gone or deaf: no reason to fail.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)  # noqa: FBT003 - the standard library's signature
            out.sendto(message.encode(), self._address)


def _address(listening: socket.socket) -> Address:
    name = listening.getsockname()
    return (name[0], name[1]) if isinstance(name, tuple) else os.fsdecode(name)


def _seconds(microseconds: str) -> float:
    return int(microseconds) / _MICROSECONDS if microseconds.isascii() and microseconds.isdigit() else 0.0


def _adopted(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - the same
    adopted = socket.socket(fileno=descriptor)
    adopted.setblocking(False)  # noqa: FBT003 - the same
    return adopted
