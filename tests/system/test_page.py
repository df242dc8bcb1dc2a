"""The status page in a real browser: what a person sees and does, and what the page never does."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.support.browser import Tab, browser
from tests.support.config import written
from tests.support.page import LIVE, PICTURES, ROWS, SHOWN, is_clean, text
from tests.support.processes import ROOT, Fake, Process, Sidecar, environment, sidecar

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("chromium")

AXE = ROOT / "tests" / "axe" / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return tmp_path / "profile"


async def test_it_shows_the_state_and_each_request_as_it_comes(fake: Fake, proxy: Sidecar, profile: Path) -> None:
    await fake.reached(logins_granted=1)
    assert (await proxy.issue(1)).status == 200
    async with browser(profile) as tab:
        await tab.open(proxy.admin + "/")
        await tab.until(LIVE)
        assert "Ready" in await text(tab, "state")
        assert "Account default, API 2.0" in await text(tab, "tokens")
        assert "Valid" in await text(tab, "tokens")
        said = await text(tab, "tokens")
        assert [mark for mark in ("Got", "Now", "Refresh due", "Expires") if mark not in said] == []
        assert fake.url in await text(tab, "pool")
        assert await tab.run(f"{ROWS}.length") == 1
        await fake.do("revoke")
        assert (await proxy.issue(2)).status == 200
        await tab.until(f"{ROWS}.length === 2")
        first = await tab.run(f"{ROWS}[0].innerText")
        assert "/api/nfe/envio" in first
        assert "replayed" in first
        assert "login" in first
        await tab.until("document.getElementById('tokens').innerText.includes('Invoisys rejected the token')")
        drawn = "document.querySelector('#traffic .line.p50').getAttribute('d') || document.querySelector('.dot.p50')"
        await tab.until(drawn)
        await tab.picture(PICTURES / "page-light.png")
        await tab.prefer("dark")
        await tab.picture(PICTURES / "page-dark.png")
        await tab.resize(360, 800)
        assert await tab.run("document.documentElement.scrollWidth") <= 360  # nothing has to be scrolled to the side
        await tab.picture(PICTURES / "page-narrow.png")
        is_clean(tab, proxy)


async def test_a_failing_login_is_told_in_the_words_of_the_log(fake: Fake, profile: Path) -> None:
    await fake.do("logins", mode="refuse")
    with sidecar(fake.url) as proxy:
        failed = proxy.process.event("login-failed")
        assert (await proxy.issue(1)).status == 503
        async with browser(profile) as tab:
            await tab.open(proxy.admin + "/")
            await tab.until(LIVE)
            words = failed["message"].removeprefix("no new token: ").partition(";")[0]
            assert words
            for place in ("state", "tokens", "rows"):
                assert words in await text(tab, place), place
            assert "Not ready" in await text(tab, "state")
            assert "What to do: Put the right user name and password in place" in await text(tab, "tokens")
            assert "not sent" in await text(tab, "rows")
            await tab.picture(PICTURES / "page-refused.png")
            is_clean(tab, proxy)
            await tab.run("document.getElementById('refresh').click()")  # what was refused is not tried again so soon
            await tab.until("document.getElementById('refresh-said').textContent.startsWith('Not every token')")


async def test_tokens_are_replaced_at_the_press_of_a_button(fake: Fake, profile: Path) -> None:
    await fake.do("logins", mode="error")
    with sidecar(fake.url) as proxy:
        proxy.process.event("login-failed")
        async with browser(profile) as tab:
            await tab.open(proxy.admin + "/")
            await tab.until(f"{LIVE} && document.getElementById('state').innerText.includes('Not ready')")
            await fake.do("logins", mode="accept")
            await tab.run("document.getElementById('refresh').click()")
            await tab.until("document.getElementById('refresh-said').textContent.includes('was replaced')")
            await tab.until("document.getElementById('state').innerText.startsWith('Ready')")
            is_clean(tab, proxy)


async def test_it_filters_and_goes_on_to_filter_what_comes(fake: Fake, proxy: Sidecar, profile: Path) -> None:
    await fake.reached(logins_granted=1)
    await proxy.issue(1)
    await proxy.ask("GET", "/nowhere/else")
    async with browser(profile) as tab:
        await tab.open(proxy.admin + "/")
        await tab.until(LIVE)
        await tab.run("document.getElementById('q').focus()")
        await tab.write("ENVIO")
        await tab.until(f"{SHOWN}.length === 1 && {ROWS}.length === 2")
        assert await text(tab, "shown") == "1 of 2 requests shown"
        await proxy.ask("GET", "/nowhere/again")
        await proxy.issue(2)
        await tab.until(f"{ROWS}.length === 4")
        assert await tab.run(f"{SHOWN}.length") == 2
        await tab.run("document.getElementById('q').value = ''; document.getElementById('failed').click()")
        await tab.until(f"{SHOWN}.length === 2 && {SHOWN}.every((row) => row.innerText.includes('404'))")
        is_clean(tab, proxy)


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", {"Answered": 1, "not sent": 1, "REPLAYED": 1, "answered replayed": 1, "login": 0}),
        ("pt-BR", {"Respondida": 1, "não enviada": 1, "nao enviada": 1, "REPETIDA": 1, "not-sent": 1, "replayed": 1}),
    ],
)
async def test_it_finds_the_words_that_it_shows(
    fake: Fake, proxy: Sidecar, profile: Path, language: str, words: dict[str, int]
) -> None:
    await fake.reached(logins_granted=1)
    await fake.do("revoke")
    await proxy.issue(1)
    await proxy.ask("GET", "/nowhere/else")
    async with browser(profile) as tab:
        await tab.speak(language)
        await tab.open(proxy.admin + "/")
        await tab.until(LIVE)
        await tab.run("document.getElementById('q').focus()")
        for said, rows in words.items():
            await tab.run("document.getElementById('q').value = ''")
            await tab.write(said)
            assert await tab.run(f"{SHOWN}.length") == rows, said
        await tab.do("Emulation.setScriptExecutionDisabled", value=True)
        for said, rows in words.items():
            await tab.open(f"{proxy.admin}/?q={quote(said)}")
            assert await tab.run(f"{SHOWN}.length") == rows, said


async def test_what_is_selected_stays_selected(fake: Fake, proxy: Sidecar, profile: Path) -> None:
    await fake.reached(logins_granted=1)
    async with browser(profile) as tab:
        await tab.open(proxy.admin + "/")
        await tab.until(LIVE)
        await tab.run("window.seen = 0; new EventSource('/events').onmessage = () => { seen += 1; }; 0")
        for part, news in (("article", False), ("article h3", True)):
            await tab.run(f"getSelection().selectAllChildren(document.querySelector('#tokens {part}'))")
            selected = await tab.run("getSelection().toString()")
            assert "Account default, API 2.0" in selected
            if news:
                await fake.do("revoke")
                await proxy.issue(1)
                await tab.until("document.getElementById('tokens').innerText.includes('Invoisys rejected the token')")
            else:
                await tab.until("window.seen > 3")
            assert await tab.run("getSelection().toString()") == selected
        is_clean(tab, proxy)


async def test_everything_can_be_done_with_the_keyboard(fake: Fake, proxy: Sidecar, profile: Path) -> None:
    await fake.reached(logins_granted=1)
    await proxy.ask("GET", "/api/x?secret=1", headers={"X-Own": "a", "User-Agent": "an-erp/1.0"})
    async with browser(profile) as tab:
        await tab.open(proxy.admin + "/")
        await tab.until(LIVE)
        await tab.press("Tab")
        assert await tab.run("document.activeElement.className") == "skip"
        await tab.press("Enter")
        await tab.until("document.activeElement.id === 'requests-title'")
        reached = []
        for _ in range(6):
            await tab.press("Tab")
            reached.append(await tab.run("document.activeElement.id || document.activeElement.tagName"))
            if reached[-1] == "A":
                break
        assert reached == ["q", "failed", "DIV", "A"]  # the DIV scrolls
        assert await tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        await tab.press("Enter")
        await tab.until("document.getElementById('dialog').open")
        said = await text(tab, "dialog")
        assert "/api/x?secret=***" in said
        assert "an-erp/1.0" in said
        assert "X-Own\t***" in said
        assert await tab.run("document.getElementById('dialog').contains(document.activeElement)")
        await tab.press("Escape")
        await tab.until("!document.getElementById('dialog').open")
        assert await tab.run("document.activeElement.tagName") == "A"  # where the keyboard was before
        is_clean(tab, proxy)


async def test_it_says_that_it_is_cut_off_and_goes_on_after_a_restart(fake: Fake, tmp_path: Path) -> None:
    with sidecar(fake.url) as proxy:
        await fake.reached(logins_granted=1)
        await proxy.issue(1)
        async with browser(tmp_path / "profile") as tab:
            await tab.open(proxy.admin + "/")
            await tab.until(LIVE)
            assert await tab.run(f"{ROWS}.length") == 1
            run = await tab.run("document.getElementById('main').dataset.run")
            proxy.process.stop()
            await tab.until("!document.getElementById('cut-off').hidden")
            assert "Cut off" in await text(tab, "cut-off")
            again = environment(fake.url, ADMIN=proxy.admin.removeprefix("http://"))
            process = Process("run", env=again)
            try:
                urls, admin = process.listening()
                await tab.until(f"{LIVE} && document.getElementById('cut-off').hidden")
                await tab.until(f"document.getElementById('main').dataset.run !== {json.dumps(run)}")
                assert await tab.run(f"{ROWS}.length") == 0
                await Sidecar(process, urls[0], admin).issue(2)
                await tab.until(f"{ROWS}.length === 1")
            finally:
                process.stop()
            assert all(url.startswith((proxy.admin, "about:")) for url in tab.requests)


async def test_it_says_that_it_is_cut_off_while_the_sidecar_hangs(fake: Fake, proxy: Sidecar, profile: Path) -> None:
    """Slow on purpose: the page gives a sidecar five seconds, each time."""
    await fake.reached(logins_granted=1)
    async with browser(profile) as tab:
        await tab.open(proxy.admin + "/")
        await tab.until(LIVE)
        await tab.run("window.seen = 0; new EventSource('/events').onmessage = () => { seen += 1; }; 0")
        await tab.until("window.seen > 6")
        assert sum("/events?run=" in url for url in tab.requests) == 1  # what is heard in time is not given up
        proxy.process.signal(signal.SIGSTOP)
        try:
            await tab.until("!document.getElementById('cut-off').hidden && document.getElementById('live').hidden")
            assert re.search(r"what it knew at \S+, \S+ [AP]M, and", await text(tab, "cut-off"))
            grey = "getComputedStyle(document.querySelector('dt')).color"
            assert await tab.run(f"getComputedStyle(document.querySelector('.readiness')).color === {grey}")
            await tab.picture(PICTURES / "page-cut-off.png")
            await tab.asked("/events?run=", 3)  # nor is one waited for that has never told anything
        finally:
            proxy.process.signal(signal.SIGCONT)
        await tab.until(f"{LIVE} && document.getElementById('cut-off').hidden")
        assert (await proxy.issue(1)).status == 200
        await tab.until(f"{ROWS}.length === 1")
        is_clean(tab, proxy)


async def test_it_speaks_portuguese_where_the_browser_does(fake: Fake, proxy: Sidecar, profile: Path) -> None:
    await fake.reached(logins_granted=1)
    async with browser(profile) as tab:
        await tab.speak("pt-BR,pt;q=0.9,en;q=0.8")
        await tab.open(proxy.admin + "/")
        await tab.until(LIVE)
        assert "Pronto" in await text(tab, "state")
        assert await tab.run("document.documentElement.lang") == "pt-BR"
        await proxy.issue(1)
        await tab.until(f"{ROWS}.length === 1 && {ROWS}[0].innerText.includes('respondida')")
        await tab.picture(PICTURES / "page-portuguese.png")
        is_clean(tab, proxy)


async def test_what_matters_is_there_without_a_script(fake: Fake, proxy: Sidecar, profile: Path) -> None:
    await fake.reached(logins_granted=1)
    await proxy.issue(1)
    await proxy.ask("GET", "/nowhere")
    async with browser(profile) as tab:
        await tab.do("Emulation.setScriptExecutionDisabled", value=True)
        await tab.open(proxy.admin + "/?q=envio")
        assert "Ready" in await text(tab, "state")
        assert await tab.run(f"{SHOWN}.length") == 1
        await tab.lead_on(tab.run("document.getElementById('refresh-form').submit()"))
        assert "an operator asked for it" in await text(tab, "tokens")
        assert await tab.run("location.pathname") == "/"
        link = await tab.run("document.querySelector('#rows a').href")
        await tab.open(link)
        assert "the paths of the configured APIs begin with" in await text(tab, "main")
        assert "Host\t127.0.0.1" in await text(tab, "main")
        assert (await fake.state())["logins"] == 2
        is_clean(tab, proxy)


async def test_bodies_are_shown_and_requests_can_be_copied_only_where_that_is_configured(
    fake: Fake, tmp_path: Path
) -> None:
    for inspects in (False, True):
        config = written(tmp_path, admin={"bind": "127.0.0.1:0", "inspect_bodies": inspects})
        with sidecar(fake.url, "-c", config, ADMIN="") as proxy:
            answer = await proxy.issue(1)
            async with browser(tmp_path / f"profile-{inspects}") as tab:
                await tab.open(proxy.admin + "/")
                await tab.until(f"{ROWS}.length === 1")
                await tab.run("document.querySelector('#rows a').click()")
                await tab.until("document.getElementById('dialog').open")
                said = await text(tab, "dialog")
                is_clean(tab, proxy)
            assert ("12345678000195" in said) is inspects
            assert (answer.body.decode() in said) is inspects
            assert ("curl -X POST http://127.0.0.1:" in said) is inspects


async def test_nothing_that_a_caller_sends_becomes_part_of_the_page(fake: Fake, tmp_path: Path) -> None:
    config = written(tmp_path, admin={"bind": "127.0.0.1:0", "inspect_bodies": True})
    attack = "<img/src=x/onerror=alert(1)>"
    with sidecar(fake.url, "-c", config, ADMIN="") as proxy:
        await fake.reached(logins_granted=1)
        async with browser(tmp_path / "profile") as tab:
            await tab.open(proxy.admin + "/?q=%22%3E%3Cimg%20src=x%3E")
            await tab.until(LIVE)
            await tab.run("document.getElementById('q').value = ''")
            await proxy.ask("POST", f"/{attack}", attack.encode(), {"User-Agent": attack})
            await proxy.ask("POST", f"/api/{attack}", attack.encode(), {"User-Agent": attack})
            await tab.until(f"{ROWS}.length === 2")
            await tab.run("document.querySelector('#rows a').click()")
            await tab.until("document.getElementById('dialog').open")
            assert attack in await text(tab, "dialog")  # as text
            assert await tab.run("document.images.length") == 0
            is_clean(tab, proxy)


# --- Accessibility ----------------------------------------------------------------------------------------------------


async def faults(tab: Tab) -> list[dict[str, Any]]:
    """What axe-core finds, put into the page by the driver and not served to anybody."""
    await tab.run(AXE.read_text() + "\n;undefined")
    found = await tab.run("axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations)")
    return [
        {"id": each["id"], "help": each["help"], "nodes": [node["html"] for node in each["nodes"]]} for each in found
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(fake: Fake, tmp_path: Path, scheme: str) -> None:
    if not AXE.exists():
        if os.environ.get("CI"):
            pytest.fail("axe-core is missing, and in CI nothing is left out")
        pytest.skip("left out: axe-core is not there; `make axe` fetches it where there is npm")
    config = written(tmp_path, admin={"bind": "127.0.0.1:0", "inspect_bodies": True})
    with sidecar(fake.url, "-c", config, ADMIN="") as proxy:
        await fake.reached(logins_granted=1)
        await proxy.issue(1)
        await fake.do("revoke")
        await fake.do("logins", mode="refuse")
        assert (await proxy.issue(2)).status in {401, 503}
        await proxy.ask("GET", "/nowhere")
        async with browser(tmp_path / "profile") as tab:
            await tab.prefer(scheme)
            await tab.open(proxy.admin + "/")
            await tab.until(f"{LIVE} && {ROWS}.length === 3")
            assert await faults(tab) == []
            await tab.resize(360, 800)
            assert await faults(tab) == []
            link = await tab.run("[...document.querySelectorAll('#rows a')].at(-1).href")
            await tab.run("[...document.querySelectorAll('#rows a')].at(-1).click()")
            await tab.until("document.getElementById('dialog').open")
            assert await faults(tab) == []
            await tab.open(link)
            assert await faults(tab) == []
