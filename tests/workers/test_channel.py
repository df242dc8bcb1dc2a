"""Questions and answers between two ends of one socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from proxy.config import Config, Secret, load
from proxy.errors import ConfigError
from proxy.workers.channel import Channel, Gone, Refused, decode, encode
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path


@contextlib.asynccontextmanager
async def pair(**handlers: Callable[[bytes], Awaitable[object]]) -> AsyncIterator[tuple[Channel, Channel]]:
    """Two ends: the second answers."""
    one, other = socket.socketpair()
    ends = await Channel.over(one, {}), await Channel.over(other, handlers)
    running = [asyncio.create_task(end.run()) for end in ends]
    try:
        async with asyncio.timeout(PATIENCE):
            yield ends
    finally:
        for end in ends:
            end.close()
        await asyncio.wait(running)


async def test_answers_find_their_questions_whatever_their_order() -> None:
    gates = {number: asyncio.Event() for number in range(3)}

    async def double(body: bytes) -> int:
        number = decode(body, int)
        await gates[number].wait()
        return 2 * int(number)

    async with pair(double=double) as (asks, _):
        answers = [asyncio.create_task(asks.ask("double", number, kind=int)) for number in gates]
        for number in reversed(gates):
            gates[number].set()
            assert await answers[number] == 2 * number


async def test_a_large_message_comes_whole() -> None:
    async def echo(body: bytes) -> object:
        return decode(body, bytes)

    async with pair(echo=echo) as (asks, _):
        assert await asks.ask("echo", b"x" * 5_000_000, kind=bytes) == b"x" * 5_000_000


async def test_what_cannot_be_done_is_refused_with_the_reason() -> None:
    async def refuse(_: bytes) -> None:
        raise ConfigError("a file is missing")

    async def fail(_: bytes) -> None:
        raise ValueError("a secret")

    async with pair(refuse=refuse, fail=fail) as (asks, _):
        with pytest.raises(Refused, match=r"^a file is missing$"):
            await asks.ask("refuse")
        with pytest.raises(Refused, match=r"^a defect of the sidecar: ValueError$"):
            await asks.ask("fail")
        with pytest.raises(Refused, match="KeyError"):
            await asks.ask("unheard of")


async def test_what_cannot_be_written_is_a_defect_that_is_told() -> None:
    async def find(_: bytes) -> str:
        return "\udce1"

    async with pair(find=find) as (asks, _):
        with pytest.raises(Refused, match=r"^a defect of the sidecar: UnicodeEncodeError$"):
            await asks.ask("find")
        with pytest.raises(UnicodeEncodeError):
            await asks.ask("find", "\udce1")
        assert not asks._asked


async def test_who_waits_is_told_when_the_other_is_gone() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def never(_: bytes) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with pair(never=never) as (asks, answers):
        waiting = asyncio.create_task(asks.ask("never"))
        await begun.wait()
        answers.close()
        with pytest.raises(Gone):
            await waiting
        await ended.wait()
        with pytest.raises(Gone):
            await asks.ask("never")
        asks.tell("never")


async def test_what_is_told_is_done_and_not_answered() -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(body: bytes) -> None:
        await heard.put(decode(body, str))
        raise OSError("nobody hears this")

    async with pair(hear=hear) as (tells, _):
        tells.tell("hear", "a word")
        assert await heard.get() == "a word"


def test_a_configuration_arrives_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("""\
accounts: {a: {username: u, password_file: /run/p}, b: {username: v, password: "pá"}}
listeners:
  - {bind: "unix:/s", socket: {mode: "0600", owner: erp}, uids: [erp, 5], account: a}
  - {bind: "[::1]:8080", hosts: [name], origins: ["http://localhost:3"], rules: ["GET /api/*"], account: b}
apis: {"2.0": {proxy: "http://user:secret@way:3128"}}
tokens: {store: "redis://user:secret@localhost/0", refresh_every: 90m}
limits: {replay_body: 0B}
""")
    config = load(str(path), {})
    assert decode(encode(config), Config) == config


def test_a_password_that_is_not_utf_8_arrives_as_it_was() -> None:
    password = b"p\xe1".decode("utf-8", "surrogateescape")
    config = load(None, {"INVOISYS_USERNAME": "u", "INVOISYS_PASSWORD": password})
    arrived = decode(encode(config), Config).accounts["default"].password
    assert arrived == Secret(password)
    assert arrived.reveal() == password
