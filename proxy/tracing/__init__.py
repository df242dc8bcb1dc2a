"""Requests as spans, for those who ask for them by the usual `OTEL_…` variables; OpenTelemetry itself is an extra."""

from proxy.tracing.switch import open_tracing

__all__ = ["open_tracing"]
