"""Spans by OpenTelemetry: one for each request, one for each exchange of it, one for each login.

Attributes have the names of the semantic conventions for HTTP, and beyond them those of our log behind `invoisys.`.
None holds anything that the log does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from proxy import __version__
from proxy.errors import LoginError
from proxy.tracing.trouble import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.trace import Span, SpanContext, Tracer

    from proxy.observe import RequestLine

    Attributes = dict[str, str | int | float | bool]

Field = tuple[bytes, bytes]
Given_contra = TypeVar("Given_contra", contravariant=True)
Got_co = TypeVar("Got_co", covariant=True)

_KNOWN = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_OTHER = "_OTHER"
"""How the conventions call every method that is not among the known."""

_CLIENT_ERROR = 400
_SERVER_ERROR = 500
_TOLD = ("request_id", "listener", "api", "outcome", "replay", "own", "resent", "waiting_ms", "login_ms")
"""What of a request's line a span has, behind `invoisys.`."""

_LONGEST_PARENT = 512
"""Bytes of a `traceparent`; a later version than ours may have more than 55."""

_w3c = TraceContextTextMapPropagator()


class LoginSpan(NamedTuple):
    """A login that has ended; the time is on the monotonic clock."""

    context: SpanContext
    ended: float


class Tracing:
    """Makes spans, and has them sent to a collector from a thread of its own; all of it set by `OTEL_…` variables."""

    def __init__(self) -> None:
        """Raises `ValueError` and `RuntimeError`, for a variable that cannot be used."""
        Trouble()
        self._provider = TracerProvider(
            resource=_resource(),
            shutdown_on_exit=False,  # `close` does so, and within bounds
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.tracer: Tracer = self._provider.get_tracer("invoisys-proxy", __version__)
        self.logins: dict[tuple[str, str | None], LoginSpan] = {}
        """The last, by account and API."""

    def listener(self, bind: str, account: str) -> ListenerTracing:
        """Return what traces the requests of a listener."""
        return ListenerTracing(self, bind, account)

    def login(
        self, login: Login[Given_contra, Got_co], of: tuple[str, str], url: str, reason: Callable[[], str]
    ) -> TracedLogin[Given_contra, Got_co]:
        """Return a login of an account to an API that makes a span each time; `reason` says why it is made."""
        return TracedLogin(self, login, of, url, reason)

    async def close(self, limit: float) -> None:
        """Send what is left, within `limit` seconds; what is not sent then is lost."""
        loop = asyncio.get_running_loop()
        sent = asyncio.Event()

        def send() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the event loop did not wait
                loop.call_soon_threadsafe(sent.set)

        threading.Thread(target=send, name="last spans", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await sent.wait()


class ListenerTracing:
    """Traces the requests of one listener."""

    def __init__(self, tracing: Tracing, bind: str, account: str) -> None:
        self.tracing = tracing
        self.account = account
        self._at = _address(bind if bind.startswith("unix:") else f"http://{bind}")

    def begin(self, line: RequestLine, fields: Sequence[Field], version: tuple[int, int]) -> RequestTrace:
        """Begin the span of a request, as a child of the caller's where the caller sends a `traceparent`."""
        path, _, query = line.path.partition("?")
        attributes: Attributes = {
            **_method(line.method),
            **self._at,
            "url.scheme": "http",
            "url.path": path,
            "network.protocol.version": "{}.{}".format(*version),
        }
        if query:
            attributes["url.query"] = query
        parent = _parent(fields)
        name = line.method if line.method in _KNOWN else "HTTP"
        span = self.tracing.tracer.start_span(name, parent or Context(), SpanKind.SERVER, attributes)
        return RequestTrace(self, span, line, _TRACEPARENT if parent else _TRACEPARENT | _TRACESTATE)


class RequestTrace:
    """The spans of one request, from its head to its end."""

    def __init__(self, at: ListenerTracing, span: Span, line: RequestLine, replaced: frozenset[bytes]) -> None:
        """`replaced` are the caller's fields that do not go upstream."""
        self._at = at
        self._span = span
        self._line = line
        self._replaced = replaced
        self._began = time.monotonic()
        self._waited: float | None = None
        self._sent = 0
        self._exchange: Span | None = None

    def sends(self, origin: bytes, fields: Sequence[Field], trail: bytes) -> tuple[tuple[Field, ...], bytes]:
        """Begin the span of an exchange; return the fields and the trail with its context in place of the caller's."""
        self._end_exchange("connection-lost")  # that of the one before, which is for this reason sent again
        self._link_login()
        line = self._line
        attributes: Attributes = {
            **_method(line.method),
            **_address(origin.decode()),
            "url.full": f"{origin.decode()}{line.path}",
            "network.protocol.version": "1.1",
            "invoisys.api": line.api or "",
        }
        if self._sent:
            attributes["http.request.resend_count"] = self._sent
        self._sent += 1
        name = line.method if line.method in _KNOWN else "HTTP"
        tracer = self._at.tracing.tracer
        exchange = self._exchange = tracer.start_span(name, _within(self._span), SpanKind.CLIENT, attributes)
        kept = tuple(field for field in fields if field[0].lower() not in self._replaced)
        return kept, trail + b"traceparent: %b\r\n" % _traceparent(exchange.get_span_context())

    def answered(self, status: int) -> None:
        """End the span of an exchange at the head of its answer."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            _end_answered(exchange, status)

    def hand_over(self) -> Callable[[RequestLine], None] | None:
        """Have the exchange under way outlive the request: return what ends its span, by a line of its own."""
        exchange, self._exchange = self._exchange, None
        return None if exchange is None else lambda line: _end_heard(exchange, line)

    def end(self) -> None:
        """End the span of the request as its line says."""
        line, span = self._line, self._span
        self._end_exchange(line.error or "cancelled")
        self._link_login()
        span.set_attributes(_told(line))
        if line.status:
            span.set_attribute("http.response.status_code", line.status)
        if line.error is not None:
            span.set_attribute("invoisys.error", line.error)
        broken_off = line.error is not None and not line.own
        if broken_off or line.status >= _SERVER_ERROR:
            _fail(span, line.error or str(line.status), line.detail)
        span.end()

    def _end_exchange(self, error: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.set_attribute("invoisys.outcome", str(self._line.outcome))
            _fail(exchange, error, None)
            exchange.end()

    def _link_login(self) -> None:
        """Link the login that the request has waited for, if it has for one since the last time."""
        line = self._line
        if line.login_ms == self._waited:
            return
        self._waited = line.login_ms
        login = self._at.tracing.logins.get((self._at.account, line.api))
        if login is not None and login.ended >= self._began:
            self._span.add_link(login.context)


class Login(Protocol[Given_contra, Got_co]):
    """What logs in."""

    @property
    def status(self) -> int | None:
        """What it was answered, if it was."""

    async def __call__(self, credentials: Given_contra, /) -> Got_co:
        """Log in once; raises `LoginError`."""


class TracedLogin(Generic[Given_contra, Got_co]):
    """A login with a span, at the root of a trace of its own: it serves all who wait, and those who come later."""

    def __init__(
        self,
        tracing: Tracing,
        login: Login[Given_contra, Got_co],
        of: tuple[str, str],
        url: str,
        reason: Callable[[], str],
    ) -> None:
        self._tracing = tracing
        self._login = login
        self._of = of
        self._reason = reason
        self._name = f"POST {urlsplit(url).path}"
        account, api = of
        self._attributes: Attributes = {
            "http.request.method": "POST",
            **_address(url),
            "url.full": url.partition("?")[0],
            "invoisys.account": account,
            "invoisys.api": api,
        }

    async def __call__(self, credentials: Given_contra) -> Got_co:
        """Log in once; raises `LoginError`."""
        attributes = self._attributes | {"invoisys.login.reason": self._reason()}
        span = self._tracing.tracer.start_span(self._name, Context(), SpanKind.CLIENT, attributes)
        try:
            return await self._login(credentials)
        except LoginError as error:
            _fail(span, error.name, error.detail)
            raise
        except BaseException as error:
            _fail(span, type(error).__name__, None)
            raise
        finally:
            if self._login.status is not None:
                span.set_attribute("http.response.status_code", self._login.status)
            span.end()
            self._tracing.logins[self._of] = LoginSpan(span.get_span_context(), time.monotonic())


def _resource() -> Resource:
    """Return what the spans come from, as the variables have it; the SDK's own name for the unnamed is a file's."""
    given = Resource.create()
    named = not str(given.attributes["service.name"]).startswith("unknown_service")
    about = Resource({"service.version": __version__}).merge(given)
    return about if named else about.merge(Resource({"service.name": "invoisys-proxy"}))


# --- The fields of a request ------------------------------------------------------------------------------------------

_TRACEPARENT = frozenset({b"traceparent"})
_TRACESTATE = frozenset({b"tracestate"})
"""It belongs to a `traceparent` (W3C Trace Context, section 3.3), and goes where that cannot be used."""


def _parent(fields: Sequence[Field]) -> Context | None:
    """Return the caller's context; none where there is not exactly one `traceparent`, or it cannot be read."""
    parents = [value for name, value in fields if name.lower() == b"traceparent"]
    if len(parents) != 1 or len(parents[0]) > _LONGEST_PARENT:
        return None
    states = [value.decode("latin-1") for name, value in fields if name.lower() == b"tracestate"]
    carrier = {"traceparent": [parents[0].decode("latin-1")], "tracestate": states}
    return _w3c.extract(carrier, Context()) or None


def _traceparent(context: SpanContext) -> bytes:
    return b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)


def _within(span: Span) -> Context:
    return set_span_in_context(span, Context())


# --- Attributes -------------------------------------------------------------------------------------------------------


def _method(method: str) -> Attributes:
    if method in _KNOWN:
        return {"http.request.method": method}
    return {"http.request.method": _OTHER, "http.request.method_original": method}


@lru_cache(64)
def _address(url: str) -> Attributes:
    """Return the server of a URL: with its port, unless that is chosen by the system; or its Unix socket."""
    if url.startswith("unix:"):
        return {"server.address": url.removeprefix("unix:")}
    parts = urlsplit(url)
    port = parts.port if parts.port is not None else {"http": 80, "https": 443}[parts.scheme]
    return {"server.address": parts.hostname or ""} | ({"server.port": port} if port else {})


def _told(line: RequestLine) -> Attributes:
    values = ((name, getattr(line, name)) for name in _TOLD)
    return {f"invoisys.{name}": value for name, value in values if value not in (None, False)}


def _fail(span: Span, kind: str, detail: str | None) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, detail))


def _end_answered(exchange: Span, status: int) -> None:
    exchange.set_attribute("http.response.status_code", status)
    exchange.set_attribute("invoisys.outcome", "answered")
    if status >= _CLIENT_ERROR:
        _fail(exchange, str(status), None)
    exchange.end()


def _end_heard(exchange: Span, line: RequestLine) -> None:
    """End the span of an exchange whose answer was read for a caller that had left."""
    if line.upstream_status is not None:
        _end_answered(exchange, line.upstream_status)
    else:
        exchange.set_attribute("invoisys.outcome", str(line.outcome))
        _fail(exchange, line.error or _OTHER, line.detail)
        exchange.end()
