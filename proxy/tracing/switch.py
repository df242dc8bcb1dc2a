"""Whether requests are traced. Nothing of OpenTelemetry is imported before that is known."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.tracing.spans import Tracing

log = logging.getLogger(__name__)

_DISABLED = "OTEL_SDK_DISABLED"
_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

_OURS = "http/protobuf"
_MEND = 'pip install "invoisys-proxy[otel]"'


def is_wanted(env: Mapping[str, str]) -> bool:
    """Tell whether the variables ask for traces: by an exporter, or by the address of a collector."""
    if _lowered(env, _DISABLED) == "true":
        return False
    exporter = _lowered(env, _EXPORTER)
    return exporter != "none" if exporter else any(_lowered(env, name) for name in _ENDPOINTS)


def obstacle(env: Mapping[str, str]) -> str | None:
    """Say what the variables ask for that there is not."""
    exporter = _lowered(env, _EXPORTER)
    if exporter not in ("", "otlp"):
        return f"{_EXPORTER}: expected otlp or none, found {exporter!r}"
    for name in _PROTOCOLS:
        protocol = _lowered(env, name)
        if protocol:
            return None if protocol == _OURS else f"{name}: expected {_OURS}, found {protocol!r}"
    return None


def open_tracing(env: Mapping[str, str]) -> Tracing | None:
    """Return what makes spans, within a running event loop; none where nobody asks for it.

    What keeps it from being made is told in the log, and is no reason not to serve: variables that begin with `OTEL_`
    are often meant for all programs of a machine.
    """
    if not is_wanted(env):
        return None
    why_not = obstacle(env)
    if why_not is None:
        try:
            from proxy.tracing.spans import Tracing  # noqa: PLC0415 - an extra

            tracing = Tracing()
        except ImportError:
            why_not = f"the extra `otel` is not installed: {_MEND}"
        except (ValueError, RuntimeError) as error:
            why_not = str(error)
        else:
            log.info("requests are traced", extra={"event": "tracing"})
            return tracing
    log.warning("requests are not traced: %s", why_not, extra={"event": "tracing-off"})
    return None


def _lowered(env: Mapping[str, str], name: str) -> str:
    return env.get(name, "").strip().lower()
