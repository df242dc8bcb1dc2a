"""Files of Unix sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config import FileMode, Identity, Socket
from proxy.errors import ConfigError
from proxy.unix import UnixSocket, uids_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ANOTHER_GROUP = next((group for group in os.getgroups() if group != os.getgid()), 4242 if os.getuid() == 0 else None)
_watchers: list[Callable[[str], None]] = []


def _on_event(event: str, _arguments: Any) -> None:
    for watch in _watchers[:]:
        _watchers.clear()  # what it does itself is none of its business
        watch(event)
        _watchers.append(watch)


sys.addaudithook(_on_event)


@contextlib.contextmanager
def listening(path: Path | str, access: Socket | None = None) -> Iterator[UnixSocket]:
    unix = UnixSocket(str(path), access or Socket())
    with unix.open(1000):  # more than look whether it listens yet
        yield unix
    unix.remove()


def connects(path: Path | str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            caller.connect(str(path))
        except OSError:
            return False
        return True


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("mode", ["0600", "0660", "0666", "0000"])
def test_the_file_is_there_with_its_permissions_or_not_at_all(tmp_path: Path, no_umask: None, mode: str) -> None:
    path = tmp_path / "s"
    seen: list[tuple[str, str]] = []

    def look(event: str) -> None:
        if path.exists():
            seen.append((event, f"{stat.S_IMODE(path.stat().st_mode):04o}"))
            assert connects(path) or not os.access(path, os.W_OK)
        for other in tmp_path.iterdir():
            if other != path:
                assert other.is_dir()
                seen.append((event, f"{stat.S_IMODE(other.stat().st_mode):04o}"))

    _watchers.append(look)
    try:
        with listening(path, Socket(mode=FileMode.parse(mode))):
            _watchers.clear()
            assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
            assert list(tmp_path.iterdir()) == [path]
    finally:
        _watchers.clear()
    assert {mode for _, mode in seen} == {"0700", mode}
    assert {"socket.bind", "os.chmod", "os.rename"} <= {event for event, _ in seen}
    assert not path.exists()


def test_the_umask_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("it belongs to the whole process"))
    with listening(tmp_path / "s"):
        assert connects(tmp_path / "s")


@pytest.mark.skipif(ANOTHER_GROUP is None, reason="left out: this user has only one group")
def test_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "s"
    access = Socket(owner=Identity(os.getuid()), group=Identity(ANOTHER_GROUP))
    with listening(path, access):
        assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), ANOTHER_GROUP)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_names_are_looked_up(tmp_path: Path) -> None:
    if os.getuid() == 0:
        with listening(tmp_path / "s", Socket(owner=Identity("daemon"), group=Identity("daemon"))):
            assert (tmp_path / "s").stat().st_uid == 1
    assert uids_of([Identity("root"), Identity("0"), Identity("1000")]) == {0, 1000}
    assert uids_of([]) == frozenset()


@pytest.mark.parametrize("access", [Socket(owner=Identity("nobody-here")), Socket(group=Identity("nobody-here"))])
def test_a_name_that_nobody_has(tmp_path: Path, access: Socket) -> None:
    with pytest.raises(ConfigError, match=r"^no (user|group) here is named nobody-here$"):
        UnixSocket(str(tmp_path / "s"), access)


def test_an_owner_that_cannot_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(OSError, match=r"/s: its owner and group cannot be set: Operation not permitted$"):
        UnixSocket(str(tmp_path / "s"), Socket(owner=Identity("0"))).open(1)
    assert list(tmp_path.iterdir()) == []


def test_a_stale_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert path.is_socket()
    assert not connects(path)
    with listening(path):
        assert connects(path)


def test_a_live_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening(path):
        with pytest.raises(OSError, match=r"/s is in use by a live server$"):
            UnixSocket(str(path), Socket()).open(1)
        assert connects(path)
        assert list(tmp_path.iterdir()) == [path]


def test_a_live_one_that_takes_nobody_just_now_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with contextlib.ExitStack() as open_now:
        busy = open_now.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(3):
            caller = open_now.enter_context(socket.socket(socket.AF_UNIX))
            caller.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                caller.connect(str(path))
        with pytest.raises(OSError, match="in use"):
            UnixSocket(str(path), Socket()).open(1)
        assert path.exists()


@pytest.mark.parametrize("what", ["file", "folder", "link to a file", "link to a stale socket", "broken link"])
def test_what_is_no_socket_is_not_removed(tmp_path: Path, what: str) -> None:
    path, other = tmp_path / "s", tmp_path / "other"
    if what == "file":
        path.write_text("precious")
    elif what == "folder":
        path.mkdir()
    else:
        if "file" in what:
            other.write_text("precious")
        elif "socket" in what:
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(other))
        path.symlink_to(other)
    before = path.lstat()
    with pytest.raises(OSError, match=r"/s is there already, and is not a socket$"):
        UnixSocket(str(path), Socket()).open(1)
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert sorted(tmp_path.iterdir()) == sorted({path, other} if os.path.lexists(other) else {path})


def test_another_servers_file_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with contextlib.ExitStack() as open_now:
        first = UnixSocket(str(path), Socket())
        open_now.enter_context(first.open(1)).close()
        second = UnixSocket(str(path), Socket())
        open_now.enter_context(second.open(1))
        first.remove()
        assert connects(path)
        second.remove()
        assert not path.exists()
        second.remove()


def test_a_path_that_callers_could_not_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="is longer than the 107 bytes of a Unix socket's address"):
        UnixSocket(str(tmp_path / ("s" * 120)), Socket()).open(1)


def test_an_abstract_one_has_no_file(tmp_path: Path) -> None:
    address = f"\0{tmp_path}"
    with listening(address):
        assert connects(address)
        with pytest.raises(OSError, match="in use"):
            UnixSocket(address, Socket()).open(1)
    assert list(tmp_path.iterdir()) == []
