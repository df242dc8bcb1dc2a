"""The one way to a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from proxy.config import environment, presets
from proxy.config.checks import check
from proxy.config.convert import convert
from proxy.config.model import Config
from proxy.config.tree import Faults, Node
from proxy.config.yaml import read
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.config.tree import Path


def load(path: str | None, env: Mapping[str, str]) -> Config:
    """Read the configuration: environment over file over what is known of the Invoisys environment.

    `path` defaults to the variable INVOISYS_CONFIG; without either, the environment has to say it all. The files that
    hold credentials are not read here.

    Raises:
        ConfigError: the file cannot be read, or there are faults; each is a line of the text.
    """
    faults = Faults()
    file = path or env.get(environment.CONFIG)
    tree = read(file, faults) if file else Node({})
    environment.overlay(tree, env)
    presets.fill(tree)
    _put_account(tree)
    config = convert(tree, faults)
    check(config, tree, faults)
    faults.raise_any()
    return _with_only_account(config)


def peek(path: str | None, env: Mapping[str, str], key: Path) -> tuple[Config, str]:
    """Return a configuration in which one key is as it is given, and why it is only the default where that is not told.

    No other fault matters. All other keys have their defaults; there is no account.
    """
    alone, faults = Node({}), Faults()
    named = {name: env[name] for name in environment.variables_of(key) if env.get(name)}
    file = None if named else path or env.get(environment.CONFIG)
    try:
        tree = read(file, Faults()) if file else Node({})
        if (given := tree.find(key)) is not None:
            alone.put(key, given)
        environment.overlay(alone, named)
        config = convert(alone, faults)
        faults.raise_any()
    except ConfigError as error:
        return Config(), str(error)
    return config, ""


def _put_account(tree: Node) -> None:
    """Have the account `default` where there is none, so that what it lacks is told."""
    accounts = tree.find(("accounts",))
    if accounts is None or accounts.value == {}:
        tree.put(environment.ACCOUNT, Node({}))


def _with_only_account(config: Config) -> Config:
    """Give listeners without an account the only one."""
    if len(config.accounts) > 1:
        return config
    (only,) = config.accounts
    return replace(config, listeners=tuple(replace(each, account=only) for each in config.listeners))
