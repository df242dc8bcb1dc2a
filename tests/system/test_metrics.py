"""What a scrape tells after things have happened, and that Prometheus' own tool finds nothing to say of it."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families as read_text

from tests.support.config import written
from tests.support.processes import Fake, Sidecar, sidecar
from tests.support.wire import PATIENCE, ask, connect, read_reply, send

if TYPE_CHECKING:
    from pathlib import Path

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(proxy: Sidecar) -> Samples:
    text = (await ask(proxy.admin, "GET", "/metrics")).body.decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in read_text(text)
        for sample in family.samples
    }


class Told:
    """What a scrape tells, by name without our prefix and by some of its labels: the sum of what fits."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __call__(self, name: str, **labels: str) -> float:
        fitting = [
            value
            for (told, with_labels), value in self._samples.items()
            if told == f"invoisys_proxy_{name}" and set(labels.items()) <= with_labels
        ]
        assert fitting, f"nothing is told of {name} {labels}"
        return sum(fitting)


def promtool(*arguments: str, given: bytes) -> tuple[int, str]:
    done = subprocess.run(["promtool", *arguments], input=given, capture_output=True, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


async def told(proxy: Sidecar) -> Told:
    return Told(await scrape(proxy))


async def test_requests_are_counted_by_what_became_of_them(fake: Fake, proxy: Sidecar) -> None:
    await proxy.issue(1)
    await proxy.ask("GET", "/api/nfe/getbychaveSTD/1")
    await proxy.ask("PROPFIND", "/api/nfe/envio")
    await proxy.ask("GET", "/elsewhere")
    await proxy.ask("POST", "/api/token", b"grant_type=password")
    now = await told(proxy)
    assert now("requests_total", api="2.0", method="POST", status="200", origin="upstream") == 1
    assert now("requests_total", api="2.0", method="GET", origin="upstream") == 1
    assert now("requests_total", method="other") == 1
    assert now("requests_total", api="none", method="GET", status="404", origin="sidecar") == 1
    assert now("requests_total", api="none", method="POST", status="200", origin="sidecar") == 1
    assert now("request_outcomes_total", api="2.0", outcome="answered") == 3
    assert now("request_outcomes_total", outcome="unknown") == 0
    assert now("request_errors_total", error="no-such-api") == 1
    assert now("request_duration_seconds_count") == 5
    assert now("upstream_duration_seconds_count") == 3
    assert now("request_duration_seconds_sum") >= now("upstream_duration_seconds_sum") > 0
    assert now("pool_connections_opened_total", api="2.0") == 1
    assert now("pool_connections_reused_total", api="2.0") == 2
    assert now("pool_connections", api="2.0", state="idle") == 1
    assert now("logins_total", api="2.0", result="granted") == 1
    assert now("readiness", state="ready") == 1


async def test_refusals_are_counted_by_cause(fake: Fake, tmp_path: Path) -> None:
    secret = tmp_path / "caller-token"
    secret.write_text("let-me-in")
    secret.chmod(0o600)
    listener = {"bind": "127.0.0.1:0", "rules": ["GET /api/*", "POST /api/token"], "token_endpoint": "deny"}
    with sidecar(fake.url, "-c", written(tmp_path, listeners=[listener]), LISTEN="") as proxy:
        await proxy.ask("GET", "/api/x", headers={"Host": "evil.example"})
        await proxy.ask("GET", "/api/x", headers={"Origin": "https://evil.example"})
        await proxy.ask("OPTIONS", "*")
        await proxy.ask("POST", "/api/nfe/envio", b"")
        await proxy.ask("POST", "/api/token", b"")
        await send(proxy.url, b"this is not HTTP\r\n\r\n")
        await proxy.ask("GET", "/api/" + "x" * 17000)
        now = await told(proxy)
        for cause in ("host", "origin", "form", "rule", "token-endpoint"):
            assert now("guard_refusals_total", cause=cause) == 1
        assert now("guard_refusals_total", cause="caller-token") == 0
        assert now("malformed_requests_total", error="malformed-request") == 1
        assert now("malformed_requests_total", error="target-too-long") == 1
        assert now("requests_total", origin="sidecar") == 6


async def test_callers_who_are_cut_short_are_counted_by_error(fake: Fake, tmp_path: Path) -> None:
    unix = f"unix:{tmp_path}/s"
    sections = {
        "listeners": [{"bind": "127.0.0.1:0"}, {"bind": unix, "uids": ["nobody"]}],
        "limits": {"caller_connections": 1},
        "timeouts": {"head": "300ms"},
    }
    with sidecar(fake.url, "-c", written(tmp_path, **sections), LISTEN="") as proxy:
        first, second, third = [await connect(url) for url in (proxy.url, proxy.url, proxy.urls[1])]
        for (reader, writer), status in ((second, 503), (third, 403), (first, 408)):
            writer.write(b"GET /api/x HTTP/1.1\r\n")  # and no more of it
            assert (await read_reply(reader)).status == status
            writer.close()
        now = await told(proxy)
        assert now("connections_cut_short_total", listener="127.0.0.1:0", error="too-many-connections") == 1
        assert now("connections_cut_short_total", listener="127.0.0.1:0", error="slow-head") == 1
        assert now("connections_cut_short_total", listener="127.0.0.1:0", error="forbidden") == 0
        assert now("connections_cut_short_total", listener=unix, error="forbidden") == 1
        assert now("connections_cut_short_total") == 3


async def test_replays_are_counted_by_result(fake: Fake, tmp_path: Path) -> None:
    with sidecar(fake.url, "-c", written(tmp_path, limits={"replay_body": "1KiB"})) as proxy:
        await proxy.issue(1)
        await fake.do("revoke")
        await proxy.issue(2)
        await fake.do("revoke")
        assert (await proxy.ask("POST", "/api/nfe/envio", b"x" * 2000)).status == 401
        now = await told(proxy)
        assert now("replays_total", result="replayed") == 1
        assert now("replays_total", result="too-large") == 1
        assert now("replays_total", result="failed") == 0
        assert now("token_rejections_total", api="2.0") == 2


async def test_a_401_that_a_new_token_does_not_mend(fake: Fake, proxy: Sidecar) -> None:
    """The login gives a token that is good for nothing: the second 401 is about permission."""
    await proxy.issue(1)
    await fake.do("answers", mode="unauthorized")
    assert (await proxy.issue(2)).status == 401
    now = await told(proxy)
    assert now("replays_total", result="permission") == 1
    assert now("requests_total", status="401", origin="upstream") == 1


async def test_a_401_while_logins_fail(fake: Fake, proxy: Sidecar) -> None:
    await proxy.issue(1)
    await fake.do("logins", mode="error")
    await fake.do("revoke")
    assert (await proxy.issue(2)).status == 401
    now = await told(proxy)
    assert now("replays_total", result="failed") == 1
    assert now("logins_total", reason="rejected", result="login-server-failed") == 1
    assert now("login_state", state="backing-off", api="2.0") == 1
    assert now("login_retry_in_seconds", api="2.0") > 0


async def test_an_answer_whose_caller_has_left(fake: Fake, proxy: Sidecar) -> None:
    await proxy.issue(1)
    await fake.do("answers", mode="slow", delay=1, times=1)
    _, writer = await connect(proxy.url)
    writer.write(b"POST /api/nfe/envio HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
    await fake.reached(requests=2)
    writer.close()
    async with asyncio.timeout(PATIENCE):
        while "upstream_status" not in (said := await asyncio.to_thread(proxy.process.event, "request")):
            pass
    assert said["error"] == "caller-gone"
    now = await told(proxy)
    assert now("answers_heard_out_total", outcome="answered") == 1
    assert now("request_outcomes_total", outcome="unknown") == 1
    assert now("requests_total", status="none", origin="none") == 1
    assert now("requests_total", api="2.0") == 2


async def test_an_outcome_that_nobody_knows(fake: Fake, proxy: Sidecar) -> None:
    await proxy.issue(1)
    await fake.do("answers", mode="cut-before", times=1)
    assert (await proxy.issue(2)).status == 502
    now = await told(proxy)
    assert now("request_outcomes_total", method="POST", outcome="unknown") == 1
    assert now("request_errors_total", error="connection-lost") == 1
    assert now("requests_total", status="502", origin="sidecar") == 1
    assert now("pool_connections_closed_total", cause="failed") == 1


async def test_what_is_under_way(fake: Fake, proxy: Sidecar) -> None:
    await proxy.issue(1)
    body = b"x" * 100
    reader, writer = await connect(proxy.url)
    head = f"POST /api/nfe/envio HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2 * len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    async with asyncio.timeout(PATIENCE):
        while (now := await told(proxy))("held_bytes") == 0:
            assert now("held_limit_bytes") == 64 * 1024 * 1024
        assert now("requests_in_flight") == 1
        assert now("held_bytes") == 2 * len(body)
        writer.write(body)
        await read_reply(reader)
    writer.close()
    now = await told(proxy)
    assert now("requests_in_flight") == 0
    assert now("held_bytes") == 0


@pytest.mark.needs("promtool")
async def test_promtool_finds_nothing_in_a_scrape(fake: Fake, proxy: Sidecar) -> None:
    await proxy.issue(1)
    await fake.do("revoke")
    await proxy.issue(2)
    await proxy.ask("GET", "/elsewhere", headers={"Host": "evil.example"})
    body = (await ask(proxy.admin, "GET", "/metrics")).body
    assert b"process_resident_memory_bytes" in body
    assert promtool("check", "metrics", given=body) == (0, "")
