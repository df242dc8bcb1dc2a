"""Secrets that rotate under a running sidecar, in the ways in which orchestrators swap them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from proxy.config import Account, Credentials, CredentialSource, Secret
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = Credentials("user", Secret("old")), Credentials("user", Secret("new"))


def source(password: Path) -> CredentialSource:
    return CredentialSource(Account(username="user", password_file=str(password)), {}, "default")


def test_a_mounted_secret_that_kubernetes_swaps_is_found(tmp_path: Path) -> None:
    """The files are links through `..data`, which is renamed over in one step."""
    for name, text in (("..one", "old"), ("..two", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "password").write_text(text)
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "password").symlink_to("..data/password")
    credentials = source(tmp_path / "password")
    assert credentials() == OLD
    (tmp_path / "..data_tmp").symlink_to("..two")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert credentials() == NEW


def test_a_file_that_is_renamed_over_or_written_anew_is_found(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("old\n")
    credentials = source(password)
    assert credentials() == OLD
    (tmp_path / "fresh").write_text("new\n")
    os.replace(tmp_path / "fresh", password)  # noqa: PTH105 - as `install` and editors do it
    assert credentials() == NEW
    password.write_text("old")
    assert credentials() == OLD


@pytest.mark.parametrize("how", ["gone", "empty", "not text"])
def test_the_last_good_one_is_kept_with_one_warning(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    password = tmp_path / "password"
    password.write_text("old")
    credentials = source(password)
    assert credentials() == OLD
    if how == "gone":
        password.unlink()
    else:
        password.write_bytes(b"" if how == "empty" else b"\xff")
    assert [credentials() for _ in range(3)] == [OLD] * 3
    assert [getattr(record, "event", "") for record in caplog.records] == ["credentials-unreadable"]
    password.write_text("new")
    assert credentials() == NEW
    password.unlink()
    assert credentials() == NEW
    assert len(caplog.records) == 2  # it was mended in between


def test_one_that_was_never_good_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        source(tmp_path / "password")()
