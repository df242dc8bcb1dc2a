"""The clients that ERPs are written with, before an upstream that speaks TLS: large bodies, and kept connections."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest
import requests
import trustme

from proxy.fake import FakeInvoisys
from tests.support.config import written
from tests.support.processes import Sidecar, sidecar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

CLIENTS = Path(__file__).parent / "clients"
LARGE = 30 * 1024 * 1024
UPLOAD = "/api/nfe/envio"
DOWNLOAD = "/v1/nfe-entrada/eventos-nsui/12345678000195/0"
SMALL = "/api/nfce/getbychavedeacesso/35000000000000000000000000000000000000000000"
KEPT = 5


class Scene(NamedTuple):
    """A fake that speaks TLS, the sidecar before it, and 30 MiB to send."""

    fake: FakeInvoisys
    proxy: Sidecar
    file: Path
    digest: str


@contextlib.asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    fake = FakeInvoisys()
    url = (await fake.start(ssl_context=context)).replace("127.0.0.1", "localhost")
    fake.do("inbox", documents=40, size=600_000)
    file = folder / "large"
    file.write_bytes(bytes(range(256)) * (LARGE // 256))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    apis = {name: {"ca_file": str(folder / "ca.pem")} for name in ("2.0", "3.0")}
    running = contextlib.ExitStack()
    try:
        with running:
            start = running.enter_context
            # The sidecar logs in while it starts, and the fake that answers it lives in this loop.
            proxy = await asyncio.to_thread(start, sidecar(url, "-c", written(folder, apis=apis)))
            yield Scene(fake, proxy, file, digest)
    finally:
        await fake.stop()


@contextlib.asynccontextmanager
async def counting(url: str) -> AsyncIterator[tuple[str, list[None]]]:
    """A way to the sidecar that counts the connections."""
    made: list[None] = []
    parts = urlsplit(url)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(64 * 1024):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.append(None)
        further_reader, further_writer = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(pump(reader, further_writer), pump(further_reader, writer))

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", made


async def run(*command: str) -> list[str]:
    """Run a client and return the lines that it prints; its errors fail the test."""
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return output.decode().splitlines()


def uploaded(there: Scene) -> None:
    """The fake has issued one document: the one whose bytes are those of the file."""
    state = there.fake.state(documents=True)
    assert state["emissions"] == {there.digest: 1}
    assert (state["duplicates"], state["unauthorized"]) == (0, 0)


async def truth(there: Scene) -> str:
    """The digest of the download, as the client of this very process reads it."""
    reply = await there.proxy.ask("GET", DOWNLOAD)
    assert reply.status == 200
    assert len(reply.body) > LARGE
    return hashlib.sha256(reply.body).hexdigest()


# Each client is told the base URL, the file, and how many small requests to make on one connection. It prints the
# status of the upload, the status and the SHA-256 of the download, and the statuses of the small requests.
PROGRAMS = {
    "php": ("php", str(CLIENTS / "large.php")),
    "node": ("node", str(CLIENTS / "large.mjs")),
    "java": ("java", str(CLIENTS / "Large.java")),
}


def _http_client(base: str, file: Path) -> list[str]:
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=60)
    with file.open("rb") as body:
        connection.request("POST", UPLOAD, body, {"Content-Length": str(LARGE)})
        answer = connection.getresponse()
        answer.read()
    said = [str(answer.status)]
    connection.request("GET", DOWNLOAD)
    answer = connection.getresponse()
    said += [str(answer.status), hashlib.sha256(answer.read()).hexdigest()]
    for _ in range(KEPT):
        connection.request("GET", SMALL)
        answer = connection.getresponse()
        assert answer.read() == b"null"
        said.append(str(answer.status))
    connection.close()
    return said


def _requests(base: str, file: Path) -> list[str]:
    with requests.Session() as session:
        with file.open("rb") as body:
            said = [str(session.post(base + UPLOAD, data=body, timeout=60).status_code)]
        answer = session.get(base + DOWNLOAD, timeout=60)
        said += [str(answer.status_code), hashlib.sha256(answer.content).hexdigest()]
        return said + [str(session.get(base + SMALL, timeout=60).status_code) for _ in range(KEPT)]


def _httpx(base: str, file: Path) -> list[str]:
    with httpx.Client(base_url=base, timeout=60, trust_env=False) as client:
        with file.open("rb") as body:
            said = [str(client.post(UPLOAD, content=body).status_code)]  # in chunks, as it does with a file
        answer = client.get(DOWNLOAD)
        said += [str(answer.status_code), hashlib.sha256(answer.content).hexdigest()]
        return said + [str(client.get(SMALL).status_code) for _ in range(KEPT)]


def expected(digest: str) -> list[str]:
    return ["200", "200", digest, *["200"] * KEPT]


@pytest.mark.parametrize("client", [_http_client, _requests, _httpx])
async def test_a_python_client(tmp_path: Path, client: Callable[[str, Path], list[str]]) -> None:
    async with scene(tmp_path) as there, counting(there.proxy.url) as (base, made):
        said = await asyncio.to_thread(client, base, there.file)
        assert said == expected(await truth(there))
        assert len(made) == 1, "it could not keep its connection"
        uploaded(there)


@pytest.mark.parametrize(
    ("program", "most"),
    [
        pytest.param("node", 2, marks=pytest.mark.needs("node")),  # a second where the first is not yet put back
        pytest.param("java", 1, marks=pytest.mark.needs("java", "javac")),
    ],
)
async def test_a_program_that_keeps_its_connection(tmp_path: Path, program: str, most: int) -> None:
    async with scene(tmp_path) as there, counting(there.proxy.url) as (base, made):
        said = await run(*PROGRAMS[program], base, str(there.file), str(KEPT))
        assert said == expected(await truth(there))
        assert len(made) <= most, "it could not keep its connection"
        uploaded(there)


@pytest.mark.needs("php")
async def test_php(tmp_path: Path) -> None:
    async with scene(tmp_path) as there:
        said = await run(*PROGRAMS["php"], there.proxy.url, str(there.file), str(KEPT))
        assert said == expected(await truth(there))
        uploaded(there)


@pytest.mark.needs("curl")
@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
async def test_curl(tmp_path: Path, version: str) -> None:
    show = ("curl", "--silent", "--show-error", version, "--write-out", "%{http_code} %{num_connects}\n")
    async with scene(tmp_path) as there:
        base, got = there.proxy.url, tmp_path / "got"
        assert await run(*show, "--output", str(got), "--data-binary", f"@{there.file}", base + UPLOAD) == ["200 1"]
        uploaded(there)
        assert await run(*show, "--output", str(got), base + DOWNLOAD) == ["200 1"]
        assert hashlib.sha256(got.read_bytes()).hexdigest() == await truth(there)
        small = [part for _ in range(KEPT) for part in ("--output", str(got), base + SMALL)]
        said = await run(*show, *(["--header", "Connection: keep-alive"] if version == "--http1.0" else []), *small)
        assert said == ["200 1", *["200 0"] * (KEPT - 1)], "it could not keep its connection"


@pytest.mark.needs("curl")
async def test_curl_uploads_in_chunks(tmp_path: Path) -> None:
    async with scene(tmp_path) as there:
        chunked = ("--header", "Transfer-Encoding: chunked", "--data-binary", f"@{there.file}")
        show = ("curl", "--silent", "--show-error", "--output", str(tmp_path / "got"), "--write-out", "%{http_code}\n")
        assert await run(*show, *chunked, there.proxy.url + UPLOAD) == ["200"]
        uploaded(there)


async def test_a_client_of_http_1_0(tmp_path: Path) -> None:
    def talk(base: str, file: Path) -> tuple[int, str]:
        connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=60)
        connection._http_vsn, connection._http_vsn_str = 10, "HTTP/1.0"  # type: ignore[attr-defined]
        with file.open("rb") as body:
            connection.request("POST", UPLOAD, body, {"Content-Length": str(LARGE)})
            answer = connection.getresponse()
            answer.read()
            assert answer.will_close
        status = answer.status
        connection.close()
        connection.request("GET", DOWNLOAD)
        digest = hashlib.sha256(connection.getresponse().read()).hexdigest()
        connection.close()
        return status, digest

    async with scene(tmp_path) as there:
        assert await asyncio.to_thread(talk, there.proxy.url, there.file) == (200, await truth(there))
        uploaded(there)
