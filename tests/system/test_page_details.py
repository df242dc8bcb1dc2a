"""What the status page tells of one request, in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from tests.support.browser import browser
from tests.support.page import LIVE, PICTURES, ROWS, is_clean, text
from tests.support.processes import sidecar

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import Fake, Sidecar

pytestmark = pytest.mark.needs("chromium")


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return tmp_path / "profile"


async def test_details_tell_of_both_header_sections(fake: Fake, proxy: Sidecar, profile: Path) -> None:
    await fake.reached(logins_granted=1)
    await proxy.issue(1)
    await proxy.ask("GET", "/nowhere", headers={"X-Own": "a", "User-Agent": "an-erp/1.0"})
    async with browser(profile) as tab:
        await tab.open(proxy.admin + "/")
        await tab.until(f"{LIVE} && {ROWS}.length === 2")
        for row, sent, answered, scheme in (
            (1, "Content-Type\tapplication/json", ("Server\tfake-invoisys", "Content-Length\t"), "light"),
            (0, "X-Own\t***", ("Content-Type\tapplication/problem+json", "X-Invoisys-Outcome\tnot-sent"), "dark"),
        ):
            await tab.prefer(scheme)
            await tab.run(f"document.querySelectorAll('#rows a')[{row}].click()")
            await tab.until("document.getElementById('dialog').open")
            asked, _, told = (await text(tab, "dialog")).partition("Header section of the answer")
            assert sent in asked
            assert [said for said in answered if said not in told] == []
            await tab.picture(PICTURES / f"details-{scheme}.png")
            await tab.run("document.querySelector('#dialog button').click()")
        is_clean(tab, proxy)


async def test_details_that_do_not_come_are_told_of(fake: Fake, profile: Path) -> None:
    async def busy(_request: web.BaseRequest) -> web.Response:
        return web.Response(status=503, text="busy")

    with sidecar(fake.url) as proxy:
        await fake.reached(logins_granted=1)
        await proxy.issue(1)
        async with browser(profile) as tab:
            await tab.open(proxy.admin + "/")
            await tab.until(f"{LIVE} && {ROWS}.length === 1")
            proxy.process.stop()
            for answers in (False, True):
                runner = web.ServerRunner(web.Server(busy))
                if answers:
                    await runner.setup()
                    await web.TCPSite(runner, "127.0.0.1", int(proxy.admin.rpartition(":")[2])).start()
                await tab.run("document.querySelector('#rows a').click()")
                await tab.until("document.getElementById('dialog').open")
                assert "The details could not be loaded." in await text(tab, "dialog")
                await tab.run("document.querySelector('#dialog button').click()")
                if answers:
                    await runner.cleanup()
            assert [said for said in tab.complaints if "Failed to load resource" not in said] == []
