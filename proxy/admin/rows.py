"""Requests on the page: a row for each, and all that is known of one."""

from __future__ import annotations

import shlex
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from proxy.admin.drawing import split, when
from proxy.admin.html import Html, joined, tag
from proxy.admin.masking import shown
from proxy.observe import PIECE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.admin.status import Details, Failure, Request
    from proxy.admin.texts import Words

COLUMNS = ("time", "method", "path", "status", "duration", "outcome", "details")

_REPEATED_BY_CURL = frozenset({"accept", "accept-language", "content-type"})


class Filter(NamedTuple):
    """Which requests are shown."""

    text: str = ""
    failed: bool = False

    def lets_pass(self, request: Request, words: Words) -> bool:
        """Tell whether a request is shown."""
        return _folded(self.text) in searched(request, words) and (request.failed or not self.failed)


ALL = Filter()

_SENT_TWICE = ("replayed", "resent")


def searched(request: Request, words: Words) -> str:
    """Return what the filter looks at: what the row says, and what the log and `/status` call it."""
    failure = request.failure
    parts = [request.method, request.path, str(request.status), request.request_id, request.outcome or ""]
    parts += [_outcome(request, words), *_badges(request, words)]
    parts += [name for name in _SENT_TWICE if getattr(request, name)]
    if failure is not None:
        parts += [failure.error, failure.detail or ""]
    return _folded(" ".join(parts))


def _folded(text: str) -> str:
    """Return a text without case and accents, which not everybody types; page.js does the same."""
    return "".join(each for each in unicodedata.normalize("NFD", text) if not unicodedata.combining(each)).lower()


def _outcome(request: Request, words: Words) -> str:
    return words[f"outcome.{request.outcome}"] if request.outcome else ""


def _badges(request: Request, words: Words) -> list[str]:
    badges = [words[name] for name in _SENT_TWICE if getattr(request, name)]
    if request.failure is not None and request.failure.error == "caller-gone":
        badges.append(words["caller-left"])
    return badges


def failure_in_words(failure: Failure, words: Words) -> Html:
    """Return what the log says of a failure, in the log's language."""
    said = tag("span", failure.detail or failure.error, class_="detail", lang="en")
    if not failure.next_step:
        return said
    step = tag("span", failure.next_step, lang="en")
    return joined([said, tag("span", words["next-step"], ": ", step, class_="step")])


def row(request: Request, words: Words, chosen: Filter = ALL) -> Html:
    """Return a request as a row of the table."""
    took = f"{request.duration_ms:.1f} ms"
    label = f"{words['details']}: {words['details-of'].format(request=request.request_id)}"
    return tag(
        "tr",
        tag("td", when(request.at)),
        tag("td", request.method),
        tag("td", tag("code", request.path)),
        tag("td", request.status or "—", class_=f"status s{request.status // 100}"),
        tag("td", tag("span", took, class_="took"), split(request), parts_of(request, words)),
        tag(
            "td",
            _known(request, words),
            "" if request.failure is None else failure_in_words(request.failure, words),
        ),
        tag(
            "td",
            tag("a", words["details"], href=f"/requests/{request.request_id}", aria_label=label),
        ),
        data_number=request.number,
        data_text=searched(request, words),
        data_failed="yes" if request.failed else "no",
        hidden=not chosen.lets_pass(request, words),
    )


def _known(request: Request, words: Words) -> Html:
    """Say what is known of upstream having seen a request."""
    outcome = tag("span", _outcome(request, words), class_=f"outcome {request.outcome}")
    return joined([outcome, *(tag("span", badge, class_="badge") for badge in _badges(request, words))])


def parts_of(request: Request, words: Words) -> Html:
    """Say what a request's time went into."""
    parts = (("waiting", request.waiting_ms), ("login", request.login_ms), ("upstream-took", request.upstream_ms))
    said = ", ".join(words[name].format(ms=f"{took:.1f}") for name, took in parts if took is not None)
    return tag("span", said, class_="parts")


def details(found: Details, words: Words) -> Html:
    """Return all that is known of a request."""
    request = found.request
    facts = {
        "time": when(request.at),
        "listener": request.listener,
        "method": request.method,
        "path": tag("code", request.path),
        "status": request.status or "—",
        "outcome": words[f"outcome.{request.outcome}"] if request.outcome else "",
        "duration": joined([f"{request.duration_ms:.1f} ms ", parts_of(request, words)]),
        "upstream-status": request.upstream_status,
        "error": request.failure and tag("code", request.failure.error),
        "result": request.failure and failure_in_words(request.failure, words),
        "replayed": words["replayed"] if request.replayed else None,
        "resent": words["resent"] if request.resent else None,
    }
    lines = (tag("tr", *(tag("td", tag("code", part)) for part in field)) for field in shown(found.fields))
    head = tag("tr", tag("th", words["field"], scope="col"), tag("th", words["value"], scope="col"))
    return joined([
        description({words[name]: value for name, value in facts.items() if value is not None}),
        *_inspected(found, words),
        tag("h2", words["headers"]),
        tag("p", words["headers.masked"]),
        tag("div", tag("table", tag("thead", head), tag("tbody", *lines)), class_="scroll", tabindex=0, role="group",
            aria_label=words["headers"]),
    ])  # fmt: skip


def description(facts: dict[str, object]) -> Html:
    """Return names with their values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()))


def _inspected(found: Details, words: Words) -> Sequence[Html]:
    """Show the bodies, and the request as a line for a shell: only where bodies are inspected."""
    seen = found.inspected
    if seen is None:
        return ()
    body = words["body.not-held"] if seen.body is None else _readable(seen.body)
    line = _as_curl(found)
    return (
        tag("h2", words["body"]),
        _text(body, words["body"]),
        _cut(seen.body or b"", words),
        tag("h2", words["answer"]),
        _text(_readable(seen.answer), words["answer"]),
        _cut(seen.answer, words),
        tag("h2", words["curl"]),
        _text(line, words["curl"], id="curl"),
        tag("button", words["copy"], type="button", id="copy", data_copied=words["copied"], hidden=True),
    )


def _text(content: str, label: str, **attributes: object) -> Html:
    return tag("pre", content, tabindex=0, role="group", aria_label=label, **attributes)


def _cut(piece: bytes, words: Words) -> Html:
    return tag("p", words["cut"].format(bytes=PIECE)) if len(piece) >= PIECE else Html()


def _readable(piece: bytes) -> str:
    return piece.decode("utf-8", "backslashreplace")


def _as_curl(found: Details) -> str:
    """Write the request as it can be made again; the caller token, should there be one, stays out of it."""
    seen, line = found.inspected, found.request
    if seen is None:
        return ""
    host = next((value.decode("latin-1") for name, value in found.fields if name.lower() == b"host"), "localhost")
    at_socket = ["--unix-socket", line.listener.removeprefix("unix:")] if line.listener.startswith("unix:") else []
    words = ["curl", "-X", line.method, *at_socket, f"http://{host}{seen.target}"]
    for raw_name, raw_value in found.fields:
        if raw_name.decode("latin-1").lower() in _REPEATED_BY_CURL:
            words += ["-H", f"{raw_name.decode('latin-1')}: {raw_value.decode('utf-8', 'replace')}"]
    if seen.body:
        words += ["--data-binary", _readable(seen.body)]
    return shlex.join(words)
