"""What is allowed but unsafe, each with its mend."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config import findings, load, look_around
from proxy.config.safety import READ, WRITE, FileState, Surroundings, literal_secrets
from proxy.config.tree import Faults, spelled
from proxy.config.yaml import read

from .conftest import CREDENTIALS, Load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FILES = (
    "accounts: {shop: {username: a, password_file: /pw}}\n"
    "listeners: [{caller_token_file: /caller}]\n"
    "tokens: {store: 'redis://localhost:6379/0', key_file: /key}\n"
)
OWN, OF_OTHERS = FileState(own=True, for_all=READ), FileState(own=False, for_all=READ | WRITE)


def said(accept: Load, text: str, *, env: Mapping[str, str] = CREDENTIALS, **around: Any) -> list[tuple[str, str]]:
    return [(each.event, each.text) for each in findings(accept(text, env), Surroundings(**around))]


def test_nothing_is_said_of_the_defaults(accept: Load) -> None:
    assert said(accept, "log: {}") == []


def test_secret_files_that_all_can_read(accept: Load) -> None:
    files = {"/pw": OWN, "/caller": OF_OTHERS, "/key": FileState(own=True, for_all=WRITE)}
    assert said(accept, FILES, env={}, files=files) == [
        ("unsafe-file", "accounts.shop.password_file: /pw can be read by every user; chmod 600 /pw"),
        (
            "unsafe-file",
            "listeners[0].caller_token_file: /caller can be read and changed by every user; chmod o= /caller",
        ),
        ("unsafe-file", "tokens.key_file: /key can be changed by every user; chmod 600 /key"),
    ]


def test_secret_files_that_are_closed_mounted_or_not_there(accept: Load) -> None:
    mounted = FileState(own=False, for_all=READ, mounted_read_only=True)
    assert said(accept, FILES, env={}, files={"/pw": FileState(own=True, for_all=0), "/key": mounted}) == []


def test_a_user_name_is_no_secret(accept: Load) -> None:
    text = "accounts: {shop: {username_file: /name, password_env: X}}"
    assert said(accept, text, env={}, files={"/name": OF_OTHERS}) == []


def test_a_name_that_a_shell_would_read_otherwise_is_quoted(accept: Load) -> None:
    text = "accounts: {shop: {username: a, password_file: '/my pw'}}"
    ((_, finding),) = said(accept, text, env={}, files={"/my pw": OWN})
    assert finding.endswith("chmod 600 '/my pw'")


def test_a_config_file_with_a_secret_that_all_can_read(accept: Load) -> None:
    around: dict[str, Any] = {"config_file": "/c.yaml", "files": {"/c.yaml": OWN}}
    assert said(accept, "log: {}", **around) == []
    secrets = (("accounts", "shop", "password"), ("apis", "2.0", "proxy"))
    assert said(accept, "log: {}", **around, literal_secrets=secrets) == [
        (
            "unsafe-config",
            (
                '/c.yaml: holds a secret (accounts.shop.password, apis."2.0".proxy) and can be read by every user; '
                "chmod 600 /c.yaml, or name a file that holds it"
            ),
        )
    ]


def test_a_config_file_that_all_can_change(accept: Load) -> None:
    files = {"/c.yaml": FileState(own=False, for_all=READ | WRITE)}
    ((event, text),) = said(accept, "log: {}", config_file="/c.yaml", files=files)
    assert event == "unsafe-config"
    assert text == (
        "/c.yaml: can be read and changed by every user, and it says where the password goes; chmod o-w /c.yaml"
    )


def test_root_with_a_tcp_listener(accept: Load) -> None:
    ((event, text),) = said(accept, "listeners: [{bind: 'unix:/x'}, {bind: '127.0.0.1:81'}]", root=True)
    assert event == "unsafe-user"
    assert text.startswith("the sidecar runs as root and listens at 127.0.0.1:81; give it a user of its own (User= ")
    assert said(accept, "listeners: [{bind: 'unix:/x'}]", root=True) == []


def test_a_listener_that_is_open_to_others(accept: Load) -> None:
    text = "listeners: [{bind: '127.0.0.1:1', expose: true}, {bind: '0.0.0.0:80', expose: true}]"
    assert said(accept, text) == [
        (
            "unsafe-listener",
            (
                "listeners[1].bind: whoever reaches 0.0.0.0:80 acts as your company; "
                "set listeners[1].caller_token_file, or bind to loopback or a Unix socket"
            ),
        )
    ]
    assert said(accept, "listeners: [{bind: '0.0.0.0:80', caller_token_file: /x}]") == []


@pytest.mark.parametrize(
    ("tokens", "unsafe"),
    [
        ("store: 'redis://u:hidden@redis:6379/0'", True),
        ("store: 'redis://redis:6379/0', key_file: /k", False),
        ("store: 'rediss://redis:6379/0'", False),
        ("store: 'redis://127.0.0.1:6379/0'", False),
        ("store: 'redis://[::1]/0'", False),
        ("store: 'file:/run/x/tokens.json'", False),
    ],
)
def test_tokens_that_cross_a_network_in_the_clear(accept: Load, tokens: str, *, unsafe: bool) -> None:
    found = said(accept, f"tokens: {{{tokens}}}")
    assert [event for event, _ in found] == ["unsafe-store"] * unsafe
    assert "hidden" not in str(found)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("accounts: {a: {password: x}, b: {password_file: x}, c: {password: 12}}", ["a.password", "c.password"]),
        ("accounts: {a: {password: null}}", []),
        ("accounts: x\napis: [1]\ntokens: y", []),
        ("apis: {2.0: {proxy: 'http://u:p@h:1'}, 3.0: {proxy: 'http://h:1'}}", ['apis."2.0".proxy']),
        ("tokens: {store: 'redis://u:p@h/0'}", ["tokens.store"]),
        ("tokens: {store: 'redis://h/0'}", []),
    ],
)
def test_secrets_in_the_file_itself(tmp_path: Path, text: str, keys: list[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    found = [spelled(path).removeprefix("accounts.") for path in literal_secrets(read(str(file), Faults()))]
    assert found == keys


# --- The look at the machine ------------------------------------------------------------------------------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may pass; pytest's own keep others out."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def looked_at(folder: Path, mode: int, *, password: str = "") -> Surroundings:
    secret, file = folder / "pw", folder / "c.yaml"
    secret.write_text("x")
    secret.chmod(mode)
    file.write_text(f"accounts: {{a: {{username: a, {password or f'password_file: {secret}'}}}}}\n")
    file.chmod(0o644)
    return look_around(load(str(file), {}), str(file), {})


@pytest.mark.parametrize(
    ("mode", "for_all"), [(0o600, 0), (0o640, 0), (0o604, READ), (0o666, READ | WRITE), (0o602, WRITE)]
)
def test_what_the_mode_of_a_file_allows(open_folder: Path, mode: int, for_all: int) -> None:
    around = looked_at(open_folder, mode)
    assert around.files[str(open_folder / "pw")] == FileState(own=True, for_all=for_all)
    assert around.root is (os.geteuid() == 0)


def test_a_folder_that_keeps_others_out(open_folder: Path) -> None:
    inner = open_folder / "inner"
    inner.mkdir(mode=0o700)
    assert looked_at(inner, 0o644).files[str(inner / "pw")].for_all == 0
    inner.chmod(0o701)
    assert looked_at(inner, 0o644).files[str(inner / "pw")].for_all == READ


def test_a_link_is_judged_by_what_it_leads_to(open_folder: Path) -> None:
    target = open_folder / "target"
    target.write_text("x")
    target.chmod(0o600)
    (open_folder / "pw").symlink_to(target)
    env = {"INVOISYS_USERNAME": "a", "INVOISYS_PASSWORD_FILE": str(open_folder / "pw")}
    assert look_around(load(None, env), None, env).files[str(open_folder / "pw")].for_all == 0


def test_a_read_only_mount(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: type("Found", (), {"f_flag": os.ST_RDONLY}))
    assert looked_at(open_folder, 0o644).files[str(open_folder / "pw")].mounted_read_only


def test_a_password_in_the_file_is_seen_even_where_a_variable_takes_its_place(open_folder: Path) -> None:
    file = open_folder / "c.yaml"
    file.write_text("accounts: {default: {username: a, password: in-the-file}}")
    file.chmod(0o644)
    env = CREDENTIALS | {"INVOISYS_CONFIG": str(file)}
    around = look_around(load(None, env), None, env)
    assert around.literal_secrets == (("accounts", "default", "password"),)
    assert [finding.event for finding in findings(load(None, env), around) if finding.event != "unsafe-user"] == [
        "unsafe-config"
    ]


def test_a_file_that_is_not_there_is_left_to_others() -> None:
    env = {"INVOISYS_USERNAME": "a", "INVOISYS_PASSWORD_FILE": "/nowhere/at/all"}
    assert look_around(load(None, env), None, env).files == {}


def test_a_system_without_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "geteuid")
    assert look_around(load(None, CREDENTIALS), None, CREDENTIALS) == Surroundings()
