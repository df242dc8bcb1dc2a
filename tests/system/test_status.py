"""`/status`, the events behind the page, and who may have them."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from proxy.admin.stream import MOST_STREAMS
from tests.support.processes import ROOT, Fake, Sidecar, sidecar
from tests.support.wire import PATIENCE, ask, connect

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

PATHS = ["/", "/status", "/events", "/requests/x", "/static/page.js", "/static/page.css", "/static/icon.svg"]


async def status(proxy: Sidecar) -> dict[str, Any]:
    reply = await ask(proxy.admin, "GET", "/status")
    assert reply.status == 200
    assert reply["Content-Type"].startswith("application/json")
    return dict(reply.json())


async def events(proxy: Sidecar, query: str = "") -> tuple[StreamReader, StreamWriter]:
    reader, writer = await connect(proxy.admin)
    writer.write(f"GET /events{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"text/event-stream" in head
    return reader, writer


async def news(reader: StreamReader) -> dict[str, Any]:
    """The next event of a stream."""
    async with asyncio.timeout(PATIENCE):
        await reader.readuntil(b"data: ")
        return dict(json.loads(await reader.readuntil(b"\n\n")))


async def test_it_tells_of_tokens_connections_and_requests(fake: Fake, proxy: Sidecar) -> None:
    await fake.reached(logins_granted=1)
    assert (await proxy.issue(1)).status == 200
    await fake.do("revoke")
    assert (await proxy.issue(2)).status == 200
    await proxy.ask("GET", "/nowhere?key=value")
    told = await status(proxy)
    assert (told["environment"], told["readiness"], told["reasons"]) == ("sandbox", "ready", [])
    (token, unasked) = told["tokens"]
    assert (token["account"], token["api"], token["state"], token["generation"]) == ("default", "2.0", "valid", 2)
    assert [(login["reason"], login["result"]) for login in token["logins"]] == [
        ("rejected", "granted"),
        ("first", "granted"),
    ]
    moments = [datetime.fromisoformat(token[name]) for name in ("obtained_at", "refresh_at", "expires_at")]
    assert moments == sorted(moments)
    assert (unasked["api"], unasked["state"], unasked["logins"]) == ("3.0", "none", [])
    nowhere, replayed, first = told["requests"]
    assert nowhere["path"] == "/nowhere?key=***"
    assert nowhere["failure"]["error"] == "no-such-api"
    assert nowhere["failure"]["next_step"].startswith("Begin the path with")
    assert (replayed["replayed"], replayed["outcome"], replayed["status"]) == (True, "answered", 200)
    assert "replayed" not in first
    assert first["upstream_ms"] <= first["duration_ms"]
    assert [pool["api"] for pool in told["connections"]] == ["2.0", "3.0"]
    assert told["connections"][0]["idle"] == 1
    assert any(point["requests_per_second"] > 0 for point in told["traffic"]["points"][-2:])
    assert sum(point["failed"] for point in told["traffic"]["points"]) == 1


async def test_a_request_s_time_is_split(fake: Fake, proxy: Sidecar) -> None:
    await fake.reached(logins_granted=1)
    await fake.do("revoke")
    await fake.do("logins", mode="slow", delay=0.3, times=1)
    await fake.do("answers", mode="slow", delay=0.2)
    assert (await proxy.issue(1)).status == 200
    (request,) = (await status(proxy))["requests"]
    assert request["login_ms"] >= 300
    assert request["upstream_ms"] >= 200
    assert request["duration_ms"] >= request["login_ms"] + request["upstream_ms"]


@pytest.mark.parametrize(
    ("mode", "path", "code", "error"),
    [
        ("cut-before", "/api/nfe/envio", 502, "connection-lost"),
        ("cut-before", "/nowhere", 404, "no-such-api"),
        ("unauthorized", "/api/nfe/envio", 401, "401-permission"),
    ],
)
async def test_a_failure_is_told_as_in_the_log(
    fake: Fake, proxy: Sidecar, mode: str, path: str, code: int, error: str
) -> None:
    await fake.reached(logins_granted=1)
    await fake.do("answers", mode=mode)
    assert (await proxy.ask("POST", path, b"{}")).status == code
    (request,) = (await status(proxy))["requests"]
    logged = proxy.process.event("request")
    failure = request["failure"]
    assert failure == {"error": error, "detail": logged["detail"], "next_step": logged["next_step"]}
    assert error in {logged.get("error"), f"401-{logged.get('replay')}"}
    assert request["outcome"] == logged["outcome"]
    page = (await ask(proxy.admin, "GET", "/")).body.decode()
    assert logged["detail"] in page
    assert logged["next_step"] in page


async def test_a_failed_login_is_told_as_in_the_log(fake: Fake) -> None:
    with sidecar(fake.url, API_2_0_TOKEN_URL="http://127.0.0.1:9/token") as proxy:
        logged = proxy.process.event("login-failed")
        token = (await status(proxy))["tokens"][0]
        for failure in (token["failure"], token["logins"][0]["failure"]):
            assert (failure["error"], failure["next_step"]) == (logged["error"], logged["next_step"])
            assert failure["detail"] in logged["message"]
            assert "`" not in failure["next_step"]


async def test_what_is_documented_is_there(fake: Fake, proxy: Sidecar) -> None:
    await fake.reached(logins_granted=1)
    await proxy.issue(1)
    told = await status(proxy)
    table = (ROOT / "docs" / "status-page.md").read_text().partition("## `/status`")[2]
    named = set(re.findall(r"`(\w+)(?:\[\])?`", table))
    keys = {*told, *told["listeners"][0], *told["tokens"][0], *told["tokens"][0]["logins"][0], *told["connections"][0]}
    keys |= {*told["traffic"], *told["traffic"]["points"][0], *told["requests"][0]}
    assert keys <= named, keys - named


# --- Who may have it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
async def test_it_has_the_guard_of_the_actions(fake: Fake, proxy: Sidecar, path: str) -> None:
    for fields, refused in (
        ({"Host": "evil.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ):
        reply = await ask(proxy.admin, "GET", path, headers=fields)
        assert reply.status == refused, fields
        assert "Access-Control-Allow-Origin" not in reply
    assert (await ask(proxy.admin, "POST", path, b"")).status == 405


async def test_a_page_may_do_nothing_but_what_it_needs(fake: Fake, proxy: Sidecar) -> None:
    for path in ("/", "/requests/unknown"):
        reply = await ask(proxy.admin, "GET", path)
        policy = reply["Content-Security-Policy"]
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert reply["X-Content-Type-Options"] == "nosniff"
        assert reply["Cache-Control"] == "no-store"
        page = reply.body.decode()
        assert not re.search(r"\son\w+=|\sstyle=|<style|<script>|javascript:", page)
        addresses = re.findall(r'(?:src|href|action)="([^"]*)"', page)
        assert addresses
        assert all(re.match(r"/(?!/)|#", address) for address in addresses)


async def test_what_is_not_there(fake: Fake, proxy: Sidecar) -> None:
    for path in ("/static/x", "/static/../page.py", "/static/%2e%2e%2fpage.py", "/requests/<b>", "/requests/"):
        reply = await ask(proxy.admin, "GET", path)
        assert reply.status == 404
        assert b"<b>" not in reply.body


# --- The events -------------------------------------------------------------------------------------------------------


async def test_events_tell_what_is_new(fake: Fake, proxy: Sidecar) -> None:
    await fake.reached(logins_granted=1)
    await proxy.issue(1)
    reader, writer = await events(proxy)
    first = await news(reader)
    assert len(first["rows"]) == 1
    assert set(first["sections"]) == {"state", "facts", "tokens", "traffic", "pool"}
    await proxy.issue(2)
    while not (event := await news(reader))["rows"]:
        pass
    assert len(event["rows"]) == 1
    assert "state" not in event["sections"]  # it has not changed
    writer.close()
    reader, writer = await events(proxy, f"?run={first['run']}&last=1")
    assert len((await news(reader))["rows"]) == 1
    writer.close()
    for query in ("?run=other&last=2", f"?run={first['run']}&last=x", f"?run={first['run']}", "?last=2"):
        reader, writer = await events(proxy, query)
        assert len((await news(reader))["rows"]) == 2
        writer.close()


async def test_there_are_few_streams(fake: Fake, proxy: Sidecar) -> None:
    streams = [await events(proxy) for _ in range(MOST_STREAMS)]
    reply = await ask(proxy.admin, "GET", "/events")
    assert (reply.status, reply["Retry-After"]) == (503, "5")
    for _, writer in streams:
        writer.close()
    async with asyncio.timeout(PATIENCE):
        while await asked(proxy) != 200:
            pass


async def asked(proxy: Sidecar) -> int:
    """The status of one more stream, which is left at once."""
    reader, writer = await connect(proxy.admin)
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1])


async def test_streams_end_with_the_sidecar(fake: Fake, proxy: Sidecar) -> None:
    await fake.reached(logins_granted=1)
    reader, writer = await events(proxy)
    await news(reader)
    assert (await ask(proxy.admin, "POST", "/quit", b"")).status == 202
    async with asyncio.timeout(PATIENCE):
        await reader.read()
    writer.close()
    assert proxy.process.wait() == 0
