"""Tokens in a file: shared by the processes of one host, and kept over restarts."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import shlex
import stat
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from proxy.errors import ConfigError
from proxy.tokens.store import Kept  # noqa: TC001 - msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from proxy.tokens.store import TokenKey
    from proxy.tokens.token import Clock

log = logging.getLogger(__name__)

_PACE = 0.05
"""Seconds between two attempts at a lock."""
_SPARE = 5.0
"""Seconds that a holder has beyond the limit of its login, to read and write the file."""

_OTHERS = 0o077
_DISK_TROUBLE = {errno.EROFS, errno.ENOSPC, errno.EDQUOT}
_WRITING = 0
"""The byte whose lock covers a change of the file; each key has another."""


class _Contents(msgspec.Struct, frozen=True):
    """What the file holds; the tokens by `TokenKey.digest`."""

    version: Literal[1]
    tokens: dict[str, Kept]


class _DamagedError(Exception):
    """The file holds something else."""


class FileStore:
    """The tokens in one JSON file, with a lock file beside it; both are for their owner alone.

    The file is read and written in the event loop: it is small, local, and touched only around a login.
    """

    def __init__(self, path: str | Path, clock: Clock, *, limit: float = 15.0) -> None:
        """`limit`, in seconds, is that of a login.

        Raises `ConfigError` where others could read the file; the folder is made if it is missing.
        """
        self._path = Path(path)
        self._clock = clock
        self._limit = limit
        self._failing: set[str] = set()
        self.shared = True
        self.failures = 0
        self._locks: defaultdict[TokenKey, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._lock_file = _LockFile(self._beside("lock"))
        with self._forgiving("written"):
            _require_privacy(self._path)

    @property
    def failing(self) -> bool:
        """Whether the disk refuses something, so that this sidecar logs in for itself."""
        return bool(self._failing)

    async def load(self, key: TokenKey) -> Kept | None:
        """Return the last token kept, unless it has expired."""
        with self._forgiving("read"):
            try:
                tokens = self._read()
            except _DamagedError:
                async with self._writing():
                    tokens = self._read_or_set_aside()
            token = tokens.get(key.digest)
            if token is not None and token.expires_at > self._clock().wall:
                return token
        return None

    async def save(self, key: TokenKey, token: Kept) -> None:
        """Keep a token in place of the one before; those that have expired are dropped."""
        with self._forgiving("written"):
            async with self._writing():
                now = self._clock().wall
                tokens = self._read_or_set_aside() | {key.digest: token}
                self._write({digest: each for digest, each in tokens.items() if each.expires_at > now})

    @contextlib.asynccontextmanager
    async def lock(self, key: TokenKey) -> AsyncIterator[None]:
        """Be the only one, of all processes that share the file, that logs in for a key.

        A holder that is killed frees the lock by that. One that is frozen keeps it, but not from us: after the time
        that a login may take, this process goes on without the lock.
        """
        byte = 1 + int(key.digest[:15], 16)  # 60 bits: past the byte for writing, and within an offset's 63
        async with self._locks[key]:  # POSIX locks do not keep two tasks of one process apart
            held = False
            with self._forgiving("locked"):
                held = await self._take(byte)
            try:
                yield
            finally:
                if held:
                    self._lock_file.free(byte)

    async def close(self) -> None:
        """Let go of the lock file, and of all locks with it."""
        self._lock_file.close()

    # --- Locks --------------------------------------------------------------------------------------------------------

    async def _take(self, byte: int) -> bool:
        """Wait for the lock of a key; give up where its holder seems not to be at work."""
        if self._lock_file.take(byte):
            return True
        log.info("another sidecar is logging in; waiting for its token", extra={"event": "login-elsewhere"})
        if await self._take_within(self._limit + _SPARE, byte):
            return True
        text = "another process has held the lock in %s for %g s; going on without it"
        log.warning(text, self._lock_file.path, self._limit + _SPARE, extra={"event": "store-lock-stuck"})
        return False

    async def _take_within(self, seconds: float, byte: int) -> bool:
        until = self._clock().monotonic + seconds
        while not self._lock_file.take(byte):
            if self._clock().monotonic >= until:
                return False
            await asyncio.sleep(_PACE)
        return True

    @contextlib.asynccontextmanager
    async def _writing(self) -> AsyncIterator[None]:
        """Be the only process that changes the file; whoever is in here must not await, for the sake of other tasks."""
        if not await self._take_within(_SPARE, _WRITING):
            raise TimeoutError(errno.ETIMEDOUT, "another process does not finish its own change")
        try:
            yield
        finally:
            self._lock_file.free(_WRITING)

    # --- The file -----------------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Kept]:
        """Read the file, which is always whole: it is only ever replaced."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Contents).tokens
        except FileNotFoundError:
            return {}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _DamagedError from None

    def _read_or_set_aside(self) -> dict[str, Kept]:
        """Read the file; one that is damaged makes place for another. Only while no other process may do so too."""
        try:
            return self._read()
        except _DamagedError:
            aside = self._beside(f"damaged-{datetime.fromtimestamp(self._clock().wall, UTC):%Y%m%dT%H%M%SZ}")
            self._path.replace(aside)
            text = "the file of tokens %s is damaged; it is set aside as %s"
            log.warning(text, self._path, aside, extra={"event": "store-damaged"})
            return {}

    def _write(self, tokens: dict[str, Kept]) -> None:
        new = self._beside("new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(_Contents(1, tokens)))
                file.flush()
                os.fsync(descriptor)
            new.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()  # half a file is of no use to a full disk
            raise

    def _beside(self, suffix: str) -> Path:
        return self._path.with_name(f"{self._path.name}.{suffix}")

    @contextlib.contextmanager
    def _forgiving(self, what: str) -> Iterator[None]:
        """Make a warning of what the disk refuses, once until it works again: a sidecar can do without the file."""
        try:
            yield
        except OSError as error:
            if what not in self._failing:
                text = "the file of tokens %s cannot be %s: %s; this sidecar logs in for itself"
                log.warning(text, self._path, what, error.strerror, extra={"event": "store-failed"})
                self.failures += 1
            self._failing.add(what)
        else:
            self._failing.discard(what)


class _LockFile:
    """Locks of single bytes in a file that stays empty; the kernel frees them when the process that has them ends.

    A process that closes *any* descriptor of a file loses all POSIX locks that it has on it (fcntl(2)). So there is one
    descriptor, opened at the first need and closed at the end; nothing else may open this file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._taken: set[int] = set()

    def take(self, byte: int) -> bool:
        """Lock a byte, if no other process has it; raises `OSError` where the file cannot be used."""
        descriptor = self._opened()
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            return False
        self._taken.add(byte)
        return True

    def free(self, byte: int) -> None:
        """Unlock a byte; nothing where the file is closed already."""
        if self._descriptor is not None and byte in self._taken:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, byte)
            self._taken.remove(byte)

    def close(self) -> None:
        """Let go of the file and, by that, of every lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
        self._taken.clear()

    def _opened(self) -> int:
        if not self._taken and self._descriptor is not None and not os.fstat(self._descriptor).st_nlink:
            self.close()  # somebody removed it: others would lock a new one, and never meet us
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        return self._descriptor


def _require_privacy(path: Path) -> None:
    """Make the folder if it is missing; raises `ConfigError` where others can get at it or at the file."""
    folder = path.parent
    own = "name one of the sidecar's own (one that does not exist is made)"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        _require(found, f"the folder {folder}", own, f"chmod 700 {shlex.quote(str(folder))}")
        with contextlib.suppress(FileNotFoundError):
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError(f"tokens.store: {path} is not a file; name another")
            _require(found, str(path), "remove it", f"chmod 600 {shlex.quote(str(path))}")
    except OSError as error:
        if error.errno in _DISK_TROUBLE:
            raise
        raise ConfigError(f"tokens.store: the folder {folder} cannot be used: {error.strerror}; {own}") from None


def _require(found: os.stat_result, what: str, mend: str, close: str) -> None:
    if found.st_uid != os.geteuid():
        user = f"the user {found.st_uid}, and the sidecar runs as {os.geteuid()}"
        raise ConfigError(f"tokens.store: {what} belongs to {user}; {mend}")
    if found.st_mode & _OTHERS:
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigError(f"tokens.store: {what} is open to others (mode {mode:04o}); {mend}, or close it: {close}")
