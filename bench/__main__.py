"""The commands: `compare`, `tokens`, `limits`, `workers`, `profile`, `instructions`; see README.md in this folder."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import instructions, limits, profile, report, tokens, workers
from bench.peers import PEERS
from bench.places import RESULTS, ROOT
from bench.processes import BenchError
from bench.rounds import Plan, compare
from bench.scenarios import QUICK, QUICK_PEERS, SCENARIOS

_ROUNDS, _SECONDS = 5, 2
_QUICK_ROUNDS, _QUICK_SECONDS = 3, 1


def main() -> int:
    """Run one command, and return its exit code."""
    options = _parser().parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # of every child as well
    try:
        options.run(options)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    comparing = commands.add_parser("compare", help="the sidecar beside its peers")
    comparing.set_defaults(run=_compare)
    comparing.add_argument("--quick", action="store_true", help="few peers and scenarios; nothing is published")
    comparing.add_argument("--peers", type=_names(PEERS), help=f"some of {','.join(PEERS)}; nothing is published")
    comparing.add_argument("--scenarios", type=_names(SCENARIOS), help=f"some of {','.join(SCENARIOS)}; the same")
    comparing.add_argument("--rounds", type=int, metavar="N", help=f"{_ROUNDS}; {_QUICK_ROUNDS} when quick")
    comparing.add_argument("--seconds", type=int, metavar="N", help=f"{_SECONDS}; {_QUICK_SECONDS} when quick")

    asking = commands.add_parser("tokens", help="logins at a cold start, after a revocation, and under load")
    asking.set_defaults(run=_tokens)
    asking.add_argument("--crowds", type=_numbers, default=tokens.CROWDS, help="numbers of callers, with commas")
    asking.add_argument("--seconds", type=int, default=20, metavar="N", help="of load with refreshes (20)")

    bounding = commands.add_parser("limits", help="start-up, and memory under a thousand large requests")
    bounding.set_defaults(run=_limits)

    several = commands.add_parser("workers", help="two workers beside one")
    several.set_defaults(run=_workers)
    several.add_argument("--rounds", type=int, default=_ROUNDS, metavar="N")
    several.add_argument("--seconds", type=int, default=_SECONDS, metavar="N")

    sampling = commands.add_parser("profile", help="where the sidecar's CPU goes, by py-spy")
    sampling.set_defaults(run=_profile)
    sampling.add_argument("--scenario", choices=SCENARIOS, default="plain-64")
    sampling.add_argument("--seconds", type=int, default=10, metavar="N")
    sampling.add_argument("--most", type=int, default=60, metavar="N", help="functions that are told of")

    counting = commands.add_parser("instructions", help="how many the sidecar executes for a request, by callgrind")
    counting.set_defaults(run=_instructions)
    return parser


def _names(known: dict[str, Any]) -> Any:
    def names(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
        return chosen

    return names


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _compare(options: argparse.Namespace) -> None:
    partial = bool(options.quick or options.peers or options.scenarios)
    plan = Plan(
        peers=options.peers or (QUICK_PEERS if options.quick else tuple(PEERS)),
        scenarios=options.scenarios or (QUICK if options.quick else tuple(SCENARIOS)),
        rounds=options.rounds or (_QUICK_ROUNDS if options.quick else _ROUNDS),
        seconds=options.seconds or (_QUICK_SECONDS if options.quick else _SECONDS),
    )
    about = _circumstances() | {"rounds": plan.rounds, "seconds": plan.seconds}
    done = compare(plan)
    results = about | {"idle": done.idle, "samples": done.samples}
    _keep("quick" if partial else "comparison", results)
    print(report.comparison(results))


def _tokens(options: argparse.Namespace) -> None:
    results = _circumstances() | tokens.measure(options.crowds, options.seconds)
    _keep("tokens", results)
    print(report.tokens(results))


def _limits(_options: argparse.Namespace) -> None:
    results = _circumstances() | limits.measure()
    _keep("limits", results)
    print(report.limits(results))


def _workers(options: argparse.Namespace) -> None:
    results = _circumstances() | workers.measure(options.rounds, options.seconds)
    _keep("workers", results)
    print(workers.report(results))


def _profile(options: argparse.Namespace) -> None:
    found = profile.shares(profile.measure(options.scenario, options.seconds))
    by_own = sorted(found, key=lambda share: share.own, reverse=True)
    for title, shares in (("by their own time", by_own), ("with what they call", found)):
        lines = (f"{share.own:6.1%} {share.whole:6.1%}  {share.function}" for share in shares[: options.most])
        print(f"{title}:", *lines, sep="\n")


def _instructions(_options: argparse.Namespace) -> None:
    for name, count in instructions.measure().items():
        print(f"{name}: {count:,.0f} instructions a request")


def _circumstances() -> dict[str, Any]:
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "measured": time.strftime("%Y-%m-%d"),
        "commit": subprocess.run(
            ["/usr/bin/env", "git", "describe", "--always", "--dirty"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        ).stdout.strip() or "an unknown commit",
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores of {processor}",
        "load": os.getloadavg()[0],
    }  # fmt: skip


def _keep(name: str, results: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    if name != "quick":
        report.publish()


if __name__ == "__main__":
    sys.exit(main())
