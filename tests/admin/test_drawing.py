"""What is drawn stays within the drawing, says what its marks mean, and is new only when it shows something new."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from proxy.admin.drawing import latency, rate, timeline
from proxy.admin.status import Token, Traffic, TrafficPoint
from proxy.admin.texts import EN

GOT = datetime(2026, 11, 24, 12, tzinfo=UTC)
TOKEN = Token(
    account="default",
    api="2.0",
    state="valid",
    login_state="idle",
    generation=1,
    obtained_at=GOT,
    refresh_at=GOT + timedelta(hours=12),
    expires_at=GOT + timedelta(hours=24),
    retry_in_s=0,
    rejections=0,
    failure=None,
    logins=(),
)


def traffic(*points: TrafficPoint) -> Traffic:
    nothing = [TrafficPoint(0, 0.0, 0, None, None, None)] * (90 - len(points))
    return Traffic(10, [*nothing, *points])


@pytest.mark.parametrize(
    ("hours", "at"), [(-1, "0.0%"), (0, "0.0%"), (6, "25.0%"), (24, "100.0%"), (30, "100.0%")], ids=str
)
def test_now_stands_where_it_is_in_the_life_of_a_token(hours: int, at: str) -> None:
    drawn = timeline(TOKEN, GOT + timedelta(hours=hours), EN)
    assert f'<circle class="now" cx="{at}"' in drawn
    assert '<line class="due" x1="50.0%" x2="50.0%"' in drawn


def test_every_mark_of_a_timeline_is_named() -> None:
    drawn = timeline(TOKEN, GOT, EN)
    assert re.findall(r'"key (\w+)"[^>]*></span>([\w ]+)', drawn) == [("now", "Now"), ("due", "Refresh due ")]
    assert re.findall(r"(Got|Expires) <time", drawn) == ["Got", "Expires"]


def test_a_timeline_is_not_new_in_each_second() -> None:
    drawn = {timeline(TOKEN, GOT + timedelta(seconds=seconds), EN) for seconds in range(40)}
    assert len(drawn) == 1


def test_every_line_of_a_plot_is_named_and_within_it() -> None:
    points = [TrafficPoint(10, 7.5, 3, 0.25, 40.0, 900.0), TrafficPoint(0, 10.0, 100, 1.0, 1.0, 100.0)]
    for drawn, lines in ((rate(traffic(*points), EN), 1), (latency(traffic(*points), EN), 3)):
        marks = set(re.findall(r'class="(?:line|dot) (\w+)"', drawn))
        named = set(re.findall(r'class="key (\w+)"', drawn))
        assert marks - {"rate"} == named - {"all"}
        assert len(re.findall(r'<path class="line', drawn)) == lines
        places = [tuple(map(float, found)) for found in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", drawn)]
        assert [place for place in places if not (0 <= place[0] <= 600 and 0 <= place[1] <= 120)] == []


def test_the_scale_has_even_steps_and_ends_above_the_highest_value() -> None:
    drawn = latency(traffic(TrafficPoint(0, 1.0, 0, 3.0, 30.0, 300.0)), EN)
    assert re.findall(r"<span>([\d.]+)</span>", drawn) == ["1000", "100", "10", "1", "0.1"]
    drawn = rate(traffic(TrafficPoint(0, 7.0, 0, 3.0, 30.0, 300.0)), EN)
    assert re.findall(r"<span>([\d.]+)</span>", drawn) == ["10", "5", "0"]
    assert re.findall(r'class="grid"[^>]* y1="([\d.]+)"', drawn) == ["120.0", "60.0", "0.0"]


def test_without_requests_there_is_a_scale_and_no_line() -> None:
    assert 'd=""' in latency(traffic(), EN)
    assert 'aria-label="No requests yet."' in latency(traffic(), EN)
    assert "nan" not in rate(traffic(), EN)
