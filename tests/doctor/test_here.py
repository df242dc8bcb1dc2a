from __future__ import annotations

import errno
from typing import NoReturn

import pytest

from proxy.config import Bind
from proxy.doctor import here
from proxy.doctor.report import Finding

ADMIN = Bind("127.0.0.1", 9090)


async def test_a_socket_that_is_closed_to_this_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """As root nothing is closed, so this one is played."""

    def closed(*_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(here, "ask", closed)
    with pytest.raises(Finding, match=r"^unix:/run/admin\.sock cannot be reached: Permission denied$") as found:
        await here.Here(1).look_at_admin(Bind(path="/run/admin.sock"))
    assert found.value.cause == "cannot-reach"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"status": 1, "reasons": []}', b'{"status": "ready"}', b"\xff"]
)
async def test_an_answer_that_is_not_the_sidecars(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setattr(here, "ask", lambda *_, **__: (200, body))
    for look in (here.Here(1).look_at_admin(ADMIN), here.Here(1).look_at_listener(ADMIN, "listeners[0].bind")):
        with pytest.raises(Finding, match=r"^another program listens at 127"):
            await look
