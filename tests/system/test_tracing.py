"""Spans of a real sidecar, as a collector gets them; and what becomes of `traceparent`, with and without."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from proxy import __version__
from proxy.fake import PASSWORD
from tests.support.canary import Canaries
from tests.support.collector import Collector, Span, collector
from tests.support.config import written
from tests.support.origin import upstream
from tests.support.processes import Fake, Sidecar, sidecar
from tests.support.wire import BrokenOff, ask, connect, send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.support.origin import Visit

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
BODY = b'{"cnpj":"12345678000195","modelo":"55","serie":"1","numero":"1"}'


BOUND = 10.0
"""Seconds for a process to end in, with what it takes to end otherwise; OpenTelemetry's own bound is 30."""


def to(there: Collector) -> dict[str, str]:
    """The variables that have spans sent there, soon."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": there.url, "OTEL_BSP_SCHEDULE_DELAY": "20"}


def traced(url: str, there: Collector, *arguments: str, **settings: str) -> AbstractContextManager[Sidecar]:
    """A sidecar that does."""
    return sidecar(url, *arguments, **to(there) | settings)


@pytest.fixture
def there() -> Iterator[Collector]:
    with collector() as running:
        yield running


def is_server(span: Span) -> bool:
    return span.kind == "SERVER"


def is_exchange(span: Span) -> bool:
    return span.kind == "CLIENT" and "invoisys.login.reason" not in span.about


def is_login(span: Span) -> bool:
    return "invoisys.login.reason" in span.about


def about(span: Span, *left_out: str) -> dict[str, object]:
    """What a span says, but for what differs from run to run."""
    return {name: value for name, value in span.about.items() if name not in left_out and not name.endswith("_ms")}


# --- The fields of a request ------------------------------------------------------------------------------------------


async def no_content(visit: Visit) -> None:
    while True:
        await visit.head()
        await visit.say(b"HTTP/1.1 204 No Content\r\n\r\n")


REQUEST = (
    "GET /api/nfe/x HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nTraceParent: {}\r\ntracestate: a=1\r\n"
    "X-One: 1\r\nTRACESTATE: b=2\r\n\r\n"
)


@contextlib.asynccontextmanager
async def origin_seen(request: str, fake: Fake, **settings: str) -> AsyncIterator[Callable[[], bytes]]:
    """Send a request by a sidecar; give what upstream has read of it, but for what the sidecar says itself."""
    async with upstream(no_content) as origin:
        with sidecar(fake.url, API_2_0_URL=f"http://127.0.0.1:{origin.port}", **settings) as proxy:
            assert (await send(proxy.url, request.encode())).status == 204
            lines = bytes(origin.visit.seen).split(b"\r\n")
            yield lambda: b"\r\n".join(line for line in lines if not line.startswith((b"Host: ", b"Authorization: ")))


@pytest.mark.parametrize("value", [TRACEPARENT, "nonsense"])
async def test_without_tracing_everything_passes_untouched(fake: Fake, value: str) -> None:
    request = REQUEST.format(value)
    async with origin_seen(request, fake) as seen:
        assert seen() == request.replace("Host: localhost\r\n", "").encode()


async def test_the_context_of_the_exchange_goes_upstream_and_nothing_else_changes(fake: Fake, there: Collector) -> None:
    request = REQUEST.format(TRACEPARENT)
    async with origin_seen(request, fake, **to(there)) as seen:
        (exchange,) = await there.spans(1, is_exchange)
        (server,) = await there.spans(1, is_server)
    assert (server.trace, server.parent, server.state) == (TRACE, PARENT, "a=1,b=2")
    assert (exchange.trace, exchange.parent, exchange.state) == (TRACE, server.id, "a=1,b=2")
    wanted = request.replace("Host: localhost\r\n", "").replace(f"TraceParent: {TRACEPARENT}\r\n", "")
    added = f"traceparent: 00-{TRACE}-{exchange.id}-01\r\n\r\n"
    assert seen().decode() == wanted.removesuffix("\r\n") + added


@pytest.mark.parametrize("value", ["nonsense", f"{TRACEPARENT}\r\ntraceparent: {TRACEPARENT}", "0" * 600])
async def test_a_context_that_cannot_be_read_goes_with_what_belongs_to_it(
    fake: Fake, there: Collector, value: str
) -> None:
    async with origin_seen(REQUEST.format(value), fake, **to(there)) as seen:
        (exchange,) = await there.spans(1, is_exchange)
        (server,) = await there.spans(1, is_server)
    assert (server.parent, server.state) == ("", "")
    assert server.trace != TRACE
    own = f"traceparent: 00-{server.trace}-{exchange.id}-0"
    assert seen().decode().startswith(f"GET /api/nfe/x HTTP/1.1\r\nAccept: */*\r\nX-One: 1\r\n{own}")


async def test_a_request_that_is_not_sampled_says_so_to_upstream(fake: Fake, there: Collector) -> None:
    request = REQUEST.format(TRACEPARENT.removesuffix("1") + "0")
    async with origin_seen(request, fake, **to(there)) as seen:
        await there.spans(1, is_login)
    parent = re.search(rf"traceparent: 00-{TRACE}-(\w+)-00\r\n", seen().decode())
    assert parent is not None
    assert parent[1] != PARENT
    assert [span for span in there.now() if not is_login(span)] == []


# --- What the spans say -----------------------------------------------------------------------------------------------


async def test_a_request_is_one_span_and_its_exchange_another(fake: Fake, there: Collector) -> None:
    with traced(fake.url, there, OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test") as proxy:
        await fake.reached(logins_granted=1)
        reply = await proxy.ask("POST", "/api/nfe/envio?chave=segredo", BODY)
        assert reply.status == 200
        (server,) = await there.spans(1, is_server)
        (exchange,) = await there.spans(1, is_exchange)
    line = next(event for event in proxy.process.events if event["event"] == "request")
    assert about(server) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/api/nfe/envio",
        "url.query": "chave=***",
        "server.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "invoisys.request_id": line["request_id"],
        "invoisys.listener": "127.0.0.1:0",
        "invoisys.api": "2.0",
        "invoisys.outcome": "answered",
    }
    assert about(exchange) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.full": f"{fake.url}/api/nfe/envio?chave=***",
        "server.address": "127.0.0.1",
        "server.port": int(fake.url.rpartition(":")[2]),
        "network.protocol.version": "1.1",
        "invoisys.api": "2.0",
        "invoisys.outcome": "answered",
    }
    assert (server.name, exchange.name) == ("POST", "POST")
    assert (server.parent, exchange.parent, exchange.trace) == ("", server.id, server.trace)
    assert not server.failed
    assert not exchange.failed
    assert server.began <= exchange.began < exchange.ended <= server.ended
    assert server.of["service.name"] == "invoisys-proxy"
    assert server.of["service.version"] == __version__
    assert server.of["deployment.environment.name"] == "test"


async def test_a_replay_has_two_exchanges(fake: Fake, there: Collector) -> None:
    with traced(fake.url, there, OTEL_SERVICE_NAME="erp-sidecar") as proxy:
        await fake.reached(logins_granted=1)
        await fake.do("revoke")
        await fake.do("logins", mode="slow", delay=0.1, times=1)
        assert (await proxy.issue(1)).status == 200
        first, second = await there.spans(2, is_exchange)
        (server,) = await there.spans(1, is_server)
        _, login = await there.spans(2, is_login)
    assert {first.parent, second.parent} == {server.id}
    assert (first.about["http.response.status_code"], first.about["error.type"], first.failed) == (401, "401", True)
    assert "http.request.resend_count" not in first.about
    assert (second.about["http.response.status_code"], second.about["http.request.resend_count"]) == (200, 1)
    assert not second.failed
    assert (server.about["invoisys.replay"], server.failed) == ("replayed", False)
    assert (login.about["invoisys.login.reason"], server.links) == ("rejected", [login.id])
    assert first.ended <= login.began < login.ended <= second.began
    assert server.of["service.name"] == "erp-sidecar"


async def test_a_login_is_a_trace_of_its_own_that_those_who_waited_name(fake: Fake, there: Collector) -> None:
    await fake.do("logins", mode="slow", delay=0.5, times=1)
    with traced(fake.url, there) as proxy:
        await fake.reached(logins=1)
        assert [reply.status for reply in await asyncio.gather(proxy.issue(1), proxy.issue(2))] == [200, 200]
        assert (await proxy.issue(3)).status == 200
        first, second, third = await there.spans(3, is_server)
        (login,) = await there.spans(1, is_login)
    assert about(login) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.full": f"{fake.url}/api/token",
        "server.address": "127.0.0.1",
        "server.port": int(fake.url.rpartition(":")[2]),
        "invoisys.account": "default",
        "invoisys.api": "2.0",
        "invoisys.login.reason": "first",
    }
    assert (login.name, login.kind, login.parent, login.failed) == ("POST /api/token", "CLIENT", "", False)
    assert login.trace not in {first.trace, second.trace, third.trace}
    assert (first.links, second.links, third.links) == ([login.id], [login.id], [])


async def test_a_login_that_fails_says_why(fake: Fake, there: Collector) -> None:
    await fake.do("logins", mode="refuse")
    with traced(fake.url, there) as proxy:
        await fake.reached(logins_refused=1)
        assert (await proxy.issue(1)).status == 503
        (login,) = await there.spans(1, is_login)
        (server,) = await there.spans(1, is_server)
    assert (login.about["error.type"], login.about["http.response.status_code"]) == ("credentials-refused", 400)
    assert (login.failed, login.message.startswith("Invoisys refused the credentials")) == (True, True)
    assert (server.about["error.type"], server.about["http.response.status_code"]) == ("credentials-refused", 503)
    assert (server.about["invoisys.outcome"], server.about["invoisys.own"], server.failed) == ("not-sent", True, True)
    assert [span for span in there.now() if is_exchange(span)] == []


async def test_a_login_that_is_not_answered_says_why(fake: Fake, there: Collector) -> None:
    await fake.do("logins", mode="cut", times=1)
    with traced(fake.url, there):
        (login,) = await there.spans(1, is_login)
    assert (login.about["error.type"], login.failed) == ("login-unreachable", True)
    assert "http.response.status_code" not in login.about


async def test_an_exchange_that_brings_no_answer(fake: Fake, there: Collector) -> None:
    with traced(fake.url, there) as proxy:
        await fake.reached(logins_granted=1)
        await fake.do("answers", mode="cut-before", times=1)
        assert (await proxy.issue(1)).status == 502
        (exchange,) = await there.spans(1, is_exchange)
        (server,) = await there.spans(1, is_server)
    for span in (exchange, server):
        assert (span.about["error.type"], span.about["invoisys.outcome"]) == ("connection-lost", "unknown")
        assert span.failed
    assert "http.response.status_code" not in exchange.about
    assert server.about["http.response.status_code"] == 502


async def test_an_answer_that_breaks_off_fails_the_request(fake: Fake, there: Collector) -> None:
    with traced(fake.url, there) as proxy:
        await fake.reached(logins_granted=1)
        await fake.do("answers", mode="cut-during", framing="length", times=1)
        with pytest.raises(BrokenOff):
            await proxy.issue(1)
        (server,) = await there.spans(1, is_server)
        (exchange,) = await there.spans(1, is_exchange)
    assert (server.about["error.type"], server.about["http.response.status_code"]) == ("connection-lost", 200)
    assert server.failed
    assert not exchange.failed  # the head of its answer came


async def test_what_invoisys_answers_is_told_as_it_is(fake: Fake, there: Collector) -> None:
    with traced(fake.url, there) as proxy:
        await fake.reached(logins_granted=1)
        assert (await proxy.ask("GET", "/api/nothing")).status == 404
        await fake.do("answers", mode="error", times=1)
        assert (await proxy.issue(1)).status == 500
        missing, failed = await there.spans(2, is_server)
        exchanges = await there.spans(2, is_exchange)
    assert [span.about["error.type"] for span in exchanges] == ["404", "500"]
    assert (missing.failed, "error.type" in missing.about) == (False, False)
    assert (failed.failed, failed.about["error.type"]) == (True, "500")


async def test_what_does_not_pass_has_no_exchange(fake: Fake, there: Collector) -> None:
    with traced(fake.url, there) as proxy:
        assert (await proxy.ask("PROPFIND", "/none/of/ours")).status == 404
        (server,) = await there.spans(1, is_server)
    assert (server.name, server.failed) == ("HTTP", False)  # what a caller does wrong is no failure of the server
    assert server.about["http.request.method"] == "_OTHER"
    assert server.about["http.request.method_original"] == "PROPFIND"
    assert (server.about["invoisys.error"], server.about["invoisys.outcome"]) == ("no-such-api", "not-sent")
    assert [span for span in there.now() if is_exchange(span)] == []


async def test_the_exchange_outlives_a_caller_that_leaves(fake: Fake, there: Collector) -> None:
    await fake.do("answers", mode="slow", delay=0.5, times=1)
    with traced(fake.url, there) as proxy:
        await fake.reached(logins_granted=1)
        _, writer = await connect(proxy.url)
        head = b"POST /api/nfe/envio HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        writer.write(head + BODY)
        await fake.reached(requests=1)
        writer.close()
        (server,) = await there.spans(1, is_server)
        (exchange,) = await there.spans(1, is_exchange)
    assert (server.about["error.type"], server.about["invoisys.outcome"], server.failed) == (
        "caller-gone",
        "unknown",
        True,
    )
    assert "http.response.status_code" not in server.about
    assert (exchange.about["http.response.status_code"], exchange.about["invoisys.outcome"]) == (200, "answered")
    assert server.ended < exchange.ended
    assert exchange.parent == server.id


async def test_a_new_configuration_is_traced_as_the_one_before(fake: Fake, there: Collector, tmp_path: Path) -> None:
    config = written(tmp_path, timeouts={"response": "60s"})
    with traced(fake.url, there, "-c", config) as proxy:
        assert (await proxy.issue(1)).status == 200
        written(tmp_path, timeouts={"response": "50s"})  # new connections, and another refresher
        proxy.process.signal(signal.SIGHUP)
        await asyncio.to_thread(proxy.process.event, "reloaded")
        assert (await proxy.issue(2)).status == 200
        assert (await ask(proxy.admin, "POST", "/refresh", b"")).status == 200
        await there.spans(2, is_server)
        await there.spans(2, is_exchange)
        _, asked_for = await there.spans(2, is_login)
    assert asked_for.about["invoisys.login.reason"] == "asked"


async def test_no_span_holds_a_secret_or_a_document(fake: Fake, there: Collector, tmp_path: Path) -> None:
    key, segment = "Basic a2V5LW9mLXRoZS1jb2xsZWN0b3I=", "Q2FuYXJ5T2ZBUGF0aFNlZ21lbnQ0Mg"
    kept = tmp_path / "own" / "tokens.json"
    config = written(tmp_path, tokens={"store": f"file:{kept}"})
    hidden = {
        "query": "canary-of-the-query",
        "document": "canary-of-the-document",
        "field": "canary-of-a-field",
        "cookie": "canary-of-a-cookie",
        "erp": "canary-of-the-erp",
    }
    with traced(fake.url, there, "-c", config, OTEL_EXPORTER_OTLP_HEADERS=f"authorization={key}") as proxy:
        await fake.reached(logins_granted=1)
        fields = {"X-Key": hidden["field"], "Cookie": hidden["cookie"], "Authorization": f"Bearer {hidden['erp']}"}
        path = f"/api/nfe/envio/{segment}?chave={hidden['query']}"
        await proxy.ask("POST", path, hidden["document"].encode(), fields)
        tokens = token_in(kept)
        await fake.do("revoke")
        assert (await proxy.issue(1)).status == 200
        tokens |= token_in(kept)
        await fake.do("logins", mode="refuse")
        await proxy.ask("POST", "/api/nfe/envio", BODY)
        await ask(proxy.admin, "POST", "/refresh", b"")
        await there.spans(3, is_login)
        await there.spans(3, is_server)
        await there.spans(4, is_exchange)
    assert len(tokens) == 2
    secrets = {f"token{number}": token for number, token in enumerate(tokens)}
    Canaries(password=PASSWORD * 2, key=key, segment=segment, **hidden, **secrets).assert_absent(
        {f"export {number}": raw for number, raw in enumerate(there.raw)}
    )
    assert all(PASSWORD.encode() not in raw for raw in there.raw)
    assert {fields["authorization"] for fields in there.fields} == {key}
    assert Canaries(key=key).found_in("".join(proxy.process.lines).encode()) == []


def token_in(kept: Path) -> set[str]:
    """The token in the file of a store."""
    (token,) = re.findall(r"[\w-]{64,}", json.dumps(list(json.loads(kept.read_text())["tokens"].values())))
    return {token}


# --- A collector in trouble -------------------------------------------------------------------------------------------


def nobody() -> str:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{reserved.getsockname()[1]}"


async def test_requests_are_not_touched_by_a_collector_that_is_not_there(fake: Fake) -> None:
    out = {"OTEL_EXPORTER_OTLP_ENDPOINT": nobody(), "OTEL_BSP_SCHEDULE_DELAY": "20"}
    with sidecar(fake.url, **out) as proxy:
        assert [(await proxy.issue(number)).status for number in range(20)] == [200] * 20
        told = await asyncio.to_thread(proxy.process.event, "tracing-trouble")
        began = time.monotonic()
        assert proxy.process.stop() == 0
        took = time.monotonic() - began
    assert "ConnectionError" in told["message"]
    assert told["next_step"].startswith("See whether the collector runs")
    assert took < BOUND
    assert len([event for event in proxy.process.events if event["event"] == "tracing-trouble"]) < 10
    assert "Traceback" not in proxy.process.errors


async def test_a_collector_that_answers_nothing_does_not_keep_the_sidecar(fake: Fake) -> None:
    with collector(mute=True) as mute, traced(fake.url, mute) as proxy:
        assert [(await proxy.issue(number)).status for number in range(20)] == [200] * 20
        await mute.exported()
        began = time.monotonic()
        assert proxy.process.stop() == 0
        assert time.monotonic() - began < BOUND
    assert proxy.process.errors == ""


async def test_a_collector_that_refuses_is_told_of(fake: Fake, there: Collector) -> None:
    there.status = 401
    with traced(fake.url, there) as proxy:
        assert (await proxy.issue(1)).status == 200
        told = await asyncio.to_thread(proxy.process.event, "tracing-trouble")
    assert "code: 401, reason: Unauthorized" in told["message"]


async def test_the_last_spans_are_sent_before_the_end(fake: Fake, there: Collector) -> None:
    with traced(fake.url, there, OTEL_BSP_SCHEDULE_DELAY="3600000") as proxy:
        assert (await proxy.issue(1)).status == 200
        assert there.now() == []
        assert proxy.process.stop() == 0
    assert sorted(span.kind for span in there.now()) == ["CLIENT", "CLIENT", "SERVER"]


# --- The switch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}], ids=lambda off: next(iter(off))
)
async def test_what_is_switched_off_makes_no_spans(fake: Fake, there: Collector, off: dict[str, str]) -> None:
    async with origin_seen(REQUEST.format(TRACEPARENT), fake, **to(there), **off) as seen:
        assert f"TraceParent: {TRACEPARENT}\r\n".encode() in seen()
    assert there.raw == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: expected otlp or none, found 'zipkin'"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "max_queue_size must be a positive integer"),
    ],
    ids=lambda wrong: next(iter(wrong)) if isinstance(wrong, dict) else "",
)
async def test_what_cannot_be_had_is_told_and_requests_are_served(
    fake: Fake, there: Collector, wrong: dict[str, str], said: str
) -> None:
    with traced(fake.url, there, **wrong) as proxy:
        assert (await proxy.issue(1)).status == 200
    (told,) = [event for event in proxy.process.events if event["event"] == "tracing-off"]
    assert said in told["message"]
    assert there.raw == []


async def test_without_the_extra_it_is_told_and_requests_are_served(
    fake: Fake, there: Collector, tmp_path: Path
) -> None:
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('not installed')")
    with traced(fake.url, there, PYTHONPATH=str(tmp_path)) as proxy:
        assert (await proxy.issue(1)).status == 200
    (told,) = [event for event in proxy.process.events if event["event"] == "tracing-off"]
    assert 'pip install "invoisys-proxy[otel]"' in told["message"]
    assert told["level"] == "warning"
