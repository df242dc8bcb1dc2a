"""The sidecar from start to stop: the rooms are put together, listeners opened, and drained at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import http_parser

from proxy.admin import Admin, Condition, Readiness
from proxy.config import read_credentials
from proxy.errors import ConfigError
from proxy.forward import Api, Forward, HeldBytes, Holder
from proxy.guard import Guard
from proxy.listener import Listener
from proxy.tokens import Login, MemoryStore, Refresher, Schedule, TokenKey, system_clock
from proxy.upstream import Dialler, Pool, trust
from proxy.waiting import WaitingRoom

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from proxy.config import Config
    from proxy.config import Listener as ListenerConfig
    from proxy.observe import AccessLog

log = logging.getLogger(__name__)

_EAGER = "2.0"
"""The API whose token is fetched at start; the others' at first need."""


class StartError(Exception):
    """The sidecar cannot start; the message says why."""


class Sidecar:
    """Everything that runs for one configuration."""

    def __init__(self, config: Config, env: Mapping[str, str], access_log: AccessLog) -> None:
        """Put the rooms together, within a running event loop; raises `ConfigError`."""
        self._config = config
        self._env = env
        self._waiting = WaitingRoom(config.limits.waiting)
        self._store = MemoryStore(system_clock)
        limits = config.limits
        self._holder = Holder(limits.replay_body, HeldBytes(limits.replay_memory), config.timeouts.idle)
        self._trusted: dict[str | None, ssl.SSLContext] = {}
        self._pools: dict[str, Pool] = {}
        self._refreshers: dict[tuple[str, str], Refresher] = {}
        self._listeners = [self._listener(listener, access_log) for listener in config.listeners]
        self._admin = Admin(config.admin.bind, self.condition)
        self._draining = False

    # --- Start, stop --------------------------------------------------------------------------------------------------

    async def start(self) -> list[str]:
        """Open every listener and return the addresses, the operator's port last; raises `StartError`."""
        _require_c_parser()
        _raise_file_limit()
        try:
            addresses = [await listener.open() for listener in self._listeners]
            addresses.append(await self._admin.open())
        except OSError as error:
            await self.stop()
            raise StartError(f"cannot listen: {error.strerror or error}") from None
        for (_, api), refresher in self._refreshers.items():
            if api == _EAGER:
                refresher.start()
        return addresses

    async def drain(self) -> None:
        """Stop gently: tell the probes, take calls for `drain.delay`, then finish those in flight."""
        self._draining = True
        for listener in self._listeners:
            listener.forward.closing = True
        await asyncio.sleep(self._config.drain.delay)
        for listener in self._listeners:
            listener.forward.draining = True
            listener.close()
        await asyncio.gather(*(listener.drain(self._config.drain.timeout) for listener in self._listeners))
        await self.stop()

    async def stop(self) -> None:
        """Stop now."""
        for listener in self._listeners:
            listener.close()
        for refresher in self._refreshers.values():
            refresher.stop()
        for pool in self._pools.values():
            pool.close()
        await self._admin.close()

    def condition(self) -> Condition:
        """Tell whether requests can be served: by the token that is fetched at start, of each account."""
        if self._draining:
            return Condition(Readiness.DRAINING, ("the sidecar is stopping",))
        reports = [refresher.report() for (_, api), refresher in self._refreshers.items() if api == _EAGER]
        reasons = tuple(reason for _, reason in reports if reason)
        if not all(usable for usable, _ in reports):
            return Condition(Readiness.NOT_READY, reasons)
        return Condition(Readiness.DEGRADED if reasons else Readiness.READY, reasons)

    # --- Putting together ---------------------------------------------------------------------------------------------

    def _listener(self, listener: ListenerConfig, access_log: AccessLog) -> Listener:
        guard = Guard(
            [*listener.hosts, *_own_names(listener)],
            origins=listener.origins,
            caller_tokens=_caller_tokens(listener.caller_token_file),
            rules=listener.rules,
        )
        configured = {name: api for name, api in self._config.apis.items() if api.url is not None}
        absent = {
            api.prefix: f"API {name} is not configured: the {self._config.environment} address of it is documented"
            f' nowhere; give apis."{name}".url and .token_url'
            for name, api in self._config.apis.items()
            if api.url is None
        }
        account = listener.account or next(iter(self._config.accounts))
        forward = Forward(
            str(listener.bind),
            guard,
            [self._api(account, name) for name in configured],
            self._holder,
            access_log,
            absent=absent,
            stand_in=listener.token_endpoint == "stub",  # noqa: S105 - a choice
        )
        return Listener(listener.bind, forward)

    def _api(self, account: str, name: str) -> Api:
        api = self._config.apis[name]
        assert api.url is not None  # noqa: S101 - only configured ones are asked for
        return Api(
            name=name,
            prefix=api.prefix,
            authority=api.url.authority.encode(),
            origin=str(api.url).encode(),
            refresher=self._refresher(account, name),
            pool=self._pool(name),
        )

    def _pool(self, name: str) -> Pool:
        if name not in self._pools:
            api = self._config.apis[name]
            assert api.url is not None  # noqa: S101 - only configured ones are asked for
            timeouts = self._config.timeouts
            tls = self._tls(name) if api.url.ssl else None
            dial = Dialler(api.url.host, api.url.port, tls, timeouts.connect)
            self._pools[name] = Pool(dial, timeouts, self._config.limits.connections, self._waiting)
        return self._pools[name]

    def _refresher(self, account: str, name: str) -> Refresher:
        if (account, name) not in self._refreshers:
            api, timeouts = self._config.apis[name], self._config.timeouts
            assert api.token_url is not None  # noqa: S101 - the configuration gives it wherever it gives a url
            login = Login(
                str(api.token_url),
                lambda: read_credentials(self._config.accounts[account], self._env, account),
                self._tls(name) if api.token_url.origin.ssl else None,
                timeouts.login,
            )
            self._refreshers[account, name] = Refresher(
                TokenKey(self._config.environment, account, name, str(api.token_url)),
                login,
                self._store,
                schedule=Schedule(self._config.tokens.refresh_every, random.random),
                clock=system_clock,
                waiting=self._waiting,
                patience=timeouts.login,
            )
        return self._refreshers[account, name]

    def _tls(self, name: str) -> ssl.SSLContext:
        ca_file = self._config.apis[name].ca_file
        if ca_file not in self._trusted:
            try:
                self._trusted[ca_file] = trust(ca_file)
            except OSError as error:
                raise ConfigError(f'apis."{name}".ca_file: {ca_file} cannot be used: {error.strerror}') from None
        return self._trusted[ca_file]


def _own_names(listener: ListenerConfig) -> list[str]:
    """The bind address is a Host name of ours, unless it stands for every address."""
    host = listener.bind.host
    if listener.bind.path or host in ("0.0.0.0", "::"):  # noqa: S104 - looked for, not bound to
        return []
    return [f"[{host}]" if ":" in host else host]


def _caller_tokens(path: str | None) -> list[bytes]:
    """Read the caller tokens, one a line: two are valid during a rotation."""
    if path is None:
        return []
    try:
        lines = Path(path).read_bytes().split()
    except OSError as error:
        raise ConfigError(f"caller_token_file: {path} cannot be read: {error.strerror}") from None
    if not lines:
        raise ConfigError(f"caller_token_file: {path} is empty")
    return lines


def _raise_file_limit() -> None:
    """Each request takes two open files; the soft limit is for programs that use select()."""
    try:
        import resource  # noqa: PLC0415 - not there on Windows
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


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
