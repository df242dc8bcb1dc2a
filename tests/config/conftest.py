from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from proxy.config import Config, load
from proxy.errors import ConfigError

Load = Callable[..., Config]
Refuse = Callable[..., list[str]]

CREDENTIALS = {"INVOISYS_USERNAME": "ana", "INVOISYS_PASSWORD": "hunter2"}


@pytest.fixture
def accept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a file of this text beside these variables; the credentials are given unless told otherwise."""

    def accept(text: str | bytes, env: Mapping[str, str] = CREDENTIALS) -> Config:
        monkeypatch.chdir(tmp_path)
        Path("config.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return load("config.yaml", env)

    return accept


@pytest.fixture
def refuse(accept: Load) -> Refuse:
    """Give the faults of a file of this text, a line each."""

    def refuse(text: str | bytes, env: Mapping[str, str] = CREDENTIALS) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            accept(text, env)
        return str(caught.value).splitlines()

    return refuse
