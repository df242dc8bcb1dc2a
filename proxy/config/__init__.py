"""The configuration: read strictly from a YAML file and the environment, typed, frozen; its faults told all at once."""

from proxy.config.access import BrowserOrigin, HostName, Rule
from proxy.config.caller_tokens import CallerTokenFile, read_caller_tokens
from proxy.config.changes import Changes, changes
from proxy.config.credentials import Credentials, CredentialSource, read_credentials, read_secret
from proxy.config.environment import unknown_variables
from proxy.config.load import load, peek
from proxy.config.model import Account, Admin, Api, Config, Drain, Limits, Listener, Log, Socket, Timeouts, Tokens
from proxy.config.safety import Finding, findings
from proxy.config.schema import json_schema
from proxy.config.secret import Secret
from proxy.config.show import redacted
from proxy.config.surroundings import look_around
from proxy.config.values import Bind, Duration, EgressProxy, FileMode, HttpUrl, Identity, Origin, Size, StoreAddress

__all__ = [
    "Account",
    "Admin",
    "Api",
    "Bind",
    "BrowserOrigin",
    "CallerTokenFile",
    "Changes",
    "Config",
    "CredentialSource",
    "Credentials",
    "Drain",
    "Duration",
    "EgressProxy",
    "FileMode",
    "Finding",
    "HostName",
    "HttpUrl",
    "Identity",
    "Limits",
    "Listener",
    "Log",
    "Origin",
    "Rule",
    "Secret",
    "Size",
    "Socket",
    "StoreAddress",
    "Timeouts",
    "Tokens",
    "changes",
    "findings",
    "json_schema",
    "load",
    "look_around",
    "peek",
    "read_caller_tokens",
    "read_credentials",
    "read_secret",
    "redacted",
    "unknown_variables",
]
