"""The page's drawings, as SVG: where a token is in its life, and how the requests of late went."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from proxy.admin.html import Html, joined, tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from proxy.admin.status import Request, Token, Traffic
    from proxy.admin.texts import Words

_WIDTH, _HEIGHT = 600, 120
_LEFT = 44
_NICE = (1.0, 2.0, 5.0, 10.0)


def clock(moment: datetime | None) -> str:
    """Return a moment as it is shown until a script puts it into the reader's own time zone."""
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def timeline(token: Token, now: datetime, words: Words) -> Html:
    """Draw a token from when it was got to when it expires, with the marks of now and of its refresh."""
    if token.obtained_at is None or token.refresh_at is None or token.expires_at is None:
        return Html()
    told = words["timeline"].format(
        got=clock(token.obtained_at),
        now=clock(now),
        due=clock(token.refresh_at),
        expires=clock(token.expires_at),
    )
    whole = max((token.expires_at - token.obtained_at).total_seconds(), 1.0)

    def at(moment: datetime) -> str:
        share = (moment - token.obtained_at).total_seconds() / whole  # type: ignore[operator]
        return f"{4 + 592 * min(max(share, 0.0), 1.0):.1f}"

    return _drawing(
        told,
        tag("rect", class_="life", x=4, y=10, width=592, height=8, rx=4),
        tag("rect", class_=f"spent {token.state}", x=4, y=10, width=f"{float(at(now)) - 4:.1f}", height=8, rx=4),
        tag("line", class_="due", x1=at(token.refresh_at), x2=at(token.refresh_at), y1=4, y2=24),
        tag("circle", class_="now", cx=at(now), cy=14, r=6),
        height=28,
    )


def rate(traffic: Traffic, words: Words) -> Html:
    """Draw the requests per second."""
    values = [point.requests_per_second for point in traffic.points]
    told = words["rate.told"].format(most=f"{max(values):g}", last=f"{values[-1]:g}")
    failed = [point.failed / traffic.step_s or None for point in traffic.points]
    top = _nice(max(values))
    return _drawing(
        told,
        *_axes([0, top / 2, top], top, words),
        _area(values, top),
        _line(values, top, "rate"),
        *_dots(failed, top, "failed"),
    )


def latency(traffic: Traffic, words: Words) -> Html:
    """Draw the quantiles of the time to answer, on a logarithmic scale from a tenth of a millisecond."""
    known = [point for point in traffic.points if point.p50_ms is not None]
    series = {name: [getattr(point, f"{name}_ms") for point in traffic.points] for name in ("p50", "p90", "p99")}
    last = known[-1] if known else None
    told = words["no-requests"]
    if last is not None:
        told = words["latency.told"].format(p50=f"{last.p50_ms:g}", p90=f"{last.p90_ms:g}", p99=f"{last.p99_ms:g}")
    top = math.ceil(max((_decades(value) for value in series["p99"] if value is not None), default=2.0))
    marks = [10.0**power / 10 for power in range(top + 1)]
    return _drawing(
        told,
        *_axes(marks, top, words, _decades),
        *(
            part
            for name, values in series.items()
            for part in (
                _line([None if value is None else _decades(value) for value in values], top, name),
                *_dots([None if value is None else _decades(value) for value in values], top, name, alone=True),
            )
        ),
    )


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


def _drawing(told: str, *parts: Html, height: int = _HEIGHT + 16) -> Html:
    return tag("svg", *parts, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=told)


def _axes(marks: Sequence[float], top: float, words: Words, scaled: Callable[[float], float] = float) -> Iterator[Html]:
    for mark in marks:
        y = _y(scaled(mark), top)
        yield tag("line", class_="grid", x1=_LEFT, x2=_WIDTH, y1=y, y2=y)
        yield tag("text", f"{mark:g}", x=_LEFT - 6, y=float(y) + 4, text_anchor="end")
    for minutes in (15, 10, 5):
        x = _LEFT + (_WIDTH - _LEFT) * (15 - minutes) / 15
        yield tag("text", words["minutes-ago"].format(minutes=minutes), x=f"{x:.0f}", y=_HEIGHT + 12)
    yield tag("text", words["now"], x=_WIDTH, y=_HEIGHT + 12, text_anchor="end")


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
    return tag("path", class_="area", d=f"M{_LEFT} {_y(0, top)}{points}L{_WIDTH} {_y(0, top)}Z")


def _dots(values: Sequence[float | None], top: float, name: str, *, alone: bool = False) -> Iterator[Html]:
    """Draw a dot for each value; of a line, for those without a neighbour, which it does not show."""
    for index, value in enumerate(values):
        beside = [values[near] for near in (index - 1, index + 1) if 0 <= near < len(values)]
        if value is not None and not (alone and any(near is not None for near in beside)):
            yield tag("circle", class_=f"dot {name}", cx=_x(index, values), cy=_y(value, top), r=2.5)


def _x(index: int, values: Sequence[object]) -> str:
    return f"{_LEFT + (_WIDTH - _LEFT) * index / (len(values) - 1):.1f}"


def _y(value: float, top: float) -> str:
    return f"{_HEIGHT - (_HEIGHT - 8) * value / top:.1f}"


def _decades(milliseconds: float) -> float:
    return max(math.log10(milliseconds * 10), 0.0)


def _nice(value: float) -> float:
    """Return the next number that is good to read on an axis."""
    if value <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(nice * power for nice in _NICE if value <= nice * power)


def legend(names: Sequence[str], words: Words) -> Html:
    """Name the lines of a drawing."""
    entries = (tag("li", tag("span", class_=f"key {name}", aria_hidden="true"), words[name]) for name in names)
    return tag("ul", joined(entries), class_="legend")
