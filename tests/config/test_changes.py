"""What a configuration that is read again changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from proxy.config import Config, changes, load
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

BASE = {
    "environment": "sandbox",
    "accounts": {"default": {"username": "u", "password": "a-password-of-old"}},
    "listeners": [{"bind": "127.0.0.1:8080"}],
}


def loaded(tmp_path: Path, **sections: object) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(BASE | sections))
    return load(str(path), {})


def test_nothing_changes(tmp_path: Path) -> None:
    old = loaded(tmp_path)
    assert changes(old, loaded(tmp_path)) == (old, (), ())


def test_what_can_be_taken_is_named_by_its_key(tmp_path: Path) -> None:
    old = loaded(tmp_path)
    new = loaded(
        tmp_path,
        accounts={
            "default": {"username": "u", "password": "a-password-of-new"},
            "other": {"username": "o", "password": "p"},
        },
        listeners=[{"bind": "127.0.0.1:8080", "account": "default"}, {"bind": "127.0.0.1:8081", "account": "other"}],
        timeouts={"response": "60s"},
        log={"level": "debug"},
    )
    found = changes(old, new)
    assert found.taken == ("accounts.default.password", "accounts.other", "listeners", "log.level", "timeouts.response")
    assert found.left == ()
    assert found.config == new


def test_a_running_sidecar_stays_in_its_environment(tmp_path: Path) -> None:
    old = loaded(tmp_path)
    with pytest.raises(ConfigError, match="a running sidecar stays in sandbox; restart it for production"):
        changes(old, loaded(tmp_path, environment="production"))


def test_what_needs_a_restart_keeps_its_value(tmp_path: Path) -> None:
    old = loaded(tmp_path)
    new = loaded(
        tmp_path,
        admin={"bind": "127.0.0.1:9999"},
        tokens={"store": f"file:{tmp_path}/tokens.json", "refresh_every": "1h"},
        log={"format": "text"},
    )
    found = changes(old, new)
    assert found.config.admin == old.admin
    assert found.config.tokens.store == old.tokens.store
    assert "tokens.refresh_every" in found.taken
    assert set(found.left) >= {"admin.bind", "tokens.store", "log.format"}
    assert not any("a-password" in path for path in found.taken + found.left)


@pytest.mark.parametrize(
    ("limits", "fault"),
    [
        ({"connections": 3}, "limits.connections: expected at least one for each of 4 workers, found the number 3"),
        (
            {"replay_memory": "8MiB"},
            "limits.replay_memory: expected at least 16MiB, a limits.replay_body for each of 4 workers, found 8MiB",
        ),
    ],
)
def test_what_is_too_little_for_the_workers_there_are_is_refused(
    tmp_path: Path, limits: dict[str, object], fault: str
) -> None:
    """It would be enough for the workers that there will be after a restart."""
    old = loaded(tmp_path, workers=4)
    with pytest.raises(ConfigError) as caught:
        changes(old, loaded(tmp_path, workers=1, limits=limits))
    assert str(caught.value) == f"{fault}; workers stays 4 until a restart"
    assert changes(old, loaded(tmp_path, workers=1)).left == ("workers",)
