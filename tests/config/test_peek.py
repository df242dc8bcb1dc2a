"""One key of a configuration whose other faults do not matter: where the operator's port is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.config import Bind, peek

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT = Bind("127.0.0.1", 9090)


def find_admin(path: str | None, env: dict[str, str]) -> tuple[Bind, str]:
    config, doubt = peek(path, env, ("admin", "bind"))
    return config.admin.bind, doubt


@pytest.mark.parametrize(
    ("text", "env", "expected"),
    [
        ("", {}, DEFAULT),
        ("admin: {bind: 127.0.0.1:7}", {}, Bind("127.0.0.1", 7)),
        ("admin: {bind: 127.0.0.1:7, hosts: 3}\nunknown: 1\nunknown: 2", {}, Bind("127.0.0.1", 7)),
        ("admin: {bind: 0.0.0.0:7}", {}, Bind("0.0.0.0", 7)),
        ("admin: {bind: 127.0.0.1:7}", {"INVOISYS_ADMIN": "127.0.0.1:8"}, Bind("127.0.0.1", 8)),
        ("admin: [", {"INVOISYS_ADMIN": "unix:/a"}, Bind(path="/a")),
        ("admin: {bind: 127.0.0.1:7}", {"INVOISYS_ADMIN": ""}, Bind("127.0.0.1", 7)),
        ("admin:", {}, DEFAULT),
        ("just a text", {}, DEFAULT),
    ],
)
def test_the_operator_s_port_is_found_beside_other_faults(
    tmp_path: Path, text: str, env: dict[str, str], expected: Bind
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert find_admin(str(path), env) == (expected, "")
    assert find_admin(None, {**env, "INVOISYS_CONFIG": str(path)}) == (expected, "")


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        ("admin: [", "config.yaml:1:9: expected the node content"),
        ("admin: {bind: 9090}", "config.yaml:1:15: admin.bind: expected an address before the port"),
        ("admin: {bind: {}}", "config.yaml:1:15: admin.bind: expected"),
        (None, "config.yaml: cannot be read: No such file"),
    ],
)
def test_where_the_configuration_does_not_tell_the_operator_s_port_the_default_is_returned_with_the_reason(
    tmp_path: Path, text: str | None, doubt: str
) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    bind, why = find_admin(str(path), {})
    assert bind == DEFAULT
    assert doubt in why


def test_the_operator_s_port_is_where_nothing_says_otherwise() -> None:
    assert find_admin(None, {}) == (DEFAULT, "")
    bind, why = find_admin(None, {"INVOISYS_ADMIN": "nowhere"})
    assert bind == DEFAULT
    assert why.startswith("environment variable INVOISYS_ADMIN: admin.bind: expected an address")


def test_the_form_of_the_log_is_found_too(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("unknown: 1\nlog: {format: text, level: loud}")
    assert peek(str(path), {}, ("log", "format"))[0].log.format == "text"
    assert peek(str(path), {"INVOISYS_LOG_FORMAT": "json"}, ("log", "format"))[0].log.format == "json"
