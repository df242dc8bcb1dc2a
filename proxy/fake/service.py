"""What Invoisys does with a request that got through: log in, emit, look up. Pure: state and call in, answer out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl

import msgspec

from proxy.fake import answers, keys
from proxy.fake.answers import Answer
from proxy.fake.counts import Tally
from proxy.fake.faults import AnswerMode, Answers, LoginMode, Logins
from proxy.fake.state import State
from proxy.fake.tokens import api_of


class Body(NamedTuple):
    """A request body that was read to its end; of one too long to keep, only the digest is known."""

    content: bytes | None
    digest: str

    def json(self) -> object:
        """The document in it, or None."""
        try:
            return msgspec.json.decode(self.content or b"")
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


class Call(NamedTuple):
    """A request to the API, as far as the answer depends on it."""

    path: str
    args: Mapping[str, str]
    query: Mapping[str, str]
    body: Body
    keep: bool = True
    """Whether an emission is remembered."""


Work = Callable[[State, Call], Answer]

_NO_LOGIN = {
    LoginMode.ERROR: answers.ERROR,
    LoginMode.EMPTY: answers.EMPTY,
    LoginMode.HTML: answers.HTML,
    LoginMode.NO_TOKEN: answers.NO_TOKEN,
    LoginMode.CUT: answers.EMPTY,
}
"""Answers of a token endpoint that has not looked at the login."""


def log_in(state: State, account: tuple[str, str], path: str, form: Body, fault: Logins) -> Answer:
    """The answer of a token endpoint (API pages "Token de Acesso (2.0)" and its 3.0 twin)."""
    if fault.mode is LoginMode.THROTTLE:
        return answers.throttled(fault.hint)
    if fault.mode in _NO_LOGIN:
        return _NO_LOGIN[fault.mode]
    api = api_of(path)
    fields = dict(parse_qsl((form.content or b"").decode(errors="replace"), keep_blank_values=True))
    refusal = _refusal(fields, account, api, fault.mode)
    if refusal is not None:
        state.count(Tally.LOGINS_REFUSED)
        return refusal
    lifetime = state.tokens.lifetime.said()
    token = state.tokens.issue(api)
    state.count(Tally.LOGINS_GRANTED)
    return answers.granted(token, lifetime)


def _refusal(fields: Mapping[str, str], account: tuple[str, str], api: str, mode: LoginMode) -> Answer | None:
    wrong_grant = api == "2.0" and fields.get("grant_type") != "password"
    if mode is LoginMode.GRANT or (wrong_grant and mode is not LoginMode.REFUSE):
        return answers.BAD_GRANT
    if mode is LoginMode.REFUSE or (fields.get("username"), fields.get("password")) != account:
        return answers.BAD_CREDENTIALS[api]
    return None


def emit(state: State, call: Call) -> Answer:
    """Issue the NF-e that the JSON describes."""
    natural = keys.find_natural(call.body.json()) or keys.Natural(digest=call.body.digest)
    document, again = state.emit(natural, keep=call.keep)
    return answers.document(document, again=again)


def emit_xml(state: State, call: Call) -> Answer:
    """Issue the NFC-e that came as XML, signed by the caller in contingency."""
    natural = keys.find_in_xml(call.body.json()) or keys.Natural(model="65", digest=call.body.digest)
    document, again = state.emit(natural, keep=call.keep)
    return answers.document(document, again=again)


def look_up(state: State, call: Call) -> Answer:
    """The document of an access key."""
    return answers.document(state.document(call.args["chave"]))


def look_up_number(state: State, call: Call) -> Answer:
    """The document of a number and series, asked for in the body of a GET; the page documents a bare 302."""
    asked = keys.find_natural(call.body.json() or dict(call.query))
    return answers.document(state.numbered(asked), status=302)


def cancel(_state: State, _call: Call) -> Answer:
    """Cancel an NFC-e; nothing is remembered of it."""
    return answers.CANCELLED


def receive(state: State, call: Call) -> Answer:
    """The events after an NSUi."""
    kind = "NFe" if call.path.startswith("/v1/nfe") else "CTe"
    return answers.events(kind, call.args["cnpj"], int(call.args["nsui"]), state.inbox)


def missing(_state: State, call: Call) -> Answer:
    """The answer to any path that the fake does not know."""
    return answers.missing(call.path)


def disturbed(answer: Answer, fault: Answers) -> Answer:
    """What a fault puts in the place of an answer."""
    match fault.mode:
        case AnswerMode.ERROR:
            return answers.ERROR
        case AnswerMode.THROTTLE:
            return answers.throttled(fault.hint)
        case AnswerMode.EMPTY:
            return answers.EMPTY
        case AnswerMode.VERDICT:
            return answers.with_verdict(answer, fault.verdict)
        case _:
            return answer


ROUTES: tuple[tuple[str, str, Work], ...] = (
    ("POST", "/api/nfe/envio", emit),
    ("GET", "/api/nfe/getbychave/{chave}", look_up),
    ("GET", "/api/nfe/getbychaveSTD/{chave}", look_up),
    ("POST", "/api/nfce/envioxmlcontingencia", emit_xml),
    ("POST", "/api/nfce/cancelarnfce", cancel),
    ("GET", "/api/nfce/getbychavedeacesso/{chave}", look_up),
    ("GET", "/api/nfce/consultarsefazpornumeroserie", look_up_number),
    ("GET", "/v1/nfe-entrada/eventos-nsui/{cnpj}/{nsui:[0-9]{1,15}}", receive),
    ("GET", "/v1/cte-entrada/eventos-nsui/{cnpj}/{nsui:[0-9]{1,15}}", receive),
    ("*", "/{path:.*}", missing),
)
