"""The file of caller tokens: what it may hold, and how it changes while the sidecar runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from proxy.config import CallerTokenFile, read_caller_tokens
from proxy.errors import ConfigError

KEY = "listeners[0].caller_token_file"
ONE, TWO, THREE = b"one-is-long-enough", b"two-is-long-enough", b"three-is-long-enough"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        (ONE, (ONE,)),
        (ONE + b"\n", (ONE,)),
        (ONE + b"\r\n", (ONE,)),
        (ONE + b"\n" + TWO, (ONE, TWO)),
        (ONE + b"\r\n" + TWO + b"\r\n", (ONE, TWO)),
        (b"\n" + ONE + b"\n\n" + TWO + b"\n\n", (ONE, TWO)),
        (b"AZaz09-._~+/AZaz==\n", (b"AZaz09-._~+/AZaz==",)),
        (b"0123456789abcdef", (b"0123456789abcdef",)),
    ],
)
def test_a_token_a_line(content: bytes, tokens: tuple[bytes, ...]) -> None:
    Path("tokens").write_bytes(content)
    assert read_caller_tokens("tokens", KEY) == tokens


CHARACTERS = "expected one token of letters, digits, - . _ ~ + / and = at its end"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "tokens cannot be read: No such file or directory"),
        (b"", "tokens is empty"),
        (b"\n", "tokens is empty"),
        (b"\r\n\n\n", "tokens is empty"),
        (b"\xff" * 20, "tokens is not UTF-8 text"),
        (b" " + ONE, f"tokens, line 1: {CHARACTERS}"),
        (ONE + b" ", f"tokens, line 1: {CHARACTERS}"),
        (ONE + b" " + TWO, f"tokens, line 1: {CHARACTERS}"),
        (ONE + b"\n# " + TWO, f"tokens, line 2: {CHARACTERS}"),
        (b"Bearer " + ONE, f"tokens, line 1: {CHARACTERS}"),
        (b"\xef\xbb\xbf" + ONE, f"tokens, line 1: {CHARACTERS}"),
        ("senha-não-é-ascii".encode(), f"tokens, line 1: {CHARACTERS}"),
        (b"0123456789=abcdef", f"tokens, line 1: {CHARACTERS}"),
        (b"0123456789\x00abcdef", f"tokens, line 1: {CHARACTERS}"),
        (b"default-token", "tokens, line 1: expected a token of at least 16 characters"),
        (b"\n\n0123456789abcde\n", "tokens, line 3: expected a token of at least 16 characters"),
        (
            ONE + b"\n" + TWO + b"\n" + THREE,
            "tokens: expected one token, or two during a rotation, found 3",
        ),
    ],
)
def test_what_is_no_file_of_caller_tokens(content: bytes | None, fault: str) -> None:
    if content is not None:
        Path("tokens").write_bytes(content)
    for read in (read_caller_tokens, CallerTokenFile):
        with pytest.raises(ConfigError) as caught:
            read("tokens", KEY)
        assert str(caught.value) == f"{KEY}: {fault}"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_change_holds_within_a_second() -> None:
    clock = Clock()
    Path("tokens").write_bytes(ONE)
    tokens = CallerTokenFile("tokens", KEY, clock)
    Path("tokens").write_bytes(ONE + b"\n" + TWO)
    clock.now += 0.9
    assert tokens() == (ONE,)
    clock.now += 0.1
    assert tokens() == (ONE, TWO)
    Path("tokens").write_bytes(TWO)
    clock.now += 1
    assert tokens() == (TWO,)


def test_a_change_of_equal_length_in_the_same_tick_of_the_file_clock_is_seen() -> None:
    clock = Clock()
    Path("tokens").write_bytes(ONE)
    stamp = Path("tokens").stat()
    tokens = CallerTokenFile("tokens", KEY, clock)
    Path("tokens").write_bytes(TWO)
    os.utime("tokens", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    clock.now += 1
    assert tokens() == (TWO,)


def test_a_mounted_secret_that_is_swapped_is_seen() -> None:
    """As Kubernetes does it: the file is a link through `..data`, which is replaced by a rename."""
    clock = Clock()
    for folder, token in (("..1", ONE), ("..2", TWO)):
        Path(folder).mkdir()
        Path(folder, "token").write_bytes(token)
    Path("..data").symlink_to("..1")
    Path("token").symlink_to("..data/token")
    tokens = CallerTokenFile("token", KEY, clock)
    Path("..new").symlink_to("..2")
    Path("..new").rename("..data")
    clock.now += 1
    assert tokens() == (TWO,)


@pytest.mark.parametrize("content", [None, b"", b"short", ONE + b" " + TWO])
def test_the_last_good_tokens_stand_in_with_one_warning(
    content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    Path("tokens").write_bytes(ONE)
    tokens = CallerTokenFile("tokens", KEY, clock)
    if content is None:
        Path("tokens").unlink()
    else:
        Path("tokens").write_bytes(content)
    for _ in range(3):
        clock.now += 1
        assert tokens() == (ONE,)
    (warning,) = caplog.records
    assert (warning.levelname, warning.__dict__["event"]) == ("WARNING", "caller-tokens-unreadable")
    assert warning.getMessage().startswith(f"{KEY}: tokens")
    assert warning.getMessage().endswith("; the last good tokens hold")
    Path("tokens").write_bytes(TWO)
    clock.now += 1
    assert tokens() == (TWO,)
    assert [record.__dict__["event"] for record in caplog.records[1:]] == ["caller-tokens-changed"]
    assert not any(token.decode() in caplog.text for token in (ONE, TWO))


def test_the_file_is_not_read_for_every_request() -> None:
    clock = Clock()
    Path("tokens").write_bytes(ONE)
    tokens = CallerTokenFile("tokens", KEY, clock)
    Path("tokens").unlink()
    assert [tokens() for _ in range(3)] == [(ONE,)] * 3
    assert not tokens._warned
