"""Issue one NF-e through the sidecar, and do the right thing about every outcome: `python emit.py BASE_URL NUMBER`.

The fields are those that the fake Invoisys reads; take the real ones from Invoisys's documentation.
"""

from __future__ import annotations

import datetime
import http.client
import json
import os
import secrets
import sys
import time
from typing import NamedTuple
from urllib.parse import urlsplit

TIMEOUT = float(os.environ.get("TIMEOUT", "240"))  # seconds; longer than the sidecar's own, or its answer is lost
PAUSE = float(os.environ.get("PAUSE", "5"))  # seconds between two queries
CALLER_TOKEN = os.environ.get("CALLER_TOKEN")  # where the listener wants one
ATTEMPTS = 2  # to send, before contingency
QUERIES = 6  # shortened: an ERP asks for at least 5 minutes before it may send again
AUTHORIZED = (100, 150)
UNDECIDED = (103, 104, 105, 106, 204, 217)  # of the batch alone, there already, not there: ask for the document


class Answer(NamedTuple):
    outcome: str  # not-sent, unknown or answered
    status: int = 0
    verdict: int = 0  # SEFAZ's, if any
    wait: float = PAUSE  # seconds before another attempt makes sense


def access_key(uf: str, month: str, cnpj: str, model: str, series: int, number: int, code: str) -> str:
    body = f"{uf}{month}{cnpj:0>14}{model}{series:03}{number:09}1{code}"  # 1: normal emission
    # Letters of a CNPJ count by their place in ASCII, as digits do.
    total = sum((ord(sign) - 48) * (2 + place % 8) for place, sign in enumerate(reversed(body)))
    return f"{body}{(11 - total % 11) % 11 % 10}"


def random_code(number: int) -> str:
    """Eight digits that SEFAZ takes: not all the same, not counting up, not the number itself (rejection 897)."""
    while True:
        code = f"{secrets.randbelow(10**8):08}"
        if len(set(code)) > 1 and code not in "01234567890123456" and int(code) != number:
            return code


def send(base: str, method: str, path: str, document: dict[str, object] | None = None) -> Answer:
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=TIMEOUT)
    try:
        connection.connect()
    except OSError:
        return Answer("not-sent")  # the sidecar is not there: nothing was sent, to anybody
    headers = {"Content-Type": "application/json"}
    if CALLER_TOKEN:
        headers["Authorization"] = f"Bearer {CALLER_TOKEN}"
    try:
        body = json.dumps(document).encode() if document else None
        connection.request(method, urlsplit(base).path + path, body, headers)
        response = connection.getresponse()
        text = response.read()
    except (OSError, http.client.HTTPException):
        return Answer("unknown")  # no answer, or not all of it
    finally:
        connection.close()
    verdict = verdict_of(text)
    outcome = response.getheader("X-Invoisys-Outcome") or outcome_of(response.status, verdict)
    wait = response.getheader("Retry-After", "")
    return Answer(outcome, response.status, verdict, float(wait) if wait.isdecimal() else PAUSE)


def verdict_of(text: bytes) -> int:
    try:
        return int(json.loads(text)["dadosDoDocumento"]["codigoStatusSEFAZ"])
    except (ValueError, TypeError, KeyError):
        return 0


def outcome_of(status: int, verdict: int) -> str:
    refused = 400 <= status < 500 and status != 429
    return "answered" if verdict not in UNDECIDED and (verdict or refused) else "unknown"


def issue(base: str, document: dict[str, object], key: str) -> str:
    for attempt in range(1, ATTEMPTS + 1):
        answer = send(base, "POST", "/api/nfe/envio", document)
        if answer.outcome == "unknown":
            return settle(base, key)
        if answer.verdict:
            return told(answer.verdict, key)
        if 400 <= answer.status < 500:
            return f"refused {answer.status}"  # the request itself has to change
        if attempt < ATTEMPTS:
            time.sleep(answer.wait)
    return "contingency"  # Invoisys knows nothing of the number: it is still free


def settle(base: str, key: str) -> str:
    """Never send again what may have been sent: ask for it."""
    for query in range(1, QUERIES + 1):
        answer = send(base, "GET", f"/api/nfe/getbychaveSTD/{key}")
        if answer.outcome == "answered" and answer.verdict:
            return told(answer.verdict, key)
        if query < QUERIES:
            time.sleep(PAUSE)
    return f"pending {key}"  # go on asking later; the next sale takes the next number


def told(verdict: int, key: str) -> str:
    return f"issued {key}" if verdict in AUTHORIZED else f"rejected {verdict}"


def main(base: str, number: int) -> None:
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")  # local time, with its offset
    cnpj, model, series, code = "12345678000195", "55", 1, random_code(number)
    document: dict[str, object] = {
        "cnpj": cnpj,
        "modelo": model,
        "serie": series,
        "numero": number,
        "codigoAleatorioNF": code,
        "dataEmissao": now,
    }
    key = access_key("35", now[2:4] + now[5:7], cnpj, model, series, number, code)
    # Here the ERP writes document and key down: should it die while it waits, the key still finds the document.
    print(issue(base, document, key))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
