from __future__ import annotations

import asyncio
import itertools
import socket
from typing import TYPE_CHECKING, cast

import pytest

from proxy.errors import AnswerTimedOut, ConnectionLost, Draining, Outcome, Overloaded
from proxy.observe import PoolReading
from proxy.upstream import connection as connection_module
from proxy.upstream import pool as pool_module
from proxy.upstream.connection import CAUSES
from tests.support.origin import Limits, Visit, assert_free, client, read_all, releasing, upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from proxy.upstream import Dialler, Exchange, Pool
    from proxy.upstream.connection import Connection

GET = b"GET /api/nfe HTTP/1.1\r\nHost: invoisys.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def answer(visit: Visit) -> None:
    while True:
        await visit.head()
        await visit.say(OK)


async def ask(pool: Pool, *, fresh: bool = False) -> Exchange:
    with releasing(await pool.begin(fresh=fresh)) as exchange:
        await exchange.send(GET, b"")
        assert await read_all(exchange) == b"hello"
    return exchange


# --- Keeping connections ----------------------------------------------------------------------------------------------


async def test_one_connection_after_another_request() -> None:
    async with upstream(answer) as origin, client(origin.port, connections=5) as pool:
        kept = [(await ask(pool)).kept for _ in range(4)]
        assert kept == [False, True, True, True]
        assert origin.seen == [GET * 4]


async def test_the_most_recently_used_comes_first() -> None:
    async with upstream(answer) as origin, client(origin.port, connections=3) as pool:
        exchanges = [await pool.begin() for _ in range(3)]
        for exchange in exchanges:
            await exchange.send(GET, b"")
            await exchange.settle(100)
        for at in (1, 2, 0):
            exchanges[at].release()
        connections = [exchange._connection for exchange in exchanges]
        again = [await pool.begin() for _ in range(3)]
        assert [exchange._connection for exchange in again] == [connections[0], connections[2], connections[1]]
        for exchange in again:
            exchange.release()
        assert len(origin.visits) == 3


async def test_a_fresh_connection_can_be_asked_for() -> None:
    async with upstream(answer) as origin, client(origin.port, connections=2) as pool:
        await ask(pool)
        assert not (await ask(pool, fresh=True)).kept
        assert origin.seen == [GET, GET]


@pytest.mark.parametrize(
    "last",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, world",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nmore",
    ],
)
async def test_some_connections_are_not_kept(last: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(last)
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port) as pool:
        await ask(pool)
        await origin.visit.gone.wait()
        await ask(pool)
        assert origin.seen == [GET, GET]


async def test_bytes_after_an_answer_end_the_rest() -> None:
    async with upstream(answer) as origin, client(origin.port) as pool:
        await ask(pool)
        await origin.visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
        await origin.visit.gone.wait()
        await ask(pool)
        assert origin.seen == [GET, GET]


async def test_bytes_that_lie_unread_make_a_connection_stale() -> None:
    async with upstream(answer) as origin, client(origin.port) as pool:
        await ask(pool)
        origin.visit._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
        assert not (await ask(pool)).kept
        assert origin.seen == [GET, GET]


async def test_a_connection_rests_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_LIMIT", 0.01)
    async with upstream(answer) as origin, client(origin.port) as pool:
        await ask(pool)
        await origin.visit.gone.wait()
        await ask(pool)
        assert origin.seen == [GET, GET]


def test_a_connection_rests_shorter_than_upstreams_load_balancer_lets_it() -> None:
    assert pool_module.IDLE_LIMIT < 60


async def test_a_connection_that_upstream_closed_is_replaced() -> None:
    async with upstream(answer) as origin, client(origin.port) as pool:
        await ask(pool)
        origin.visit.close()
        await origin.visit.gone.wait()
        assert not (await ask(pool)).kept
        assert origin.seen == [GET, GET]


async def test_a_connection_that_upstream_has_just_closed_is_replaced() -> None:
    async with upstream(answer) as origin, client(origin.port) as pool:
        await ask(pool)
        origin.visit.end_unnoticed()
        assert not (await ask(pool)).kept
        assert origin.seen == [GET, GET]


async def test_every_stale_connection_is_passed_over() -> None:
    async with upstream(answer) as origin, client(origin.port, connections=3) as pool:
        exchanges = [await pool.begin() for _ in range(3)]
        for exchange in exchanges:
            await exchange.send(GET, b"")
            await exchange.settle(100)
            exchange.release()
        for visit in origin.visits:
            visit.end_unnoticed()
        assert not (await ask(pool)).kept
        assert origin.seen == [GET] * 4


async def test_closed_connections_do_not_pile_up() -> None:
    async with upstream(answer) as origin, client(origin.port, connections=4) as pool:
        exchanges = [await pool.begin() for _ in range(4)]
        for exchange in exchanges:
            await exchange.send(GET, b"")
            await exchange.settle(100)
        for exchange in exchanges[:3]:
            exchange.release()
        for visit in origin.visits[:3]:
            visit.close()
            await visit.gone.wait()
        while not all(exchange._connection.closed for exchange in exchanges[:3]):  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0)
        exchanges[3].release()
        assert [connection.closed for connection in pool._idle] == [False]


async def test_a_kept_connection_that_is_lost_is_not_tried_again() -> None:
    """What was written may have been read: who asked decides what to make of it."""

    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(OK)
        await visit.head()
        visit.close()

    async with upstream(script) as origin, client(origin.port) as pool:
        await ask(pool)
        with releasing(await pool.begin()) as exchange:
            with pytest.raises(ConnectionLost) as error:
                await exchange.send(GET, b"")
            assert exchange.kept
            assert not exchange.response.heard
        assert error.value.outcome is Outcome.UNKNOWN
        assert origin.seen == [GET * 2]


async def test_closing_ends_what_rests_and_what_is_under_way() -> None:
    async def script(visit: Visit) -> None:
        if len(origin.visits) == 1:
            await answer(visit)
        await visit.head()
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port, connections=2) as pool:
        first, second = await pool.begin(), await pool.begin()
        await first.send(GET, b"")
        await first.settle(100)
        first.release()
        waiting = asyncio.create_task(second.send(GET, b""))
        while len(origin.seen[1]) < len(GET):  # noqa: ASYNC110 - a server has no event for what it has read
            await asyncio.sleep(0)
        pool.close()
        with pytest.raises(ConnectionLost, match="the sidecar stopped"):
            await waiting
        second.release()
        for visit in origin.visits:
            await visit.gone.wait()


async def test_a_closed_pool_opens_no_connection() -> None:
    async with upstream(answer) as origin, client(origin.port) as pool:
        await ask(pool)
        pool.close()
        with pytest.raises(Draining) as error:
            await pool.begin()
        assert error.value.outcome is Outcome.NOT_SENT
        assert len(origin.visits) == 1


async def test_a_connection_that_is_there_only_when_the_pool_has_closed_carries_nothing() -> None:
    async with upstream(answer) as origin, client(origin.port) as pool:
        dial, dialled, go_on = pool._dial, asyncio.Event(), asyncio.Event()

        async def slowly(make: Callable[[], Connection]) -> Connection:
            connection = await dial(make)
            dialled.set()
            await go_on.wait()
            return connection

        pool._dial = cast("Dialler", slowly)
        beginning = asyncio.create_task(pool.begin())
        await dialled.wait()
        pool.close()
        go_on.set()
        with pytest.raises(Draining):
            await beginning
        await origin.visit.gone.wait()
        assert origin.seen == [b""]


# --- What became of them ----------------------------------------------------------------------------------------------


def ended(pool: Pool) -> dict[str, int]:
    return {cause: number for cause, number in pool.reading().closed.items() if number}


async def test_connections_are_counted() -> None:
    async with upstream(answer) as origin, client(origin.port, connections=3) as pool:
        assert pool.reading() == PoolReading(0, 0, 3, 0, 0, dict.fromkeys(CAUSES, 0))
        for _ in range(3):
            await ask(pool)
        with releasing(await pool.begin()), releasing(await pool.begin()):
            assert pool.reading() == PoolReading(0, 2, 3, 2, 3, dict.fromkeys(CAUSES, 0))
        assert pool.reading()[:2] == (2, 0)


async def test_one_that_upstream_closed_between_two_exchanges() -> None:
    async with upstream(answer) as origin, client(origin.port) as pool:
        await ask(pool)
        origin.visit.end_unnoticed()
        await ask(pool)
        assert ended(pool) == {"upstream": 1}
        assert pool.reading().reused == 0


async def test_one_of_which_upstream_says_that_it_closes() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")

    async with upstream(script) as origin, client(origin.port) as pool:
        await ask(pool)
        assert ended(pool) == {"upstream": 1}
        assert pool.reading().idle == 0


async def test_one_that_rested_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_LIMIT", 0.01)
    async with upstream(answer) as origin, client(origin.port) as pool:
        await ask(pool)
        await origin.visit.gone.wait()
        assert ended(pool) == {"idle": 1}
        assert pool.reading().idle == 0


async def test_one_that_was_lost_under_way() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.close()

    async with upstream(script) as origin, client(origin.port) as pool:
        with pytest.raises(ConnectionLost):
            await ask(pool)
        assert ended(pool) == {"failed": 1}


async def test_one_whose_answer_did_not_come_in_time() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port, limits=Limits(response=0.01)) as pool:
        with pytest.raises(AnswerTimedOut):
            await ask(pool)
        assert ended(pool) == {"failed": 1}


async def test_one_whose_answer_nobody_read_to_its_end() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel")
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(GET, b"")
        assert ended(pool) == {"abandoned": 1}


async def test_one_whose_request_was_not_sent_to_its_end() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"hel"
        raise ValueError

    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.gone.wait()

    async with upstream(script) as origin, client(origin.port) as pool:
        with releasing(await pool.begin()) as exchange, pytest.raises(ConnectionLost):
            await exchange.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", broken())
        assert ended(pool) == {"abandoned": 1}


async def test_one_that_ended_with_the_sidecar() -> None:
    async with upstream(answer) as origin, client(origin.port) as pool:
        await ask(pool)
        pool.close()
        assert ended(pool) == {"stopped": 1}


# --- No more than may be ----------------------------------------------------------------------------------------------


async def test_as_many_at_once_as_may_be() -> None:
    async with upstream(answer) as origin, client(origin.port, connections=4, waiting=100) as pool:
        most, all_four = 0, asyncio.Barrier(4)

        async def one() -> None:
            nonlocal most
            with releasing(await pool.begin()) as exchange:
                await all_four.wait()
                most = max(most, len(pool._busy))
                await exchange.send(GET, b"")
                assert await read_all(exchange) == b"hello"

        await asyncio.gather(*(one() for _ in range(100)))
        assert most == 4
        assert len(origin.visits) == 4
        assert sum(seen.count(GET) for seen in origin.seen) == 100


async def test_the_next_waits_until_there_is_room() -> None:
    async with upstream(answer) as origin, client(origin.port, connections=2, waiting=1) as pool:
        first, second = await pool.begin(), await pool.begin()
        third = asyncio.create_task(pool.begin())
        await asyncio.sleep(0)
        assert pool._waiting.taken == 1
        with pytest.raises(Overloaded, match=r"^1 requests are waiting already$") as error:
            await pool.begin()
        assert error.value.outcome is Outcome.NOT_SENT
        assert error.value.retry_after == 1.0
        assert not third.done()
        second.release()
        (await third).release()
        assert pool._waiting.taken == 0
        first.release()
        assert len(origin.visits) == 2


async def test_who_came_first_is_served_first() -> None:
    async with upstream(answer) as origin, client(origin.port, waiting=10) as pool:
        served: list[int] = []

        async def one(number: int) -> None:
            with releasing(await pool.begin()):
                served.append(number)

        with releasing(await pool.begin()):
            tasks = [asyncio.create_task(one(number)) for number in range(10)]
            await asyncio.sleep(0)
            assert pool._waiting.taken == 10
        late = asyncio.create_task(one(10))
        await asyncio.gather(*tasks, late)
        assert served == list(range(11))
        assert len(origin.visits) == 1


async def test_a_failed_exchange_makes_room() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.close()

    async with upstream(script) as origin, client(origin.port, waiting=1) as pool:
        first = await pool.begin()
        second = asyncio.create_task(pool.begin())
        with pytest.raises(ConnectionLost):
            await first.send(GET, b"")
        assert not second.done()
        first.release()
        (await second).release()
        assert len(origin.visits) == 2


# --- Cancelling -------------------------------------------------------------------------------------------------------


async def use_all(pool: Pool, connections: int) -> None:
    """Show that as many exchanges at once as ever are possible."""
    exchanges = [await pool.begin() for _ in range(connections)]
    for exchange in exchanges:
        await exchange.send(GET, b"")
        assert await read_all(exchange) == b"hello"
    for exchange in exchanges:
        exchange.release()
    assert_free(pool, connections)


async def test_cancelling_one_that_waits_for_room() -> None:
    async with upstream(answer) as origin, client(origin.port, connections=2, waiting=2) as pool:
        held = [await pool.begin() for _ in range(2)]
        leaving, staying = (asyncio.create_task(pool.begin()) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert pool._waiting.taken == 1
        held[0].release()
        (await staying).release()
        held[1].release()
        await use_all(pool, 2)


async def test_cancelling_one_that_has_just_been_given_room() -> None:
    async with upstream(answer) as origin, client(origin.port, waiting=2) as pool:
        held = await pool.begin()
        leaving, staying = (asyncio.create_task(pool.begin()) for _ in range(2))
        await asyncio.sleep(0)
        held.release()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        (await staying).release()
        await use_all(pool, 1)


async def test_cancelling_one_that_waits_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(answer) as origin, client(origin.port) as pool:
        asked = asyncio.Event()

        async def getaddrinfo(*_: object, **__: object) -> None:
            asked.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as patch:
            patch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
            beginning = asyncio.create_task(pool.begin())
            await asked.wait()
            beginning.cancel()
            with pytest.raises(asyncio.CancelledError):
                await beginning
        await use_all(pool, 1)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("streaming", [True, False])
async def test_cancelling_at_any_moment_costs_nothing(  # noqa: C901 - a small world of its own
    monkeypatch: pytest.MonkeyPatch, kept: bool, streaming: bool
) -> None:
    monkeypatch.setattr(connection_module, "_ONE_WRITE", 1000)
    body = b"x" * 5000
    head = b"POST /api/nfe HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)

    async def script(visit: Visit) -> None:
        while True:
            if (await visit.head()).startswith(b"POST"):
                await visit.take(len(body))
                await visit.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
                await asyncio.sleep(0)
                await visit.say(b"0\r\n\r\n")
            else:
                await visit.say(OK)

    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            await asyncio.sleep(0)
            yield body[start : start + 1000]

    async def exchange_once() -> None:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(head, stream() if streaming else body)
            assert await read_all(exchange) == b"hello"

    async with upstream(script) as origin, client(origin.port, connections=2, waiting=2) as pool:
        addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", origin.port))]

        async def getaddrinfo(*_: object, **__: object) -> object:
            await asyncio.sleep(0)
            return addresses

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        for steps in itertools.count():
            if kept:
                await use_all(pool, 2)
            while pool._idle and not kept:
                pool._idle.pop().close("idle")
            before = list(origin.visits)
            task = asyncio.create_task(exchange_once())
            for _ in range(steps):
                await asyncio.sleep(0)
            if task.done():
                await task
                break
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert_free(pool, 2)
            # A connection whose answer was whole rests; any other is closed.
            resting = {connection._transport.get_extra_info("sockname") for connection in pool._idle}
            for visit in origin.visits:
                if visit not in before and visit.peer not in resting:
                    await visit.gone.wait()
        assert steps > 5
        await use_all(pool, 2)
        whole = sum(seen.count(head) for seen in origin.seen)
        assert whole <= steps + 1


async def test_cancelling_while_the_body_of_the_answer_comes() -> None:
    async def script(visit: Visit) -> None:
        if len(origin.visits) > 1:
            await answer(visit)
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
        await visit.gone.wait()

    async def exchange_once() -> None:
        with releasing(await pool.begin()) as exchange:
            await exchange.send(GET, b"")
            assert await exchange.read() == b"hello"
            reading.set()
            await exchange.read()

    async with upstream(script) as origin, client(origin.port) as pool:
        reading = asyncio.Event()
        task = asyncio.create_task(exchange_once())
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await origin.visit.gone.wait()
        await use_all(pool, 1)
