# ruff: noqa: ASYNC240 - the files are small, and nothing else waits for the loop
"""The store in a file: what others may not see, what no crash may tear, and locks that hold between processes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import stat
import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

import pytest

from proxy.errors import ConfigError
from proxy.tokens import MemoryStore, TokenKey, open_store, system_clock
from proxy.tokens.file import FileStore, _LockFile
from proxy.tokens.store import Kept
from tests.support.processes import ROOT
from tests.support.virtual import VirtualClock, run
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEY = TokenKey("sandbox", "default", "2.0", "http://localhost/api/token", "digest")
OTHERS = [
    KEY._replace(environment="production"),
    KEY._replace(account="shop"),
    KEY._replace(api="3.0"),
    KEY._replace(token_url="https://sandbox-api.invoisys.com.br/api/token"),
    KEY._replace(credentials="of a new password"),
]
HOUR = 3600.0

# A process of its own: takes the lock of KEY, or that for writing, says so, and frees it when its input ends.
HOLDER = """
import asyncio, sys
from tests.tokens.test_file import KEY
from proxy.tokens import system_clock
from proxy.tokens.file import FileStore

async def main():
    store = FileStore(sys.argv[1], system_clock)
    async with store.lock(KEY) if sys.argv[2] == "login" else store._writing():
        print("held", flush=True)
        sys.stdin.read()

asyncio.run(main())
"""

# Adds one to a number in a file, in two steps between which others could come in, as often as told.
COUNTER = """
import asyncio, pathlib, sys
from tests.tokens.test_file import KEY
from proxy.tokens import system_clock
from proxy.tokens.file import FileStore

async def add_one(store, number):
    async with store.lock(KEY):
        seen = int(number.read_text())
        await asyncio.sleep(0.001)
        number.write_text(str(seen + 1))

async def main():
    store, number = FileStore(sys.argv[1], system_clock), pathlib.Path(sys.argv[2])
    await asyncio.gather(*(add_one(store, number) for _ in range(int(sys.argv[3]))))

asyncio.run(main())
"""

# Saves a token again and again, until it is killed.
WRITER = """
import asyncio, itertools, sys
from tests.tokens.test_file import OTHERS, token
from proxy.tokens import system_clock
from proxy.tokens.file import FileStore

async def main():
    store = FileStore(sys.argv[1], system_clock)
    for number in itertools.count():
        await store.save(OTHERS[number % len(OTHERS)], token(system_clock().wall, value="x" * (number % 300 + 1)))
        if number == 0:
            print("saved", flush=True)

asyncio.run(main())
"""


# Tries to lock some bytes of a file, and says of each whether it got it.
TAKER = """
import pathlib, sys
from proxy.tokens.file import _LockFile

locks = _LockFile(pathlib.Path(sys.argv[1]))
print(*(locks.take(int(byte)) for byte in sys.argv[2:]))
"""


def token(now: float, *, value: str = "abc", lifetime: float = HOUR, generation: int = 1) -> Kept:
    return Kept(value, generation, now, now + lifetime)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "own" / "tokens.json"


@pytest.fixture
def store(path: Path, clock: VirtualClock) -> FileStore:
    return FileStore(path, clock)


@contextlib.contextmanager
def child(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# --- What is kept -----------------------------------------------------------------------------------------------------


async def test_a_token_is_found_again_by_another_process(store: FileStore, path: Path, clock: VirtualClock) -> None:
    assert await store.load(KEY) is None
    await store.save(KEY, token(clock.wall))
    assert await store.load(KEY) == token(clock.wall)
    assert await FileStore(path, clock).load(KEY) == token(clock.wall)


async def test_no_key_finds_the_token_of_another(store: FileStore, clock: VirtualClock) -> None:
    await store.save(KEY, token(clock.wall))
    assert [await store.load(other) for other in OTHERS] == [None] * len(OTHERS)
    for number, other in enumerate(OTHERS):
        await store.save(other, token(clock.wall, value=f"of-{number}"))
    assert [await store.load(key) for key in (KEY, *OTHERS)] == [
        token(clock.wall),
        *(token(clock.wall, value=f"of-{number}") for number in range(len(OTHERS))),
    ]


async def test_the_newer_token_takes_the_place_of_the_older(store: FileStore, clock: VirtualClock) -> None:
    for generation in (1, 2):
        await store.save(KEY, token(clock.wall, generation=generation))
    kept = await store.load(KEY)
    assert kept is not None
    assert kept.generation == 2


async def test_an_expired_token_is_not_given_and_goes_with_the_next_save(
    store: FileStore, path: Path, clock: VirtualClock
) -> None:
    await store.save(KEY, token(clock.wall))
    clock.wall += HOUR
    assert await store.load(KEY) is None
    assert KEY.digest in path.read_text()
    await store.save(OTHERS[0], token(clock.wall))
    assert list(json.loads(path.read_text())["tokens"]) == [OTHERS[0].digest]


async def test_the_file_has_a_version_and_no_names(store: FileStore, path: Path, clock: VirtualClock) -> None:
    await store.save(KEY, token(clock.wall))
    kept = {"value": "abc", "generation": 1, "obtained_at": clock.wall, "expires_at": clock.wall + HOUR}
    assert json.loads(path.read_bytes()) == {"version": 1, "tokens": {KEY.digest: kept}}


# --- Who may see it ---------------------------------------------------------------------------------------------------


async def test_what_is_made_is_for_its_owner_alone(path: Path, clock: VirtualClock) -> None:
    before = os.umask(0)
    try:
        store = FileStore(path, clock)
        async with store.lock(KEY):
            await store.save(KEY, token(clock.wall))
    finally:
        os.umask(before)
    assert mode(path.parent) == 0o700
    assert {each.name: mode(each) for each in path.parent.iterdir()} == {
        "tokens.json": 0o600,
        "tokens.json.lock": 0o600,
    }


def test_all_folders_that_are_missing_are_made(path: Path, clock: VirtualClock) -> None:
    FileStore(path.parent / "deeper" / "tokens.json", clock)
    assert mode(path.parent / "deeper") == 0o700


@pytest.mark.parametrize("wide", [0o710, 0o704, 0o701, 0o750, 0o2770, 0o1777])
def test_a_folder_that_others_get_into(path: Path, clock: VirtualClock, wide: int) -> None:
    path.parent.mkdir()
    path.parent.chmod(wide)
    with pytest.raises(ConfigError) as caught:
        FileStore(path, clock)
    assert str(caught.value) == (
        f"tokens.store: the folder {path.parent} is open to others (mode {wide:04o}); name one of the sidecar's own "
        f"(one that does not exist is made), or close it: chmod 700 {path.parent}"
    )


@pytest.mark.parametrize("wide", [0o640, 0o604, 0o620, 0o666])
async def test_a_file_that_others_read_or_write(path: Path, clock: VirtualClock, wide: int) -> None:
    await FileStore(path, clock).save(KEY, token(clock.wall))
    path.chmod(wide)
    with pytest.raises(ConfigError) as caught:
        FileStore(path, clock)
    assert str(caught.value) == (
        f"tokens.store: {path} is open to others (mode {wide:04o}); remove it, or close it: chmod 600 {path}"
    )


def test_a_folder_of_another_user(path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    FileStore(path, clock)
    me = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: me + 1)
    with pytest.raises(ConfigError) as caught:
        FileStore(path, clock)
    assert str(caught.value) == (
        f"tokens.store: the folder {path.parent} belongs to the user {me}, and the sidecar runs as {me + 1}; "
        "name one of the sidecar's own (one that does not exist is made)"
    )


async def test_a_file_of_another_user(path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    await FileStore(path, clock).save(KEY, token(clock.wall))
    theirs = list(path.lstat())
    theirs[stat.ST_UID] += 1
    monkeypatch.setattr("pathlib.Path.lstat", lambda _path: os.stat_result(theirs))
    with pytest.raises(ConfigError) as caught:
        FileStore(path, clock)
    user = os.geteuid()
    assert str(caught.value) == (
        f"tokens.store: {path} belongs to the user {user + 1}, and the sidecar runs as {user}; remove it"
    )


def test_what_is_no_file(path: Path, clock: VirtualClock) -> None:
    path.parent.mkdir(mode=0o700)
    path.symlink_to("elsewhere")
    with pytest.raises(ConfigError, match="is not a file; name another"):
        FileStore(path, clock)
    with pytest.raises(ConfigError, match="is not a file; name another"):
        FileStore(path.parent / "..", clock)


def test_a_folder_that_cannot_be_made(tmp_path: Path, clock: VirtualClock) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        FileStore(tmp_path / "file" / "tokens.json", clock)
    assert str(caught.value) == (
        f"tokens.store: the folder {tmp_path}/file cannot be used: File exists; "
        "name one of the sidecar's own (one that does not exist is made)"
    )


# --- Crashes and damage -----------------------------------------------------------------------------------------------


def test_a_reader_never_sees_half_a_file_nor_does_a_killed_writer_leave_one(path: Path) -> None:
    for _ in range(3):
        with child(WRITER, path) as writer:
            assert first_line(writer) == "saved"
            for _ in range(300):
                assert json.loads(path.read_bytes())["version"] == 1
    assert json.loads(path.read_bytes())["version"] == 1
    assert not list(path.parent.glob("*.damaged-*"))


@pytest.mark.parametrize("step", ["os.open", "os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
async def test_a_disk_that_takes_nothing(
    store: FileStore,
    path: Path,
    clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
    number: int,
) -> None:
    def refuse(*_arguments: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    await store.save(KEY, token(clock.wall, value="old"))
    await store.close()
    assert store.failures == 0
    with monkeypatch.context() as patch:
        patch.setattr(step, refuse)
        for _ in range(3):
            async with store.lock(KEY):
                await store.save(KEY, token(clock.wall, value="new"))
                assert await store.load(KEY) == token(clock.wall, value="old")
    said = [f"the file of tokens {path} cannot be written: {os.strerror(number)}; this sidecar logs in for itself"]
    if step == "os.open":
        said.insert(0, said[0].replace("written", "locked"))
    assert caplog.messages == said
    assert store.failures == len(said)
    assert {each.name for each in path.parent.iterdir()} == {"tokens.json", "tokens.json.lock"}
    async with store.lock(KEY):
        await store.save(KEY, token(clock.wall, value="new"))
    assert await store.load(KEY) == token(clock.wall, value="new")
    assert caplog.messages == said


async def test_a_disk_that_takes_no_new_file(
    store: FileStore, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opening = os.open

    def refuse(path: Path, *more: int) -> int:
        if path.name.endswith(".new"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opening(path, *more)

    monkeypatch.setattr("os.open", refuse)
    await store.save(KEY, token(clock.wall))
    assert await store.load(KEY) is None
    (said,) = caplog.messages
    assert "cannot be written: No space left on device" in said


async def test_what_a_killed_writer_left_is_written_over(store: FileStore, path: Path, clock: VirtualClock) -> None:
    path.with_name("tokens.json.new").write_bytes(b"x" * 10_000)
    await store.save(KEY, token(clock.wall))
    assert await store.load(KEY) == token(clock.wall)


async def test_a_folder_that_a_full_disk_does_not_take(
    path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_arguments: object, **_more: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.mkdir", refuse)
        store = FileStore(path, clock)
    async with store.lock(KEY):
        await store.save(KEY, token(clock.wall))
        assert await store.load(KEY) is None
    assert [text.split(": ", 1)[1].split(";")[0] for text in caplog.messages] == [
        "No space left on device",
        "No such file or directory",
    ]


async def test_a_file_that_cannot_be_read(
    store: FileStore, path: Path, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    path.mkdir()
    for _ in range(3):
        assert await store.load(KEY) is None
    path.rmdir()
    await store.save(KEY, token(clock.wall))
    assert await store.load(KEY) == token(clock.wall)
    text = f"the file of tokens {path} cannot be read: Is a directory; this sidecar logs in for itself"
    assert caplog.messages == [text]


def _kept(**fields: object) -> bytes:
    kept = {"value": "abc", "generation": 1, "obtained_at": 0, "expires_at": 9e9} | fields
    return json.dumps({"version": 1, "tokens": {KEY.digest: kept}}).encode()


DAMAGED = [
    b"",
    b"\0" * 512,
    b"{",
    b"[]",
    b"null",
    b'{"version":1,"tokens":{"a":{}}}',
    b'{"version":2,"tokens":{}}',
    b'{"tokens":{}}',
    b'{"version":1,"tokens":{"\xff":1}}',
    b"[" * 100_000,
    _kept(value="a\r\nHost: evil"),
    _kept(value="é"),
    _kept(value=""),
    _kept(expires_at="later"),
    _kept(generation=None),
]


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("at_first", ["load", "save"])
async def test_a_damaged_file_is_set_aside(
    store: FileStore,
    path: Path,
    clock: VirtualClock,
    caplog: pytest.LogCaptureFixture,
    damage: bytes,
    at_first: str,
    time_of_brasilia: None,
) -> None:
    path.write_bytes(damage)
    clock.wall = 1_800_000_000.0
    if at_first == "load":
        assert await store.load(KEY) is None
        assert not path.exists()
    await store.save(KEY, token(clock.wall))
    assert await store.load(KEY) == token(clock.wall)
    aside = path.with_name("tokens.json.damaged-20270115T080000Z")
    assert aside.read_bytes() == damage
    assert caplog.messages == [f"the file of tokens {path} is damaged; it is set aside as {aside}"]
    assert vars(caplog.records[0])["event"] == "store-damaged"


async def test_the_token_stands_in_no_log_line(
    store: FileStore, path: Path, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(_kept(value="sesame open"))
    await store.load(KEY)
    assert "sesame" not in caplog.text
    assert "sesame" not in repr(token(clock.wall, value="sesame"))


# --- Locks ------------------------------------------------------------------------------------------------------------


async def test_two_tasks_of_one_process_take_turns_and_other_keys_do_not_wait(store: FileStore) -> None:
    events: list[str] = []

    async def work(key: TokenKey, name: str) -> None:
        async with store.lock(key):
            events.append(f"{name} in")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            events.append(f"{name} out")

    await asyncio.gather(work(KEY, "a"), work(KEY, "b"), work(OTHERS[0], "c"))
    of_one_key = [event for event in events if not event.startswith("c")]
    assert of_one_key == ["a in", "a out", "b in", "b out"]
    assert events.index("c in") < events.index("a out")


def test_processes_take_turns(path: Path, tmp_path: Path) -> None:
    number = tmp_path / "number"
    number.write_text("0")
    FileStore(path, system_clock)
    with contextlib.ExitStack() as stack:
        counters = [stack.enter_context(child(COUNTER, path, number, 30)) for _ in range(3)]
        assert [counter.wait(PATIENCE) for counter in counters] == [0, 0, 0]
    assert number.read_text() == "90"


def test_a_lock_that_another_process_has_is_waited_for(path: Path, clock: VirtualClock) -> None:
    store = FileStore(path, clock, limit=120)

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(120), store.lock(KEY):
                pytest.fail("the lock is another's")
        async with asyncio.timeout(1), store.lock(OTHERS[0]):
            await store.save(OTHERS[0], token(clock.wall))

    with child(HOLDER, path, "login") as holder:
        assert first_line(holder) == "held"
        run(scenario(), clock)


@pytest.mark.parametrize("end", [lambda holder: holder.communicate(), lambda holder: holder.kill()])
async def test_a_lock_goes_on_when_its_holder_frees_it_or_is_killed(
    path: Path, caplog: pytest.LogCaptureFixture, end: Callable[[subprocess.Popen[str]], None]
) -> None:
    store = FileStore(path, system_clock)
    waiting = asyncio.Event()

    async def work() -> None:
        async with store.lock(KEY):
            assert waiting.is_set()

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if vars(record).get("event") == "login-elsewhere":
                waiting.set()

    caplog.set_level(logging.INFO)
    told = Told()
    logging.getLogger("proxy.tokens.file").addHandler(told)
    try:
        with child(HOLDER, path, "login") as holder:
            assert first_line(holder) == "held"
            task = asyncio.create_task(work())
            async with asyncio.timeout(PATIENCE):
                await waiting.wait()
                assert not task.done()
                end(holder)
                await task
    finally:
        logging.getLogger("proxy.tokens.file").removeHandler(told)
    assert caplog.messages == ["another sidecar is logging in; waiting for its token"]
    assert not store._lock_file._taken


def test_a_holder_that_never_lets_go_is_not_waited_for_without_end(
    path: Path, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(f"file:{path}", key_file=None, clock=clock, login_timeout=40)

    async def scenario() -> None:
        began = clock.monotonic
        async with store.lock(KEY):
            assert clock.monotonic - began == pytest.approx(45, abs=0.1)
            await store.save(KEY, token(clock.wall))
        assert await store.load(KEY) is not None

    with child(HOLDER, path, "login") as holder:
        assert first_line(holder) == "held"
        run(scenario(), clock)
    assert caplog.messages == [
        f"another process has held the lock in {path}.lock for 45 s; going on without it",
    ]
    assert vars(caplog.records[0])["event"] == "store-lock-stuck"


def test_a_writer_that_never_ends_is_not_waited_for_without_end(
    path: Path, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = FileStore(path, clock)
    with child(HOLDER, path, "write") as holder:
        assert first_line(holder) == "held"
        run(store.save(KEY, token(clock.wall)), clock)
        path.write_bytes(b"damaged")
        assert asyncio.run(_load_at_once(store, clock)) is None
    assert [text.split(": ", 1)[1] for text in caplog.messages] == [
        "another process does not finish its own change; this sidecar logs in for itself"
    ] * 2
    assert path.read_bytes() == b"damaged"


async def _load_at_once(store: FileStore, clock: VirtualClock) -> Kept | None:
    task = asyncio.create_task(store.load(KEY))
    await asyncio.sleep(0)
    clock.monotonic += HOUR
    return await task


async def test_what_goes_wrong_under_the_lock_frees_it_and_is_passed_on(store: FileStore) -> None:
    for kind in (ValueError, OSError, asyncio.CancelledError):
        with pytest.raises(kind):
            async with store.lock(KEY):
                raise kind
    async with asyncio.timeout(1), store.lock(KEY):
        pass


async def test_a_lock_file_that_somebody_removed_is_made_anew(store: FileStore, path: Path) -> None:
    async with store.lock(KEY):
        pass
    path.with_name("tokens.json.lock").unlink()
    async with store.lock(KEY):
        path.with_name("tokens.json.lock").unlink()
        async with store.lock(OTHERS[0]):  # the lock on KEY is not lost for that
            assert not path.with_name("tokens.json.lock").exists()
    async with store.lock(KEY):
        assert path.with_name("tokens.json.lock").exists()


def test_a_lock_is_one_byte_and_is_free_for_others_afterwards(tmp_path: Path) -> None:
    def others_get() -> str:
        with child(TAKER, tmp_path / "lock", 4, 5, 6, 7) as taker:
            return first_line(taker)

    locks = _LockFile(tmp_path / "lock")
    assert locks.take(5)
    assert others_get() == "True False True True"
    assert locks.take(6)
    locks.free(5)
    assert others_get() == "True True False True"
    locks.free(6)
    assert others_get() == "True True True True"
    locks.close()


async def test_closing_under_a_lock_and_twice(store: FileStore) -> None:
    async with store.lock(KEY):
        await store.close()
    async with store.lock(KEY):
        await store.close()
        async with store.lock(OTHERS[0]):
            pass
    await store.close()
    await store.close()


# --- Opening ----------------------------------------------------------------------------------------------------------


async def test_stores_are_opened_by_what_the_configuration_says(path: Path, clock: VirtualClock) -> None:
    memory = open_store("memory", key_file=None, clock=clock, login_timeout=15)
    assert isinstance(memory, MemoryStore)
    file = open_store(f"file:{path}", key_file=None, clock=clock, login_timeout=15)
    assert isinstance(file, FileStore)
    assert (memory.shared, file.shared) == (False, True)
    for store in (memory, file):
        await store.save(KEY, token(clock.wall))
        assert await store.load(KEY) == token(clock.wall)
        clock.wall += HOUR
        assert await store.load(KEY) is None
        await store.close()


def test_a_redis_without_the_extra(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "proxy.tokens.redis", None)
    with pytest.raises(ConfigError) as caught:
        open_store("redis://localhost/0", key_file=None, clock=clock, login_timeout=15)
    assert str(caught.value) == (
        'tokens.store: Redis needs what the extra `redis` installs: pip install "invoisys-proxy[redis]"'
    )


def test_a_redis(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    redis = ModuleType("proxy.tokens.redis")
    vars(redis)["open_redis"] = lambda where, **more: asked.extend((where, more))
    monkeypatch.setitem(sys.modules, "proxy.tokens.redis", redis)
    open_store("rediss://u:p@localhost/0", key_file="/key", clock=clock, login_timeout=15)
    assert asked == ["rediss://u:p@localhost/0", {"key_file": "/key", "clock": clock, "limit": 15}]
