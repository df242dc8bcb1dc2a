"""The guard of the real program, by the bytes of hostile callers; whatever it refuses never reaches upstream."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.config import written
from tests.support.origin import Origin, Visit, upstream
from tests.support.processes import Fake, Process, Sidecar, fake_invoisys, sidecar
from tests.support.wire import PATIENCE, Reply, send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

PAGE = "http://localhost:3000"
CALLER_TOKEN = "caller-token-of-this-listener"
NEXT_TOKEN = "the-next-token-of-this-listener"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fake, Sidecar]]:
    """A listener with a name, an origin and rules, and no caller token."""
    listener = {
        "bind": "127.0.0.1:0",
        "hosts": ["sidecar"],
        "origins": [PAGE],
        "rules": ["GET /api/nfe/*", "POST /api/nfe/envio"],
    }
    config = written(tmp_path_factory.mktemp("config"), listeners=[listener])
    with fake_invoisys() as fake, sidecar(fake.url, "-c", config) as proxy:
        yield fake, proxy


async def call(url: str, method: str, target: str, *fields: str) -> Reply:
    lines = "".join(f"{field}\r\n" for field in fields)
    return await send(url, f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("utf-8", "surrogateescape"))


async def assert_refused(guarded: tuple[Fake, Sidecar], expected: tuple[int, str], *request: str) -> None:
    fake, proxy = guarded
    before = (await fake.state())["requests"]
    reply = await call(proxy.url, *request)
    assert (reply.status, reply.json()["type"]) == (expected[0], f"urn:invoisys-proxy:{expected[1]}")
    assert reply["X-Invoisys-Outcome"] == "not-sent"
    assert "Access-Control-Allow-Origin" not in reply
    assert (await fake.state())["requests"] == before


# --- Host -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "LocalHost:1", "127.0.0.1:65535", "[::1]:8080", "Sidecar", "sidecar:80"])
async def test_our_own_hosts_pass(guarded: tuple[Fake, Sidecar], host: str) -> None:
    assert (await call(guarded[1].url, "GET", "/api/nfe/getbychaveSTD/1", f"Host: {host}")).status == 200


MISDIRECTED = (421, "misdirected-request")
MALFORMED = (400, "malformed-request")


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        *((host, MISDIRECTED) for host in (
            "", "evil.com", "localhost.evil.com", "evil.localhost", "127.0.0.1.nip.io", "127.0.0.2", "127.1", "0.0.0.0",
            "2130706433", "[::]", "[::1", "[::1%25lo]", "[::1%lo]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0::1]",
            "localhost.", "sidecar.", "sidecar.evil.com", "localhost/", "localhost/api", "/", "localhost,localhost",
            "localhost, evil.com", "localhost evil.com", "user@localhost", "user:password@localhost",
            "localhost@evil.com", "localhost:", "localhost:0", "localhost:99999", "localhost:65536", "localhost:080",
            "localhost:+80", "localhost:-1", "localhost:80a", "localhost:80:80", "localhost:\uff18\uff10",
            "localhos\u017f", "%6cocalhost", "localhost\udcff", "localhost?x", "localhost#x", "localhost\\", "*",
        )),
        ("localhost\x00", MALFORMED),
        ("localhost\r\nHost: localhost", MALFORMED),
        ("localhost\r\nhost: evil.com", MALFORMED),
        ("localhost\r\n evil.com", MALFORMED),
    ],
)  # fmt: skip
async def test_a_host_of_others_is_refused(guarded: tuple[Fake, Sidecar], host: str, answer: tuple[int, str]) -> None:
    await assert_refused(guarded, answer, "GET", "/api/nfe/getbychaveSTD/1", f"Host: {host}")


async def test_a_request_without_host_is_refused(guarded: tuple[Fake, Sidecar]) -> None:
    await assert_refused(guarded, MALFORMED, "GET", "/api/nfe/getbychaveSTD/1")


@pytest.mark.parametrize("host", ["localhost", "evil.com"])
async def test_a_host_in_the_target_is_refused(guarded: tuple[Fake, Sidecar], host: str) -> None:
    target = f"http://{host}/api/nfe/getbychaveSTD/1"
    await assert_refused(guarded, (400, "bad-target"), "GET", target, "Host: localhost")
    await assert_refused(guarded, MISDIRECTED, "GET", target, "Host: evil.com")


# --- Browsers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        ["Origin: https://evil.com"],
        ["Origin: null"],
        ["Origin:"],
        ["Origin: *"],
        [f"Origin: {PAGE}.evil.com"],
        [f"Origin: {PAGE}/"],
        ["Origin: http://LOCALHOST:3000"],
        ["Origin: https://localhost:3000"],
        ["Origin: http://localhost"],
        ["Origin: http://localhost", "Sec-Fetch-Site: same-origin"],
        [f"Origin: {PAGE}, https://evil.com"],
        [f"Origin: {PAGE}", "Origin: https://evil.com"],
        ["Origin: https://evil.com", f"Origin: {PAGE}"],
        [f"Origin: {PAGE}", f"Origin: {PAGE}"],
        ["Origin: http://localhost:3000\udcff"],
        ["Sec-Fetch-Site: cross-site"],
        ["Sec-Fetch-Site: same-site"],
        ["Sec-Fetch-Site:"],
        ["Sec-Fetch-Site: NONE"],
        ["Sec-Fetch-Site: none, cross-site"],
        ["Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"],
        ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-origin"],
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_a_web_page_that_was_not_let_in_is_refused(
    guarded: tuple[Fake, Sidecar], method: str, fields: list[str]
) -> None:
    asked = ["Access-Control-Request-Method: POST"] if method == "OPTIONS" else []
    target = "/api/nfe/getbychaveSTD/1" if method == "GET" else "/api/nfe/envio"
    await assert_refused(guarded, (403, "forbidden"), method, target, "Host: localhost", *fields, *asked)


async def test_a_web_page_that_was_let_in_reads_what_invoisys_answers() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(
            b"HTTP/1.1 200 OK\r\nVary: Accept\r\nAccess-Control-Allow-Origin: *\r\nX-A: 1\r\n"
            b"access-control-allow-credentials: true\r\nContent-Length: 2\r\n\r\nok"
        )

    async with before(script, origins=[PAGE]) as (origin, proxy):
        shared = await call(
            proxy.url, "GET", "/api/x", "Host: localhost", f"Origin: {PAGE}", "Sec-Fetch-Site: cross-site"
        )
        assert shared.fields == [
            ("Vary", "Accept"),
            ("X-A", "1"),
            ("Content-Length", "2"),
            ("Access-Control-Allow-Origin", PAGE),
            ("Access-Control-Expose-Headers", "X-Invoisys-Outcome, Proxy-Status, Retry-After, *"),
            ("Vary", "Origin"),
        ]
        assert f"Origin: {PAGE}\r\n".encode() in origin.visit.seen


async def test_an_answer_to_a_program_is_not_touched() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\nok")

    async with before(script, origins=[PAGE]) as (_, proxy):
        plain = await call(proxy.url, "GET", "/api/x", "Host: localhost")
    assert plain.fields == [("Access-Control-Allow-Origin", "*"), ("Content-Length", "2")]


async def test_a_web_page_that_was_let_in_reads_why_it_is_refused(guarded: tuple[Fake, Sidecar]) -> None:
    _, proxy = guarded
    page = ("Host: localhost", f"Origin: {PAGE}")
    for request, status in (
        (("GET", "/api/cte/1", *page), 403),
        (("GET", "/api/nfe/1", "Host: evil.com", page[1]), 421),
        (("GET", "/api/nfe/1", *page, "Upgrade: websocket", "Connection: upgrade"), 501),
    ):
        reply = await call(proxy.url, *request)
        assert reply.status == status
        assert reply["Access-Control-Allow-Origin"] == PAGE
        assert "X-Invoisys-Outcome" in reply["Access-Control-Expose-Headers"]
        assert reply["Vary"] == "Origin"


async def test_a_preflight_is_answered_here(guarded: tuple[Fake, Sidecar]) -> None:
    fake, proxy = guarded
    before = (await fake.state())["requests"]
    reply = await call(
        proxy.url,
        "OPTIONS",
        "/api/nfe/envio",
        "Host: localhost",
        f"Origin: {PAGE}",
        "Sec-Fetch-Site: cross-site",
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: authorization,content-type",
        "Access-Control-Request-Private-Network: true",
    )
    assert (reply.status, reply.fields) == (
        204,
        [
            ("Access-Control-Allow-Origin", PAGE),
            ("Access-Control-Allow-Methods", "POST"),
            ("Access-Control-Allow-Headers", "authorization,content-type"),
            ("Access-Control-Allow-Private-Network", "true"),
            ("Access-Control-Max-Age", "7200"),
            ("Vary", "Origin"),
        ],
    )
    assert (await fake.state())["requests"] == before


@pytest.mark.parametrize(
    ("target", "fields", "status"),
    [
        ("/api/nfe/envio", ["Access-Control-Request-Method: DELETE"], 403),
        ("/api/cte/envio", ["Access-Control-Request-Method: POST"], 403),
        ("/api/nfe/%2e%2e/cte", ["Access-Control-Request-Method: GET"], 403),
        ("/api/nfe/envio", [], 403),
        ("/api/nfe/envio", ["Access-Control-Request-Method: POST", "Access-Control-Request-Method: GET"], 400),
        ("/api/nfe/envio", ["Access-Control-Request-Method: PO ST"], 400),
        ("/api/nfe/envio", ["Access-Control-Request-Method:"], 400),
        ("/api/nfe/envio", ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: a b"], 400),
    ],
)
async def test_a_preflight_of_what_no_rule_lets_pass_is_refused(
    guarded: tuple[Fake, Sidecar], target: str, fields: list[str], status: int
) -> None:
    fake, proxy = guarded
    before = (await fake.state())["requests"]
    reply = await call(proxy.url, "OPTIONS", target, "Host: localhost", f"Origin: {PAGE}", *fields)
    assert reply.status == status
    assert "Access-Control-Allow-Methods" not in reply
    assert (await fake.state())["requests"] == before


# --- Rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/api/cte/1"),
        ("DELETE", "/api/nfe/1"),
        ("HEAD", "/api/nfe/getbychaveSTD/1"),
        ("OPTIONS", "/api/nfe/1"),
        ("GET", "/API/nfe/1"),
        ("GET", "/api/nfe/../cte/1"),
        ("GET", "/api/nfe/%2e%2E/cte/1"),
        ("GET", "/api/nfe/%252e%252e/cte/1"),
        ("GET", "/api/nfe//cte"),
        ("GET", "/api/nfe/..;/cte"),
        ("GET", "/api/nfe/..%5Ccte"),
        ("GET", "/api/nfe/..\\cte"),
        ("GET", "/api/nfe/..%2fcte"),
        ("GET", "/api/nfe/%00"),
        ("GET", "/api/nfe/%c0%ae%c0%ae/cte"),
        ("GET", "/api/nfe/\udcc0\udcae\udcc0\udcae/cte"),
        ("GET", "/api/nfe/\uff0e\uff0e\uff0fcte"),
        ("POST", "/api/nfe/envio/"),
        ("POST", "/api/token"),
    ],
)
async def test_no_trick_of_writing_widens_a_rule(guarded: tuple[Fake, Sidecar], method: str, target: str) -> None:
    fake, proxy = guarded
    before = (await fake.state())["requests"]
    line = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("utf-8", "surrogateescape")
    reply = await send(proxy.url, line, head_only=method == "HEAD")
    assert (reply.status, reply["X-Invoisys-Outcome"]) == (403, "not-sent")
    assert (await fake.state())["requests"] == before


async def test_what_a_rule_lets_pass_is_forwarded_as_it_was_written() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    target = "/api/%6Efe/S%C3%A3o%20Paulo?x=%2e%2e/;//"
    async with before(script, rules=["GET /api/nfe/*"]) as (origin, proxy):
        assert (await call(proxy.url, "GET", target, "Host: localhost")).status == 200
        assert origin.visit.seen.startswith(f"GET {target} HTTP/1.1\r\n".encode())


# --- Caller token -----------------------------------------------------------------------------------------------------


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "caller-token"
    path.write_text(f"{CALLER_TOKEN}\n")
    return path


async def test_the_caller_token_never_reaches_invoisys(token_file: Path) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with before(script, caller_token_file=str(token_file)) as (origin, proxy):
        right = f"aUTHORIZATION: bearer {CALLER_TOKEN}"
        assert (await call(proxy.url, "POST", "/api/x", "Host: localhost", "Content-Length: 0", right)).status == 200
        assert CALLER_TOKEN.encode() not in origin.visit.seen
        assert origin.visit.seen.lower().count(b"authorization:") == 1


@pytest.mark.parametrize(
    "fields",
    [
        [],
        ["Authorization:"],
        ["Authorization: Bearer"],
        ["Authorization: Bearer wrong"],
        [f"Authorization: Basic {CALLER_TOKEN}"],
        [f"Authorization: {CALLER_TOKEN}"],
        [f"Authorization: Bearer {CALLER_TOKEN}x"],
        [f"Authorization: Bearer {CALLER_TOKEN[:-1]}"],
        [f"Authorization: Bearer {CALLER_TOKEN.upper()}"],
        [f"Authorization: Bearer {CALLER_TOKEN}, Bearer {CALLER_TOKEN}"],
        [f"Authorization: Bearer {CALLER_TOKEN}", f"Authorization: Bearer {CALLER_TOKEN}"],
        [f"Authorization: Bearer {CALLER_TOKEN}", "Authorization: Bearer wrong"],
        ["Authorization: Bearer senh\u00e3"],
        ["Authorization: Bearer \udcff\udcfe"],
        ["Authorization: B\u00e9arer x"],
        [f"Proxy-Authorization: Bearer {CALLER_TOKEN}"],
        ["Authorization: Bearer stand-in.the-sidecar-adds-the-real-token"],
    ],
)
async def test_a_wrong_caller_token_is_refused(strict: tuple[Fake, Sidecar], fields: list[str]) -> None:
    fake, proxy = strict
    before = (await fake.state())["requests"]
    for target in ("/api/nfe/1", "/api/token"):
        reply = await call(proxy.url, "POST", target, "Host: localhost", "Content-Length: 0", *fields)
        assert (reply.status, reply.json()["type"]) == (401, "urn:invoisys-proxy:caller-token")
        assert reply.json()["origin"] == "caller"
        assert reply["WWW-Authenticate"].startswith("Bearer")
        assert reply["X-Invoisys-Outcome"] == "not-sent"
    assert (await fake.state())["requests"] == before


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fake, Sidecar]]:
    """A listener with a caller token and an origin."""
    folder = tmp_path_factory.mktemp("strict")
    (folder / "token").write_text(CALLER_TOKEN)
    listener = {"bind": "127.0.0.1:0", "origins": [PAGE], "caller_token_file": str(folder / "token")}
    with (
        fake_invoisys() as fake,
        sidecar(fake.url, "-c", written(folder, listeners=[listener])) as proxy,
    ):
        yield fake, proxy


async def test_a_web_page_shows_its_caller_token_itself(strict: tuple[Fake, Sidecar]) -> None:
    _, proxy = strict
    page = ("Host: localhost", f"Origin: {PAGE}")
    asked = await call(
        proxy.url,
        "OPTIONS",
        "/api/nfe/1",
        *page,
        "Access-Control-Request-Method: GET",
        "Access-Control-Request-Headers: authorization",
    )
    assert (asked.status, asked["Access-Control-Allow-Headers"]) == (204, "authorization")
    wrong = await call(proxy.url, "GET", "/api/nfe/1", *page, "Authorization: Bearer wrong")
    assert (wrong.status, wrong["Access-Control-Allow-Origin"]) == (401, PAGE)
    right = await call(proxy.url, "GET", "/api/nfe/getbychaveSTD/1", *page, f"Authorization: Bearer {CALLER_TOKEN}")
    assert (right.status, right["Access-Control-Allow-Origin"]) == (200, PAGE)


async def test_a_preflight_without_origin_does_not_get_round_the_caller_token(strict: tuple[Fake, Sidecar]) -> None:
    reply = await call(strict[1].url, "OPTIONS", "/api/nfe/1", "Host: localhost", "Access-Control-Request-Method: POST")
    assert reply.status == 401


async def test_caller_tokens_are_rotated_without_a_restart(fake: Fake, token_file: Path, tmp_path: Path) -> None:
    listener = {"bind": "127.0.0.1:0", "caller_token_file": str(token_file)}

    async def status(proxy: Sidecar, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return (await proxy.ask("GET", "/api/nfe/getbychaveSTD/1", headers=headers)).status

    async def until(proxy: Sidecar, token: str, wanted: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while await status(proxy, token) != wanted:
                pass  # the next look at the file is a second away at most

    def put(text: str) -> None:
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").rename(token_file)

    with sidecar(fake.url, "-c", written(tmp_path, listeners=[listener])) as proxy:
        assert [await status(proxy, token) for token in (CALLER_TOKEN, NEXT_TOKEN)] == [200, 401]
        put(f"{CALLER_TOKEN}\n{NEXT_TOKEN}\n")
        await until(proxy, NEXT_TOKEN, 200)
        assert await status(proxy, CALLER_TOKEN) == 200
        put(f"{NEXT_TOKEN}\n")
        await until(proxy, CALLER_TOKEN, 401)
        assert await status(proxy, NEXT_TOKEN) == 200
        put("")
        async with asyncio.timeout(PATIENCE):
            while not any("caller-tokens-unreadable" in line for line in proxy.process.lines):
                assert await status(proxy, NEXT_TOKEN) == 200
        assert await status(proxy, NEXT_TOKEN) == 200
    assert not any(token in line for line in proxy.process.lines for token in (CALLER_TOKEN, NEXT_TOKEN))


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("content", "fault"),
    [(None, "cannot be read: No such file or directory"), ("", "is empty"), ("secret", "at least 16 characters")],
)
def test_a_caller_token_file_that_is_no_good_is_told_at_start(
    tmp_path: Path, command: str, content: str | None, fault: str
) -> None:
    if content is not None:
        (tmp_path / "token").write_text(content)
    config = written(tmp_path, listeners=[{"caller_token_file": str(tmp_path / "token")}])
    process = Process(command, "-c", config, env={"INVOISYS_USERNAME": "a", "INVOISYS_PASSWORD": "b"})
    assert process.wait() == 2
    assert process.errors.startswith("listeners[0].caller_token_file: ")
    assert process.errors.endswith(f"{fault}\n")
    assert "secret" not in process.errors
    process.stop()


# --- The stage --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def before(script: Any, **listener: object) -> AsyncIterator[tuple[Origin, Sidecar]]:
    """Run the sidecar before an upstream that a script plays, with a listener that is set so."""
    with tempfile.TemporaryDirectory() as folder, fake_invoisys() as fake:
        config = written(Path(folder), listeners=[{"bind": "127.0.0.1:0", **listener}])
        async with upstream(script) as origin:
            with sidecar(fake.url, "-c", config, API_2_0_URL=f"http://127.0.0.1:{origin.port}") as proxy:
                yield origin, proxy
