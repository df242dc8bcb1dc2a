"""Unix sockets: a file that is there with its own permissions or not at all, and who is at the other end."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.errors import ConfigError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from proxy.config import Identity, Socket

_LONGEST_PATH = 107
"""Bytes that a caller can name in `connect`."""

_CREDENTIALS = struct.Struct("3I")
"""Linux's `struct ucred`: process, user and group."""


class UnixSocket:
    """A bound Unix socket, listening from `open` on; its file is removed only while it is still ours."""

    def __init__(self, path: str, access: Socket) -> None:
        """`path` begins with a NUL for an abstract socket.

        Raises `ConfigError` for a name that nobody has, and where there are no Unix sockets.
        """
        if not hasattr(socket, "AF_UNIX"):
            raise ConfigError(f"unix:{path}: this system has no Unix sockets")
        self._path = path
        self._mode = access.mode
        self._owner = -1 if access.owner is None else _uid(access.owner)
        self._group = -1 if access.group is None else _gid(access.group)
        self._made: tuple[int, int] | None = None

    def open(self, backlog: int) -> socket.socket:
        """Listen; a stale file is replaced. Raises `OSError` where a server is live, or no socket stands there."""
        if self._path.startswith("\0"):
            return _listening(self._path, backlog)
        path = Path(self._path)
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise OSError(f"{path} is longer than the {_LONGEST_PATH} bytes of a Unix socket's address")
        # Nobody else can look into the folder, so the file is out of reach until it has all that it needs. The umask
        # is no help: it belongs to the whole process, and to its threads.
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as private:
            fresh = Path(private, "s")
            bound = _listening(str(fresh), backlog)
            try:
                self._fit_out(fresh)
                _refuse_occupied(path)
                self._made = _identity(fresh)
                fresh.replace(path)
            except OSError:
                bound.close()
                raise
        return bound

    def _fit_out(self, file: Path) -> None:
        try:
            os.chown(file, self._owner, self._group)
        except OSError as error:
            raise OSError(f"{self._path}: its owner and group cannot be set: {error.strerror}") from None
        file.chmod(self._mode)

    def remove(self) -> None:
        """Remove the file, unless another server has put its own in the place."""
        with contextlib.suppress(FileNotFoundError):
            if self._made is not None and _identity(Path(self._path)) == self._made:
                Path(self._path).unlink()


def peer_uid(transport: asyncio.BaseTransport) -> int | None:
    """Return the user at the other end of a Unix connection, as it was when it connected; only Linux tells."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    peer = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(peer)[1]
    return uid


def uids_of(users: Iterable[Identity]) -> frozenset[int]:
    """Return the numbers of users; raises `ConfigError` for a name that nobody has, and where no peer is told."""
    uids = frozenset(_uid(user) for user in users)
    if uids and not hasattr(socket, "SO_PEERCRED"):
        raise ConfigError("uids: this system does not tell who is at the other end of a Unix socket")
    return uids


def _listening(address: str, backlog: int) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(address)
        bound.listen(backlog)
    except OSError:
        bound.close()
        raise
    return bound


def _refuse_occupied(path: Path) -> None:
    """Raise `OSError` unless nothing is there, or a socket that nobody listens at."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_socket():
        raise OSError(f"{path} is there already, and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003 - the library's own signature
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:
            pass  # its backlog is full
    raise OSError(f"{path} is in use by a live server")


def _identity(file: Path) -> tuple[int, int]:
    status = file.lstat()
    return status.st_dev, status.st_ino


def _uid(user: Identity) -> int:
    if user.isdigit():
        return int(user)
    import pwd  # noqa: PLC0415 - not there on Windows

    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ConfigError(f"no user here is named {user}") from None


def _gid(group: Identity) -> int:
    if group.isdigit():
        return int(group)
    import grp  # noqa: PLC0415 - not there on Windows

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"no group here is named {group}") from None
