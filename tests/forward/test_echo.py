"""Heads of answers that quote the token."""

from __future__ import annotations

import logging

import pytest

from proxy.forward import Echoes
from proxy.tokens import Token
from proxy.tokens.token import Moment
from proxy.upstream import Response

NOW = Moment(0.0, 0.0)
VALUE = "canary-token+with/signs=="
TOKEN = VALUE.encode()
PLAIN = b"Date: now\r\nContent-Length: 2\r\n"


def token(value: str = VALUE) -> Token:
    return Token(value, 1, NOW, NOW, NOW)


def answer(*, reason: bytes = b"OK", fields: bytes = b"") -> Response:
    response = Response(head_only=False)
    response.feed(b"HTTP/1.1 200 %b\r\n%b%b\r\n{}" % (reason, fields, PLAIN))
    return response


def names(response: Response) -> list[bytes]:
    return [name for name, _ in response.headers]


@pytest.mark.parametrize(
    "field",
    [
        b"X-Echo: " + TOKEN,
        b"X-Echo: Authorization: Bearer " + TOKEN + b"; more",
        b"Set-Cookie: session=" + TOKEN + b"; Secure",
        b'WWW-Authenticate: Bearer error="invalid_token", token="' + TOKEN + b'"',
        b"Location: https://elsewhere.example/?token=canary-token%2Bwith%2Fsigns%3D%3D",
        b"Location: /?token=canary-token%2bwith%2fsigns%3d%3d#x",
        b"canary-token+with: x\r\nX: " + TOKEN,
    ],
)
def test_a_field_that_quotes_the_token_is_left_out(field: bytes) -> None:
    response = answer(fields=field + b"\r\n")
    Echoes("2.0").strip(response, token())
    assert not any(b"signs" in value for _, value in response.headers)
    assert names(response)[-2:] == [b"Date", b"Content-Length"]
    assert (response.reason, response.take()) == (b"OK", b"{}")


def test_a_field_name_that_is_the_token() -> None:
    named = token("abcdefghijklmnopqrstuvwxyz")
    response = answer(fields=b"X-abcdefghijklmnopqrstuvwxyz: 1\r\n")
    Echoes("2.0").strip(response, named)
    assert names(response) == [b"Date", b"Content-Length"]


def test_a_reason_phrase_that_quotes_the_token_is_left_out() -> None:
    response = answer(reason=b"no " + TOKEN)
    Echoes("2.0").strip(response, token())
    assert response.reason == b""
    assert names(response) == [b"Date", b"Content-Length"]


def test_every_token_that_was_sent_lately_is_looked_for() -> None:
    first, second = token("the-first-token-of-two"), token("the-other-token-of-two")
    response = answer(fields=b"A: the-first-token-of-two\r\nB: the-other-token-of-two\r\nC: the-third-token-of-two\r\n")
    echoes = Echoes("2.0")
    echoes.strip(answer(), first)
    echoes.strip(response, second)
    assert names(response) == [b"C", b"Date", b"Content-Length"]


def test_the_tokens_that_are_remembered_have_a_bound() -> None:
    echoes = Echoes("2.0")
    for number in range(17):
        echoes.strip(answer(), token(f"{number:020}"))
    response = answer(fields=b"A: %020d\r\nB: %020d\r\nC: %020d\r\n" % (0, 1, 16))
    echoes.strip(response, token(f"{16:020}"))
    assert names(response) == [b"A", b"Date", b"Content-Length"]


def test_what_does_not_quote_it_passes_as_it_came() -> None:
    fields = b"X-Long: %b\r\nX-Near: %b\r\nX: y\r\n" % (b"v" * 4000, TOKEN[:-1] + b"!")
    response = answer(reason=b"a reason that is longer than the token is", fields=fields)
    before = list(response.headers)
    echoes = Echoes("2.0")
    echoes.strip(response, token())
    assert (response.headers, response.reason) == (before, b"a reason that is longer than the token is")
    assert echoes.stripped == 0


def test_a_token_that_may_stand_anywhere_by_chance_is_not_looked_for() -> None:
    response = answer()
    Echoes("2.0").strip(response, token("2"))
    assert names(response) == [b"Date", b"Content-Length"]


def test_it_is_counted_each_time_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    echoes = Echoes("3.0")
    with caplog.at_level(logging.WARNING, "proxy"):
        for _ in range(3):
            echoes.strip(answer(fields=b"X: " + TOKEN + b"\r\n"), token())
    assert echoes.stripped == 3
    (record,) = caplog.records
    assert (record.event, record.api) == ("token-echoed", "3.0")  # type: ignore[attr-defined]
    assert VALUE not in record.getMessage()
