"""Who is measured: the sidecar and its peers, each by the configuration file in this folder."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.places import (
    CADDY,
    GO_PROXY,
    HAPROXY,
    LUA_LIBRARY,
    NGINX,
    NGINX_MODULES,
    NODE_MODULES,
    ROOT,
    envoy,
    node,
    with_libraries,
)
from bench.processes import Child, free_port
from bench.templates import write_filled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.upstream import Upstream

_HERE = Path(__file__).parent

SIDECAR = "sidecar"

_ENVOY_OPTIONS = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error")


@dataclass(frozen=True)
class Peer:
    """One program: its name, the files that configure it, and how it is started once they are filled in."""

    name: str
    title: str
    files: tuple[str, ...]
    command: Callable[[Path], list[str]]
    env: Mapping[str, str] = field(default_factory=dict)


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            SIDECAR,
            "the sidecar",
            ("sidecar.yaml",),
            lambda folder: [sys.executable, "-m", "proxy", "run", "-c", str(folder / "sidecar.yaml")],
        ),
        Peer(
            "nginx",
            "nginx, fixed header",
            ("nginx.conf",),
            lambda folder: [str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf")],
        ),
        Peer(
            "nginx-lua",
            "nginx with Lua",
            ("nginx-lua.conf", "token.lua"),
            lambda folder: [str(NGINX), "-p", str(folder), "-c", str(folder / "nginx-lua.conf")],
        ),
        Peer(
            "envoy",
            "Envoy `credential_injector`",
            ("envoy.yaml", "envoy-secret.yaml"),
            lambda folder: [str(envoy()), "-c", str(folder / "envoy.yaml"), *_ENVOY_OPTIONS],
        ),
        Peer(
            "haproxy",
            "HAProxy, fixed header",
            ("haproxy.cfg",),
            lambda folder: [str(HAPROXY), "-db", "-f", str(folder / "haproxy.cfg")],
        ),
        Peer("go", "Go `ReverseProxy`", (), lambda _: [str(GO_PROXY)]),
        Peer(
            "caddy",
            "Caddy, fixed header",
            ("Caddyfile",),
            lambda folder: [str(CADDY), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"],
        ),
        Peer("node", "Node `http-proxy`", (), lambda _: [str(node()), str(_HERE / "node" / "proxy.mjs")]),
        Peer("aiohttp", "plain aiohttp proxy", (), lambda _: [sys.executable, str(_HERE / "aiohttp_proxy.py")]),
    )
}

FETCHING = (SIDECAR, "nginx-lua", "go")
"""Those that log in and replay."""


@dataclass(frozen=True)
class Running:
    """A peer that serves."""

    peer: Peer
    child: Child
    port: int


def start(
    peer: Peer,
    upstream: Upstream,
    folder: Path,
    *,
    core: int | str,
    tls: bool,
    settings: dict[str, object] | None = None,
) -> Running:
    """Start a peer on one core, and return when it listens; `settings` replace the sidecar's usual ones."""
    own = folder / f"{peer.name}-{'tls' if tls else 'plain'}"
    own.mkdir()
    port = free_port()
    values = upstream.values(tls=tls) | {
        "folder": own,
        "port": port,
        "admin_port": free_port(),
        "modules": NGINX_MODULES,
        "lua": LUA_LIBRARY,
        "refresh_every": "12h",
        "waiting": 1000,
    }
    values |= settings or {}
    for name in peer.files:
        write_filled(_HERE / name, own, values)
    env = with_libraries() | {
        "HOME": str(own),
        "PYTHONPATH": str(ROOT),
        "LISTEN": f"127.0.0.1:{port}",
        "UPSTREAM": str(values["upstream"]),
        "CA": str(values["ca"]),
        "TOKEN": upstream.token,
        "GOMAXPROCS": "1",
        "NODE_MODULES": str(NODE_MODULES),
    }
    if peer.name in (SIDECAR, "aiohttp"):
        env.pop("LD_LIBRARY_PATH")  # Python brings its own
    return Running(peer, Child(peer.command(own), core=core, folder=own, env=env | dict(peer.env)), port)
