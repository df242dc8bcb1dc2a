"""The coverage-guided fuzzer on the answers of upstream: `make fuzz`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["proxy.upstream.response"]):
    from tests.fuzz.response import check


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
