"""Headless Chromium, driven over its DevTools protocol on a WebSocket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import subprocess
from itertools import count
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the tests may run as root, in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Tab:
    """One page in the browser, and all that it said and asked for."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())
        self._loaded = asyncio.Event()
        self._asked = asyncio.Event()
        self.complaints: list[str] = []
        """Errors and warnings of the console, and exceptions that nobody caught."""
        self.requests: list[str] = []
        """The URL of everything that the page asked for."""

    async def _read(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
                continue
            told = said["params"]
            match said["method"]:
                case "Page.loadEventFired":
                    self._loaded.set()
                case "Network.requestWillBeSent":
                    self.requests.append(told["request"]["url"])
                    self._asked.set()
                case "Runtime.exceptionThrown":
                    self.complaints.append(json.dumps(told["exceptionDetails"]))
                case "Runtime.consoleAPICalled" if told["type"] in {"error", "warning", "assert"}:
                    self.complaints.append(json.dumps(told["args"]))
                case "Log.entryAdded" if told["entry"]["level"] in {"error", "warning"}:
                    self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Have the browser do something, and return what came of it."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(PATIENCE):
            said = await self._answers[number]
        assert "error" not in said, said
        return dict(said["result"])

    async def run(self, script: str) -> Any:
        """Evaluate an expression in the page; a promise is waited for."""
        told = await self.do("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until an expression is true, asked anew with every frame that the page draws."""
        seconds = PATIENCE - 5
        script = f"""new Promise((resolve) => {{
            const end = performance.now() + {seconds * 1000};
            const look = () => {{
                let is = false;
                try {{ is = Boolean({condition}); }} catch {{ /* not there yet */ }}
                if (is || performance.now() > end) resolve(is); else setTimeout(look, 20);
            }};
            look();
        }})"""
        assert await self.run(script), f"{condition}\n{await self.run('document.body.innerText')}"

    async def asked(self, part: str, times: int) -> None:
        """Wait until the page has asked so many times for a URL with that in it."""
        async with asyncio.timeout(PATIENCE):
            while sum(part in url for url in self.requests) < times:
                self._asked.clear()
                await self._asked.wait()

    async def open(self, url: str) -> None:
        """Go to a page, and wait until it is there."""
        await self.lead_on(self.do("Page.navigate", url=url))

    async def lead_on(self, step: Coroutine[Any, Any, object]) -> None:
        """Do what leads to another page, and wait until that is there."""
        self._loaded.clear()
        await step
        async with asyncio.timeout(PATIENCE):
            await self._loaded.wait()

    async def press(self, key: str) -> None:
        """Press a key and let it go."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
        parameters: dict[str, Any] = {"key": key, "code": "Space" if key == " " else key}
        parameters["windowsVirtualKeyCode"] = codes[key]
        if key in {"Enter", " "}:
            parameters["text"] = "\r" if key == "Enter" else " "
        await self.do("Input.dispatchKeyEvent", type="keyDown", **parameters)
        await self.do("Input.dispatchKeyEvent", type="keyUp", **parameters)

    async def write(self, text: str) -> None:
        """Type text into what has the focus."""
        await self.do("Input.insertText", text=text)

    async def prefer(self, scheme: str) -> None:
        """Have the page drawn `light` or `dark`."""
        await self.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def resize(self, width: int, height: int) -> None:
        """Give the page a window of that size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.do("Emulation.setDeviceMetricsOverride", **size)

    async def speak(self, languages: str) -> None:
        """Ask for pages in these languages."""
        await self.do("Network.setExtraHTTPHeaders", headers={"Accept-Language": languages})

    async def picture(self, path: Path) -> None:
        """Keep a picture of the whole page."""
        told = await self.do("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        _keep(path, base64.b64decode(told["data"]))

    async def close(self) -> None:
        self._reader.cancel()
        await self._socket.close()


@contextlib.asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Tab]:
    """Run Chromium with one empty page; no name leads anywhere, and only this machine is reached."""
    process = await asyncio.create_subprocess_exec(
        "chromium",
        *FLAGS,
        f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--remote-debugging-port=0",
        "--window-size=1280,1000",
        "about:blank",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"HOME": str(profile)},
    )
    try:
        async with asyncio.timeout(PATIENCE):
            address = await _address(process)
        async with aiohttp.ClientSession() as session:
            async with session.get(address.replace("ws:", "http:").partition("/devtools")[0] + "/json/list") as answer:
                pages = await answer.json(content_type=None)
            url = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
            async with session.ws_connect(url, max_msg_size=0) as socket:
                tab = Tab(socket)
                for domain in ("Page", "Runtime", "Network", "Log"):
                    await tab.do(f"{domain}.enable")
                yield tab
                await tab.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        drained = asyncio.create_task(process.communicate())
        await process.wait()
        await drained
        shutil.rmtree(profile, ignore_errors=True)


def _keep(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


async def _address(process: asyncio.subprocess.Process) -> str:
    """Wait until the browser says where it can be driven."""
    assert process.stderr is not None
    while line := await process.stderr.readline():
        if line.startswith(b"DevTools listening on "):
            return line.split()[-1].decode()
    raise AssertionError(f"the browser ended: {await process.wait()}")
