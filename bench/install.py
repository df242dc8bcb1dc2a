"""What the peers need, into the bench's own folder: Debian's programs unpacked, http-proxy, and the Go peer built.

Nothing is installed on the machine, no service is started, and root is not needed: packages are downloaded with apt,
which checks them against Debian's signatures, and unpacked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from bench.places import BENCH, DEBIAN, GO_PROXY, HOME, go, node, npm

_PROGRAMS = ("nginx", "libnginx-mod-http-lua", "haproxy", "caddy", "wrk", "openssl", "valgrind")
_STATUS = Path("/var/lib/dpkg/status")


def main() -> None:
    """Install whatever is missing; raises `CalledProcessError` where a package cannot be had."""
    _install_debian()
    _install_http_proxy()
    _build_go_proxy()


def _install_debian() -> None:
    state, archives = HOME / "apt", HOME / "apt" / "archives"
    for folder in (state / "lists" / "partial", state / "cache" / "archives" / "partial", archives):
        folder.mkdir(parents=True, exist_ok=True)
    own = [
        *("-o", f"Dir::State={state}"),
        *("-o", f"Dir::State::status={_STATUS}"),
        *("-o", f"Dir::Cache={state / 'cache'}"),
        *("-o", "APT::Sandbox::User="),
    ]
    _run(["apt-get", *own, "-q", "update"])
    # What is installed already is unpacked all the same, so that the programs and their modules fit each other.
    missing = _output(["apt-get", *own, "-qq", "--print-uris", "-y", "--no-install-recommends", "install", *_PROGRAMS])
    names = {line.split()[1].partition("_")[0] for line in missing.splitlines() if line.startswith("'")}
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    only = [f"--no-{kind}" for kind in kinds]
    lua = _output(["apt-cache", *own, "depends", "--recurse", *only, "libnginx-mod-http-lua", "wrk"])
    names |= {name for name in lua.splitlines() if name.startswith(("lua-", "libluajit2", "libnginx", "libpcre3"))}
    wanted = sorted({*_PROGRAMS, *(name for name in names if not name.endswith(("-dev", "-tools")))})
    _run(["apt-get", *own, "-q", "download", *wanted], cwd=archives)
    shutil.rmtree(DEBIAN, ignore_errors=True)
    for package in sorted(archives.glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(package), str(DEBIAN)])
    shutil.rmtree(state)


def _install_http_proxy() -> None:
    folder = HOME / "node"
    folder.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(BENCH / "peers" / "node" / name, folder / name)
    _run([str(node()), str(npm()), "ci", "--no-audit", "--no-fund"], cwd=folder)


def _build_go_proxy() -> None:
    own = {"GOROOT": str(go().parents[1]), "GOCACHE": str(HOME / "go-cache"), "GOTOOLCHAIN": "local", "GOFLAGS": ""}
    source = BENCH / "peers" / "go"
    _run([str(go()), "build", "-o", str(GO_PROXY), "."], cwd=source, env={**os.environ, **own})


def _run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    subprocess.run(command, cwd=cwd, env=env, check=True)  # noqa: S603 - our own commands


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout  # noqa: S603 - our own commands


if __name__ == "__main__":
    main()
