"""A network of a test's own: every place in it is a network namespace of this machine (`ip netns`, as root)."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import itertools
import os
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

Result = TypeVar("Result")

_NAMED = Path("/run/netns")
_FILES = Path("/etc/netns")
"""What lies in a folder of a namespace's name here takes the place of its namesakes in /etc, for `ip netns exec`."""

_CLONE_NEWNET = 0x40000000

_LOST = 1.0
"""Seconds after which nobody will take a connection; where somebody does, it is a matter of milliseconds."""


class Place:
    """One namespace: with interfaces of its own, programs that are started in it, and an event loop inside."""

    def __init__(self, namespace: str, address: str) -> None:
        self.address = address
        self.command = ("ip", "netns", "exec", namespace)
        """Before another command, this runs it here."""
        self._namespace = namespace
        # What a thread opens belongs to the thread's namespace for as long as it is open.
        self._thread = ThreadPoolExecutor(1)
        self._thread.submit(_enter, namespace).result()
        self._runner = asyncio.Runner()
        self._loop = self._thread.submit(self._runner.get_loop).result()
        self._thread.submit(self._loop.run_forever)
        self._services = contextlib.AsyncExitStack()

    def offer(self, service: AbstractAsyncContextManager[object]) -> None:
        """Have a service run in here to the end."""
        self._wait_for(self._services.enter_async_context(service))

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Have it done by the event loop in here."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def rule(self, text: str) -> None:
        """Hand nft a transaction."""
        _run(*self.command, "nft", "--file", "-", text=f"{text}\n")

    def ip(self, *arguments: str) -> None:
        _run("ip", "-n", self._namespace, *arguments)

    def allow(self, setting: str) -> None:
        """Switch on what is below /proc/sys/net."""
        _run(*self.command, "sh", "-c", f"echo 1 >/proc/sys/net/{setting}")

    def _wait_for(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def close(self) -> None:
        self._wait_for(self._services.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()


class Network:
    """Places, and the wires between them; nothing of it touches the machine's own network."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._switches = self._namespace("switches")
        self._bridges: set[str] = set()
        self._ports = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        with contextlib.suppress(OSError):
            _FILES.rmdir()  # unless it holds what is not ours

    def add(self, name: str, *, resolver: str = "", **links: str) -> Place:
        """Make a place.

        `links` are the bridges that it is on, and its address at each. Its neighbours are the addresses that begin as
        its own do; the last link leads to everybody else. `resolver` is what stands in its resolv.conf.
        """
        namespace = self._namespace(name)
        files = _FILES / namespace
        files.mkdir(parents=True)
        self._stack.callback(shutil.rmtree, files)
        (files / "resolv.conf").write_text(resolver)
        (files / "nsswitch.conf").write_text("hosts: files dns\n")
        for number, (bridge, address) in enumerate(links.items()):
            self._plug(namespace, f"eth{number}", bridge, f"{address}/24")
        _run("ip", "-n", namespace, "route", "add", "default", "dev", f"eth{len(links) - 1}")
        place = Place(namespace, list(links.values())[-1])
        self._stack.callback(place.close)
        return place

    def _namespace(self, name: str) -> str:
        """Make a namespace whose loopback interface is up."""
        full = f"invoisys-{os.getpid()}-{name}"
        _run("ip", "netns", "add", full)
        self._stack.callback(_run, "ip", "netns", "delete", full)
        _run("ip", "-n", full, "link", "set", "lo", "up")
        return full

    def _plug(self, namespace: str, interface: str, bridge: str, address: str) -> None:
        if bridge not in self._bridges:
            self._bridges.add(bridge)
            _run("ip", "-n", self._switches, "link", "add", bridge, "type", "bridge")
            _run("ip", "-n", self._switches, "link", "set", bridge, "up")
        port = f"port{next(self._ports)}"
        other_end = ("peer", "name", interface, "netns", namespace)
        _run("ip", "-n", self._switches, "link", "add", port, "type", "veth", *other_end)
        _run("ip", "-n", self._switches, "link", "set", port, "master", bridge, "up")
        _run("ip", "-n", namespace, "address", "add", address, "dev", interface)
        _run("ip", "-n", namespace, "link", "set", interface, "up")


@contextlib.contextmanager
def program(place: Place, *command: str, until: str) -> Iterator[None]:
    """Run a program of somebody else's in a place, from when it says `until`."""
    with subprocess.Popen(
        [*place.command, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if until in line:
                    break
            else:
                raise AssertionError(f"{command} ended:\n{''.join(said)}")
            yield
        finally:
            process.kill()


class _Names(asyncio.DatagramProtocol):
    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._addresses = addresses
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        self._transport.sendto(self._answer(data), addr)

    def _answer(self, question: bytes) -> bytes:
        """RFC 1035, 4.1: the header, the question, and an A record if there is one."""
        at, labels = 12, []
        while length := question[at]:
            labels.append(question[at + 1 : at + 1 + length].decode())
            at += 1 + length
        asked = question[12 : at + 5]
        address = self._addresses.get(".".join(labels).lower())
        has_record = address is not None and asked[-4:-2] == b"\0\1"
        flags = 0x8180 | (0 if address else 3)
        head = question[:2] + b"".join(each.to_bytes(2) for each in (flags, 1, int(has_record), 0, 0))
        record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address) if address and has_record else b""
        return head + asked + record


@contextlib.asynccontextmanager
async def names(address: str, addresses: Mapping[str, str]) -> AsyncIterator[None]:
    """Be a server of names, which knows those that it is given; of others it says that they do not exist."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Names(addresses), local_addr=(address, 53))
    try:
        yield
    finally:
        transport.close()


@contextlib.asynccontextmanager
async def open_port(port: int) -> AsyncIterator[None]:
    """Take connections at all addresses, and say nothing on them."""
    async with await asyncio.start_server(lambda _, writer: writer.close(), "0.0.0.0", port):
        yield


async def reach(place: Place, address: str, port: int) -> str:
    """Tell what becomes of a connection: it is `open`, `refused`, `forbidden` by a rule on its way, or `lost`."""

    async def dial() -> None:
        async with asyncio.timeout(_LOST):
            _, writer = await asyncio.open_connection(address, port)
            writer.close()

    try:
        await place.run(dial())
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "lost"
    except OSError as error:
        if error.errno != errno.EHOSTUNREACH:
            raise
        return "forbidden"
    return "open"


def _enter(namespace: str) -> None:
    """Move this thread there: setns(2), which Python has from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (_NAMED / namespace).open() as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def _run(*command: str, text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, f"{command}\n{text}\n{done.stderr}"
