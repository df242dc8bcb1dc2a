"""What no value tells by itself: sources, names, addresses and URLs that must agree with one another."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from proxy.config.environment import SOURCES, variables_of
from proxy.config.model import Socket
from proxy.config.presets import environment_of
from proxy.config.tree import Faults, Node, Path, did_you_mean, one_of, spelled
from proxy.config.values import Size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.model import Account, Admin, Api, Config, Listener
    from proxy.config.values import Bind, Origin


def check(config: Config, tree: Node, faults: Faults) -> None:
    """Add what does not agree to `faults`; a part that has faults of its own is left out."""
    _Checks(config, tree, faults).run()


class _Checks:
    def __init__(self, config: Config, tree: Node, faults: Faults) -> None:
        self._config = config
        self._tree = tree
        self._faults = faults

    def run(self) -> None:
        for name, account in self._config.accounts.items():
            self._account(("accounts", name), account)
        for index, listener in enumerate(self._config.listeners):
            self._listener(("listeners", index), listener)
        if self._sound(("admin",)):
            self._exposure(("admin",), self._config.admin, "; set admin.expose to true to let other machines in")
            self._socket(("admin",), self._config.admin)
            self._inspection(self._config)
        self._binds()
        for name, api in self._config.apis.items():
            self._api(("apis", name), api)
        self._prefixes()
        self._key_file()
        self._shares()

    def _sound(self, path: Path) -> bool:
        return not self._faults.touches(path)

    def _fault(self, path: Path, text: str) -> None:
        self._faults.add(self._tree.place_of(path), path, text)

    def _account(self, path: Path, account: Account) -> None:
        if not self._sound(path):
            return
        for keys in SOURCES.values():
            given = [key for key in keys if getattr(account, key) is not None]
            if len(given) > 1:
                self._fault((*path, given[-1]), f"expected one source, found {one_of(given, 'and')}")
            elif not given:
                variables = [name for key in keys for name in variables_of((*path, key))]
                ways = f"{', or '.join(variables)}, or " if variables else ""
                in_file = " in the file" if variables else ""
                self._fault((*path, keys[0]), f"required; set {ways}{one_of(keys)}{in_file}")

    def _listener(self, path: Path, listener: Listener) -> None:
        if not self._sound(path):
            return
        names = list(self._config.accounts)
        if listener.account is None:
            if len(names) > 1:
                self._fault((*path, "account"), f"required where there are several accounts: {one_of(names)}")
        elif listener.account not in names and self._sound(("accounts",)):
            unknown = f'expected the name of an account, found "{listener.account}"'
            self._fault((*path, "account"), unknown + did_you_mean(listener.account, names))
        if listener.caller_token_file is None:
            keys = f"{spelled(path)}.expose to true, or {spelled(path)}.caller_token_file"
            self._exposure(path, listener, f"; set {keys}, to let other machines in")
        self._socket(path, listener)
        if listener.uids and not listener.bind.path:
            self._fault((*path, "uids"), f"expected only beside a Unix socket; {spelled(path)}.bind is {listener.bind}")

    def _socket(self, path: Path, at: Listener | Admin) -> None:
        if at.socket != Socket() and not at.bind.is_file:
            found = f"expected only beside the path of a Unix socket; {spelled(path)}.bind is {at.bind}"
            self._fault((*path, "socket"), found)

    def _inspection(self, config: Config) -> None:
        if config.admin.inspect_bodies and config.environment == "production" and self._sound(("environment",)):
            found = "expected false in production, found true: whoever sees the status page would see the documents"
            self._fault(("admin", "inspect_bodies"), found)

    def _exposure(self, path: Path, listener: Listener | Admin, mend: str) -> None:
        if not listener.bind.is_loopback and not listener.expose:
            self._fault((*path, "bind"), f'expected a loopback address or a Unix socket, found "{listener.bind}"{mend}')

    def _binds(self) -> None:
        places: dict[Path, Bind] = {
            ("listeners", n, "bind"): each.bind for n, each in enumerate(self._config.listeners)
        }
        places["admin", "bind"] = self._config.admin.bind
        for (first, one), (second, other) in combinations(places.items(), 2):
            # Any number of listeners may ask for a port that the system chooses.
            if one == other and (one.port or one.path) and self._sound(first) and self._sound(second):
                self._fault(second, f"expected an address of its own, found that of {spelled(first)}: {one}")

    def _api(self, path: Path, api: Api) -> None:
        if not self._sound(path):
            return
        if api.url and not api.token_url:
            variables = one_of(variables_of((*path, "token_url")))
            self._fault((*path, "token_url"), f"required beside a url of your own; set it, or {variables}")
        if api.token_url and not api.url:
            variables = one_of(variables_of((*path, "url")))
            self._fault((*path, "url"), f"required beside a token_url; set it, or {variables}")
        if api.url:
            self._environment((*path, "url"), api.url)
        if api.token_url:
            self._environment((*path, "token_url"), api.token_url.origin)

    def _environment(self, path: Path, origin: Origin) -> None:
        expected = self._config.environment
        if self._sound(("environment",)) and environment_of(origin.host) not in {None, expected}:
            found = f"expected a server of the environment {expected}, found {origin.host}"
            self._fault(path, f"{found}; sandbox and production do not mix")

    def _prefixes(self) -> None:
        paths = ((("apis", name, "prefix"), api.prefix) for name, api in self._config.apis.items())
        for (first, one), (second, other) in combinations(paths, 2):
            overlap = one.startswith(other) or other.startswith(one)
            if overlap and self._sound(first) and self._sound(second):
                self._fault(second, f'expected a path apart from {spelled(first)}, which is {one}, found "{other}"')

    def _key_file(self) -> None:
        tokens = self._config.tokens
        if self._sound(("tokens",)) and tokens.key_file is not None and not tokens.store.shared_over_a_network:
            found = f"expected only beside a store in Redis; tokens.store is {tokens.store}"
            self._fault(("tokens", "key_file"), found)

    def _shares(self) -> None:
        if self._sound(("limits",)) and self._sound(("workers",)):
            for path, fault in small_shares(self._config):
                self._fault(path, fault)


def small_shares(config: Config) -> Iterator[tuple[Path, str]]:
    """Yield the limits of which the workers' shares are too small to be of use, and what is expected."""
    workers, limits = config.workers, config.limits
    if limits.connections < workers:
        found = f"expected at least one for each of {workers} workers, found the number {limits.connections}"
        yield ("limits", "connections"), found
    least = Size(workers * limits.replay_body)
    if workers > 1 and limits.replay_memory < least:
        found = f"expected at least {least}, a limits.replay_body for each of {workers} workers"
        yield ("limits", "replay_memory"), f"{found}, found {limits.replay_memory}"
