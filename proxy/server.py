"""The sidecar from start to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import http_parser

from proxy.admin import Admin, Condition, OneProcess, Readiness, Refreshed
from proxy.assembly import Assembly
from proxy.config import changes
from proxy.descriptors import left_for_callers, raise_limit
from proxy.errors import ProxyError
from proxy.observe import Metrics, next_step
from proxy.signals import StopAsked
from proxy.systemd import Supervisor
from proxy.tracing import open_tracing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.admin import Rooms
    from proxy.config import Changes, Config
    from proxy.door import TakeSockets
    from proxy.listener import Listener
    from proxy.observe import AccessLog
    from proxy.tokens import Store

log = logging.getLogger(__name__)

_EAGER = "2.0"
"""The API whose token is fetched at start; the others' at first need."""

DRAINING = Condition(Readiness.DRAINING, ("the sidecar is stopping",), (next_step("request", "draining"),))
"""The condition of a sidecar that was asked to stop."""

_LAST_WORDS = 0.5
"""Seconds for those whose request was cut to be told."""

_LAST_SPANS = 2.0
"""Seconds for a collector to take the last spans."""


class StartError(Exception):
    """The sidecar cannot start; the message says why."""


class Sidecar:
    """Everything that runs for one configuration, and for the next where it is read again."""

    def __init__(
        self,
        config: Config,
        env: Mapping[str, str],
        access_log: AccessLog,
        supervisor: Supervisor | None = None,
        *,
        take_sockets: TakeSockets | None = None,
        store: Store | None = None,
    ) -> None:
        """Put the rooms together, within a running event loop; raises `ConfigError`.

        Where a `store` is given this is one process of several: the operator's port is not its own. `take_sockets`
        gives those that listen already; by default systemd's are asked for.
        """
        self._config = config
        self._env = env
        self._access_log = access_log
        self.supervisor = supervisor or Supervisor({})
        self._take_sockets = take_sockets or self.supervisor.take_sockets
        self._tracing = open_tracing(env)
        self._rooms = Assembly(config, env, access_log, tracing=self._tracing, store=store)
        self._metrics = Metrics()
        self._metrics.show(self._rooms.metrics)
        access_log.history.inspecting = config.admin.inspect_bodies
        self._stop_asked = StopAsked()
        quit_asked = partial(self._stop_asked.ask, "quit")
        self.source = OneProcess(
            self.condition, self._metrics, self._readable, access_log.history, self._refresh, quit_asked
        )
        self._admin = Admin(config.admin, self.source) if store is None else None
        self._left: dict[Assembly, asyncio.Task[None]] = {}  # of other configurations: their last requests go on
        self._draining = False
        self._ended_before = 0  # requests, when the sidecar was asked to stop
        self._most = 0  # callers at a listener
        self._metrics.readiness_from(lambda: self.condition().readiness.value)

    # --- Start --------------------------------------------------------------------------------------------------------

    async def start(self) -> list[str]:
        """Open every listener and return the addresses, the operator's port last; raises `StartError`."""
        _require_c_parser()
        forbid_core_dump()
        most = self._most = _caller_connections(self._config, self._rooms)
        take_sockets = self._take_sockets
        try:
            addresses = [await listener.open(most, take_sockets) for listener in self._rooms.listeners]
            if self._admin is not None:
                addresses.append(await self._admin.open(take_sockets))
        except OSError as error:
            await self.stop()
            raise StartError(f"cannot listen: {error.strerror or error}") from None
        self.supervisor.tell_left()
        self._get_first_tokens()
        return addresses

    def _get_first_tokens(self) -> None:
        for (_, api), refresher in self._rooms.refreshers.items():
            if api == _EAGER:
                refresher.start()

    # --- Change -------------------------------------------------------------------------------------------------------

    async def change(self, config: Config) -> Changes:
        """Go on with another configuration, without a request lost or a connection dropped that need not be.

        Raises `ConfigError` and `OSError`; then, and after a defect too, everything is as it was.
        """
        found = changes(self._config, config)
        before = self._rooms
        rooms = Assembly(found.config, self._env, self._access_log, before, self._tracing)
        kept = _successions(before.listeners, rooms.listeners)
        new = [listener for listener in rooms.listeners if listener not in kept]
        most = _caller_connections(found.config, rooms)
        taken = []
        try:
            for listener in new:
                await listener.open(most, self._take_sockets)
            for listener, earlier in kept.items():  # nothing is awaited any more: no request sees the half of it
                listener.take_over(earlier, most)
                taken.append(listener)
        except BaseException:
            for listener in taken:
                kept[listener].take_over(listener, self._most)
            await asyncio.wait([self._part_with(rooms, new)])
            raise
        gone = [listener for listener in before.listeners if listener not in kept.values()]
        self._config, self._rooms, self._most = found.config, rooms, most
        rooms.set_common_limits()
        for listener in taken:
            listener.part()
        ours = logging.getLogger("proxy")
        ours.setLevel(found.config.log.level.upper())
        self._access_log.set_level(ours.level)
        self._get_first_tokens()
        shut = self._part_with(before, gone)
        self._show_metrics()
        await asyncio.wait([shut])  # whoever is told of the change may rely on it: nobody comes in there any more
        return found

    def _part_with(self, rooms: Assembly, listeners: list[Listener]) -> asyncio.Future[Any]:
        """Begin to shut listeners that are none any more, and to leave the rooms behind them; return the former."""
        shut = self._shut(listeners)
        self._left[rooms] = asyncio.create_task(self._leave(rooms, listeners, shut))
        return shut

    async def _leave(self, rooms: Assembly, listeners: list[Listener], shut: asyncio.Future[Any]) -> None:
        """Let the requests end that came while these rooms were in use; then stop what they alone have used."""
        await shut
        for listener in listeners:
            listener.forward.draining = True
        await asyncio.gather(*(listener.finish(self._config.drain.timeout) for listener in listeners))
        for listener in listeners:
            listener.forward.traffic.give_up()
        await asyncio.gather(*(listener.finish(_LAST_WORDS) for listener in listeners))
        await asyncio.gather(*(listener.end() for listener in listeners))
        await asyncio.gather(*(listener.forward.traffic.emptied() for listener in rooms.listeners))
        await asyncio.gather(*(refresher.settled() for refresher in rooms.refreshers.values()))
        self._stop_unused(rooms)
        del self._left[rooms]
        self._show_metrics()

    def _show_metrics(self) -> None:
        self._metrics.show(self._rooms.metrics, [rooms.metrics for rooms in self._left])

    def _stop_unused(self, rooms: Assembly) -> None:
        others = (self._rooms, *(each for each in self._left if each is not rooms))
        used = {room for each in others for room in (*each.refreshers.values(), *each.pools.values())}
        for refresher in {*rooms.refreshers.values()} - used:
            refresher.stop()
        for pool in {*rooms.pools.values()} - used:
            pool.close()

    @staticmethod
    def _shut(listeners: list[Listener]) -> asyncio.Future[Any]:
        for listener in listeners:
            listener.forward.closing = True
        return asyncio.gather(*(listener.shut() for listener in listeners))

    # --- Stop ---------------------------------------------------------------------------------------------------------

    def ask_to_stop(self) -> None:
        """Have `stop_asked` return, as a signal does."""
        self._stop_asked.ask("signal")

    async def stop_asked(self) -> None:
        """Return when the sidecar is to stop, or to stop at once if it is stopping already."""
        await self._stop_asked.wait()

    async def drain(self) -> None:
        """Stop gently: tell the probes, take calls for `drain.delay`, then finish those in flight."""
        self.begin_to_stop()
        await asyncio.sleep(self._config.drain.delay)
        await self.finish()

    def begin_to_stop(self) -> None:
        """Tell the probes, and have every answer close its connection."""
        self._draining = True
        self._ended_before = self._access_log.history.number
        for listener in self._rooms.listeners:
            listener.forward.closing = True

    async def finish(self) -> None:
        """Take no more calls, finish those in flight, and stop."""
        drain = self._config.drain
        await self._shut(self._rooms.listeners)
        for listener in self._rooms.listeners:
            listener.forward.draining = True
        last = [asyncio.ensure_future(listener.finish(drain.timeout)) for listener in self._rooms.listeners]
        await asyncio.wait([*last, *self._left.values()], timeout=drain.timeout + _LAST_WORDS)
        self._tell_end()
        await self.stop()
        if self._tracing is not None:
            await self._tracing.close(_LAST_SPANS)

    def _tell_end(self) -> None:
        """Say how many requests came to their end, and how many are cut."""
        finished = self._access_log.history.number - self._ended_before
        listeners = [listener for rooms in (self._rooms, *self._left) for listener in rooms.listeners]
        cut = sum(listener.forward.traffic.number for listener in listeners)
        if not cut:
            text = "no request is left; %d ended since the sidecar was told to stop"
            log.info(text, finished, extra={"event": "drained", "finished": finished})
            return
        text = "%d requests took longer than drain.timeout, and are cut; %d ended"
        log.warning(text, cut, finished, extra={"event": "drain-cut", "finished": finished, "cut": cut})

    async def stop(self) -> None:
        """Stop now: whoever still waits is told what is known of their request, and then cut."""
        everything = (self._rooms, *self._left)
        for work in self._left.values():
            work.cancel()
        for rooms in everything:
            for listener in rooms.listeners:
                listener.close()
            for refresher in rooms.refreshers.values():
                refresher.stop()
            for pool in rooms.pools.values():
                pool.close()
        listeners = [listener for rooms in everything for listener in rooms.listeners]
        await asyncio.gather(*(listener.finish(_LAST_WORDS) for listener in listeners))
        for listener in listeners:
            listener.forward.traffic.give_up()  # who is left waits for none of these: a body is still on its way
        await asyncio.gather(*(listener.finish(_LAST_WORDS) for listener in listeners))
        await asyncio.gather(*(listener.end() for listener in listeners))
        if self._admin is not None:
            await self._admin.close()
        await self._rooms.store.close()

    # --- What an operator asks ----------------------------------------------------------------------------------------

    async def _refresh(self) -> list[Refreshed]:
        in_use = {name: each for name, each in self._rooms.refreshers.items() if each.in_use}
        results = await asyncio.gather(*(each.refresh() for each in in_use.values()), return_exceptions=True)
        return [_refreshed(*name, result) for name, result in zip(in_use, results, strict=True)]

    def _readable(self) -> Rooms:
        return self._rooms.readable()

    def condition(self) -> Condition:
        """Tell whether requests can be served: by the token that is fetched at start, of each account."""
        if self._draining:
            return DRAINING
        eager = [refresher for (_, api), refresher in self._rooms.refreshers.items() if api == _EAGER]
        reports = [refresher.report() for refresher in eager]
        reasons = tuple(reason for _, reason in reports if reason)
        failures = [failure for refresher in eager if (failure := refresher.story().failure)]
        steps = tuple(dict.fromkeys(next_step("login-failed", failure.name) for failure in failures))
        if not all(usable for usable, _ in reports):
            return Condition(Readiness.NOT_READY, reasons, steps)
        return Condition(Readiness.DEGRADED if reasons else Readiness.READY, reasons, steps)


def _caller_connections(config: Config, rooms: Assembly) -> int:
    """Return how many connections each listener may have, with a warning where open files allow for fewer."""
    wanted, files = config.limits.caller_connections, raise_limit()
    if files is None:
        return wanted
    exchanges = config.limits.connections * len(rooms.pools)
    most = left_for_callers(files, listeners=len(rooms.listeners), exchanges=exchanges)
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


def _successions(before: list[Listener], after: list[Listener]) -> dict[Listener, Listener]:
    """Return which listener goes on where another was, each for one: two may have the same address, with port 0."""
    there, found = list(before), {}
    for listener in after:
        earlier = next((each for each in there if each.address == listener.address), None)
        if earlier is not None:
            there.remove(earlier)
            found[listener] = earlier
    return found


def forbid_core_dump() -> None:
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


def _refreshed(account: str, api: str, result: BaseException | None) -> Refreshed:
    if result is None:
        return Refreshed(account, api)
    if not isinstance(result, ProxyError):
        raise result
    return Refreshed(account, api, result.name, result.detail)
