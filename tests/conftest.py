"""How tests are run here: coroutines in an event loop of their own, and programs that a machine may lack."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import Fake, Fakes, Sidecar, sidecar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are cores: where one test waits for time to pass, another can run."""
    cores = len(os.sched_getaffinity(0))
    return cores + cores // 2


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(_to_its_end(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})))
    return True


async def _to_its_end(test: Awaitable[None]) -> None:
    """Run a test; then cut what it has closed with bytes still to be sent: a later test would find it unclosed."""
    try:
        await test
    finally:
        for transport in list(vars(asyncio.get_running_loop()).get("_transports", {}).values()):
            if transport.is_closing():
                transport.abort()
        await asyncio.sleep(0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for program in mark.args:
            if shutil.which(program) is None:
                if os.environ.get("CI"):
                    pytest.fail(f"{program} is missing, and in CI nothing is left out")
                pytest.skip(f"left out: {program} is not installed")


@pytest.fixture(autouse=True)
def _log_levels() -> Iterator[None]:
    """Set the levels back that a sidecar in a test's own process has set."""
    loggers = [logging.getLogger(), logging.getLogger("proxy")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def fakes() -> Iterator[Fakes]:
    with contextlib.closing(Fakes()) as some:
        yield some


@pytest.fixture
def fake(fakes: Fakes) -> Fake:
    """A fake Invoisys that knows nothing of any test before."""
    return fakes.fresh()


@pytest.fixture
def proxy(fake: Fake) -> Iterator[Sidecar]:
    with sidecar(fake.url) as running:
        yield running
