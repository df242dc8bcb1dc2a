"""What is asked of an image before it is pushed; `make deploy-test` asks it of one, and the workflow of each."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT
from tools.image import main

if TYPE_CHECKING:
    from pathlib import Path

ENGINE = f"""#!/bin/sh
# Runs this program, whatever the image.
while test "$1" != an-image; do
    test "$1" != --env || export "$2"
    shift
done
shift
{{}}
cd {ROOT} && exec {sys.executable} -m proxy "$@"
"""


@pytest.mark.parametrize(
    ("before", "code", "said"),
    [
        ("", 0, "an-image, linux/arm64: a document issued through its demo"),
        ('test "$1" = demo || exec echo invoisys-proxy 0', 1, "an-image, linux/arm64: --version says invoisys-proxy 0"),
        ('test "$1" != demo || exec true', 1, "an-image, linux/arm64: the demo ended before it listened"),
        ("exec false", 1, "--version: 1"),
    ],
    ids=["works", "another version", "ends", "does not start"],
)
def test_an_image_is_tried(
    before: str,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = tmp_path / "docker"
    engine.write_text(ENGINE.format(before))
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert main("an-image", "linux/arm64") == code
    assert said in "".join(capsys.readouterr())
