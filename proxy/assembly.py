"""How the rooms are put together: from a configuration to listeners, refreshers and pools that know each other."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.admin import Listening, Rooms
from proxy.config import CallerTokenFile, CredentialSource
from proxy.errors import ConfigError
from proxy.forward import Api, Apis, Echoes, Forward, HeldBytes, Holder, Trail
from proxy.guard import Guard, own_names
from proxy.listener import Listener
from proxy.observe import Level, Metrics, StoreReading
from proxy.tokens import Login, Refresher, Schedule, TokenKey, open_store, system_clock
from proxy.upstream import Dialler, Pool, egress_from, trust
from proxy.waiting import WaitingRoom

if TYPE_CHECKING:
    import ssl
    from collections.abc import Hashable, Mapping

    from proxy.config import Api as ApiConfig
    from proxy.config import Config, EgressProxy, HttpUrl, Origin
    from proxy.config import Listener as ListenerConfig
    from proxy.observe import AccessLog, TokenMeter
    from proxy.tokens import Store
    from proxy.tracing.spans import Tracing


class Assembly:
    """Everything that one configuration is made of, within a running event loop.

    A pool belongs to an API and a refresher to an account and API, however many listeners use them.
    """

    def __init__(
        self,
        config: Config,
        env: Mapping[str, str],
        access_log: AccessLog,
        before: Assembly | None = None,
        tracing: Tracing | None = None,
        *,
        store: Store | None = None,
    ) -> None:
        """Raises `ConfigError`, for a file that cannot be used. A `store` takes the place of the one configured.

        What the one `before` has made in the same way goes on; `changes` has seen to it that the store is the same, and
        `tracing` always is.
        """
        self._config = config
        self._before = before
        self.recipes: dict[tuple[str, Hashable], tuple[object, ...]] = {}
        """What each room was made of."""
        self._env = env
        self._access_log = access_log
        self._tracing = tracing
        # What all configurations count together, whichever a request began with.
        self.waiting: WaitingRoom = before.waiting if before is not None else WaitingRoom(config.limits.waiting)
        self.held: HeldBytes = before.held if before is not None else HeldBytes(config.limits.replay_memory)
        self._holder = Holder(config.limits.replay_body, self.held, config.timeouts.idle)
        self._credentials = {name: CredentialSource(account, env, name) for name, account in config.accounts.items()}
        self._trusted: dict[str | None, ssl.SSLContext] = {}
        self.store: Store = before.store if before is not None else store or open_configured(config)
        self.metrics: Metrics = Metrics(None if before is None else before.metrics)
        self.metrics.levels_from(
            lambda: Level(self.waiting.taken, self.waiting.places),
            lambda: Level(self.held.taken, self.held.limit),
        )
        self.metrics.store_from(lambda: StoreReading(self.store.failing, self.store.failures))
        self.pools: dict[str, Pool] = {}
        self.echoes: dict[str, Echoes] = {}
        self.refreshers: dict[tuple[str, str], Refresher] = {}
        """By account and API."""
        self.listeners = [self._listener(number, listener) for number, listener in enumerate(config.listeners)]
        self._before = None

    def set_common_limits(self) -> None:
        """Have this configuration's limits hold for what all configurations count together."""
        self.waiting.places = self._config.limits.waiting
        self.held.limit = self._config.limits.replay_memory

    def _listener(self, number: int, listener: ListenerConfig) -> Listener:
        tokens = listener.caller_token_file
        guard = Guard(
            [*map(str, listener.hosts), *own_names(listener.bind)],
            origins=map(str, listener.origins),
            caller_tokens=CallerTokenFile(tokens, f"listeners[{number}].caller_token_file") if tokens else None,
            rules=listener.rules,
        )
        account = listener.account or next(iter(self._config.accounts))
        apis, absent = [], {}
        for name, api in self._config.apis.items():
            if api.url is None or api.token_url is None:
                absent[api.prefix] = why_absent(name, self._config.environment)
            else:
                apis.append(self._api(account, name, api, api.url, api.token_url))
        forward = Forward(
            str(listener.bind),
            guard,
            Apis(apis, absent),
            self._holder,
            self._access_log,
            self.metrics.requests(str(listener.bind), [api.name for api in apis]),
            trail=Trail(listener.via, listener.forwarded) if listener.via or listener.forwarded != "none" else None,
            stand_in=listener.token_endpoint == "stub",  # noqa: S105 - a choice
        )
        if self._tracing is not None:
            forward.tracing = self._tracing.listener(str(listener.bind), account)
        return Listener(listener, forward, self._config.timeouts)

    def _api(self, account: str, name: str, api: ApiConfig, url: Origin, token_url: HttpUrl) -> Api:
        timeouts, connections = self._config.timeouts, self._config.limits.connections
        way = (api, self._authorities(name, api.ca_file), timeouts)
        if name not in self.pools:
            kept = self._same("pools", name, (*way, connections))
            self.pools[name] = kept or Pool(self.dialler(name, url), timeouts, connections, self.waiting, url)
            echoes = self.echoes[name] = self._same("echoes", name, ()) or Echoes(name)
            self.metrics.echoes_from(name, lambda: echoes.stripped)
            self.metrics.pool_from(name, self.pools[name].reading)
        if (account, name) not in self.refreshers:
            recipe = (*way, self._config.accounts[account], self._config.tokens)
            kept = self._same("refreshers", (account, name), recipe)
            meter = self.metrics.token(account, name)
            self.refreshers[account, name] = kept or self._refresher(account, name, api, url, token_url, meter)
        return Api(
            name=name,
            prefix=api.prefix,
            authority=url.authority.encode(),
            origin=str(url).encode(),
            refresher=self.refreshers[account, name],
            pool=self.pools[name],
            echoes=self.echoes[name],
        )

    def dialler(self, name: str, to: Origin) -> Dialler:
        """Return the way to a server of an API: that of its requests, or that of its logins."""
        api = self._config.apis[name]
        tls = self._tls(name, api.ca_file) if to.ssl else None
        return Dialler(to.host, to.port, tls, self._config.timeouts.connect, self._egress(api, to))

    def _egress(self, api: ApiConfig, to: Origin) -> EgressProxy | None:
        """Return the proxy to go through; plain HTTP is for loopback alone and goes through none."""
        if not to.ssl or api.proxy is not None or not api.trust_env:
            return api.proxy if to.ssl else None
        return egress_from(self._env, to.host)

    def _same(self, rooms: str, name: Hashable, recipe: tuple[object, ...]) -> Any:
        """Return what the assembly before has made by the same recipe, or none."""
        self.recipes[rooms, name] = recipe
        if self._before is None or self._before.recipes.get((rooms, name)) != recipe:
            return None
        return getattr(self._before, rooms)[name]

    def _refresher(
        self, account: str, name: str, api: ApiConfig, url: Origin, token_url: HttpUrl, meter: TokenMeter
    ) -> Refresher:
        config = self._config
        egress = self._egress(api, token_url.origin)
        login = Login(str(token_url), self._tls(name, api.ca_file), config.timeouts.login, egress)
        meter.skew_from(lambda: login.skew)
        tracing, at = self._tracing, (account, name)
        refresher = Refresher(
            TokenKey(config.environment, account, name, str(token_url), audience=url),
            self._credentials[account],
            login if tracing is None else tracing.login(login, at, str(token_url), lambda: refresher.reason),
            self.store,
            schedule=Schedule(config.tokens.refresh_every, config.timeouts.login, random.random),
            clock=system_clock,
            waiting=self.waiting,
            meter=meter,
        )
        return refresher

    def readable(self) -> Rooms:
        """Return what the status is read from."""
        config, first = self._config, next(iter(self._config.accounts))
        return Rooms(
            config.environment,
            [
                Listening(str(at.bind), at.account or first, listener.forward.traffic.number)
                for at, listener in zip(config.listeners, self.listeners, strict=True)
            ],
            self.refreshers,
            self.pools,
            {name: str(config.apis[name].url) for name in self.pools},
            self.waiting.taken,
            self.waiting.places,
        )

    def _authorities(self, name: str, ca_file: str | None) -> bytes | None:
        """Return what a file of certificate authorities holds now."""
        if ca_file is None:
            return None
        try:
            return Path(ca_file).read_bytes()
        except OSError as error:
            raise _unusable(name, ca_file, error) from None

    def _tls(self, name: str, ca_file: str | None) -> ssl.SSLContext:
        if ca_file not in self._trusted:
            try:
                self._trusted[ca_file] = trust(ca_file)
            except OSError as error:
                raise _unusable(name, ca_file, error) from None
        return self._trusted[ca_file]


def open_configured(config: Config) -> Store:
    """Open the store of tokens; raises `ConfigError` where it cannot be used."""
    return open_store(
        config.tokens.store.where.reveal(),
        key_file=config.tokens.key_file,
        clock=system_clock,
        login_timeout=config.timeouts.login,
    )


def _unusable(name: str, ca_file: str | None, error: OSError) -> ConfigError:
    return ConfigError(f'apis."{name}".ca_file: {ca_file} cannot be used: {error.strerror}')


def why_absent(name: str, environment: str) -> str:
    """Say why an API has no address, and what to do."""
    return (
        f"API {name} is not configured: its {environment} address is documented nowhere;"
        f' give apis."{name}".url and .token_url'
    )
