"""Which variables ask for traces, which cannot be had, and what is repeated of OpenTelemetry's own words."""

from __future__ import annotations

import logging
import sys

import pytest

from proxy.tracing.switch import is_wanted, obstacle
from proxy.tracing.trouble import described

AT = "http://127.0.0.1:4318"


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": AT}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": AT}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": AT}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": AT}, False),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, True),
        ({"OTEL_SDK_DISABLED": "True", "OTEL_EXPORTER_OTLP_ENDPOINT": AT}, False),
        ({"OTEL_SDK_DISABLED": "false", "OTEL_EXPORTER_OTLP_ENDPOINT": AT}, True),
    ],
)
def test_what_asks_for_traces(env: dict[str, str], *, wanted: bool) -> None:
    assert is_wanted(env) is wanted


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "OTLP"}, None),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: expected otlp or none, found 'zipkin'"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, None),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf, found 'grpc'"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, None),
    ],
)
def test_what_cannot_be_had(env: dict[str, str], said: str | None) -> None:
    assert obstacle(env) == said


@pytest.mark.parametrize(
    ("name", "text", "args", "said"),
    [
        (
            "opentelemetry.exporter.otlp.proto.http.trace_exporter",
            "Transient error %s encountered while exporting %s batch, retrying in %.2fs.",
            (ConnectionRefusedError("http://user:key@collector"), "spans", 1.5),
            "Transient error ConnectionRefusedError encountered while exporting spans batch, retrying in 1.50s.",
        ),
        ("opentelemetry.sdk._shared_internal", "Queue full, dropping %s.", ("Span",), "Queue full, dropping Span."),
        ("opentelemetry.util.re", "Header format invalid! %s", ("authorization=key",), "Header format invalid! %s"),
        ("opentelemetry.trace.span", "Invalid tracestate %s", ("a caller's own",), None),
        ("urllib3.connectionpool", "Failed to parse headers (url=%s)", ("http://collector/?key",), None),
    ],
)
def test_what_is_quoted_is_not_repeated(name: str, text: str, args: tuple[object, ...], said: str | None) -> None:
    assert described(logging.LogRecord(name, logging.WARNING, "", 0, text, args, None)) == said


def test_what_was_raised_is_named() -> None:
    try:
        raise OSError("http://user:key@collector")  # noqa: TRY301 - there has to be a traceback
    except OSError:
        given = sys.exc_info()
    record = logging.LogRecord("opentelemetry.sdk._shared_internal", logging.ERROR, "", 0, "Exception", None, given)
    assert described(record) == "Exception (OSError)"
