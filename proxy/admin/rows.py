"""Requests on the page: a row for each, and all that is known of one."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from proxy.admin.curl import as_curl, obstacle
from proxy.admin.drawing import split, when
from proxy.admin.html import Html, joined, tag
from proxy.admin.masking import fields_of, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxy.admin.status import Details, Failure, Request
    from proxy.admin.texts import Words
    from proxy.observe import Inspected

COLUMNS = ("time", "method", "path", "status", "duration", "outcome", "details")


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
    request, seen = found.request, found.inspected
    facts = {
        "time": when(request.at),
        "listener": request.listener,
        "method": request.method,
        "path": tag("code", request.path if seen is None else _readable(seen.target)),
        "status": request.status or "—",
        "outcome": _known(request, words),
        "duration": joined([f"{request.duration_ms:.1f} ms ", parts_of(request, words)]),
        "upstream-status": request.upstream_status,
        "error": request.failure and tag("code", request.failure.error),
        "result": request.failure and failure_in_words(request.failure, words),
    }
    return joined([
        description({words[name]: value for name, value in facts.items() if value is not None}),
        tag("p", words["headers.masked"]),
        *_headers(found.fields, words["headers"], words),
        *(() if seen is None else _body(seen.body, seen.size, words["body"], words)),
        *_headers(fields_of(found.head), words["answer.headers"], words),
        *(() if seen is None else _body(seen.answer, seen.answer_size, words["answer.body"], words)),
        *(() if seen is None else _line(found, seen, words)),
    ])  # fmt: skip


def _headers(fields: Sequence[tuple[bytes, bytes]], title: str, words: Words) -> Iterator[Html]:
    """Show a header section, masked; there is none of what was learned after the caller had left."""
    if fields:
        head = tag("tr", tag("th", words["field"], scope="col"), tag("th", words["value"], scope="col"))
        lines = (tag("tr", *(tag("td", tag("code", part)) for part in field)) for field in shown(fields))
        table = tag("table", tag("thead", head), tag("tbody", *lines))
        yield tag("h2", title)
        yield tag("div", table, class_="scroll", tabindex=0, role="group", aria_label=title)


def description(facts: dict[str, object]) -> Html:
    """Return names with their values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()))


# --- Only where bodies are inspected ----------------------------------------------------------------------------------


def _body(piece: bytes | None, size: int, title: str, words: Words) -> Iterator[Html]:
    yield tag("h2", title)
    if piece is None:
        yield tag("p", words["body.not-held"])
    elif not piece:
        yield tag("p", words["body.empty"])
    else:
        yield _text(_readable(piece), title)
        if size > len(piece):
            yield tag("p", words["body.cut"].format(kept=len(piece), size=size))


def _line(found: Details, seen: Inspected, words: Words) -> Iterator[Html]:
    """Show the request as a line for a shell; where none would make the same request, say why."""
    yield tag("h2", words["curl"])
    why = obstacle(found, seen)
    if why is not None:
        yield tag("p", words[why])
        return
    yield _text(as_curl(found, seen), words["curl"], id="curl")
    yield tag("button", words["copy"], type="button", id="copy", data_copied=words["copied"], hidden=True)


def _text(content: str, label: str, **attributes: object) -> Html:
    return tag("pre", content, tabindex=0, role="group", aria_label=label, **attributes)


def _readable(piece: bytes) -> str:
    return piece.decode("utf-8", "backslashreplace")
