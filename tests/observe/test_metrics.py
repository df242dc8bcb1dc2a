"""What Prometheus is told, and in which form."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from proxy.observe import Metrics, StoreReading, TokenReading

READING = TokenReading(age=60.5, expires_in=3539.5, generation=3, login_state="backing-off", retry_in=8.0, rejections=2)


def metrics(reading: TokenReading = READING) -> Metrics:
    made = Metrics()
    meter = made.token("default", "2.0")
    meter.read_from(lambda: reading)
    meter.skew_from(lambda: -1.5)
    meter.login_took(0.3)
    meter.login_ended("first", "granted")
    made.store_from(lambda: StoreReading(failing=True, failures=4))
    return made


def test_the_classic_format_is_the_default() -> None:
    body, media_type = metrics().exposition("")
    assert media_type.startswith("text/plain")
    names = {family.name for family in read_text(body.decode())}
    assert "invoisys_proxy_logins" in names


def test_openmetrics_is_given_to_those_who_ask() -> None:
    body, media_type = metrics().exposition("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert media_type.startswith("application/openmetrics-text")
    families = read_openmetrics(body.decode())  # type: ignore[no-untyped-call]
    assert "invoisys_proxy_logins" in {family.name for family in families}


@pytest.mark.parametrize(
    ("sample", "labels", "value"),
    [
        ("token_age_seconds", {}, 60.5),
        ("token_expires_in_seconds", {}, 3539.5),
        ("token_generation", {}, 3),
        ("token_rejections_total", {}, 2),
        ("login_retry_in_seconds", {}, 8),
        ("login_state", {"state": "backing-off"}, 1),
        ("login_state", {"state": "idle"}, 0),
        ("logins_total", {"reason": "first", "result": "granted"}, 1),
        ("login_duration_seconds_sum", {}, 0.3),
        ("clock_skew_seconds", {}, -1.5),
    ],
)
def test_what_is_told_of_a_token(sample: str, labels: dict[str, str], value: float) -> None:
    of = {"account": "default", "api": "2.0", **labels}
    assert metrics().registry.get_sample_value(f"invoisys_proxy_{sample}", of) == value


def test_what_is_told_of_the_store() -> None:
    registry = metrics().registry
    assert registry.get_sample_value("invoisys_proxy_token_store_failing") == 1
    assert registry.get_sample_value("invoisys_proxy_token_store_failures_total") == 4


def test_there_is_no_age_without_a_token_and_no_skew_without_a_date() -> None:
    made = metrics(READING._replace(age=None, expires_in=None, generation=0))
    made.token("default", "2.0").skew_from(lambda: None)
    for sample in ("token_age_seconds", "token_expires_in_seconds", "clock_skew_seconds"):
        of = {"account": "default", "api": "2.0"}
        assert made.registry.get_sample_value(f"invoisys_proxy_{sample}", of) is None
