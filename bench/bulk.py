"""The caller of a large transfer: sends or takes 100 MiB a few times, and prints how long each took.

A process of its own, so that it runs on the core for load: `python -m bench.bulk PORT PATH up|down length|chunked`.
"""

from __future__ import annotations

import json
import socket
import sys
import time

from bench.upstream import LARGE

TIMES = 2
"""Transfers in a measurement."""

_PIECE = 256 * 1024
_TIMEOUT = 60.0


def _receive(connection: socket.socket, buffer: bytearray) -> int:
    """Read one answer to its end and return the bytes that came; raises `ValueError` where it is not whole."""
    view = memoryview(buffer)
    received = connection.recv_into(buffer)
    while (end := buffer.find(b"\r\n\r\n", 0, received)) < 0:
        received += connection.recv_into(view[received:])
    head = bytes(view[:end]).lower()
    if b" 200 " not in head:
        raise ValueError(head.decode())
    total = received - end - 4
    chunked = b"chunked" in head
    length = 0 if chunked else int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
    last = bytes(view[:received][-5:])
    while (last != b"0\r\n\r\n") if chunked else (total < length):
        size = connection.recv_into(buffer)
        if not size:
            raise ValueError("the answer was cut")
        total += size
        last = (last + bytes(view[max(0, size - 5) : size]))[-5:]
    return total


def _send(connection: socket.socket, *, chunked: bool) -> None:
    piece = bytes(_PIECE)
    if chunked:
        piece = b"%x\r\n%b\r\n" % (len(piece), piece)
    for _ in range(LARGE // _PIECE):
        connection.sendall(piece)
    if chunked:
        connection.sendall(b"0\r\n\r\n")


def transfer(port: int, path: str, *, up: bool, chunked: bool) -> list[float]:
    """Make the transfers over one connection, and return the seconds that each took; raises `ValueError`."""
    took = []
    buffer = bytearray(1024 * 1024)
    with socket.create_connection(("127.0.0.1", port), _TIMEOUT) as connection:
        for _ in range(TIMES):
            started = time.perf_counter()
            framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {LARGE}"
            head = f"{'POST' if up else 'GET'} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            connection.sendall(f"{head}{framing}\r\n\r\n".encode() if up else f"{head}\r\n".encode())
            if up:
                _send(connection, chunked=chunked)
            received = _receive(connection, buffer)
            took.append(time.perf_counter() - started)
            if not up and received < LARGE:
                raise ValueError(f"{received} bytes came")
    return took


if __name__ == "__main__":
    _, _port, _path, _direction, _framing = sys.argv
    json.dump(transfer(int(_port), _path, up=_direction == "up", chunked=_framing == "chunked"), sys.stdout)
