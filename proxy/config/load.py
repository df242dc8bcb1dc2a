"""The one way to a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from proxy.config import environment, presets
from proxy.config.checks import check
from proxy.config.convert import convert
from proxy.config.model import Admin
from proxy.config.tree import Faults, Node
from proxy.config.yaml import read
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.config.model import Config
    from proxy.config.values import Bind

_ADMIN_BIND = ("admin", "bind")


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


def find_admin(path: str | None, env: Mapping[str, str]) -> tuple[Bind, str]:
    """Return where the operator's port is, and why that is only the default where the configuration does not tell.

    No other fault of the configuration matters: the sidecar that runs may have read it when it had none.
    """
    alone, faults = Node({}), Faults()
    named = {name: env[name] for name in environment.variables_of(_ADMIN_BIND) if env.get(name)}
    file = None if named else path or env.get(environment.CONFIG)
    try:
        tree = read(file, Faults()) if file else Node({})
        if (bind := tree.find(_ADMIN_BIND)) is not None:
            alone.put(_ADMIN_BIND, bind)
        environment.overlay(alone, named)
        admin = convert(alone, faults).admin
        faults.raise_any()
    except ConfigError as error:
        return Admin().bind, str(error)
    return admin.bind, ""


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
