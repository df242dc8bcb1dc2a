from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from proxy.config import Account, Credentials, Secret, read_credentials
from proxy.errors import ConfigError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_literals() -> None:
    account = Account(username="ana", password=Secret("hunter2"))
    assert read_credentials(account, {}) == Credentials("ana", Secret("hunter2"))


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"hunter2", "hunter2"),
        (b"hunter2\n", "hunter2"),
        (b"hunter2\r\n", "hunter2"),
        (b"hunter2\n\n", "hunter2\n"),
        (b" hunter2 \n", " hunter2 "),
        (b"hunter2\r", "hunter2\r"),
        ("señá".encode(), "señá"),
    ],
)
def test_files_lose_one_newline(content: bytes, secret: str) -> None:
    Path("user").write_text("ana\n", encoding="utf-8")
    Path("secret").write_bytes(content)
    account = Account(username_file="user", password_file="secret")
    assert read_credentials(account, {}) == Credentials("ana", Secret(secret))


def test_a_file_is_read_anew_each_time() -> None:
    account = Account(username="ana", password_file="secret")
    Path("secret").write_text("old", encoding="utf-8")
    assert read_credentials(account, {}).password == Secret("old")
    Path("secret").write_text("new", encoding="utf-8")
    assert read_credentials(account, {}).password == Secret("new")


def test_variable() -> None:
    account = Account(username="ana", password_env="ERP_PASSWORD")
    assert read_credentials(account, {"ERP_PASSWORD": "hunter2"}).password == Secret("hunter2")


@pytest.mark.parametrize("env", [{}, {"ERP_PASSWORD": ""}])
def test_variable_without_a_value(env: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_credentials(Account(username="ana", password_env="ERP_PASSWORD"), env, "shop")
    assert str(caught.value) == ("accounts.shop.password_env: environment variable ERP_PASSWORD is unset or empty")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "accounts.default.password_file: secret cannot be read: No such file or directory"),
        (b"", "accounts.default.password_file: secret is empty"),
        (b"\n", "accounts.default.password_file: secret is empty"),
        (b"hunter2\xe9", "accounts.default.password_file: secret is not UTF-8 text"),
    ],
)
def test_files_that_hold_no_secret(content: bytes | None, fault: str) -> None:
    if content is not None:
        Path("secret").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_credentials(Account(username="ana", password_file="secret"), {})
    assert str(caught.value) == fault
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_directory_is_no_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_credentials(Account(username_file=str(tmp_path), password=Secret("x")), {})
    assert str(caught.value) == f"accounts.default.username_file: {tmp_path} cannot be read: Is a directory"


@pytest.mark.parametrize(
    ("account", "fault"),
    [
        (Account(password=Secret("x")), "accounts.default.username: required"),
        (Account(username="ana"), "accounts.default.password: required"),
    ],
)
def test_no_source(account: Account, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_credentials(account, {})
    assert str(caught.value) == fault
