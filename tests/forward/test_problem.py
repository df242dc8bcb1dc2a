from __future__ import annotations

import json

import pytest

from proxy import errors
from proxy.errors import Origin, Outcome, ProxyError
from proxy.forward.problem import STAND_IN_TOKEN, own_head, problem


def tree(kind: type[ProxyError]) -> list[type[ProxyError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]


def test_the_head_of_an_answer_of_our_own() -> None:
    assert own_head(200, b"application/json", 3) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\nCache-Control: no-store\r\n"
    )
    assert own_head(421, b"text/plain", 0, b"A: b\r\n") == (
        b"HTTP/1.1 421 Misdirected Request\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n"
        b"Cache-Control: no-store\r\nA: b\r\n"
    )


def test_a_problem() -> None:
    fields, body = problem(errors.ConnectionRefused("api.invoisys.test:443 refused the connection"), "1f2e-7")
    assert fields == b"X-Invoisys-Outcome: not-sent\r\nProxy-Status: invoisys-proxy; error=connection_refused\r\n"
    assert json.loads(body) == {
        "type": "urn:invoisys-proxy:connection-refused",
        "title": "Invoisys could not be reached",
        "status": 502,
        "detail": "api.invoisys.test:443 refused the connection",
        "origin": "upstream",
        "outcome": "not-sent",
        "request_id": "1f2e-7",
    }


def test_an_unknown_outcome_is_called_so() -> None:
    fields, body = problem(errors.ConnectionLost("the connection ended"), "1")
    assert b"X-Invoisys-Outcome: unknown\r\n" in fields
    assert json.loads(body)["outcome"] == "unknown"


@pytest.mark.parametrize(
    ("retry_after", "written"),
    [(None, b""), (0, b"Retry-After: 1\r\n"), (0.2, b"Retry-After: 1\r\n"), (1, b"Retry-After: 1\r\n"),
     (1.01, b"Retry-After: 2\r\n"), (300.0, b"Retry-After: 300\r\n")],
)  # fmt: skip
def test_when_to_come_back(retry_after: float | None, written: bytes) -> None:
    fields, _ = problem(errors.Overloaded("full", retry_after=retry_after), "1")
    assert fields == (
        b"X-Invoisys-Outcome: not-sent\r\nProxy-Status: invoisys-proxy; error=connection_limit_reached\r\n" + written
    )


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (errors.CallerTokenRequired("x"), b'WWW-Authenticate: Bearer realm="invoisys-proxy"\r\n'),
        (errors.MethodNotAllowed("x"), b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"),
    ],
)
def test_fields_that_a_status_asks_for(error: ProxyError, field: bytes) -> None:
    assert problem(error, "1")[0].endswith(field)


@pytest.mark.parametrize("kind", tree(ProxyError), ids=lambda kind: kind.__name__)
def test_every_error_makes_a_problem(kind: type[ProxyError]) -> None:
    fields, body = problem(kind('a detail with "quotes", a \\ and ção'), "1")
    said = json.loads(body)
    assert said["status"] == kind.status
    assert 400 <= kind.status <= 599
    assert own_head(kind.status, b"a/b", 0).startswith(b"HTTP/1.1 %d " % kind.status)
    assert said["type"] == f"urn:invoisys-proxy:{kind.name}"
    assert said["detail"] == 'a detail with "quotes", a \\ and ção'
    assert said["origin"] in set(Origin)
    assert said["outcome"] in {Outcome.NOT_SENT, Outcome.UNKNOWN}
    assert f"X-Invoisys-Outcome: {kind.outcome}\r\n".encode() in fields
    assert fields.count(b"\r\n") == fields.count(b": ")


def test_no_two_errors_are_counted_under_one_name() -> None:
    kinds = [kind for kind in tree(ProxyError) if kind is not ProxyError]
    by_name: dict[str, set[type[ProxyError]]] = {}
    for kind in kinds:
        by_name.setdefault(kind.name, set()).add(kind)
    shared = {name for name, of in by_name.items() if len(of) > 1}
    # The roots of the branches are never raised themselves.
    assert shared <= {ProxyError.name, errors.UpstreamError.name, errors.CallerError.name}


def test_only_a_wrong_caller_token_is_a_401() -> None:
    assert [kind for kind in tree(ProxyError) if kind.status == 401] == [errors.CallerTokenRequired]


def test_the_stand_in_token_has_the_documented_shape() -> None:
    token = json.loads(STAND_IN_TOKEN)
    assert set(token) == {"access_token", "token_type", "expires_in"}
    assert token["token_type"] == "bearer"
    assert token["expires_in"] == 92843
