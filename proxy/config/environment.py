"""The environment variables, and their way into the tree."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from proxy.config.tree import Node, Path, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "INVOISYS_"
CONFIG = "INVOISYS_CONFIG"
ACCOUNT = ("accounts", "default")
SOURCES = {
    "username": ("username", "username_file"),
    "password": ("password", "password_file", "password_env"),
}
"""The keys of an account that each give the same credential."""

_WORKERS: Path = ("workers",)

VARIABLES: dict[str, Path] = {
    "INVOISYS_ENVIRONMENT": ("environment",),
    "INVOISYS_WORKERS": _WORKERS,
    "INVOISYS_USERNAME": (*ACCOUNT, "username"),
    "INVOISYS_USERNAME_FILE": (*ACCOUNT, "username_file"),
    "INVOISYS_PASSWORD": (*ACCOUNT, "password"),
    "INVOISYS_PASSWORD_FILE": (*ACCOUNT, "password_file"),
    "INVOISYS_LISTEN": ("listeners", 0, "bind"),
    "INVOISYS_ADMIN": ("admin", "bind"),
    "INVOISYS_API_2_0_URL": ("apis", "2.0", "url"),
    "INVOISYS_API_2_0_TOKEN_URL": ("apis", "2.0", "token_url"),
    "INVOISYS_API_3_0_URL": ("apis", "3.0", "url"),
    "INVOISYS_API_3_0_TOKEN_URL": ("apis", "3.0", "token_url"),
    "INVOISYS_LOG_LEVEL": ("log", "level"),
    "INVOISYS_LOG_FORMAT": ("log", "format"),
}

# Kubernetes describes a Service called invoisys or invoisys-proxy to its pods in variables that look like ours.
_SERVICE_LINK = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_.+)?)?)")


def overlay(tree: Node, env: Mapping[str, str]) -> None:
    """Put into the tree what the environment says; an empty variable says nothing."""
    given = {
        path: Node(_value(path, env[name]), f"environment variable {name}", env[name])
        for name, path in VARIABLES.items()
        if env.get(name)
    }
    for keys in SOURCES.values():
        if any((*ACCOUNT, key) in given for key in keys):
            _forget(tree, keys)
    for path, node in given.items():
        tree.put(path, node)


def _value(path: Path, text: str) -> str | int:
    """Give what a file would hold: of all that the environment sets, one key is a number."""
    return int(text) if path == _WORKERS and text.isascii() and text.isdigit() else text


def variables_of(path: Path) -> list[str]:
    """Give the variables that set what stands at `path`."""
    return [name for name, target in VARIABLES.items() if target == path]


def unknown_variables(env: Mapping[str, str]) -> list[str]:
    """Give a warning for each variable that begins as ours do, and is none of ours."""
    known = [CONFIG, *VARIABLES]
    return [
        f"environment variable {name}: unknown{did_you_mean(name, known)}"
        for name in sorted(env)
        if name.startswith(PREFIX) and name not in known and not _SERVICE_LINK.fullmatch(name)
    ]


def _forget(tree: Node, keys: tuple[str, ...]) -> None:
    account = tree.find(ACCOUNT)
    if account and isinstance(account.value, dict):
        for key in keys:
            account.value.pop(key, None)
