"""What is asked of every peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Framing = Literal["length", "chunked"]


@dataclass(frozen=True)
class Requests:
    """The same request over so many kept connections, as fast as it is answered."""

    name: str
    title: str
    connections: int
    tls: bool = False
    body: Framing | None = None

    @property
    def path(self) -> str:
        """The target of the request."""
        return "/api/small" if self.body is None else "/api/nfe/envio"


@dataclass(frozen=True)
class Transfers:
    """A body of 100 MiB, a few times over one connection."""

    name: str
    title: str
    direction: Literal["up", "down"]
    framing: Framing
    tls: bool = False

    @property
    def path(self) -> str:
        """The target of the request."""
        if self.direction == "down" and self.framing == "chunked":
            return "/api/large/down-chunked"
        return f"/api/large/{self.direction}"


Scenario = Requests | Transfers


def _requests() -> list[Requests]:
    found = []
    for prefix, tls, where in (("plain", False, "plain upstream"), ("tls", True, "TLS upstream")):
        for connections in (1, 16, 64):
            over = f"{connections} connection{'s' if connections > 1 else ''}"
            found.append(Requests(f"{prefix}-{connections}", f"1 KiB answer, {over}, {where}", connections, tls))
        found.append(Requests(f"{prefix}-post", f"30 KiB POST, 16 connections, {where}", 16, tls, "length"))
    found.insert(4, Requests("plain-post-chunked", "30 KiB POST in chunks, 16 connections", 16, body="chunked"))
    return found


def _transfers() -> list[Transfers]:
    return [
        Transfers("down", "100 MiB down", "down", "length"),
        Transfers("down-chunked", "100 MiB down in chunks", "down", "chunked"),
        Transfers("down-tls", "100 MiB down, TLS upstream", "down", "length", tls=True),
        Transfers("up", "100 MiB up", "up", "length"),
        Transfers("up-chunked", "100 MiB up in chunks", "up", "chunked"),
        Transfers("up-tls", "100 MiB up, TLS upstream", "up", "length", tls=True),
    ]


_ALL: tuple[Scenario, ...] = (*_requests(), *_transfers())

SCENARIOS = {scenario.name: scenario for scenario in _ALL}

QUICK = ("plain-1", "plain-16", "plain-64", "tls-64")
QUICK_PEERS = ("sidecar", "nginx", "nginx-lua", "envoy", "go")
