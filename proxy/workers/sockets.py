"""Addresses at which all workers are called: opened once, by the supervising process, and held as long as it lives.

Each worker has a TCP socket of its own at the address, among which the kernel shares callers out (SO_REUSEPORT). The
supervising process holds it too, so that callers at the door of a worker that has died wait for its successor. A Unix
socket, or one that systemd has handed over, is one socket at which all workers wait.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from proxy.door import BACKLOG
from proxy.systemd import Taken
from proxy.unix import UnixSocket
from proxy.workers.words import Handed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.config import Listener
    from proxy.door import TakeSockets


class Address:
    """The address of one listener, from `open` to `close`."""

    def __init__(self, listener: Listener, workers: int) -> None:
        """Raises `ConfigError`, for an owner or a group that nobody has."""
        self.bind = listener.bind
        self._workers = workers
        self._unix = UnixSocket(listener.bind.path, listener.socket) if listener.bind.path else None
        self._taken: list[Taken] = []
        """By worker."""

    async def open(self, take_sockets: TakeSockets) -> None:
        """Listen; raises `OSError`. What `take_sockets` gives is open already."""
        bind = self.bind
        taken = take_sockets(bind.path or (bind.host, bind.port))
        if taken is None and self._unix is not None:
            taken = Taken([self._unix.open(BACKLOG)], stays=False)
        self._taken = [taken] * self._workers if taken is not None else await self._open_tcp()

    async def _open_tcp(self) -> list[Taken]:
        found = await asyncio.get_running_loop().getaddrinfo(
            self.bind.host, self.bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        opened: list[list[socket.socket]] = []
        try:
            for info in dict.fromkeys(found):
                opened.append([])
                _fill(opened[-1], info, self._workers)
        except OSError as error:
            for each in opened:
                _close(each)
            raise OSError(error.errno, f"{self.bind}: {str(error.strerror).lower()}") from None
        for each in opened:
            for listening in each:
                listening.listen(BACKLOG)
        return [Taken(list(own), stays=False) for own in zip(*opened, strict=True)]

    def __str__(self) -> str:
        if self.bind.path:
            return str(self.bind)
        ports = dict.fromkeys(each.getsockname()[1] for each in self._taken[0].sockets)
        return ", ".join(f"http://{replace(self.bind, port=port)}" for port in ports)

    def of(self, worker: int) -> tuple[Handed, list[socket.socket]]:
        """Return what that worker, from 1, is handed over."""
        taken = self._taken[worker - 1]
        address = self.bind.path or (self.bind.host, self.bind.port)
        return Handed(address, len(taken.sockets), taken.stays), taken.sockets

    def close(self) -> None:
        """Leave the address to the workers, which let in who stands at their doors; nobody else comes there."""
        if self._unix is not None:
            self._unix.remove()
        for taken in self._taken:
            _close(taken.sockets)


def _fill(sockets: list[socket.socket], info: tuple[Any, ...], count: int) -> None:
    family, kind, protocol, _, address = info
    # With SO_REUSEPORT, a second sidecar of the same user would be let in beside us: whoever listens is seen without.
    with _socket(family, kind, protocol) as probe:
        probe.bind(address)
    for _ in range(count):
        each = _socket(family, kind, protocol)
        sockets.append(each)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        each.bind(address)
        address = each.getsockname()  # the first may have been given a port


def _socket(family: int, kind: int, protocol: int) -> socket.socket:
    """Make a socket with the options that asyncio gives those it makes itself."""
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)  # noqa: FBT003 - the library's own signature
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


# --- From process to process ------------------------------------------------------------------------------------------


def hand_over(through: socket.socket, sockets: Iterable[socket.socket]) -> None:
    """Give sockets to the process at the other end, where they wait for `take`."""
    socket.send_fds(through, [b"\0"], [each.fileno() for each in sockets])


def take(through: socket.socket, handed: list[Handed]) -> list[tuple[str | tuple[str, int], Taken]]:
    """Take what was handed over, by address."""
    count = sum(each.count for each in handed)
    _, descriptors, _, _ = socket.recv_fds(through, 1, count)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - the same
    sockets = iter([socket.socket(fileno=descriptor) for descriptor in descriptors])
    return [(each.address, Taken([next(sockets) for _ in range(each.count)], each.stays)) for each in handed]
