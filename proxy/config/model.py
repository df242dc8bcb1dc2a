"""What can be configured: frozen, typed, with the defaults that hold everywhere."""

# The annotations are read while the program runs, so they are not postponed.
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from proxy.config.access import BrowserOrigin, HostName, Rule
from proxy.config.secret import Secret
from proxy.config.values import Bind, Duration, EgressProxy, FileMode, HttpUrl, Identity, Origin, Size, StoreAddress

T = TypeVar("T")

Environment = Literal["sandbox", "production"]
Text = Annotated[str, Meta(min_length=1)]
Prefix = Annotated[
    str,
    Meta(
        pattern=r"^/([A-Za-z0-9_~-][A-Za-z0-9._~-]*/)*$",
        extra={"expected": "a path that begins and ends with /, such as /api/"},
    ),
]
MAY_BE_ZERO = {"zero": True}
API_NAMES = ["2.0", "3.0"]


def _default(value: T) -> T:
    """Make a value the default of a field in a way that leaves it out of msgspec's schema, which cannot write it."""
    return msgspec.field(default_factory=lambda: value)


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the configuration whose keys are all known."""


class Account(_Section, frozen=True, kw_only=True):
    """One Invoisys user: one source of the user name, and one of the password."""

    username: Annotated[Text | None, Meta(description="The user name, most often an e-mail address.")] = None
    username_file: Annotated[Text | None, Meta(description="A file that holds the user name.")] = None
    password: Annotated[Secret | None, Meta(description="The password itself; a file is better.")] = None
    password_file: Annotated[Text | None, Meta(description="A file that holds the password, read at each login.")] = (
        None
    )
    password_env: Annotated[Text | None, Meta(description="The environment variable that holds the password.")] = None


class Socket(_Section, frozen=True, kw_only=True):
    """The file of a Unix socket: who may open it."""

    mode: Annotated[
        FileMode,
        Meta(
            description="Its permissions, in octal and in quotes.",
            extra={"expected": 'four octal digits in quotes, such as "0660"'},
        ),
    ] = _default(FileMode(0o660))
    owner: Annotated[Identity | None, Meta(description="Its user; null means the one that the sidecar runs as.")] = None
    group: Annotated[Identity | None, Meta(description="Its group; null means that of the sidecar.")] = None


class Listener(_Section, frozen=True, kw_only=True):
    """An address where callers come in."""

    bind: Annotated[Bind, Meta(description="The address: host:port, unix:/path or unix:@abstract.")] = _default(
        Bind("127.0.0.1", 8080)
    )
    socket: Annotated[Socket, Meta(description="The file of a Unix socket.")] = _default(Socket())
    uids: Annotated[
        tuple[Identity, ...], Meta(description="The users that a Unix socket is for; none means all who can open it.")
    ] = ()
    account: Annotated[Text | None, Meta(description="The account; may be left out where there is only one.")] = None
    hosts: Annotated[tuple[HostName, ...], Meta(description="Further Host names that callers use.")] = ()
    origins: Annotated[tuple[BrowserOrigin, ...], Meta(description="Browser origins that are let in.")] = ()
    caller_token_file: Annotated[
        Text | None, Meta(description="A file with the token that callers must send as `Authorization: Bearer`.")
    ] = None
    rules: Annotated[
        tuple[Rule, ...], Meta(description="Requests that are let through, such as `GET /api/*`; none means all.")
    ] = ()
    expose: Annotated[bool, Meta(description="Lets other machines in without a caller token.")] = False
    via: Annotated[bool, Meta(description="Adds `Via` to requests.")] = False
    forwarded: Annotated[
        Literal["none", "forwarded", "x-forwarded"],
        Meta(
            description="Tells upstream of the caller: in `Forwarded`, or in `X-Forwarded-For`, `-Host` and `-Proto`."
        ),
    ] = "none"
    token_endpoint: Annotated[
        Literal["stub", "deny"], Meta(description="What POST /api/token gets: a stand-in token, or 403.")
    ] = "stub"  # noqa: S105 - a choice, no password


class Admin(_Section, frozen=True, kw_only=True):
    """The operator's port: probes, metrics, status page, actions."""

    bind: Annotated[Bind, Meta(description="The address: host:port, unix:/path or unix:@abstract.")] = _default(
        Bind("127.0.0.1", 9090)
    )
    socket: Annotated[Socket, Meta(description="The file of a Unix socket.")] = _default(Socket())
    hosts: Annotated[
        tuple[HostName, ...], Meta(description="Further Host names for the actions; probes need none.")
    ] = ()
    expose: Annotated[bool, Meta(description="Lets other machines in; a kubelet's probes need it.")] = False
    inspect_bodies: Annotated[
        bool, Meta(description="Shows bodies on the status page; for development, and refused in production.")
    ] = False


class Api(_Section, frozen=True, kw_only=True):
    """One API generation: which requests are its own, and where they and its logins go."""

    prefix: Annotated[Prefix, Meta(description="The paths that belong to it; /api/ for 2.0 and /v1/ for 3.0.")] = "/"
    url: Annotated[Origin | None, Meta(description="Where its requests go; defaults from the environment.")] = None
    token_url: Annotated[HttpUrl | None, Meta(description="Where its logins go; defaults from the environment.")] = None
    ca_file: Annotated[Text | None, Meta(description="Certificate authorities trusted instead of the system's.")] = None
    proxy: Annotated[EgressProxy | None, Meta(description="An HTTP proxy on the way out, asked to CONNECT.")] = None
    trust_env: Annotated[
        bool, Meta(description="Takes the egress proxy from HTTPS_PROXY and NO_PROXY where `proxy` is not set.")
    ] = False


class Tokens(_Section, frozen=True, kw_only=True):
    """How tokens are kept."""

    refresh_every: Annotated[Duration, Meta(description="A token is replaced after this time.")] = _default(
        Duration.parse("12h")
    )
    store: Annotated[
        StoreAddress, Meta(description="Where tokens are kept: memory, file:/path, redis://host:port/db or rediss.")
    ] = _default(StoreAddress.parse("memory"))
    key_file: Annotated[
        Text | None, Meta(description="A file with the key that encrypts tokens in Redis; only for redis and rediss.")
    ] = None


class Timeouts(_Section, frozen=True, kw_only=True):
    """How long to wait for Invoisys, and for callers."""

    connect: Annotated[Duration, Meta(description="For a connection.")] = _default(Duration.parse("5s"))
    login: Annotated[Duration, Meta(description="For the answer to a login.")] = _default(Duration.parse("15s"))
    response: Annotated[Duration, Meta(description="For an answer to begin.")] = _default(Duration.parse("180s"))
    idle: Annotated[Duration, Meta(description="For the next byte of a body.")] = _default(Duration.parse("60s"))
    head: Annotated[Duration, Meta(description="For a request's line and header section, from their first byte.")] = (
        _default(Duration.parse("30s"))
    )
    keep_alive: Annotated[Duration, Meta(description="For the next request on a caller's connection.")] = _default(
        Duration.parse("75s")
    )


class Limits(_Section, frozen=True, kw_only=True):
    """How much may be under way at a time."""

    connections: Annotated[int, Meta(ge=1, description="Exchanges with one API at a time.")] = 100
    waiting: Annotated[int, Meta(ge=1, description="Requests that may wait; the next one is answered 503.")] = 1000
    caller_connections: Annotated[
        int, Meta(ge=1, description="Connections to one listener at a time; the next one is answered 503.")
    ] = 16384
    replay_body: Annotated[Size, Meta(description="The largest body that is held for a replay.", extra=MAY_BE_ZERO)] = (
        _default(Size.parse("4MiB"))
    )
    replay_memory: Annotated[
        Size, Meta(description="All bodies that are held for a replay, together.", extra=MAY_BE_ZERO)
    ] = _default(Size.parse("64MiB"))


class Drain(_Section, frozen=True, kw_only=True):
    """How the sidecar stops."""

    delay: Annotated[
        Duration, Meta(description="How long new requests are still taken after SIGTERM.", extra=MAY_BE_ZERO)
    ] = _default(Duration(0))
    timeout: Annotated[Duration, Meta(description="How long requests under way may then take to end.")] = _default(
        Duration.parse("25s")
    )


class Log(_Section, frozen=True, kw_only=True):
    """The log."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="The least level shown.")] = "info"
    format: Annotated[
        Literal["json", "text"] | None,
        Meta(description="The form of a line; null means text on a terminal, else json."),
    ] = None


class Config(_Section, frozen=True, kw_only=True):
    """The whole configuration."""

    environment: Annotated[Environment, Meta(description="The Invoisys environment; the two never mix.")] = "sandbox"
    workers: Annotated[int, Meta(ge=1, description="Processes that serve, one for each core to be used.")] = 1
    accounts: Annotated[dict[str, Account], Meta(description="The Invoisys users, each by a name of yours.")] = {}
    listeners: Annotated[tuple[Listener, ...], Meta(min_length=1, description="Where callers come in.")] = _default(
        (Listener(),)
    )
    admin: Annotated[Admin, Meta(description="The operator's port.")] = _default(Admin())
    apis: Annotated[
        dict[str, Api],
        Meta(
            description="The API generations, 2.0 and 3.0.",
            extra_json_schema={"propertyNames": {"enum": API_NAMES}},
            extra={"names": API_NAMES},
        ),
    ] = {}
    tokens: Annotated[Tokens, Meta(description="How tokens are kept.")] = _default(Tokens())
    timeouts: Annotated[Timeouts, Meta(description="How long to wait for Invoisys, and for callers.")] = _default(
        Timeouts()
    )
    limits: Annotated[Limits, Meta(description="How much may be under way at a time.")] = _default(Limits())
    drain: Annotated[Drain, Meta(description="How the sidecar stops.")] = _default(Drain())
    log: Annotated[Log, Meta(description="The log.")] = _default(Log())
