"""The status page as a person has it before them, in a browser that tests drive."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from tests.support.processes import ROOT

if TYPE_CHECKING:
    from tests.support.browser import Tab
    from tests.support.processes import Sidecar

PICTURES = ROOT / "tests" / "pictures"

LIVE = "!document.getElementById('live').hidden"
ROWS = "document.getElementById('rows').rows"
SHOWN = f"[...{ROWS}].filter((row) => !row.hidden)"


def is_clean(tab: Tab, proxy: Sidecar) -> None:
    """Show that the page has complained of nothing, and has asked nobody but its own sidecar."""
    assert tab.complaints == []
    hosts = Counter(url.removeprefix(proxy.admin)[:1] for url in tab.requests if not url.startswith("about:"))
    assert set(hosts) == {"/"}, tab.requests


async def text(tab: Tab, element: str) -> str:
    return str(await tab.run(f"document.getElementById({json.dumps(element)}).innerText"))
