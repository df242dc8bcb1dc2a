from __future__ import annotations

import asyncio

import pytest

from proxy.errors import Outcome, Overloaded
from proxy.waiting import WaitingRoom


def test_a_place_is_given_back() -> None:
    room = WaitingRoom(1)
    for _ in range(2):
        assert room.taken == 0
        with room:
            assert room.taken == 1
    assert room.taken == 0


def test_a_full_room_takes_nobody() -> None:
    room = WaitingRoom(2)
    with room, room:
        with pytest.raises(Overloaded, match=r"^2 requests are waiting already$") as error, room:
            pytest.fail("there was no place")
        assert error.value.outcome is Outcome.NOT_SENT
        assert error.value.status == 503
        assert error.value.retry_after == 1.0
        assert room.taken == 2
    assert room.taken == 0


def test_a_room_without_places() -> None:
    with pytest.raises(Overloaded), WaitingRoom(0):
        pytest.fail("there was no place")


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError, KeyboardInterrupt])
def test_a_place_is_given_back_whatever_happens(error: type[BaseException]) -> None:
    room = WaitingRoom(1)
    with pytest.raises(error), room:
        raise error
    assert room.taken == 0


async def test_who_leaves_makes_room() -> None:
    room = WaitingRoom(1)

    async def wait() -> None:
        with room:
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert room.taken == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with room:
        assert room.taken == 1
