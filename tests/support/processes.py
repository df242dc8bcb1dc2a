"""The real program as a process, and what it says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import re
import resource
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.fake import PASSWORD, USERNAME
from tests.support.canary import assert_discreet
from tests.support.wire import PATIENCE, Reply, ask

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
_OF_OTHERS = {"HTTPS_PROXY", "NO_PROXY", "PYTHONASYNCIODEBUG", "PYTHONFAULTHANDLER", "PYTHONPATH"}
_LISTENING = re.compile(r'listening at (.*), for probes at ([^"\s]*)')
"""In JSON and in text."""

# A thousand callers at once are a thousand open files, here and in every child.
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)


def limited(files: str) -> list[str]:
    """The beginning of a command whose process may have so many files open."""
    return ["sh", "-c", 'ulimit -n "$0" && exec "$@"', files] if files else []


class Process:
    """One running command; its lines are gathered as they come."""

    def __init__(
        self, *arguments: str, env: dict[str, str] | None = None, files: str = "", within: Sequence[str] = ()
    ) -> None:
        """`files` is how many the process may have open; `within` is a command that runs the rest somewhere else."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("INVOISYS_", "OTEL_"))}
        self.lines: list[str] = []
        self._news: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.child = subprocess.Popen(
            [*within, *limited(files), sys.executable, "-m", "proxy", *arguments],
            cwd=ROOT,
            env=clean | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_lines, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_lines(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.lines.append(line)
            self._news.put(line)
        self._news.put(None)

    def _read_errors(self) -> None:
        assert self.child.stderr is not None
        self._errors.extend(self.child.stderr)

    @property
    def errors(self) -> str:
        return "".join(self._errors)

    def next_line(self) -> str:
        line = self._news.get(timeout=PATIENCE)
        if line is None:
            self._join()
            raise AssertionError(f"the process ended: {self.child.wait(PATIENCE)}\n{self.errors}")
        return line

    def event(self, name: str) -> dict[str, Any]:
        """Wait for a JSON line with that event, from where the last such call left off."""
        while True:
            line = self.next_line()
            if line.startswith("{") and (said := json.loads(line))["event"] == name:
                return dict(said)

    def listening(self) -> tuple[list[str], str]:
        """Wait until a sidecar listens: the addresses of its listeners, and that for probes."""
        while True:
            line = self.next_line()
            if found := _LISTENING.search(line):
                return found[1].split(", "), found[2]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    def wait(self) -> int:
        code = self.child.wait(PATIENCE)
        self._join()
        return code

    def _join(self) -> None:
        for reader in self._readers:
            reader.join(PATIENCE)

    def stop(self) -> int:
        """End the process as an operator does, and return its exit code."""
        if self.child.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise
        finally:
            for pipe in (self.child.stdout, self.child.stderr):
                assert pipe is not None
                pipe.close()

    @property
    def resident(self) -> int:
        """Bytes of memory in use now."""
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024

    @property
    def files(self) -> int:
        """Files that are open now."""
        return len(list(Path(f"/proc/{self.child.pid}/fd").iterdir()))

    @property
    def peak(self) -> int:
        """Bytes of memory in use at most since the start or the last `forget_peak`."""
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.child.pid}/clear_refs").write_text("5")


@dataclass
class Fake:
    """The fake Invoisys in a process of its own."""

    process: Process
    url: str
    spent: bool = False
    """A login that it was told to answer late may still be under way, and would count in the next test."""

    async def do(self, action: str, **parameters: object) -> dict[str, Any]:
        self.spent |= action == "logins" and parameters.get("mode") == "slow"
        query = "&".join(f"{name.rstrip('_')}={value}" for name, value in parameters.items())
        reply = await ask(self.url, "POST", f"/_fake/{action}?{query}", b"")
        assert reply.status == 200, reply.body
        return dict(reply.json())

    async def state(self, *, documents: bool = False) -> dict[str, Any]:
        return dict((await ask(self.url, "GET", f"/_fake/state{'?documents=1' if documents else ''}")).json())

    async def reached(self, **counters: int) -> dict[str, Any]:
        """Wait until every counter is at least so high."""
        query = "&".join(f"{name}={value}" for name, value in counters.items())
        reply = await ask(self.url, "GET", f"/_fake/wait?{query}&timeout={PATIENCE - 5:g}")
        assert reply.status == 200, reply.body
        return dict(reply.json())


@dataclass
class Sidecar:
    """The sidecar in a process of its own."""

    process: Process
    url: str
    admin: str
    urls: list[str] = field(default_factory=list)

    async def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        return await ask(self.url, method, path, body, headers)

    async def issue(self, number: int) -> Reply:
        """Issue a document, by its natural key."""
        body = json.dumps({"cnpj": "12345678000195", "modelo": "55", "serie": "1", "numero": str(number)}).encode()
        return await self.ask("POST", "/api/nfe/envio", body, {"Content-Type": "application/json"})


@contextlib.contextmanager
def fake_invoisys(*arguments: str) -> Iterator[Fake]:
    process = Process("fake", "--listen", "127.0.0.1:0", *arguments)
    try:
        url = process.next_line().split()[3].rstrip(";")
        yield Fake(process, url)
    finally:
        process.stop()


class Fakes:
    """One fake for test after test, as long as nothing in it outlives a test."""

    def __init__(self) -> None:
        self._running = contextlib.ExitStack()
        self._fake: Fake | None = None

    def fresh(self) -> Fake:
        """Return one that knows nothing of what was before."""
        if self._fake is not None and not self._fake.spent and self._fake.process.child.poll() is None:
            for action in ("revoke", "reset"):
                asyncio.run(self._fake.do(action))
        else:
            self.close()
            self._fake = self._running.enter_context(fake_invoisys())
        return self._fake

    def close(self) -> None:
        self._running.close()


def environment(upstream: str, **settings: str) -> dict[str, str]:
    """The environment of a sidecar before `upstream`, and of what is to find the same; an empty setting is left out."""
    env = {
        "USERNAME": USERNAME,
        "PASSWORD": PASSWORD,
        "LISTEN": "127.0.0.1:0",
        "ADMIN": "127.0.0.1:0",
        "API_2_0_URL": upstream,
        "API_2_0_TOKEN_URL": f"{upstream}/api/token",
        "API_3_0_URL": upstream,
        "API_3_0_TOKEN_URL": f"{upstream}/v1/token",
    } | settings
    return {name if _is_of_others(name) else f"INVOISYS_{name}": value for name, value in env.items() if value}


def _is_of_others(name: str) -> bool:
    return name in _OF_OTHERS or name.startswith("OTEL_")


@contextlib.contextmanager
def sidecar(upstream: str, *arguments: str, **settings: str) -> Iterator[Sidecar]:
    """Run the sidecar before `upstream`; `settings` are environment variables, its own without their prefix.

    `FILES` is none of them: it says how many files may be open. Whatever a test is about, at its end the sidecar must
    have said nothing of its password or of a token.
    """
    files = settings.pop("FILES", "")
    process = Process("run", *arguments, env=environment(upstream, **settings), files=files)
    try:
        urls, admin = process.listening()
        yield Sidecar(process, urls[0], admin, urls)
    finally:
        process.stop()
    assert_discreet("".join(process.lines) + process.errors, settings.get("PASSWORD") or PASSWORD)
