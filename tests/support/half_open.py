"""A caller whose handshake is half done when the door is shut; run in a network namespace of its own, as its root.

It speaks TCP by hand, over a TUN device, since no kernel lets its callers stop between two packets of a handshake. The
last word says what became of its request.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import subprocess
import sys
from typing import NamedTuple

from proxy import door

HERE, CALLER = "10.9.0.1", "10.9.0.2"
PORT, CALLERS_PORT = 8080, 1000
SYN, RST, ACK = 2, 4, 16
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


class Segment(NamedTuple):
    """What matters of a TCP segment."""

    flags: int
    sequence: int
    data: bytes


class Wire:
    """The caller's end of the TUN device."""

    def __init__(self) -> None:
        self._tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self._tun, _TUNSETIFF, struct.pack("16sH", b"tun0", _IFF_TUN | _IFF_NO_PI))
        for command in (f"ip addr add {HERE}/24 dev tun0", "ip link set tun0 up"):
            subprocess.run(command.split(), check=True)

    def send(self, flags: int, sequence: int, acknowledged: int = 0, data: bytes = b"") -> None:
        addresses = socket.inet_aton(CALLER) + socket.inet_aton(HERE)
        tcp = struct.pack("!HHIIBBHHH", CALLERS_PORT, PORT, sequence, acknowledged, 5 << 4, flags, 65535, 0, 0) + data
        pseudo = addresses + struct.pack("!HH", socket.IPPROTO_TCP, len(tcp))
        tcp = tcp[:16] + _checksum(pseudo + tcp) + tcp[18:]
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, socket.IPPROTO_TCP, 0) + addresses
        os.write(self._tun, ip[:10] + _checksum(ip) + ip[12:] + tcp)

    async def receive(self, *, flag: int = 0, data: bytes = b"") -> Segment:
        """Return the next segment that has this flag, or a reset, or carries this."""
        while True:
            packet = await asyncio.to_thread(os.read, self._tun, 2048)
            if packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
                continue
            tcp = packet[20:]
            segment = Segment(tcp[13], struct.unpack("!I", tcp[4:8])[0], tcp[(tcp[12] >> 4) * 4 :])
            if segment.flags & (flag | RST) or (data and data in segment.data):
                return segment


def _checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    total = (total >> 16) + (total & 0xFFFF)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.write(data)


async def main() -> None:
    wire = Wire()
    server = await asyncio.get_running_loop().create_server(Echo, HERE, PORT)
    wire.send(SYN, 100)
    theirs = (await wire.receive(flag=SYN)).sequence + 1
    shutting = asyncio.create_task(door._let_in_the_last(server.sockets[0].fileno()))
    await asyncio.sleep(0)  # `_let_in_the_last` is at its first wait
    wire.send(ACK, 101, theirs)
    wire.send(ACK, 101, theirs, b"a request")
    await shutting
    server.close()
    wire.send(ACK, 101, theirs, b"a request")  # as a caller does who has heard nothing
    answer = await wire.receive(data=b"a request")
    sys.exit("reset" if answer.flags & RST else "answered")


if __name__ == "__main__":
    asyncio.run(main())
