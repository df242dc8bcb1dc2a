"""The fake as a server: its life, its routes, and the gate that every request to the API passes."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web
from yarl import URL

from proxy.fake import answers, service, wire
from proxy.fake.counts import Marks, Tally
from proxy.fake.faults import ACTIONS, ActionError, AnswerMode, Fault, LoginMode, Seconds, parse_action
from proxy.fake.script import Script
from proxy.fake.state import State

if TYPE_CHECKING:
    import ssl

    from proxy.fake.answers import Answer
    from proxy.fake.tokens import Clock

USERNAME = "integracao@empresa.com.br"
PASSWORD = "segredo"  # noqa: S105 - the fake's own, documented
_BACKLOG = 4096
_GRACE = 0.1

# The library would otherwise log each malformed request, which here may well be a test.
_silent = logging.getLogger(__name__)
_silent.setLevel(logging.CRITICAL + 1)


class FakeInvoisys:
    """A server that answers as Invoisys does, counts what it sees, and misbehaves on demand (docs/fake.md)."""

    def __init__(
        self,
        *,
        username: str = USERNAME,
        password: str = PASSWORD,
        script: Script | None = None,
        idle_timeout: float = 60.0,
        clock: Clock = time.monotonic,
    ) -> None:
        """`idle_timeout` is how long an idle connection stays open: 60 s is the default of the load balancer."""
        self.username = username
        self.password = password
        self._idle_timeout = idle_timeout
        self._state = State(script or Script(), clock)
        self._counted = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0, ssl_context: ssl.SSLContext | None = None) -> str:
        """Listen, and return the base URL."""
        self._counted = asyncio.Event()
        self._state.on_count = self._wake
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            logger=_silent,
            auto_decompress=False,
            keepalive_timeout=self._idle_timeout,
            shutdown_timeout=_GRACE,
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, ssl_context=ssl_context, backlog=_BACKLOG).start()
        self._state.start()
        scheme = "https" if ssl_context else "http"
        return str(URL.build(scheme=scheme, host=host, port=self._runner.addresses[0][1]))

    async def stop(self) -> None:
        """Close every connection; what is known stays, so that `start` afterwards is the end of an outage."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def do(self, action: str, /, **parameters: object) -> None:
        """Do an action, as `POST /_fake/{action}` does.

        Raises:
            ActionError: there is no such action, or a parameter is wrong.
        """
        self._state.apply(parse_action(action, parameters))

    def state(self, *, documents: bool = False) -> dict[str, object]:
        """The counters, as `GET /_fake/state` gives them."""
        return self._state.snapshot(documents=documents)

    async def wait(self, *, within: float = 10.0, **marks: int) -> dict[str, object]:
        """The state as soon as the counters named have come to their marks.

        Raises:
            TimeoutError: they have not in `within` seconds.
        """
        wanted = {Tally(name): mark for name, mark in marks.items()}
        async with asyncio.timeout(within):
            while not self._state.counts.reached(wanted):
                await self._counted.wait()
        return self.state()

    def _wake(self) -> None:
        """Let every waiter look again."""
        self._counted.set()
        self._counted.clear()

    def _application(self) -> web.Application:
        application = web.Application()
        router = application.router
        router.add_post("/api/token", self._log_in)
        router.add_post("/v1/token", self._log_in)
        router.add_get("/_fake/state", self._show)
        router.add_get("/_fake/wait", self._wait)
        router.add_post("/_fake/{action}", self._act)
        router.add_route("*", "/_fake{rest:(/.*)?}", _no_such_control)
        for method, path, work in service.ROUTES:
            router.add_route(method, path, partial(self._call, work))
        return application

    async def _log_in(self, request: web.Request) -> web.StreamResponse:
        fault = self._state.login_arrives(request.path)
        form = await wire.read(request.content)
        await _pause(fault)
        answer = service.log_in(self._state, (self.username, self.password), request.path, form, fault)
        response = wire.respond(answer)
        return wire.hang_up(request, response) if fault.mode is LoginMode.CUT else response

    async def _call(self, work: service.Work, request: web.Request) -> web.StreamResponse:
        """The gate: who may pass is decided before the body is read, and so before anything is issued."""
        path = request.path
        self._state.request_arrives(request.method, path)
        if not self._state.tokens.admits(path, request.headers.get("Authorization", "")):
            return wire.respond(self._denial(path))
        fault = self._state.answers.take(path)
        if fault.mode is AnswerMode.UNAUTHORIZED:
            return wire.respond(self._denial(path))
        if fault.mode is AnswerMode.EARLY_401:
            return await wire.send_early(request, self._denial(path))
        body = await wire.read(request.content)
        done = work(self._state, service.Call(path, request.match_info, request.query, body, fault.issues))
        await _pause(fault)
        return await wire.send(request, service.disturbed(done, fault), fault)

    def _denial(self, path: str) -> Answer:
        return answers.DENIED[self._state.denial(path)]

    async def _act(self, request: web.Request) -> web.StreamResponse:
        parameters = (await wire.read(request.content)).json() if request.can_read_body else {}
        if not isinstance(parameters, dict):
            return _wrong("the body is no JSON object")
        try:
            self.do(request.match_info["action"], **{**request.query, **parameters})
        except ActionError as error:
            return _wrong(error)
        return wire.respond(answers.as_json(self.state()))

    async def _show(self, request: web.Request) -> web.StreamResponse:
        return wire.respond(answers.as_json(self.state(documents=request.query.get("documents") == "1")))

    async def _wait(self, request: web.Request) -> web.StreamResponse:
        wanted = dict(request.query)
        try:
            within = msgspec.convert(wanted.pop("timeout", "10"), Seconds, strict=False)
            marks = msgspec.convert(wanted, Marks, strict=False)
            state = await self.wait(within=within, **marks)
        except msgspec.ValidationError as error:
            return _wrong(error)
        except TimeoutError:
            return wire.respond(answers.as_json(self.state(), HTTPStatus.REQUEST_TIMEOUT))
        return wire.respond(answers.as_json(state))


async def _pause(fault: Fault) -> None:
    if fault.pause:
        await asyncio.sleep(fault.pause)


def _wrong(error: object) -> web.Response:
    return wire.respond(answers.as_json({"error": str(error)}, HTTPStatus.BAD_REQUEST))


async def _no_such_control(_request: web.Request) -> web.StreamResponse:
    there_is = [f"GET /_fake/{name}" for name in ("state", "wait")] + [f"POST /_fake/{name}" for name in ACTIONS]
    return wire.respond(answers.as_json({"error": f"there are {', '.join(there_is)}"}, HTTPStatus.NOT_FOUND))
