"""A real Redis as a process, that can be stopped, frozen and emptied."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

import redis

from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trustme import LeafCert


class Redis:
    """One `redis-server` that writes nothing to disk: what it holds is lost when it stops."""

    def __init__(self, folder: str, certificate: LeafCert | None) -> None:
        self._folder = folder
        self._certificate = certificate
        self._process: subprocess.Popen[str] | None = None
        self.port = _free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        options += ["--port", str(self.port)] if self._certificate is None else self._over_tls(self._certificate)
        process = subprocess.Popen(
            ["redis-server", *options], cwd=self._folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ready to accept connections" in line:
                break
        else:
            process.wait()
            process.stdout.close()
            raise AssertionError(f"redis-server ended:\n{''.join(said)}")
        self._process = process

    def _over_tls(self, certificate: LeafCert) -> list[str]:
        certificate.private_key_and_cert_chain_pem.write_to_path(f"{self._folder}/server.pem")
        files = ["--tls-cert-file", "server.pem", "--tls-key-file", "server.pem", "--tls-auth-clients", "no"]
        return ["--port", "0", "--tls-port", str(self.port), *files]

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Let it take connections and bytes, as the kernel does for it, and answer nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def empty(self) -> None:
        self.ask("FLUSHALL")

    def ask(self, *command: str | bytes | float) -> Any:
        with redis.Redis(port=self.port, protocol=2, socket_timeout=PATIENCE) as client:
            return client.execute_command(*command)

    def names(self, pattern: str = "*") -> list[str]:
        return sorted(name.decode() for name in self.ask("KEYS", pattern))

    async def wanted_by(self, count: int) -> None:
        """Wait until so many hold the lock or wait for it: the server hears of who comes and goes in its own time."""
        async with asyncio.timeout(PATIENCE):
            while len(await asyncio.to_thread(self.ask, "PUBSUB", "CHANNELS", "invoisys-proxy:holder:*")) != count:
                pass

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def redis_server(certificate: LeafCert | None = None) -> Iterator[Redis]:
    """Start one; with a certificate it speaks TLS alone."""
    with tempfile.TemporaryDirectory() as folder:
        server = Redis(folder, certificate)
        server.start()
        try:
            yield server
        finally:
            server.stop()
