"""The sidecar from start to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING

from aiohttp import http_parser

from proxy.admin import Admin, Condition, Readiness
from proxy.assembly import Assembly
from proxy.descriptors import left_for_callers, raise_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.config import Config
    from proxy.observe import AccessLog

log = logging.getLogger(__name__)

_EAGER = "2.0"
"""The API whose token is fetched at start; the others' at first need."""


_LAST_WORDS = 0.5
"""Seconds for those whose request was cut to be told."""


class StartError(Exception):
    """The sidecar cannot start; the message says why."""


class Sidecar:
    """Everything that runs for one configuration."""

    def __init__(self, config: Config, env: Mapping[str, str], access_log: AccessLog) -> None:
        """Put the rooms together, within a running event loop; raises `ConfigError`."""
        self._drain = config.drain
        self._limits = config.limits
        self._rooms = Assembly(config, env, access_log)
        self._admin = Admin(config.admin, self.condition, self._rooms.metrics)
        self._draining = False

    async def start(self) -> list[str]:
        """Open every listener and return the addresses, the operator's port last; raises `StartError`."""
        _require_c_parser()
        _forbid_core_dump()
        most = self._caller_connections()
        try:
            addresses = [await listener.open(most) for listener in self._rooms.listeners]
            addresses.append(await self._admin.open())
        except OSError as error:
            await self.stop()
            raise StartError(f"cannot listen: {error.strerror or error}") from None
        for (_, api), refresher in self._rooms.refreshers.items():
            if api == _EAGER:
                refresher.start()
        return addresses

    def _caller_connections(self) -> int:
        """Return how many connections each listener may have, with a warning where open files allow for fewer."""
        wanted, files = self._limits.caller_connections, raise_limit()
        if files is None:
            return wanted
        exchanges = self._limits.connections * len(self._rooms.pools)
        most = left_for_callers(files, listeners=len(self._rooms.listeners), exchanges=exchanges)
        if most < wanted:
            log.warning(
                "%d open files are allowed, so each listener takes %d connections at a time, not %d; raise the limit,"
                " or lower limits.caller_connections",
                files,
                most,
                wanted,
                extra={"event": "few-open-files"},
            )
        return min(most, wanted)

    async def drain(self) -> None:
        """Stop gently: tell the probes, take calls for `drain.delay`, then finish those in flight."""
        self._draining = True
        for listener in self._rooms.listeners:
            listener.forward.closing = True
        await asyncio.sleep(self._drain.delay)
        for listener in self._rooms.listeners:
            listener.forward.draining = True
            listener.close()
        await asyncio.gather(*(listener.finish(self._drain.timeout) for listener in self._rooms.listeners))
        await self.stop()

    async def stop(self) -> None:
        """Stop now: whoever still waits is told what is known of their request, and then cut."""
        for listener in self._rooms.listeners:
            listener.close()
        for refresher in self._rooms.refreshers.values():
            refresher.stop()
        for pool in self._rooms.pools.values():
            pool.close()
        await asyncio.gather(*(listener.finish(_LAST_WORDS) for listener in self._rooms.listeners))
        await asyncio.gather(*(listener.end() for listener in self._rooms.listeners))
        await self._admin.close()
        await self._rooms.store.close()

    def condition(self) -> Condition:
        """Tell whether requests can be served: by the token that is fetched at start, of each account."""
        if self._draining:
            return Condition(Readiness.DRAINING, ("the sidecar is stopping",))
        reports = [refresher.report() for (_, api), refresher in self._rooms.refreshers.items() if api == _EAGER]
        reasons = tuple(reason for _, reason in reports if reason)
        if not all(usable for usable, _ in reports):
            return Condition(Readiness.NOT_READY, reasons)
        return Condition(Readiness.DEGRADED if reasons else Readiness.READY, reasons)


def _forbid_core_dump() -> None:
    """A core dump would hold the token and the password."""
    try:
        import resource  # noqa: PLC0415 - not there on Windows
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _require_c_parser() -> None:
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise StartError("aiohttp is installed without its C parser, whose strictness the sidecar relies on")


async def serve(sidecar: Sidecar, on_start: Callable[[list[str]], None]) -> None:
    """Run until SIGTERM or SIGINT, then drain; a second signal ends at once. Raises `StartError`."""
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, signalled.set)
    on_start(await sidecar.start())
    await signalled.wait()
    log.info("stopping", extra={"event": "stopping"})
    signalled.clear()
    drain = asyncio.ensure_future(sidecar.drain())
    again = asyncio.ensure_future(signalled.wait())
    await asyncio.wait([drain, again], return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if drain.done():
        drain.result()
        return
    log.warning("stopped by a second signal", extra={"event": "stopped"})
    drain.cancel()
    await sidecar.stop()
