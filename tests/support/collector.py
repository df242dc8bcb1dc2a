"""A collector of OpenTelemetry on loopback: it reads spans by OTLP over HTTP, and forgets no byte."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Wire
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@dataclass(frozen=True)
class Span:
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    state: str
    about: dict[str, Any]
    failed: bool
    message: str
    links: list[str]
    began: int
    ended: int
    of: dict[str, Any]
    """What is said of the program."""


class Collector:
    """What arrived."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        """How exports are answered."""
        self.raw: list[bytes] = []
        self.fields: list[dict[str, str]] = []
        """The header section of each export, by names in lower case."""
        self._spans: list[Span] = []
        self._news = threading.Condition()

    def take(self, path: str, fields: dict[str, str], body: bytes) -> None:
        with self._news:
            self.raw.append(body)
            self.fields.append(fields)
            if (path, fields.get("content-type")) == ("/v1/traces", "application/x-protobuf"):
                self._spans += spans_in(body)
            self._news.notify_all()

    def now(self) -> list[Span]:
        with self._news:
            return list(self._spans)

    async def spans(self, number: int, of: Callable[[Span], bool] = lambda _: True) -> list[Span]:
        """Wait until there are so many spans of a kind, and return them in the order in which they began."""

        def there() -> list[Span]:
            return [span for span in self._spans if of(span)]

        def wait() -> list[Span]:
            with self._news:
                assert self._news.wait_for(lambda: len(there()) >= number, PATIENCE), self._spans
                return there()

        return sorted(await asyncio.to_thread(wait), key=lambda span: span.began)

    async def exported(self) -> None:
        """Wait until an export has come, however it was answered."""

        def wait() -> None:
            with self._news:
                assert self._news.wait_for(lambda: self.raw, PATIENCE)

        await asyncio.to_thread(wait)


def spans_in(body: bytes) -> Iterator[Span]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    span.name,
                    Wire.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.trace_state,
                    values(span.attributes),
                    span.status.code == Status.STATUS_CODE_ERROR,
                    span.status.message,
                    [link.span_id.hex() for link in span.links],
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    values(resource.resource.attributes),
                )


def values(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextlib.contextmanager
def collector(*, mute: bool = False) -> Iterator[Collector]:
    """Run one, in a thread of its own, since a test that ends a process waits for it; a mute one answers nothing."""
    made, over = Collector(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.take(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            if mute:
                over.wait()
            with contextlib.suppress(ConnectionError):
                self.send_response(made.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield made
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
