"""The page's drawings, as SVG: where a token is in its life, and how the requests of late went."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from proxy.admin.html import Html, joined, tag

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from proxy.admin.status import Request, Token, Traffic
    from proxy.admin.texts import Words

_WIDTH, _HEIGHT = 600, 120
_NICE = (1.0, 2.0, 5.0, 10.0)
_QUANTILES = ("p50", "p90", "p99")


def clock(moment: datetime) -> str:
    """Return a moment as it is shown until a script puts it into the reader's own time zone."""
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def when(moment: datetime | None) -> Html:
    """Return a moment, which the script puts into the reader's own time zone."""
    return Html() if moment is None else tag("time", clock(moment), " UTC", datetime=moment.isoformat())


def timeline(token: Token, now: datetime, words: Words) -> Html:
    """Draw a token from when it was got to when it expires, with the marks of now and of its refresh."""
    if token.obtained_at is None or token.refresh_at is None or token.expires_at is None:
        return Html()
    told = words["timeline"].format(
        got=clock(token.obtained_at),
        now=f"{now:%Y-%m-%d %H:%M}",  # with seconds, it would be new in each second
        due=clock(token.refresh_at),
        expires=clock(token.expires_at),
    )
    whole = max((token.expires_at - token.obtained_at).total_seconds(), 1.0)

    def at(moment: datetime) -> str:
        share = (moment - token.obtained_at).total_seconds() / whole  # type: ignore[operator]
        return f"{100 * min(max(share, 0.0), 1.0):.1f}%"

    line = tag(
        "svg",
        tag("rect", class_="life", y=10, width="100%", height=8, rx=4),
        tag("rect", class_=f"spent {token.state}", y=10, width=at(now), height=8, rx=4),
        tag("line", class_="due", x1=at(token.refresh_at), x2=at(token.refresh_at), y1=4, y2=24),
        tag("circle", class_="now", cx=at(now), cy=14, r=6),
        class_="timeline",
        role="img",
        aria_label=told,
    )
    names = (
        (None, joined([words["got"], " ", when(token.obtained_at)])),
        ("now", words["now"]),
        ("due", joined([words["refresh-due"], " ", when(token.refresh_at)])),
        (None, joined([words["expires"], " ", when(token.expires_at)])),
    )
    return joined([line, _legend(names)])


def rate(traffic: Traffic, words: Words) -> Html:
    """Draw the requests per second."""
    values = [point.requests_per_second for point in traffic.points]
    told = words["rate.told"].format(most=f"{max(values):g}", last=f"{values[-1]:g}")
    failed = [point.failed / traffic.step_s or None for point in traffic.points]
    top = _nice(max(values))
    lines = (_area(values, top), _line(values, top, "rate"), *_dots(failed, top, "failed"))
    return joined([_plot(told, [0, top / 2, top], words, *lines), _named(["all", "failed"], words)])


def latency(traffic: Traffic, words: Words) -> Html:
    """Draw the quantiles of the time to answer, on a logarithmic scale from a tenth of a millisecond."""
    known = [point for point in traffic.points if point.p50_ms is not None]
    series = {name: [_decades(getattr(point, f"{name}_ms")) for point in traffic.points] for name in _QUANTILES}
    last = known[-1] if known else None
    told = words["no-requests"]
    if last is not None:
        told = words["latency.told"].format(p50=f"{last.p50_ms:g}", p90=f"{last.p90_ms:g}", p99=f"{last.p99_ms:g}")
    top = math.ceil(max((value for value in series["p99"] if value is not None), default=2.0))
    lines = (
        part
        for name, values in series.items()
        for part in (_line(values, top, name), *_dots(values, top, name, alone=True))
    )
    marks = [10.0**power / 10 for power in range(top + 1)]
    return joined([_plot(told, marks, words, *lines), _named(_QUANTILES, words)])


def split(request: Request) -> Html:
    """Draw what a request's time went into; the words beside it say the same."""
    whole = request.duration_ms or 1.0
    parts, start = [], 0.0
    for name, took in (("waiting", request.waiting_ms), ("login", request.login_ms), ("upstream", request.upstream_ms)):
        width = min(60 * (took or 0.0) / whole, 60 - start)
        if width > 0:
            parts.append(tag("rect", class_=name, x=f"{start:.1f}", y=0, width=f"{width:.1f}", height=8))
            start += width
    return tag(
        "svg",
        tag("rect", class_="rest", x=0, y=0, width=60, height=8),
        *parts,
        class_="split",
        viewBox="0 0 60 8",
        width=60,
        height=8,
        aria_hidden="true",
    )


# --- Parts ------------------------------------------------------------------------------------------------------------


def _plot(told: str, marks: Sequence[float], words: Words, *lines: Html) -> Html:
    """Draw lines over a scale of even steps; what is text stands beside them, so that it has one size at any width."""
    heights = (_y(step, len(marks) - 1) for step in range(len(marks)))
    grid = (tag("line", class_="grid", x2=_WIDTH, y1=y, y2=y) for y in heights)
    ago = (tag("span", words["minutes-ago"].format(minutes=minutes)) for minutes in (15, 10, 5))
    return tag(
        "div",
        tag("div", *(tag("span", f"{mark:g}") for mark in reversed(marks)), class_="scale"),
        tag("svg", *grid, *lines, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", preserveAspectRatio="none"),
        tag("div", *ago, tag("span", words["now"]), class_="times"),
        class_="plot",
        role="img",
        aria_label=told,
    )


def _line(values: Sequence[float | None], top: float, name: str) -> Html:
    path, pen = [], "M"
    for index, value in enumerate(values):
        if value is None:
            pen = "M"
            continue
        path.append(f"{pen}{_x(index, values)} {_y(value, top)}")
        pen = "L"
    return tag("path", class_=f"line {name}", d="".join(path))


def _area(values: Sequence[float], top: float) -> Html:
    points = "".join(f"L{_x(index, values)} {_y(value, top)}" for index, value in enumerate(values))
    return tag("path", class_="area", d=f"M0 {_HEIGHT}{points}L{_WIDTH} {_HEIGHT}Z")


def _dots(values: Sequence[float | None], top: float, name: str, *, alone: bool = False) -> Iterator[Html]:
    """Draw a dot for each value; of a line, for those without a neighbour, which it does not show.

    A dot is a line without length, whose round ends stay round however wide the drawing is.
    """
    for index, value in enumerate(values):
        beside = [values[near] for near in (index - 1, index + 1) if 0 <= near < len(values)]
        if value is not None and not (alone and any(near is not None for near in beside)):
            yield tag("path", class_=f"dot {name}", d=f"M{_x(index, values)} {_y(value, top)}h0")


def _x(index: int, values: Sequence[object]) -> str:
    return f"{_WIDTH * index / (len(values) - 1):.1f}"


def _y(value: float, top: float) -> str:
    return f"{_HEIGHT * (1 - value / top):.1f}"


def _decades(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else max(math.log10(milliseconds * 10), 0.0)


def _nice(value: float) -> float:
    """Return the next number that is good to read on an axis."""
    if value <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(nice * power for nice in _NICE if value <= nice * power)


def _named(names: Sequence[str], words: Words) -> Html:
    return _legend((name, words[name]) for name in names)


def _legend(entries: Iterable[tuple[str | None, object]]) -> Html:
    """Say what the marks of a drawing mean; some entries have none."""
    items = (
        tag("li", "" if name is None else tag("span", class_=f"key {name}", aria_hidden="true"), said)
        for name, said in entries
    )
    return tag("ul", *items, class_="legend")
