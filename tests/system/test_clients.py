"""The clients that ERPs are written with get the right answer, with their defaults."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.support.wire import connect, send

if TYPE_CHECKING:
    from tests.support.processes import Fake, Sidecar

CLIENTS = Path(__file__).parent / "clients"
DOCUMENT = '{"cnpj":"12345678000195","modelo":"55","serie":"1","numero":"1","natureza":"Devolução"}'
ABSENT = "/api/nfce/getbychavedeacesso/35000000000000000000000000000000000000000000"


async def run(*command: str) -> str:
    """Run a client and return what it prints; its errors fail the test."""
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return output.decode()


def assert_issued(body: str) -> None:
    said = json.loads(body)["dadosDoDocumento"]
    assert said["codigoStatusSEFAZ"] == 100
    assert said["documentoJaEmitidoAnteriormente"] is False
    assert len(said["chaveDeAcesso"]) == 44


async def assert_one_document(fake: Fake) -> None:
    state = await fake.state()
    assert (state["documents"], state["duplicates"], state["unauthorized"]) == (1, 0, 0)


@pytest.mark.needs("php")
async def test_the_php_of_the_api_page_works_with_only_the_base_url_changed(fake: Fake, proxy: Sidecar) -> None:
    token, status, body = (await run("php", str(CLIENTS / "emit.php"), proxy.url)).splitlines()
    assert token == "token: bearer 92843"
    assert status == "HTTP/1.1 200 OK"
    assert_issued(body)
    await assert_one_document(fake)
    assert (await fake.state())["logins"] == 1  # the sidecar's own: the ERP's went no further


@pytest.mark.needs("curl")
async def test_curl(fake: Fake, proxy: Sidecar) -> None:
    show = ("--silent", "--show-error", "--write-out", "\n%{http_code}\n")
    body, status = (await run("curl", *show, "--json", DOCUMENT, f"{proxy.url}/api/nfe/envio")).splitlines()
    assert status == "200"
    assert_issued(body)
    assert await run("curl", *show, f"{proxy.url}{ABSENT}") == "null\n200\n"
    await assert_one_document(fake)


@pytest.mark.needs("curl")
async def test_curl_waits_for_the_100_before_a_large_body(fake: Fake, proxy: Sidecar, tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    large.write_bytes(b"x" * 2_000_000)
    trace = ("--silent", "--verbose", "--stderr", "-", "--max-time", "20", "--expect100-timeout", "30")
    output = await run("curl", *trace, "--data-binary", f"@{large}", f"{proxy.url}/api/nfe/envio")
    assert "< HTTP/1.1 100 Continue" in output
    assert "< HTTP/1.1 200 OK" in output
    await assert_one_document(fake)


@pytest.mark.needs("node")
async def test_node_fetch(fake: Fake, proxy: Sidecar) -> None:
    issued, body, asked, absent = (await run("node", str(CLIENTS / "emit.mjs"), proxy.url)).splitlines()
    assert (issued, asked, absent) == ("200", "200", "null")
    assert_issued(body)
    await assert_one_document(fake)


@pytest.mark.needs("java", "javac")
async def test_java_http_client(fake: Fake, proxy: Sidecar) -> None:
    issued, body, asked, absent = (await run("java", str(CLIENTS / "Emit.java"), proxy.url)).splitlines()
    assert (issued, asked, absent) == ("200", "200", "null")
    assert_issued(body)
    await assert_one_document(fake)


async def test_python_http_client(fake: Fake, proxy: Sidecar) -> None:
    def talk() -> None:
        connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=20)
        connection.request("POST", "/api/nfe/envio", DOCUMENT.encode())
        answer = connection.getresponse()
        assert answer.status == 200
        assert_issued(answer.read().decode())
        connection.request("GET", ABSENT)
        assert connection.getresponse().read() == b"null"
        connection.request("HEAD", ABSENT)
        assert connection.getresponse().read() == b""
        connection.close()

    await asyncio.to_thread(talk)
    await assert_one_document(fake)


async def test_a_bare_http_1_0_client(fake: Fake, proxy: Sidecar) -> None:
    body = DOCUMENT.encode()
    reader, writer = await connect(proxy.url)
    writer.write(b"POST /api/nfe/envio HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    answer = await reader.read()  # to the end of the connection, as such a client does
    writer.close()
    head, _, issued = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"chunked" not in head
    assert_issued(issued.decode())
    await assert_one_document(fake)


async def test_an_http_1_0_client_that_keeps_its_connection(proxy: Sidecar) -> None:
    reply = await send(proxy.url, f"GET {ABSENT} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".encode())
    assert (reply.status, reply["Connection"], reply.body) == (200, "keep-alive", b"null")
