"""The status page, drawn whole from a `Status`: what is live in a browser is the same HTML, sent anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.admin.drawing import latency, rate, timeline, when
from proxy.admin.html import Html, joined, tag
from proxy.admin.rows import COLUMNS, Filter, description, details, failure_in_words, row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxy.admin.status import Connections, Details, Login, Request, Status, Token
    from proxy.admin.texts import Words


_LOGINS = 5
"""Logins that are shown of each token; `/status` has some more."""


def page(status: Status, words: Words, chosen: Filter) -> str:
    """Return the whole page."""
    live = sections(status, words)
    main = tag(
        "main",
        tag("p", id="cut-off", role="alert", hidden=True, data_text=words["cut-off"]),
        tag("noscript", tag("p", words["no-script"])),
        _section("state-title", words["state"], _live("state", live, role="status"), _live("facts", live)),
        _section("tokens-title", words["tokens"], _refresh(words), _live("tokens", live)),
        _section("traffic-title", words["traffic"], _live("traffic", live)),
        _section("pool-title", words["pool"], _live("pool", live)),
        _section("requests-title", words["requests"], _filter(status, words, chosen), _requests(status, words, chosen)),
        tag(
            "dialog",
            id="dialog",
            aria_label=words["details"],
            data_close=words["close"],
            data_failed=words["not-loaded"],
        ),
        id="main",
        data_run=status.run,
        data_last=status.requests[0].number if status.requests else 0,
    )
    return _document(words["title"], main, words, skip="#requests-title")


def details_page(found: Sequence[Details], request_id: str, words: Words) -> str:
    """Return the page of one request, which may have been told of twice: its caller left, then Invoisys answered."""
    title = words["details-of"].format(request=request_id)
    content = (details(each, words) for each in found)
    main = tag(
        "main",
        tag("p", tag("a", words["back"], href="/"), class_="back"),
        tag("h1", title),
        *(content if found else [tag("p", words["gone"])]),
        id="main",
    )
    return _document(title, main, words)


def sections(status: Status, words: Words) -> dict[str, Html]:
    """Return those parts of the page that change, by the id of their element."""
    return {
        "state": _state(status, words),
        "facts": _facts(status, words),
        "tokens": joined(_token(token, status, words) for token in status.tokens),
        "traffic": _traffic(status, words),
        "pool": _pool(status.connections, words),
    }


def rows(requests: Iterable[Request], words: Words) -> list[Html]:
    """Return requests as rows of the table."""
    return [row(request, words) for request in requests]


# --- The document -----------------------------------------------------------------------------------------------------


def _document(title: str, main: Html, words: Words, skip: str = "#main") -> str:
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="stylesheet", href="/static/page.css"),
        tag("link", rel="icon", href="/static/icon.svg", type="image/svg+xml"),
        tag("script", src="/static/page.js", defer=True),
    )
    top = tag(
        "header",
        tag("a", words["skip"], href=skip, class_="skip") if skip != "#main" else "",
        tag("p" if skip == "#main" else "h1", words["title"], class_="name"),
        tag("p", words["live"], id="live", hidden=True),
    )
    return "<!doctype html>" + tag("html", head, tag("body", top, main), lang=words["lang"])


def _section(title_id: str, title: str, *content: object) -> Html:
    return tag("section", tag("h2", title, id=title_id, tabindex=-1), *content, aria_labelledby=title_id)


def _live(name: str, live: dict[str, Html], **attributes: object) -> Html:
    return tag("div", live[name], id=name, data_live=True, **attributes)


def _table(label: str, columns: Iterable[str], body: Iterable[object], **attributes: object) -> Html:
    head = tag("thead", tag("tr", *(tag("th", column, scope="col") for column in columns)))
    table = tag("table", tag("caption", label), head, tag("tbody", *body, **attributes))
    return tag("div", table, class_="scroll", tabindex=0, role="group", aria_label=label)


# --- The sections -----------------------------------------------------------------------------------------------------


def _state(status: Status, words: Words) -> Html:
    reasons = tag("ul", *(tag("li", reason, lang="en") for reason in status.reasons)) if status.reasons else ""
    name = status.readiness
    means = tag("p", tag("strong", words[name], class_="readiness"), " ", words[f"{name}.means"])
    return tag("div", means, reasons, class_=f"banner {name}")


def _facts(status: Status, words: Words) -> Html:
    facts: dict[str, object] = {
        words["environment"]: words[status.environment],
        words["version"]: status.version,
        words["running-since"]: when(status.started_at),
        words["waiting-now"]: f"{status.waiting} / {status.waiting_limit}",
    }
    if status.workers:
        facts[words["workers"]] = f"{sum(each.serving for each in status.workers)} / {len(status.workers)}"
    listeners = (
        tag("tr", tag("td", tag("code", each.address)), tag("td", each.account), tag("td", each.in_flight))
        for each in status.listeners
    )
    columns = [words["listener"], words["account"], words["in-flight"]]
    return joined([description(facts), _table(words["listeners"], columns, listeners)])


def _refresh(words: Words) -> Html:
    button = tag("button", words["refresh"], id="refresh")
    said = {name: words[name] for name in ("refreshing", "refreshed", "refresh-failed")}
    answer = tag("output", id="refresh-said", **{f"data-{name}": text for name, text in said.items()})
    return tag("form", button, answer, method="post", action="/refresh", id="refresh-form")


def _token(token: Token, status: Status, words: Words) -> Html:
    title = words["token-of"].format(account=token.account, api=token.api)
    unasked = token.state == "none" and not token.logins and token.login_state == "idle"
    login = "in-flight.login" if token.login_state == "in-flight" else token.login_state
    facts: dict[str, object] = {words["generation"]: token.generation, words["rejections"]: token.rejections}
    says = words["unasked"] if unasked else words[login].format(seconds=f"{token.retry_in_s:.0f}")
    return tag(
        "article",
        tag("h3", title),
        tag("p", tag("strong", words[token.state], class_=f"token {token.state}"), " · ", says),
        "" if token.failure is None else tag("p", failure_in_words(token.failure, words), class_="failure"),
        timeline(token, status.now, words),
        description(facts),
        _logins(token.logins[:_LOGINS], f"{words['last-logins']}: {title}", words),
    )


def _logins(logins: Sequence[Login], label: str, words: Words) -> Html:
    if not logins:
        return tag("p", words["no-logins"])
    body = (
        tag(
            "tr",
            tag("td", when(login.at)),
            tag("td", words[f"reason.{login.reason}"]),
            tag(
                "td",
                words[f"result.{login.result}"] if login.failure is None else failure_in_words(login.failure, words),
            ),
        )
        for login in logins
    )
    return _table(label, [words["time"], words["why"], words["result"]], body)


def _traffic(status: Status, words: Words) -> Html:
    return joined([
        tag("figure", tag("figcaption", words["rate"]), rate(status.traffic, words)),
        tag("figure", tag("figcaption", words["latency"]), latency(status.traffic, words)),
    ])  # fmt: skip


def _pool(connections: Sequence[Connections], words: Words) -> Html:
    if not connections:
        return tag("p", words["no-pool"])
    names = ("busy", "idle", "limit", "opened", "reused")
    body = (
        tag(
            "tr",
            tag("td", each.api),
            tag("td", tag("code", each.upstream)),
            *(tag("td", getattr(each, name)) for name in names),
            tag("td", sum(each.closed.values())),
        )
        for each in connections
    )
    columns = ["API", words["upstream"], *(words[f"pool.{name}"] for name in (*names, "closed"))]
    return _table(words["pool"], columns, body)


def _filter(status: Status, words: Words, chosen: Filter) -> Html:
    shown = sum(chosen.lets_pass(request, words) for request in status.requests)
    return tag(
        "form",
        tag("label", words["filter.text"], for_="q"),
        tag("input", type="search", id="q", name="q", value=chosen.text, autocomplete="off"),
        tag("label", tag("input", type="checkbox", id="failed", name="failed", checked=chosen.failed), " ",
            words["filter.failed"]),
        tag("button", words["filter.apply"], id="apply"),
        tag("output", words["filter.shown"].format(shown=shown, all=len(status.requests)), id="shown", for_="q failed",
            data_text=words["filter.shown"]),
        role="search",
        aria_label=words["filter"],
        id="filter",
        action="/",
    )  # fmt: skip


def _requests(status: Status, words: Words, chosen: Filter) -> Html:
    body = (row(request, words, chosen) for request in status.requests)
    return _table(words["requests"], [words[name] for name in COLUMNS], body, id="rows")
