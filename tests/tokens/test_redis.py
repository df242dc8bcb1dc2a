"""The store in Redis, on a real server: what is kept, who holds the lock, and what a server in trouble costs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trustme

from proxy.errors import ConfigError
from proxy.tokens import Moment, TokenKey, degrading, system_clock
from proxy.tokens import redis as module
from proxy.tokens.degrading import Degrading
from proxy.tokens.redis import RedisStore, Seal, open_redis
from proxy.tokens.schedule import Backoff
from proxy.tokens.store import Kept
from tests.support.redis import Redis, redis_server
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from proxy.tokens import Clock

pytestmark = pytest.mark.needs("redis-server")

KEY = TokenKey("sandbox", "default", "2.0", "http://localhost/api/token", "digest")
PROMPTLY = 0.5
LOCK = f"invoisys-proxy:lock:{KEY.digest}"
TOKEN = f"invoisys-proxy:token:{KEY.digest}"


@pytest.fixture
def redis() -> Iterator[Redis]:
    with redis_server() as running:
        yield running


@pytest.fixture
def far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the lock but when there is news of it, or its life is over."""
    monkeypatch.setattr(module, "_LOOK_EVERY", 600.0)


@pytest.fixture
def soon_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(degrading, "_PAUSES", Backoff(0.05, 0.05))


class Sharer:
    """One of those who share: the whole store, and the part of it that speaks to the server."""

    def __init__(self, url: str, key_file: str | None, clock: Clock, limit: float) -> None:
        whole = open_redis(url, key_file=key_file, clock=clock, limit=limit)
        assert isinstance(whole, Degrading)
        assert isinstance(whole._shared, RedisStore)
        self.whole = whole
        self.inner = whole._shared
        self.turned_away = asyncio.Event()
        """It has tried to take the lock, and waits."""
        self._run = self.inner._run
        self.inner._run = self._watched  # type: ignore[method-assign]

    async def _watched(self, script: str, keys: list[str], *arguments: str | bytes | int) -> Any:
        answer = await self._run(script, keys, *arguments)
        if script == module._TAKE and answer[0] == 0:
            self.turned_away.set()
        return answer

    async def disappear(self) -> None:
        """Lose all connections at once, as by a SIGKILL."""
        await self.inner._client.connection_pool.disconnect()

    async def back(self) -> None:
        """Wait until the shared store works again."""
        if self.whole._retry is not None:
            async with asyncio.timeout(PATIENCE):
                await self.whole._retry


@contextlib.asynccontextmanager
async def sharing(
    redis: Redis, *, key_file: str | None = None, clock: Clock = system_clock, limit: float = 30
) -> AsyncIterator[Sharer]:
    sharer = Sharer(redis.url, key_file, clock, limit)
    try:
        async with asyncio.timeout(PATIENCE):
            yield sharer
    finally:
        await sharer.whole.close()


@contextlib.asynccontextmanager
async def two(redis: Redis, *, limit: float = 30) -> AsyncIterator[tuple[Sharer, Sharer]]:
    async with sharing(redis, limit=limit) as one, sharing(redis, limit=limit) as other:
        yield one, other


@contextlib.asynccontextmanager
async def waiting(sharer: Sharer) -> AsyncIterator[asyncio.Task[float]]:
    """Have it wait for the lock that another holds; the task gives the time at which it was in."""

    async def enter() -> float:
        async with sharer.whole.lock(KEY):
            return time.monotonic()

    task = asyncio.ensure_future(enter())
    await sharer.turned_away.wait()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def token(value: str, *, lifetime: float = 3600, generation: int = 1) -> Kept:
    now = time.time()
    return Kept(value, generation, now, now + lifetime)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "event", "") for record in caplog.records]


# --- What is kept -----------------------------------------------------------------------------------------------------


async def test_what_one_saves_another_loads_and_no_other_key_does(redis: Redis) -> None:
    async with two(redis) as (one, other):
        assert await other.whole.load(KEY) is None
        kept = token("secret")
        await one.whole.save(KEY, kept)
        assert await other.whole.load(KEY) == kept
        assert await other.whole.load(KEY._replace(environment="production")) is None
        assert msgspec.json.decode(redis.ask("GET", TOKEN), type=Kept) == kept
        assert other.whole.failures == 0


async def test_the_server_forgets_a_token_when_it_expires(redis: Redis) -> None:
    async with sharing(redis) as one:
        kept = token("secret", lifetime=100)
        await one.whole.save(KEY, kept)
        for name in (TOKEN, f"invoisys-proxy:order:{KEY.digest}"):
            assert 90_000 < redis.ask("PTTL", name) <= 100_000
        await one.whole.save(KEY, token("secret", lifetime=-1))
        assert redis.ask("GET", TOKEN) is None


async def test_a_token_that_has_expired_by_our_clock_is_not_loaded(redis: Redis) -> None:
    kept = token("secret", lifetime=3600)
    async with sharing(redis) as one, sharing(redis, clock=lambda: Moment(kept.expires_at, 0)) as late:
        await one.whole.save(KEY, kept)
        assert await one.whole.load(KEY) is not None
        assert await late.whole.load(KEY) is None


@pytest.mark.parametrize("value", [b"", b"{}", b"\xff\x00", b"null", b'{"value":"a\\r\\nb","generation":1}'])
async def test_a_value_that_is_no_token_is_as_good_as_none(
    value: bytes, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with sharing(redis) as one:
        redis.ask("SET", TOKEN, value)
        assert await one.whole.load(KEY) is None
        assert not one.whole.failing
        await one.whole.save(KEY, token("new"))
        assert await one.whole.load(KEY) is not None
    assert events(caplog) == ["store-unreadable"]


async def test_a_token_that_would_split_a_header_is_not_loaded(redis: Redis) -> None:
    async with sharing(redis) as one:
        await one.whole.save(KEY, token("a\r\nHost: b"))
        assert await one.whole.load(KEY) is None


async def test_with_a_key_file_only_who_has_the_same_key_reads_it(
    redis: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, text in (("one", "0123456789abcdef\n"), ("same", "0123456789abcdef"), ("another", "f" * 32)):
        (tmp_path / name).write_text(text)
    async with (
        sharing(redis, key_file=str(tmp_path / "one")) as one,
        sharing(redis, key_file=str(tmp_path / "same")) as same,
        sharing(redis, key_file=str(tmp_path / "another")) as another,
        sharing(redis) as without,
    ):
        kept = token("secret")
        await one.whole.save(KEY, kept)
        assert await same.whole.load(KEY) == kept
        assert b"secret" not in redis.ask("GET", TOKEN)
        assert events(caplog) == []
        assert await another.whole.load(KEY) is None
        assert await without.whole.load(KEY) is None
        assert events(caplog) == ["store-unreadable"] * 2
        assert caplog.messages[0] == (
            "the shared token cannot be read: it was encrypted with another key, or not at all, or is damaged"
        )


def test_what_an_earlier_release_encrypted_is_read() -> None:
    sealed = bytes.fromhex("fb85dd5f734f5caafe35f190558ad0e3098c08fd88475dd15c0d8e87ca7eee8cb4843a")
    assert Seal("chave com acentuação".encode()).open(sealed, KEY) == b"a token"


async def test_an_encrypted_token_is_bound_to_its_key_and_shows_damage(redis: Redis, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789abcdef")
    elsewhere = KEY._replace(environment="production")
    async with sharing(redis, key_file=str(tmp_path / "key")) as one:
        await one.whole.save(KEY, token("secret"))
        sealed = redis.ask("GET", TOKEN)
        redis.ask("SET", f"invoisys-proxy:token:{elsewhere.digest}", sealed)
        assert await one.whole.load(elsewhere) is None
        for damaged in (sealed[:-1], sealed[:12], b"", sealed[:20] + bytes([sealed[20] ^ 1]) + sealed[21:]):
            redis.ask("SET", TOKEN, damaged)
            assert await one.whole.load(KEY) is None
        redis.ask("SET", TOKEN, sealed)
        assert await one.whole.load(KEY) is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "is empty"),
        ("x" * 15, "holds fewer than 16 bytes"),
    ],
)
def test_a_key_file_that_cannot_serve_is_told_at_the_start(text: str | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        open_redis("redis://localhost/0", key_file=str(file), clock=system_clock, limit=15)
    assert str(caught.value) == f"tokens.key_file: {file} {said}"


def test_an_address_that_the_client_does_not_take_is_told_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"tokens\.store"):
        open_redis("http://localhost/0", key_file=None, clock=system_clock, limit=15)


async def test_over_tls_the_name_in_the_server_s_certificate_is_checked(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name, failures in (("127.0.0.1", 0), ("elsewhere.test", 1)):
        with redis_server(authority.issue_cert(name)) as server:
            where = f"rediss://127.0.0.1:{server.port}/0?ssl_ca_certs={tmp_path}/ca.pem"
            store = open_redis(where, key_file=None, clock=system_clock, limit=15)
            await store.save(KEY, token("secret"))
            assert store.failures == failures
            await store.close()


# --- The lock ---------------------------------------------------------------------------------------------------------


async def test_one_at_a_time_holds_the_lock(redis: Redis) -> None:
    inside = entered = 0

    async def hold(sharer: Sharer) -> None:
        nonlocal inside, entered
        for _ in range(10):
            async with sharer.inner.lock(KEY):
                inside += 1
                assert inside == 1
                entered += 1
                await sharer.whole.load(KEY)
                inside -= 1

    async with contextlib.AsyncExitStack() as stack:
        sharers = [await stack.enter_async_context(sharing(redis)) for _ in range(5)]
        await asyncio.gather(*(hold(sharer) for sharer in sharers))
    assert entered == 50
    assert redis.names("*lock*") == []


async def test_the_lock_outlives_a_login_and_ends_by_itself(redis: Redis) -> None:
    async with sharing(redis, limit=15) as one, one.whole.lock(KEY):
        assert 16_000 < redis.ask("PTTL", LOCK) <= 17_000


async def test_other_keys_have_other_locks(redis: Redis) -> None:
    async with two(redis) as (one, other), one.whole.lock(KEY), other.whole.lock(KEY._replace(api="3.0")):
        assert len(redis.names("*lock*")) == 2


async def test_a_release_wakes_who_waits_without_looking(redis: Redis, far_apart: None) -> None:
    async with two(redis) as (one, other):
        async with one.whole.lock(KEY):
            stack = contextlib.AsyncExitStack()
            waiter = await stack.enter_async_context(waiting(other))
            released = time.monotonic()
        async with stack:
            assert await waiter - released < PROMPTLY


async def test_a_save_wakes_who_waits_without_looking(redis: Redis, far_apart: None) -> None:
    async with two(redis) as (one, other), one.whole.lock(KEY), waiting(other) as waiter:
        other.turned_away.clear()
        saved = time.monotonic()
        await one.whole.save(KEY, token("news"))
        await other.turned_away.wait()
        assert time.monotonic() - saved < PROMPTLY
        assert not waiter.done()  # it has looked again, and the lock is still another's


async def test_who_waits_looks_no_oftener_than_once_a_second(redis: Redis) -> None:
    async with two(redis) as (one, other), one.whole.lock(KEY), waiting(other):
        for _ in range(2):
            other.turned_away.clear()
            before = time.monotonic()
            await other.turned_away.wait()
            assert time.monotonic() - before > 0.8


async def test_a_holder_whose_connections_are_gone_holds_nothing(redis: Redis) -> None:
    async with two(redis) as (one, other), one.whole.lock(KEY), waiting(other) as waiter:
        gone = time.monotonic()
        await one.disappear()
        assert await waiter - gone < module._LOOK_EVERY + PROMPTLY
        assert redis.ask("GET", LOCK) is None


async def test_a_holder_that_hangs_is_followed_when_the_life_of_its_lock_ends(
    redis: Redis, far_apart: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MARGIN", 0.3)
    async with two(redis, limit=0.4) as (one, other):
        before = time.monotonic()
        async with one.whole.lock(KEY), waiting(other) as waiter:
            assert 0.6 < await waiter - before < 0.7 + PROMPTLY


async def test_only_its_owner_releases_a_lock(redis: Redis) -> None:
    async with two(redis) as (one, other):
        first = one.whole.lock(KEY)
        await first.__aenter__()
        redis.ask("DEL", LOCK)
        async with other.whole.lock(KEY):
            owner = redis.ask("GET", LOCK)
            await first.__aexit__(None, None, None)
            assert redis.ask("GET", LOCK) == owner
        assert redis.ask("GET", LOCK) is None


@pytest.mark.parametrize("loss", ["DEL", "FLUSHALL"])
async def test_a_save_under_an_older_lock_overwrites_nothing(loss: str, redis: Redis) -> None:
    async with two(redis) as (one, other), one.whole.lock(KEY):
        redis.ask(*(("DEL", LOCK) if loss == "DEL" else ("FLUSHALL",)))
        async with other.whole.lock(KEY):
            newer, newest = token("newer", generation=2), token("newest", generation=3)
            await other.whole.save(KEY, newer)
            await one.whole.save(KEY, token("older"))
            assert await other.whole.load(KEY) == newer
            await other.whole.save(KEY, newest)
        assert await other.whole.load(KEY) == newest


async def test_a_save_under_an_older_lock_counts_where_there_is_no_newer(redis: Redis) -> None:
    async with two(redis) as (one, other), one.whole.lock(KEY):
        redis.ask("DEL", LOCK)
        async with other.whole.lock(KEY):
            await one.whole.save(KEY, token("older"))
            await other.whole.save(KEY, token("newer"))
        kept = await other.whole.load(KEY)
        assert kept is not None
        assert kept.value == "newer"


async def test_a_save_without_the_lock_is_the_newest_though_the_server_s_clock_was_set_back(
    redis: Redis,
) -> None:
    async with sharing(redis) as one:
        redis.ask("SET", f"invoisys-proxy:fence:{KEY.digest}", 10**15)
        async with one.whole.lock(KEY):
            await one.whole.save(KEY, token("older"))
        newer = token("newer")
        await one.whole.save(KEY, newer)
        assert await one.whole.load(KEY) == newer


async def test_numbers_grow_though_the_server_loses_them_or_its_clock_stands_still(redis: Redis) -> None:
    numbers = []
    async with sharing(redis) as one:
        for loss in ("", "", "FLUSHALL", "ahead", ""):
            if loss == "FLUSHALL":
                redis.empty()
            elif loss == "ahead":
                redis.ask("SET", f"invoisys-proxy:fence:{KEY.digest}", 10**15)
            async with one.whole.lock(KEY):
                numbers.append(one.inner._fences[KEY])
            assert int(redis.ask("GET", f"invoisys-proxy:fence:{KEY.digest}")) == numbers[-1]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 10**15 + 2


async def test_a_waiter_that_is_cancelled_leaves_nothing_behind(redis: Redis) -> None:
    async with two(redis) as (one, other):
        async with one.whole.lock(KEY):
            async with waiting(other) as waiter:
                waiter.cancel()
            assert waiter.cancelled()
            (holder,) = redis.names("*lock*")
            assert holder == LOCK
            await redis.wanted_by(1)
        assert redis.names("*lock*") == []
        assert other.inner._fences == {}
        await redis.wanted_by(0)
        async with other.whole.lock(KEY):
            pass
        assert other.whole.failures == 0


async def test_a_waiter_cancelled_at_any_moment_keeps_nobody_waiting(redis: Redis, far_apart: None) -> None:
    async with two(redis) as (one, other):
        for steps in itertools.accumulate(itertools.count(1)):
            task = asyncio.ensure_future(one.whole.lock(KEY).__aenter__())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                break  # it had the lock already
            async with asyncio.timeout(5), other.whole.lock(KEY):
                pass


async def test_closing_gives_all_locks_back(redis: Redis) -> None:
    async with sharing(redis) as other:
        one = Sharer(redis.url, None, system_clock, 30)
        lock = one.whole.lock(KEY)
        await lock.__aenter__()
        await one.whole.close()
        async with asyncio.timeout(5), other.whole.lock(KEY):
            pass
        with contextlib.suppress(Exception):
            await lock.__aexit__(None, None, None)
        await one.whole.close()


# --- A server in trouble ----------------------------------------------------------------------------------------------


async def test_a_server_that_is_down_fails_nothing_and_gets_the_token_when_it_is_up(
    redis: Redis, soon_back: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    redis.stop()
    async with sharing(redis) as one:
        kept = token("meanwhile")
        async with one.whole.lock(KEY):
            assert await one.whole.load(KEY) is None
            await one.whole.save(KEY, kept)
        assert await one.whole.load(KEY) == kept
        assert events(caplog) == ["store-degraded"]
        redis.start()
        await one.back()
        assert events(caplog) == ["store-degraded", "store-back"]
        async with sharing(redis) as other:
            assert await other.whole.load(KEY) == kept


async def test_a_server_that_is_frozen_costs_a_second_once(redis: Redis, soon_back: None) -> None:
    async with sharing(redis) as one:
        await one.whole.save(KEY, token("before"))
        redis.freeze()
        begun = time.monotonic()
        async with one.whole.lock(KEY):
            assert 0.9 < time.monotonic() - begun < 1 + PROMPTLY
            assert await one.whole.load(KEY) is not None
            await one.whole.save(KEY, token("meanwhile"))
        async with one.whole.lock(KEY):
            pass
        assert time.monotonic() - begun < 1 + PROMPTLY
        assert one.whole.failures == 1
        redis.thaw()
        await one.back()
        assert await _free(one)
        async with sharing(redis) as other:
            kept = await other.whole.load(KEY)
            assert kept is not None
            assert kept.value == "meanwhile"


async def _free(sharer: Sharer) -> bool:
    """Show that what a frozen server was asked for before keeps nobody waiting afterwards."""
    begun = time.monotonic()
    async with sharer.inner.lock(KEY):
        return time.monotonic() - begun < PROMPTLY


async def test_a_server_that_freezes_while_one_waits_for_the_lock_keeps_nobody_waiting(redis: Redis) -> None:
    async with two(redis) as (one, other), one.whole.lock(KEY), waiting(other) as waiter:
        redis.freeze()
        begun = time.monotonic()
        assert await waiter - begun < module._LOOK_EVERY + 2 * module._ANSWERS_WITHIN
        assert other.whole.failures == 1


async def test_nor_does_one_that_freezes_when_the_connection_of_who_waits_is_gone(redis: Redis) -> None:
    async with two(redis) as (one, other), one.whole.lock(KEY), waiting(other) as waiter:
        redis.freeze()
        begun = time.monotonic()
        await other.disappear()  # it connects anew, and gets no answer to that
        assert await waiter - begun < module._LOOK_EVERY + 2 * module._ANSWERS_WITHIN
        assert other.whole.failures == 1


async def test_a_server_that_restarts_unseen_fails_nothing_and_is_asked_on(redis: Redis) -> None:
    async with sharing(redis) as one:
        await one.whole.save(KEY, token("before"))
        redis.restart()
        assert await one.whole.load(KEY) is None
        async with one.whole.lock(KEY):
            await one.whole.save(KEY, token("after"))
            redis.restart()
        assert one.whole.failures == 0


@pytest.mark.parametrize("loss", ["restart", "empty"])
async def test_a_server_that_loses_the_lock_keeps_nobody_waiting(loss: str, redis: Redis) -> None:
    async with two(redis) as (one, other):
        async with one.whole.lock(KEY), waiting(other) as waiter:
            lost = time.monotonic()
            getattr(redis, loss)()
            assert await waiter - lost < 3
            await one.whole.save(KEY, token("one"))
        assert one.whole.failures == 0
        assert other.whole.failures == 0


async def test_a_server_that_answers_with_errors_is_as_good_as_down(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis.ask("CONFIG", "SET", "requirepass", "secret-of-the-server")
    async with sharing(redis) as one:
        async with one.whole.lock(KEY):
            await one.whole.save(KEY, token("one"))
        assert one.whole.failures == 1
    assert events(caplog) == ["store-degraded"]


@pytest.mark.parametrize(
    "said",
    [
        b"-ERR unknown command 'AUTH', with args beginning with: 'usuario' 'S3gredoDoRedis'\r\n",
        b"-WRONGPASS S3gredoDoRedis is not the password\r\n",
        b"S3gredoDoRedis\r\n",
    ],
)
async def test_the_words_of_a_server_are_not_repeated(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(said)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        where = f"redis://usuario:S3gredoDoRedis@127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        store = open_redis(where, key_file=None, clock=system_clock, limit=5)
        assert await store.load(KEY) is None
        await store.close()
    assert store.failures == 1
    assert "S3gredo" not in caplog.text
    assert events(caplog)[0] == "store-degraded"
    if b"WRONGPASS" in said:
        assert "AuthenticationError" in caplog.text
