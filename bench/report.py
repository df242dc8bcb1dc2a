"""What is told of the results, in Markdown, and where it stands in docs/performance.md. Pure, but for the writing."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from bench import workers
from bench.figures import Spread, ratio, spread
from bench.goals import GOALS
from bench.peers import PEERS, SIDECAR
from bench.places import DOCUMENT, RESULTS
from bench.plot import bars
from bench.scenarios import SCENARIOS, Requests

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from bench.rounds import Samples

NOTHING = "-"
"""What stands for a figure that was not measured."""

_RATIOS = (
    ("rps", "Requests per second", "above 1 the sidecar answers more"),
    ("cpu", "CPU per request, or per MiB", "below 1 the sidecar takes less"),
    ("p50", "Latency, p50", "below 1 the sidecar is faster"),
    ("p99", "Latency, p99", "below 1 the sidecar is faster"),
    ("mbps", "MiB per second", "above 1 the sidecar passes on more"),
)
_COLUMNS = {
    "requests/s": ("rps", 1.0, "{:.0f}"),
    "p50 ms": ("p50", 1e3, "{:.2f}"),
    "p99 ms": ("p99", 1e3, "{:.2f}"),
    "p99.9 ms": ("p999", 1e3, "{:.2f}"),
    "CPU µs/request": ("cpu", 1.0, "{:.0f}"),
    "busy %": ("busy", 1.0, "{:.0f}"),
    "MiB loaded": ("rss", 1.0, "{:.1f}"),
    "MiB peak": ("peak", 1.0, "{:.1f}"),
}
_TRANSFER_COLUMNS = {
    "MiB/s": ("mbps", 1.0, "{:.0f}"),
    "CPU µs/MiB": ("cpu", 1.0, "{:.0f}"),
    "growth MiB": ("growth", 1.0, "{:.1f}"),
    "MiB peak": ("peak", 1.0, "{:.1f}"),
}
_PLOTS = (
    ("plain-64", "rps", "Requests/s, 64 connections, plain upstream"),
    ("tls-64", "rps", "Requests/s, 64 connections, TLS upstream"),
    ("plain-64", "cpu", "CPU per request in µs, 64 connections, plain upstream"),
    ("tls-64", "rss", "Memory under load in MiB, 64 connections, TLS upstream"),
    ("down", "mbps", "100 MiB down, MiB/s"),
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def shown(value: Spread | None, form: str = "{:.2f}", unit: float = 1.0) -> str:
    """Return a median with its spread, or a dash."""
    if value is None:
        return NOTHING
    middle, least, most = (form.format(number / unit) for number in value)
    return f"{middle} ({least}…{most})"


# --- The comparison -------------------------------------------------------------------------------------------------


def comparison(results: dict[str, Any]) -> str:
    """Return everything that is told of a comparison."""
    samples: Samples = results["samples"]
    parts = [_circumstances(results), _goals(samples), _ratios(samples), _idle(results["idle"]), _absolute(samples)]
    return "\n".join(part for part in parts if part)


def _circumstances(results: dict[str, Any]) -> str:
    return (
        f"Measured {results['measured']} at {results['commit']}, Python {results['python']}, {results['machine']},"
        f" {results['rounds']} rounds of {results['seconds']} s. Load of the machine before: {results['load']:.1f}.\n"
        "Each figure is the median of the rounds, with the least and the most in parentheses.\n"
    )


def _goals(samples: Samples) -> str:
    known = [(goal, goal.measured(samples)) for goal in GOALS]
    rows = [
        (str(goal), shown(measured), "yes" if goal.reached(measured) else "**no**")
        for goal, measured in known
        if measured is not None
    ]
    return "### Goals\n\n" + table(("goal", "measured", "reached"), rows) if rows else ""


def _ratios(samples: Samples) -> str:
    parts = []
    for figure, title, meaning in _RATIOS:
        peers = [name for name in _peers(samples) if name != SIDECAR]
        rows = []
        for name, taken in samples.items():
            cells = [shown(ratio(taken[SIDECAR], taken[peer], figure)) for peer in peers] if SIDECAR in taken else []
            if any(cell != NOTHING for cell in cells):
                rows.append((SCENARIOS[name].title, *cells))
        if rows:
            head = ("", *(PEERS[peer].title for peer in peers))
            parts.append(f"### {title}: the sidecar's, divided by the peer's\n\nRound by round; {meaning}.\n\n")
            parts.append(table(head, rows) + "\n")
    return "".join(parts).rstrip("\n") + "\n" if parts else ""


def _peers(samples: Samples) -> list[str]:
    measured = {name for taken in samples.values() for name in taken}
    return [name for name in PEERS if name in measured]


def _idle(idle: dict[str, dict[str, float]]) -> str:
    peers = [name for name in PEERS if any(name in measured for measured in idle.values())]
    rows = [(PEERS[name].title, *(f"{measured[name]:.1f}" for measured in idle.values())) for name in peers]
    return "### Memory idle, in MiB\n\n" + table(("", *(f"{kind} upstream" for kind in idle)), rows)


def _absolute(samples: Samples) -> str:
    parts = ["### Every figure\n"]
    for name, taken in samples.items():
        columns = _COLUMNS if isinstance(SCENARIOS[name], Requests) else _TRANSFER_COLUMNS
        rows = []
        for peer, figures in taken.items():
            cells = (shown(spread(figures, figure), form, unit) for figure, unit, form in columns.values())
            rows.append((PEERS[peer].title, *cells))
        parts.append(f"{SCENARIOS[name].title}:\n\n{table(('', *columns), rows)}")
    return "\n".join(parts)


def plots(results: dict[str, Any], folder: Path) -> list[str]:
    """Draw a comparison into a folder, and return the file names."""
    folder.mkdir(exist_ok=True)
    drawn = []
    for scenario, figure, title in _PLOTS:
        taken = results["samples"].get(scenario, {})
        rows = [(PEERS[peer].title.replace("`", ""), known) for peer in taken if (known := spread(taken[peer], figure))]
        if rows:
            drawn.append(f"{scenario}-{figure}.svg")
            (folder / drawn[-1]).write_text(bars(title, rows, PEERS[SIDECAR].title))
    return drawn


# --- The others -----------------------------------------------------------------------------------------------------


def tokens(results: dict[str, Any]) -> str:
    """Return what is told of logins."""
    rows = [
        (
            row["what"],
            f"{row['callers']}",
            PEERS[row["peer"]].title,
            f"{row['logins']}",
            f"{row['answered']}",
            f"{row['refused']}",
            f"{row['login_seconds']:g}",
            f"{row['after_login']:.2f}",
        )
        for row in results["crowds"]
    ]
    refresh = results["refresh"]
    head = (
        "",
        "callers",
        "",
        "logins",
        "answered 200",
        "answered otherwise",
        "login, s",
        "last answer, s after the login",
    )
    latencies = [
        (what, f"{of['count']}", *(f"{of[name] / 1e3:.2f}" for name in ("p50", "p99", "most")))
        for what, of in (("beside a refresh", refresh["beside"]), ("at other times", refresh["others"]))
    ]
    return (
        f"Measured {results['measured']} at {results['commit']}.\n\n"
        f"{table(head, rows)}\n"
        f"A scheduled refresh under load, {refresh['refreshes']} of them, {refresh['failed']} requests failed; times in"
        f" ms:\n\n{table(('', 'requests', 'p50', 'p99', 'longest'), latencies)}"
    )


def limits(results: dict[str, Any]) -> str:
    """Return what is told of start-up and of memory at the limits."""
    start, memory = results["start"], results["memory"]
    rows = [
        ("start-up to listening, CPU", "≤ 0.5 s", f"{shown(Spread.of(start['cpu']))} s"),
        ("modules imported by then", "", f"{start['modules']}"),
        (
            f"{memory['callers']} callers with 1 MiB each: answered",
            f"{memory['callers']}",
            f"{memory['answered']}, in {memory['seconds']:.1f} s",
        ),
        ("memory at its peak then", "≤ 104 MiB", f"{memory['peak']:.1f} MiB ({memory['idle']:.1f} idle)"),
    ]
    return f"Measured {results['measured']} at {results['commit']}.\n\n{table(('', 'goal', 'measured'), rows)}"


# --- The document ---------------------------------------------------------------------------------------------------


def replaced(document: str, section: str, text: str) -> str:
    """Return the document with the text between the markers of a section replaced; raises `ValueError` without them."""
    begin, end = f"<!-- {section}: written by the bench -->", f"<!-- end of {section} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if len(pattern.findall(document)) != 1:
        raise ValueError(f"the document has not just one section {section!r}")
    return pattern.sub(lambda _: f"{begin}\n\n{text.strip()}\n\n{end}", document)


def publish() -> None:
    """Write what the result files hold into docs/performance.md, and draw it."""
    document = DOCUMENT.read_text()
    for section, told in (
        ("comparison", comparison),
        ("tokens", tokens),
        ("limits", limits),
        ("workers", workers.report),
    ):
        path = RESULTS / f"{section}.json"
        if path.exists():
            results = json.loads(path.read_text())
            text = told(results)
            if section == "comparison":
                folder = DOCUMENT.with_suffix("")
                images = [f"![{name}]({folder.name}/{name})" for name in plots(results, folder)]
                text = "\n".join(images) + "\n\n" + text
            document = replaced(document, section, text)
    DOCUMENT.write_text(document)
