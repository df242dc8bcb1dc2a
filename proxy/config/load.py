"""The one way to a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from proxy.config import environment, presets
from proxy.config.checks import check
from proxy.config.convert import convert
from proxy.config.tree import Faults, Node
from proxy.config.yaml import read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.config.model import Config


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
