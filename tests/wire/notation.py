"""Reads and writes the notation of the cases; README.md beside this file tells what it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CASES = Path(__file__).parent / "cases"

SENDS = ("caller sends", "upstream sends", "upstream sends and closes")
SEES = ("upstream sees", "caller sees")
LAST = "afterwards"
ENDS = {"caller": ("kept", "closed"), "upstream": ("kept", "closed", "untouched")}

_HEADING = "--- "
_TITLES = (*SENDS, *SEES, LAST)
_TOKEN = re.compile(r"\\x([0-9A-Fa-f]{2})|\\([nrt\\])|\\$|\{(\d+) x \"([^\"]+)\"\}|\\")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
_RUN = re.compile(r"([A-Za-z0-9 ])\1{39,}")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]|\\| $")


class BadCase(Exception):
    """A case file that cannot be read as one."""


@dataclass(frozen=True)
class Step:
    """What one side sends, or must see; placeholders that only a run can fill stand in it as they are written."""

    title: str
    data: bytes


@dataclass(frozen=True)
class Case:
    name: str
    about: str
    steps: list[Step]
    caller: str
    upstream: str

    @property
    def text(self) -> str:
        """The case written anew, as `script` writes what was seen."""
        return script(self.steps, self.caller, self.upstream)


def names() -> list[str]:
    return sorted(path.stem for path in CASES.glob("*.txt"))


def read(name: str) -> Case:
    about, *sections = re.split(rf"^{_HEADING}", (CASES / f"{name}.txt").read_text("ascii"), flags=re.MULTILINE)
    steps: list[Step] = []
    ends: dict[str, str] | None = None
    for section in sections:
        title, _, lines = section.partition("\n")
        if title not in _TITLES or ends is not None:
            raise BadCase(f"{name}: {title!r} is not a section, or comes after the last one")
        if title == LAST:
            ends = dict(line.split(": ") for line in lines.splitlines())
        else:
            steps.append(Step(title, b"".join(_bytes(name, line) for line in lines.splitlines())))
    if not about.strip() or ends is None or ends.keys() != ENDS.keys():
        raise BadCase(f"{name}: a case begins with what it shows, and ends with what becomes of the connections")
    for side, end in ends.items():
        if end not in ENDS[side]:
            raise BadCase(f"{name}: {side}: {end!r} is none of {', '.join(ENDS[side])}")
    return Case(name, about.strip(), steps, ends["caller"], ends["upstream"])


def _bytes(name: str, line: str) -> bytes:
    """Return the bytes that a line stands for."""

    def meant(found: re.Match[str]) -> str:
        code, letter, times, what = found.groups()
        if code:
            return chr(int(code, 16))
        if letter:
            return _LETTERS[letter]
        if times:
            return _TOKEN.sub(meant, what) * int(times)
        if found.end() == len(line):
            return ""
        raise BadCase(f"{name}: a backslash before nothing it could escape: {line!r}")

    goes_on = len(line) - len(line.rstrip("\\"))
    return _TOKEN.sub(meant, line).encode("latin-1") + (b"" if goes_on % 2 else b"\r\n")


def shown(data: bytes) -> str:
    """Write bytes in the notation."""
    *lines, rest = data.decode("latin-1").split("\r\n")
    text = "".join(f"{_line(line)}\n" for line in lines)
    return f"{text}{_line(rest)}\\\n" if rest else text


def _line(line: str) -> str:
    escaped = _UNPRINTABLE.sub(lambda found: "\\\\" if found[0] == "\\" else f"\\x{ord(found[0]):02X}", line)
    return _RUN.sub(lambda found: f'{{{len(found[0])} x "{found[1]}"}}', escaped)


def script(steps: list[Step], caller: str, upstream: str, extra: list[str] | None = None) -> str:
    """Write steps and their end in the notation; `extra` is what came to pass besides."""
    text = "".join(f"{_HEADING}{step.title}\n{shown(step.data)}" for step in steps)
    return f"{text}{_HEADING}{LAST}\ncaller: {caller}\nupstream: {upstream}\n" + "".join(
        f"besides: {what}\n" for what in extra or ()
    )
