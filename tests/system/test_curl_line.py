"""The line for curl on a request's page: in a shell it makes the same request; where none would, the page says why."""

from __future__ import annotations

import asyncio
import re
import shlex
from html import unescape
from typing import TYPE_CHECKING, NamedTuple

import pytest

from proxy.observe import PIECE
from tests.support.config import written
from tests.support.origin import upstream
from tests.support.processes import sidecar
from tests.support.wire import PATIENCE, ask, send

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.origin import Visit
    from tests.support.processes import Fake, Sidecar

pytestmark = pytest.mark.needs("bash", "curl")

COMPARED = ("content-type", "content-encoding", "content-length", "accept-language")
JSON = "Content-Type: application/json"


class Sent(NamedTuple):
    """One request as upstream got it."""

    line: bytes
    fields: dict[str, bytes]
    body: bytes


class Case(NamedTuple):
    """One request as a caller sends it; its length is said where it has a body."""

    start: str
    body: bytes = b""
    fields: tuple[str, ...] = ()

    def bytes(self) -> bytes:
        said = [f"Content-Length: {len(self.body)}"] if self.body else []
        head = "\r\n".join([f"{self.start} HTTP/1.1", "Host: {host}", *self.fields, *said])
        return head.encode("latin-1") + b"\r\n\r\n" + self.body


CASES = {
    "a-document": Case("POST /api/nfe/envio", '{"nome": "São João", "valor": "R$ 1,00"}'.encode(), (JSON,)),
    "the-name-of-a-file": Case("POST /api/x", b"@/etc/hostname", (JSON,)),
    "lines": Case("POST /api/x", b'{\n  "a": 1\n}\n\n', (JSON,)),
    "lines-and-tabs-of-windows": Case("POST /api/x", b'{\r\n\t"a": "-1%s\\n!"\r\n}\r\n', (JSON,)),
    "signs-of-a-shell": Case("POST /api/x", b"""it's "$HOME" `id` $(id) !! \\ %d * ~ ;&|""", (JSON,)),
    "what-begins-like-an-option": Case("POST /api/x", b"--help\t", (JSON,)),
    "latin-1": Case("POST /api/x", "ação".encode("latin-1"), ("Content-Type: text/xml; charset=iso-8859-1",)),
    "every-byte": Case("POST /api/x", bytes(range(256)) * 2, ("Content-Type: a/b", "Content-Encoding: gzip")),
    "the-end-of-a-paste": Case("POST /api/x", b"\x1b[201~\nid\n", (JSON,)),
    "no-type": Case("POST /api/x", b"a=b"),
    "an-empty-type": Case("POST /api/x", b"a=b", ("Content-Type:",)),
    "a-type-that-is-no-text": Case("POST /api/x", b"a=b", ("Content-Type: text/plain; x=\xe9'\\",)),
    "as-long-as-is-kept": Case("POST /api/x", b"'" * PIECE, (JSON,)),
    "an-empty-body": Case("POST /api/x", b"", ("Content-Length: 0",)),
    "chunks": Case("POST /api/x", b"", (JSON, "Transfer-Encoding: chunked", "", "2\r\n{}\r\n0\r\n")),
    "no-body": Case("DELETE /api/x?a=1&b=%20"),
    "a-get-with-a-body": Case("GET /api/x", b"{}", (JSON, "Accept-Language: pt-BR, pt;q=0.9")),
    "head": Case("HEAD /api/x"),
    "ranges": Case("GET /api/[1-3]/{a,b}?c=[x]"),
    "dots": Case("GET /api/a/../b/./c"),
    "slashes": Case("GET /api//a/"),
    "a-question-of-nothing": Case("GET /api/x?"),
    "signs-in-a-path": Case("""GET /api/x"<>^|`\\';(a)$HOME!@:%zz"""),
    "letters-beyond-ascii": Case("GET /api/a\xc3\xa7\xc3\xa3o?\xe9"),
}


async def remember(visit: Visit, seen: list[Sent]) -> None:
    while True:
        start, *lines = (await visit.head()).split(b"\r\n")[:-2]
        fields = {name.decode().lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
        body = await visit.take(int(fields.get("content-length", b"0")))
        seen.append(Sent(start, fields, body))
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + b"ok" * (not start.startswith(b"HEAD ")))


async def shown(proxy: Sidecar) -> str:
    """The page of the request that has just ended."""
    asked = await asyncio.to_thread(proxy.process.event, "request")
    reply = await ask(proxy.admin, "GET", f"/requests/{asked['request_id']}")
    assert reply.status == 200
    return reply.body.decode()


def line_on(page: str) -> str:
    (line,) = re.findall(r'<pre[^>]* id="curl">(.*?)</pre>', page, re.DOTALL)
    return unescape(line)


async def run(shell: str, line: str) -> None:
    program = await asyncio.create_subprocess_exec(
        shell,
        "-c",
        line,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        said, errors = await program.communicate()
    assert program.returncode == 0, errors
    assert b"ok" in said or b"200 OK" in said


async def test_the_line_makes_the_same_request(fake: Fake, tmp_path: Path) -> None:
    seen: list[Sent] = []
    config = written(tmp_path, admin={"bind": "127.0.0.1:0", "inspect_bodies": True})
    async with upstream(lambda visit: remember(visit, seen)) as origin:
        with sidecar(fake.url, "-c", config, ADMIN="", API_2_0_URL=f"http://127.0.0.1:{origin.port}") as proxy:
            for name, case in CASES.items():
                request = case.bytes().replace(b"{host}", proxy.url.removeprefix("http://").encode(), 1)
                assert (await send(proxy.url, request, head_only=case.start.startswith("HEAD"))).status == 200, name
                line = line_on(await shown(proxy))
                assert line.replace("\n", "").isprintable(), name
                for shell in ("sh", "bash"):
                    await run(shell, line)
                    await asyncio.to_thread(proxy.process.event, "request")
                original, *again = seen
                seen.clear()
                assert [(each.line, each.body) for each in again] == [(original.line, original.body)] * 2, (name, line)
                for field in COMPARED:
                    assert {each.fields.get(field) for each in again} == {original.fields.get(field)}, (name, line)


async def test_the_line_goes_to_a_socket_where_the_caller_did(fake: Fake, tmp_path: Path) -> None:
    socket = tmp_path / "the socket"
    config = written(
        tmp_path, admin={"bind": "127.0.0.1:0", "inspect_bodies": True}, listeners=[{"bind": f"unix:{socket}"}]
    )
    with sidecar(fake.url, "-c", config, ADMIN="", LISTEN="") as proxy:
        answer = b"GET /api/x HTTP/1.0\r\n\r\n"
        assert (await send(f"unix:{socket}", answer)).status == 404
        line = line_on(await shown(proxy))
        assert line == f"curl -X GET --unix-socket {shlex.quote(str(socket))} http://localhost/api/x"


@pytest.mark.parametrize(
    ("start", "size", "why"),
    [
        ("POST /api/x", PIECE + 1, "only the beginning of the body is kept"),
        ("POST /api/x", 64 * 1024 + 1, "the body was not held"),
        ("HEAD /api/x", 1, "curl sends no body with HEAD"),
    ],
    ids=["cut", "not-held", "head"],
)
async def test_where_no_line_makes_the_same_request_there_is_none(
    start: str, size: int, why: str, fake: Fake, tmp_path: Path
) -> None:
    config = written(tmp_path, admin={"bind": "127.0.0.1:0", "inspect_bodies": True}, limits={"replay_body": "64KiB"})
    with sidecar(fake.url, "-c", config, ADMIN="") as proxy:
        request = f"{start} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * size
        assert (await send(proxy.url, request, head_only=start.startswith("HEAD"))).status == 404
        page = await shown(proxy)
        assert f"None is given: {why}" in page
        assert 'id="curl"' not in page
        assert 'id="copy"' not in page
        assert (f"Only the first {PIECE} of {size} bytes are kept." in page) is ("beginning" in why)
