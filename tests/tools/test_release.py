"""A tag that agrees with everything that has the version in it, and the words of the release."""

from __future__ import annotations

import pytest

from proxy import __version__
from tools.release import faults, main, section

TAG = f"v{__version__}"
CHANGELOG = f"""# Changelog

## [Unreleased]

### Added

- Not yet.

## [{__version__}] - 2026-12-01

### Added

- All of it.

## [0.0.1] - 2026-11-01

- Before.

[Unreleased]: https://example.org
"""


def test_the_words_are_those_of_the_version() -> None:
    assert section(CHANGELOG, __version__) == "### Added\n\n- All of it."
    assert section(CHANGELOG, "0.0.1") == "- Before."
    assert section(CHANGELOG, "0.0") is None


def test_a_tag_with_which_all_agrees() -> None:
    assert faults(TAG, CHANGELOG) == []


@pytest.mark.parametrize(
    ("tag", "changelog", "fault"),
    [
        ("v9.9.9", CHANGELOG, f"proxy/__init__.py states {__version__}, not 9.9.9"),
        (__version__, CHANGELOG, f"the tag is {__version__}, which does not begin with v"),
        (TAG, CHANGELOG.replace(" - 2026-12-01", ""), "CHANGELOG.md has no section"),
        (TAG, CHANGELOG.replace("### Added\n\n- All of it.\n", ""), "CHANGELOG.md has no section"),
    ],
)
def test_what_does_not_agree_is_told(tag: str, changelog: str, fault: str) -> None:
    assert any(each.startswith(fault) for each in faults(tag, changelog))


def test_a_wrong_tag_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("v9.9.9") == 1
    assert "not 9.9.9" in capsys.readouterr().err
