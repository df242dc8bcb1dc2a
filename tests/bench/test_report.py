from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from bench.figures import Spread
from bench.plot import bars
from bench.profile import shares
from bench.report import comparison, replaced
from bench.templates import filled


def results() -> dict[str, Any]:
    return {
        "measured": "2026-01-02",
        "commit": "abcdef0",
        "python": "3.11.0",
        "machine": "2 cores",
        "load": 0.5,
        "rounds": 1,
        "seconds": 1,
        "idle": {"plain": {"sidecar": 40.0, "envoy": 66.0}},
        "samples": {
            "plain-64": {
                "sidecar": [{"rps": 300.0, "p50": 1000.0, "p99": 4000.0, "cpu": 50.0}],
                "envoy": [{"rps": 200.0, "p50": 2000.0, "p99": 2000.0, "cpu": 40.0}],
            }
        },
    }


def test_a_report_has_the_goals_the_ratios_and_every_figure() -> None:
    told = comparison(results())
    goals = [line for line in told.splitlines() if line.endswith(("| yes |", "| **no** |"))]
    asked, measured, reached = zip(*(line.strip("| ").split(" | ") for line in goals), strict=True)
    where = "1 KiB answer, 64 connections, plain upstream"
    assert asked == (
        f"requests/s, {where}: ≥ 1.1 times Envoy `credential_injector`",
        f"p99, {where}: ≤ 1 times Envoy `credential_injector`",
    )
    assert measured == ("1.50 (1.50…1.50)", "2.00 (2.00…2.00)")
    assert reached == ("yes", "**no**")
    assert "| the sidecar | 300 (300…300) | 1.00 (1.00…1.00) |" in told
    assert "| the sidecar | 40.0 |" in told


def test_a_section_is_replaced_and_nothing_else_is_touched() -> None:
    document = "a\n<!-- x: written by the bench -->\nold\n<!-- end of x -->\nb\n"
    once = replaced(document, "x", r"new \1")
    assert once == "a\n<!-- x: written by the bench -->\n\nnew \\1\n\n<!-- end of x -->\nb\n"
    assert replaced(once, "x", r"new \1") == once


def test_a_document_without_the_section_is_refused() -> None:
    with pytest.raises(ValueError, match="x"):
        replaced("a", "x", "new")


def test_a_drawing_is_well_formed_and_drawn_to_scale() -> None:
    drawing = ET.fromstring(bars("a < b", [("ours", Spread(50, 40, 100)), ("theirs", Spread(100, 90, 100))], "ours"))
    bar, other = [rect for rect in drawing.iter("{http://www.w3.org/2000/svg}rect") if rect.get("fill") != "#ffffff"]
    assert float(bar.get("width", "")) * 2 == float(other.get("width", ""))
    assert bar.get("fill") != other.get("fill")


def test_a_template_is_filled_and_a_forgotten_name_is_an_error() -> None:
    assert filled("listen @port@; a@b.c", {"port": 80}) == "listen 80; a@b.c"
    with pytest.raises(KeyError):
        filled("@port@", {})


def test_a_profile_counts_a_function_once_in_each_stack() -> None:
    assert shares("a (x.c:1);b 3\na (x.c:2);b;a (x.c:3) 1\n") == [("a (x.c)", 0.25, 1.0), ("b", 0.75, 1.0)]
