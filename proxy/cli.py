"""The commands; each a few lines that call into the rooms below."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import logging
import os
import shlex
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Literal

from proxy import __version__
from proxy.asking import ask
from proxy.config import (
    findings,
    json_schema,
    load,
    look_around,
    peek,
    read_caller_tokens,
    read_credentials,
    redacted,
    unknown_variables,
)
from proxy.errors import ConfigError
from proxy.loop import spare_collector, within_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.config import Config
    from proxy.fake import FakeInvoisys
    from proxy.observe import AccessLog
    from proxy.serve import Served

OK, FAILED, WRONG = 0, 1, 2

_HEALTH_TIMEOUT = 5.0
_LAST_PORT = 65535

_DEMO_MAY_CHOOSE = ("INVOISYS_LISTEN", "INVOISYS_ADMIN", "INVOISYS_LOG_LEVEL", "INVOISYS_LOG_FORMAT")

_BANNER = """\
The sidecar is at {listen}, in front of a fake Invoisys. Issue a document, and query it by its access key:

    {curl_listen}/api/nfe/envio -d '{{\
"cnpj":"12345678000195","modelo":"55","serie":"1","numero":"1001","codigoAleatorioNF":"84152607","dataEmissao":"2026-01-31"\
}}'
    {curl_listen}/api/nfe/getbychaveSTD/35260112345678000195550010000010011841526077

{page}

Have the token expire at the fake, query again, and see the replay there and in the log:

    curl -X POST {fake}/_fake/revoke

Ask whether it is ready; Ctrl-C ends it:

    {curl_admin}/readyz

"""
_PAGE = "See what it does, live, in a browser:\n\n    {admin}/"
_NO_PAGE = "The status page is for a browser, and none opens a Unix socket: give INVOISYS_ADMIN a port for it."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 stopped cleanly, 1 failed while running, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        return OK
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="invoisys-proxy", description="The sidecar that owns the Invoisys token.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, what, configured in (
        ("run", _run, "run the sidecar", True),
        ("demo", _demo, "run a fake Invoisys and a sidecar in front of it; nothing to configure", False),
        ("fake", _fake, "run only the fake Invoisys", False),
        ("check", _check, "validate the configuration and print the effective one, secrets redacted", True),
        ("doctor", _doctor, "try it for real, step by step, and say what to do about what fails", True),
        ("health", _health, "exit 0 when the running sidecar is ready", True),
        ("schema", _schema, "print the JSON Schema of the configuration file", False),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.set_defaults(run=run)
        if configured:
            command.add_argument("-c", "--config", metavar="FILE", help="configuration file, in YAML")
        if name == "doctor":
            command.add_argument("--json", action="store_true", help="print JSON (docs/troubleshooting.md)")
        if name == "check":
            command.add_argument("--strict", action="store_true", help="take what is unsafe for an error")
        if name == "fake":
            command.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:8081")
            command.add_argument("--script", metavar="FILE", help="faults to act out, in YAML (docs/fake.md)")
    return parser


# --- Commands ------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    log = logging.getLogger("proxy")
    access_log = _set_up_log(peek(options.config, os.environ, ("log", "format"))[0])
    try:
        config = _configuration(options)
        access_log = _set_up_log(config)
        for finding in findings(config, look_around(config, options.config, os.environ)):
            log.warning("%s", finding.what, extra={"event": finding.event, "next_step": finding.mend})
        return within_loop(_serve(config, access_log, lambda: _configuration(options)))
    except ConfigError as error:
        log.error("%s", error, extra={"event": "configuration-refused"})  # noqa: TRY400 - a traceback tells no more
        return _tell(error, WRONG)


def _demo(_options: argparse.Namespace) -> int:
    return within_loop(_serve_demo())


def _fake(options: argparse.Namespace) -> int:
    from proxy.fake import FakeInvoisys, ScriptError, load_script

    host, _, port = options.listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > _LAST_PORT:
        raise ConfigError(f"--listen: expected HOST:PORT, found {options.listen!r}")
    try:
        script = load_script(options.script) if options.script else None
    except ScriptError as error:
        raise ConfigError(str(error)) from None
    return within_loop(_serve_fake(FakeInvoisys(script=script), host.strip("[]"), int(port)))


def _check(options: argparse.Namespace) -> int:
    config = _configuration(options)
    unsafe = findings(config, look_around(config, options.config, os.environ))
    for finding in unsafe:
        print(f"{'error' if options.strict else 'warning'}: {finding.text}", file=sys.stderr)
    print(redacted(config), end="")
    return WRONG if unsafe and options.strict else OK


def _configuration(options: argparse.Namespace) -> Config:
    """Read the configuration, and the files of credentials and caller tokens to see that they are good."""
    config = load(options.config, os.environ)
    for name, account in config.accounts.items():
        read_credentials(account, os.environ, name)
    for number, listener in enumerate(config.listeners):
        if listener.caller_token_file is not None:
            read_caller_tokens(listener.caller_token_file, f"listeners[{number}].caller_token_file")
    return config


def _doctor(options: argparse.Namespace) -> int:
    return within_loop(_examine(options.config, in_json=options.json))


def _health(options: argparse.Namespace) -> int:
    config, doubt = peek(options.config, os.environ, ("admin", "bind"))
    bind = config.admin.bind
    if doubt:
        print(f"asking at {bind}, the default: the configuration does not tell\n{doubt}", file=sys.stderr)
    try:
        status, body = ask(bind, "/readyz", timeout=_HEALTH_TIMEOUT)
        report = json.loads(body)
        said = "; ".join((report["status"], *report["reasons"]))
        steps = [f"to do: {step}" for step in report.get("next_steps", ())]
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as error:
        print(f"no sidecar answers at {bind}: {error}", file=sys.stderr)
        return FAILED
    ready = status == http.HTTPStatus.OK
    print(said, *steps, sep="\n", file=sys.stdout if ready else sys.stderr)
    return OK if ready else FAILED


def _schema(_options: argparse.Namespace) -> int:
    print(json.dumps(json_schema(), indent=2))
    return OK


# --- What they run -------------------------------------------------------------------------------------------------


def _set_up_log(config: Config) -> AccessLog:
    from proxy.observe import set_up

    form, colours = _shape_of_log(config)
    return set_up(config.log.level, form, sys.stdout.buffer, colours=colours)


def _shape_of_log(config: Config) -> tuple[Literal["json", "text"], bool]:
    terminal = sys.stdout.isatty()
    colours = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return config.log.format or ("text" if terminal else "json"), colours


async def _serve(
    config: Config,
    access_log: AccessLog,
    read_again: Callable[[], Config],
    greeting: Callable[[str, str], str] = lambda *_: "",
) -> int:
    """`greeting` is made of the addresses that were really opened: the first listener's and the operator's port's."""
    from proxy.serve import serve
    from proxy.server import StartError

    log = logging.getLogger("proxy")
    for text in unknown_variables(os.environ):
        log.warning("%s", text, extra={"event": "unknown-variable"})

    def on_start(addresses: list[str]) -> None:
        spare_collector()
        *listeners, admin = addresses
        print(greeting(listeners[0], admin), end="", flush=True)
        log.info(
            "listening at %s, for probes at %s",
            ", ".join(listeners),
            admin,
            extra={"event": "listening", "listeners": listeners, "admin": admin, "environment": config.environment},
        )

    try:
        await serve(_sidecar(config, access_log), on_start, read_again)
    except StartError as error:
        log.error("%s", error, extra={"event": "start-failed"})  # noqa: TRY400 - a traceback tells nobody more
        return _tell(error, FAILED)
    finally:
        access_log.flush()
    return OK


def _tell(error: Exception, code: int) -> int:
    """Say on standard error what the log says, unless a person has just read it there; return the exit code."""
    if not sys.stdout.isatty():
        print(error, file=sys.stderr)
    return code


def _sidecar(config: Config, access_log: AccessLog) -> Served:
    from proxy.systemd import Supervisor

    supervisor = Supervisor(os.environ)
    if config.workers == 1:
        from proxy.server import Sidecar

        return Sidecar(config, os.environ, access_log, supervisor)
    from proxy.workers.team import Team

    form, colours = _shape_of_log(config)
    return Team(config, os.environ, access_log, supervisor, log_form=form, colours=colours)


async def _examine(path: str | None, *, in_json: bool) -> int:
    from proxy.doctor import Step, as_json, as_text, examine, summary

    def tell(step: Step) -> None:
        if not in_json:
            print(as_text(step), flush=True)

    report = await examine(path, os.environ, tell)
    print(as_json(report) if in_json else summary(report))
    if not report.configured:
        return WRONG
    return FAILED if report.findings else OK


async def _serve_demo() -> int:
    from proxy.fake import FakeInvoisys

    fake = FakeInvoisys()
    url = await fake.start()
    config = load(None, _demo_settings(url, fake))
    try:
        return await _serve(config, _set_up_log(config), lambda: config, partial(_banner, url))
    finally:
        await fake.stop()


def _banner(fake: str, listen: str, admin: str) -> str:
    page = _NO_PAGE if admin.startswith("unix:") else _PAGE.format(admin=admin)
    return _BANNER.format(fake=fake, listen=listen, curl_listen=_curl(listen), curl_admin=_curl(admin), page=page)


def _curl(address: str) -> str:
    """Return the beginning of a line that asks at an address, up to the path."""
    path = address.removeprefix("unix:")
    if path == address:
        return f"curl {address}"
    option = "--abstract-unix-socket" if path.startswith("@") else "--unix-socket"
    return f"curl {option} {shlex.quote(path.removeprefix('@'))} http://localhost"


def _demo_settings(url: str, fake: FakeInvoisys) -> dict[str, str]:
    """The demo's configuration: where it listens may be chosen, whom it talks to may not."""
    chosen = {name: os.environ[name] for name in _DEMO_MAY_CHOOSE if name in os.environ}
    return chosen | {
        "INVOISYS_USERNAME": fake.username,
        "INVOISYS_PASSWORD": fake.password,
        "INVOISYS_API_2_0_URL": url,
        "INVOISYS_API_2_0_TOKEN_URL": f"{url}/api/token",
        "INVOISYS_API_3_0_URL": url,
        "INVOISYS_API_3_0_TOKEN_URL": f"{url}/v1/token",
    }


async def _serve_fake(fake: FakeInvoisys, host: str, port: int) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        url = await fake.start(host, port)
    except OSError as error:
        print(f"cannot listen at {host}:{port}: {error.strerror}", file=sys.stderr)
        return FAILED
    print(f"fake Invoisys at {url}; user name {fake.username}, password {fake.password}", flush=True)
    await stopped.wait()
    await fake.stop()
    return OK
