"""The trial from its first step to its last: what is tried, in which order, and what needs what."""

from __future__ import annotations

import contextlib
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from proxy.doctor.given import Given
from proxy.doctor.here import Here
from proxy.doctor.mends import WARNINGS
from proxy.doctor.report import Finding, Report, Step, Verdict
from proxy.errors import CredentialsRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from proxy.config import Config, Credentials
    from proxy.doctor.network import Way
    from proxy.upstream import Dialler

    Told = Callable[[Step], None]
    Work = Callable[[], Awaitable[str]]


async def examine(path: str | None, env: Mapping[str, str], told: Told) -> Report:
    """Try a configuration, read as `load` reads it; `told` hears of each step as it ends."""
    with _heard() as heard:
        trial = _Trial(told, heard)
        await _take_all(trial, Given(path, env, heard))
    return Report(tuple(trial.steps))


async def _take_all(trial: _Trial, given: Given) -> None:
    if not (await trial.take("configuration", given.source, given.read)).stands:
        return
    config = given.config
    try:
        await trial.take("variables", "", given.look_at_variables)
        await trial.take("permissions", "", given.look_at_files)
        await trial.take("store", str(config.tokens.store), given.try_store)
        ends = {dial: await _take_way(trial, given.way(api, dial)) for dial, api in given.servers.items()}
        logins = await _log_in(trial, given, ends)
    finally:
        await given.close()
    await _look_here(trial, config, logins)


async def _log_in(trial: _Trial, given: Given, ends: Mapping[Dialler, Step]) -> list[Step]:
    """Try each login; credentials that were refused once are not sent again, lest the account be locked."""
    logins: list[Step] = []
    refused: list[tuple[Credentials, Step]] = []
    for account, api, dial in given.logins:
        credentials = given.credentials(account)
        ground = next((step for each, step in refused if each == credentials), ends[dial])
        work = partial(given.log_in, account, api)
        step = await trial.take("login", f"{account} to API {api}", work, after=ground)
        if step.cause == CredentialsRefused.name:
            refused.append((credentials, step))
        logins.append(step)
    return logins


async def _take_way(trial: _Trial, way: Way) -> Step:
    """Go one way, and return the step whose success lets requests through."""
    try:
        last = await trial.take("dns", way.server, way.resolve)
        last = await trial.take("tcp", way.server, way.reach, after=last)
        if way.dial.egress is not None:
            last = await trial.take("egress-proxy", way.server, way.pass_proxy, after=last)
        if way.dial.tls is not None:
            last = await trial.take("tls", way.server, way.secure, after=last)
    finally:
        way.close()
    await trial.take("clock", way.server, way.compare_clocks, after=last)
    return last


async def _look_here(trial: _Trial, config: Config, logins: list[Step]) -> None:
    """Look at the sidecar's own addresses; a port that the system chooses at each start cannot be looked at."""
    here = Here(config.timeouts.connect, logins)
    bind = config.admin.bind
    if bind.port or bind.path:
        await trial.take("sidecar", str(bind), partial(here.look_at_admin, bind))
        if here.runs:
            await trial.take("metrics", str(bind), partial(here.look_at_metrics, bind))
    for index, listener in enumerate(config.listeners):
        if listener.bind.port or listener.bind.path:
            work = partial(here.look_at_listener, listener.bind, f"listeners[{index}].bind")
            await trial.take("listener", str(listener.bind), work)


class _Trial:
    """Takes steps, one after the other; one that needs a failed one is not tried."""

    def __init__(self, told: Told, heard: list[logging.LogRecord]) -> None:
        self._told = told
        self._heard = heard
        self.steps: list[Step] = []

    async def take(self, name: str, about: str, work: Work, *, after: Step | None = None) -> Step:
        """Take one step: `work` returns what is well, or raises `Finding`; what the rooms warn of is one too."""
        if after is not None and not after.stands:
            text = after.text if after.verdict is Verdict.NOT_TRIED else f"not tried, since {after.title} failed"
            return self._end(Step(name, about, Verdict.NOT_TRIED, text))
        self._heard.clear()
        began = time.monotonic()
        try:
            text = await work()
            self._raise_warnings()
        except Finding as found:
            took = time.monotonic() - began
            return self._end(Step(name, about, found.verdict, found.text, found.cause, found.mend or None, took))
        return self._end(Step(name, about, Verdict.OK, text, seconds=time.monotonic() - began))

    def _end(self, step: Step) -> Step:
        self.steps.append(step)
        self._told(step)
        return step

    def _raise_warnings(self) -> None:
        for record in self._heard:
            event = getattr(record, "event", "")
            if event in WARNINGS:
                raise Finding(event, record.getMessage(), WARNINGS[event], serious=False)


@contextlib.contextmanager
def _heard() -> Iterator[list[logging.LogRecord]]:
    """Hear what the rooms log, in place of whoever hears it otherwise."""
    records: list[logging.LogRecord] = []
    log, handler = logging.getLogger("proxy"), _Ear(records)
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield records
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


class _Ear(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)
