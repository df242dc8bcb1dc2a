"""What goes upstream, and what does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from proxy.config import Origin
from proxy.errors import InternalError, Outcome
from proxy.forward import Api, Echoes, Forward
from proxy.forward.call import Call
from proxy.forward.headers import Framing
from proxy.observe import RequestLine
from proxy.tokens import Token
from proxy.tokens.token import Moment
from proxy.upstream import Dialler, Pool
from proxy.waiting import WaitingRoom
from tests.support.origin import Limits, assert_free, upstream
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from proxy.tokens import Refresher
    from tests.support.origin import Visit

NOW = Moment(0.0, 0.0)
HERE = Origin("https", "one.example", 443)
THERE = Origin("https", "other.example", 443)


def token_for(audience: Origin | None) -> Token:
    return Token("a-token-of-some-length", 1, NOW, NOW, NOW, audience=audience)


def call(pool: Pool, audience: Origin | None) -> Call:
    refresher = cast("Refresher", SimpleNamespace(current=lambda: token_for(audience)))
    api = Api("2.0", "/api/", b"one.example", b"https://one.example", refresher, pool, Echoes("2.0"))
    request: Any = SimpleNamespace(
        method="GET", line=b"GET /api/x HTTP/1.1", fields=[(b"Host", b"localhost")], names=[b"host"]
    )
    body: Any = SimpleNamespace(framing=Framing(), wire=b"", replayable=True)
    return Call(request, api, body, RequestLine("id", "listener", "GET", "/api/x"))


async def answering(visit: Visit) -> None:
    await visit.head()
    await visit.say(b"HTTP/1.1 204 No Content\r\n\r\n")


async def test_a_token_goes_over_the_connections_of_its_own_server() -> None:
    async with upstream(answering) as origin:
        pool = Pool(Dialler("127.0.0.1", origin.port, None, PATIENCE), Limits(), 1, WaitingRoom(0), HERE)
        with call(pool, HERE) as right:
            await right.send(token_for(HERE))
            assert right.exchange.response.status == 204
        assert b"\r\nAuthorization: Bearer a-token-of-some-length\r\n" in origin.visit.seen
        pool.close()


@pytest.mark.parametrize("audience", [THERE, None], ids=["another", "none"])
async def test_a_token_of_another_server_is_not_sent(audience: Origin | None) -> None:
    async with upstream(answering) as origin:
        pool = Pool(Dialler("127.0.0.1", origin.port, None, PATIENCE), Limits(), 1, WaitingRoom(0), HERE)
        with call(pool, audience) as wrong:
            with pytest.raises(InternalError, match="another server"):
                await wrong.send(token_for(audience))
            assert not wrong.exchange.written
        assert_free(pool, 1)
        with call(pool, HERE) as right:  # on the same connection, which has seen nothing yet
            await right.send(token_for(HERE))
        assert origin.visit.seen.count(b"HTTP/1.1\r\n") == 1
        pool.close()


async def test_a_401_is_passed_on_where_the_sidecar_stops_before_the_request_is_sent_again() -> None:
    async def refusing(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async def renewed(_rejected: Token) -> Token:
        pool.close()
        return token_for(HERE)

    async with upstream(refusing) as origin:
        pool = Pool(Dialler("127.0.0.1", origin.port, None, PATIENCE), Limits(), 1, WaitingRoom(0), HERE)
        with call(pool, HERE) as rejected:
            cast("Any", rejected.api.refresher).renew = renewed
            await rejected.send(token_for(HERE))
            await Forward._replay(cast("Forward", None), rejected)
            assert rejected.exchange.response.status == 401
            assert (rejected.line.replay, rejected.line.replayed) == ("failed", False)
            assert rejected.line.outcome is Outcome.ANSWERED
