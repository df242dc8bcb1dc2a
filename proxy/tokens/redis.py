"""Tokens that replicas share: in Redis, or in Valkey, which speaks the same.

For each token key there are, all beginning with `invoisys-proxy:` and ending with the key's digest:

    token   what is kept, until it expires
    order   the number that the token was saved with, as long
    lock    who logs in: a random value; it outlives every login, so it ends by itself only where its holder is gone
    fence   the last number given out with the lock
    saved   a channel; a save and a release are published there

and a channel `invoisys-proxy:holder:<random value>`, to which whoever wants the lock is subscribed for as long as that
is so. The server drops the subscription as soon as the holder's connection ends, so a lock without subscriber is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from typing import TYPE_CHECKING, cast

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from proxy.config import read_secret
from proxy.errors import ConfigError
from proxy.tokens.degrading import Degrading
from proxy.tokens.store import Kept

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Any

    from redis.asyncio.client import PubSub

    from proxy.tokens.store import Store, TokenKey
    from proxy.tokens.token import Clock

log = logging.getLogger(__name__)

_ANSWERS_WITHIN = 1.0
"""Seconds that the server has for one answer."""

_MARGIN = 2.0
"""Seconds by which a lock outlives a login: for the load before it and the save after it."""

_LOOK_EVERY = 1.0
"""Seconds after which whoever waits looks whether the holder is still there; news come without looking."""

_SHORTEST_KEY = 16
_CODE = re.compile(r"[A-Z]{3,20}\b")
"""What an error of the server's begins with, such as WRONGPASS."""

# Numbers given out grow even where the server has lost the last one: they begin with the time.
_DRAW = """
local function draw(name)
    local now = redis.call('TIME')
    now = now[1] * 1000 + math.floor(now[2] / 1000)
    local number = redis.call('INCR', name)
    if number < now then
        number = now
        redis.call('SET', name, string.format('%.0f', now))
    end
    redis.call('PEXPIRE', name, 86400000)
    return number
end
"""

_TAKE = f"""{_DRAW}
local lock, fence, owner, life, holders = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
if not redis.call('SET', lock, owner, 'NX', 'PX', life) then
    local holder = redis.call('GET', lock)
    if holder ~= owner and redis.call('PUBSUB', 'NUMSUB', holders .. holder)[2] > 0 then
        return {{0, redis.call('PTTL', lock)}}
    end
    redis.call('SET', lock, owner, 'PX', life)
end
return {{draw(fence), 0}}
"""

_SAVE = f"""{_DRAW}
local token, order, fence, value, number, until_, channel = KEYS[1], KEYS[2], KEYS[3], unpack(ARGV)
number = tonumber(number)
if number == 0 then
    number = draw(fence)
end
if number < tonumber(redis.call('GET', order) or 0) then
    return 0
end
redis.call('SET', token, value)
redis.call('PEXPIREAT', token, until_)
redis.call('SET', order, string.format('%.0f', number))
redis.call('PEXPIREAT', order, until_)
redis.call('PUBLISH', channel, 'saved')
return 1
"""

_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], 'released')
return 1
"""


def open_redis(where: str, *, key_file: str | None, clock: Clock, limit: float) -> Store:
    """Share tokens through the server at `redis://…` or `rediss://…`, encrypted if there is a key.

    `limit` in seconds bounds a login. Raises `ConfigError`; a server that is not there is no error.
    """
    seal = None if key_file is None else Seal(_key(key_file))
    tls = {"ssl_check_hostname": True} if where.startswith("rediss:") else {}
    try:
        client = Redis.from_url(
            where,
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=None,  # every answer is waited for under a limit here
            retry=Retry(NoBackoff(), 1),  # a kept connection may be a dead one; all that is asked may be asked twice
            **tls,
        )
    except ValueError as error:
        raise ConfigError(f"tokens.store: {error}") from None
    return Degrading(RedisStore(client, seal, clock, limit), clock, limit=_ANSWERS_WITHIN, words=_words)


def _words(error: Exception) -> str:
    """Say what went wrong: in the client's own words, but of the server's only the code, for the rest may quote us."""
    if isinstance(error, RedisConnectionError | RedisTimeoutError) and not isinstance(error, AuthenticationError):
        return str(error)
    code = _CODE.match(str(error))
    return code[0] if code else ""


def _key(file: str) -> bytes:
    key = read_secret(file, "tokens.key_file").reveal().encode()
    if len(key) < _SHORTEST_KEY:
        raise ConfigError(f"tokens.key_file: {file} holds fewer than {_SHORTEST_KEY} bytes")
    return key


class Seal:
    """Encrypts what is kept, and binds it to its token key: AES-256-GCM, with a key made of the file's by HKDF."""

    _NONCE = 12

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(HKDF(SHA256(), 32, salt=None, info=b"invoisys-proxy token").derive(key))

    def close(self, plain: bytes, key: TokenKey) -> bytes:
        """Encrypt."""
        nonce = secrets.token_bytes(self._NONCE)
        return nonce + self._cipher.encrypt(nonce, plain, key.digest.encode())

    def open(self, sealed: bytes, key: TokenKey) -> bytes:
        """Decrypt; raises `ValueError`."""
        try:
            return self._cipher.decrypt(sealed[: self._NONCE], sealed[self._NONCE :], key.digest.encode())
        except InvalidTag:
            raise ValueError("it was encrypted with another key, or not at all, or is damaged") from None


class RedisStore:
    """The tokens that one server keeps. Unlike a `Store` it raises when the server fails: for `Degrading` to catch."""

    def __init__(self, client: Redis, seal: Seal | None, clock: Clock, limit: float) -> None:
        """`limit` in seconds bounds a login."""
        self._client = client
        self._seal = seal
        self._clock = clock
        self._life = limit + _MARGIN
        self._fences: dict[TokenKey, int] = {}  # of the locks that are held here

    async def load(self, key: TokenKey) -> Kept | None:
        """Return the last token kept, unless it has expired or cannot be read."""
        value = cast("bytes | None", await self._client.get(_name("token", key)))
        if value is None:
            return None
        try:
            kept = msgspec.json.decode(value if self._seal is None else self._seal.open(value, key), type=Kept)
        except (ValueError, RecursionError) as error:  # msgspec's own are the former
            log.warning("the shared token cannot be read: %s", error, extra={"event": "store-unreadable"})
            return None
        return None if kept.expires_at <= self._clock().wall else kept

    async def save(self, key: TokenKey, token: Kept) -> None:
        """Keep a token, unless one is kept that was saved under a later lock, and wake those who wait."""
        value = msgspec.json.encode(token)
        await self._run(
            _SAVE,
            [_name("token", key), _name("order", key), _name("fence", key)],
            value if self._seal is None else self._seal.close(value, key),
            self._fences.get(key, 0),
            int(token.expires_at * 1000),
            _name("saved", key),
        )

    @contextlib.asynccontextmanager
    async def lock(self, key: TokenKey) -> AsyncIterator[None]:
        """Be the only one, of all who share the server, that logs in for a key."""
        owner = secrets.token_hex(16)
        async with contextlib.aclosing(self._client.pubsub()) as news:
            self._fences[key] = await self._take(key, owner, news)
            try:
                yield
            finally:
                del self._fences[key]
                await self._run(_RELEASE, [_name("lock", key)], owner, _name("saved", key))

    async def close(self) -> None:
        """End all connections, and with them all locks held."""
        await self._client.aclose()

    async def _take(self, key: TokenKey, owner: str, news: PubSub) -> int:
        """Wait for the lock and return its number. Listening comes first, so that no news are missed."""
        async with asyncio.timeout(_ANSWERS_WITHIN):
            channels = [_name("saved", key), _holder(owner)]
            await news.subscribe(*channels)
            for _ in channels:
                await news.get_message(timeout=None)
        keys = [_name("lock", key), _name("fence", key)]
        while True:
            async with asyncio.timeout(_ANSWERS_WITHIN):
                number, left = await self._run(_TAKE, keys, owner, int(self._life * 1000), _holder(""))
            if number:
                return int(number)
            wait = min(max(left, 1) / 1000, _LOOK_EVERY)
            async with asyncio.timeout(wait + _ANSWERS_WITHIN):  # the client may connect anew meanwhile
                await news.get_message(timeout=wait)

    async def _run(self, script: str, keys: list[str], *arguments: str | bytes | int) -> Any:
        return await self._client.eval(script, len(keys), *keys, *arguments)


def _name(what: str, key: TokenKey) -> str:
    return f"invoisys-proxy:{what}:{key.digest}"


def _holder(owner: str) -> str:
    return f"invoisys-proxy:holder:{owner}"
