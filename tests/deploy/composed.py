"""The Compose files, read as Compose does, and what the sidecar finds in its container by them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from proxy.config import load
from tests.deploy.manifests import SECRETS, warnings_of_check
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config import Config

COMPOSE = ROOT / "deploy" / "compose"
FILES = {path.stem: path for path in sorted(COMPOSE.glob("*.yaml")) if not path.name.endswith(".config.yaml")}
IMAGE = "invoisys-proxy:local"
OURS = "invoisys-proxy"

GIVEN = {
    "ERP_IMAGE": "your-erp:1.0",
    "INVOISYS_USERNAME": SECRETS["invoisys"]["username"],
    "INVOISYS_PASSWORD_FILE": "/path/to/password",
    "CALLER_TOKEN_FILE": "/path/to/caller_token",
}
"""What a user sets, by the README of the folder."""

FILES_OF_SECRETS = {
    "invoisys_password": SECRETS["invoisys"]["password"],
    "caller_token": SECRETS["invoisys-caller-token"]["token"],
}


def read(name: str) -> dict[str, Any]:
    """Read a file as Compose does, with what the user sets in its place."""
    return dict(yaml.safe_load(re.sub(r"\$\{(\w+)(?::([-?])([^}]*))?\}", _value, FILES[name].read_text())))


def _value(found: re.Match[str]) -> str:
    variable, kind, default = found.groups()
    assert variable in GIVEN or kind == "-", f"{variable} is set by nobody"
    return GIVEN.get(variable, default)


def configured(name: str, folder: Path) -> Config:
    """Lay out what the sidecar finds in its container, have `check` judge it, and return the configuration."""
    env = laid_out(name, folder)
    # The demo has a listener for everybody, and a password for everybody as well.
    warned = [line.split()[1] for line in warnings_of_check(env)]
    assert warned == (["listeners[0].bind:"] if name == "demo" else [])
    return load(None, env)


def laid_out(name: str, folder: Path) -> dict[str, str]:
    """Lay out what the sidecar finds in its container, and return its environment."""
    parts = read(name)
    service = parts["services"][OURS]
    env = dict(service["environment"])
    mounted = {f"/run/secrets/{secret}": FILES_OF_SECRETS[secret] for secret in service.get("secrets", [])}
    for each in service.get("configs", []):
        mounted[each["target"]] = (COMPOSE / parts["configs"][each["source"]]["file"]).read_text()
    for path, text in mounted.items():
        file = folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace(" /run/secrets/", f" {folder}/run/secrets/"))
    return {name: f"{folder}{value}" if value in mounted else value for name, value in env.items()}
