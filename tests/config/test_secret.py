from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback

import msgspec
import pytest

from proxy.config import Account, Credentials, Secret

HIDDEN = "hunter2"


def test_reveals_itself_when_asked() -> None:
    assert Secret(HIDDEN).reveal() == HIDDEN


def test_shows_itself_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(HIDDEN)
    logging.getLogger("test").warning("%s %r", secret, secret)
    trace = "".join(traceback.format_exception(ValueError(secret)))
    owners = repr((Credentials("ana", secret), Account(username="ana", password=secret)))
    assert repr(secret) == str(secret) == f"{secret}" == "Secret(***)"
    assert not [text for text in (caplog.text, trace, owners, str(dir(secret))) if HIDDEN in text]
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize("dump", [json.dumps, msgspec.json.encode, pickle.dumps, copy.deepcopy, lambda s: f"{s:>20}"])
def test_is_not_written_out(dump: object) -> None:
    assert callable(dump)
    with pytest.raises(TypeError) as caught:
        dump(Secret(HIDDEN))
    assert HIDDEN not in str(caught.value)


def test_is_equal_to_a_secret_of_the_same_text_alone() -> None:
    assert Secret("é") == Secret("é")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert Secret("\udce9") == Secret("\udce9")
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
