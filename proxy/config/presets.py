"""What is known of each Invoisys environment."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.config.tree import Node


@dataclass(frozen=True, slots=True)
class Preset:
    """What an API has where the configuration says nothing; None is what is documented nowhere."""

    prefix: str
    url: str | None = None
    token_url: str | None = None


_DOMAINS = ("invoisys.com.br", "invoisys.io")

_SANDBOX_LOGIN = "https://sandbox-api.invoisys.com.br/api/token"

PRESETS: dict[str, dict[str, Preset]] = {
    "sandbox": {
        "2.0": Preset("/api/", "https://sandbox-api.invoisys.com.br", _SANDBOX_LOGIN),
        # Every copy of the documentation names the .com.br login for 3.0 too.
        "3.0": Preset("/v1/", "https://sandbox-api.invoisys.io", _SANDBOX_LOGIN),
    },
    "production": {
        # The token URL is by analogy with the sandbox.
        "2.0": Preset("/api/", "https://api.invoisys.com.br", "https://api.invoisys.com.br/api/token"),
        "3.0": Preset("/v1/"),
    },
}


def fill(tree: Node) -> None:
    """Put into the tree what its environment has for what it leaves out.

    A token URL is filled in only beside the URL that it belongs to: credentials go nowhere unasked.
    """
    environment = tree.find(("environment",))
    presets = PRESETS.get(environment.text if environment else "", PRESETS["sandbox"])
    for name, preset in presets.items():
        _put_missing(tree, name, "prefix", preset.prefix)
        _put_missing(tree, name, "url", preset.url)
        url = tree.find(("apis", name, "url"))
        if url and url.text.removesuffix("/") == preset.url:
            _put_missing(tree, name, "token_url", preset.token_url)


def environment_of(host: str) -> str | None:
    """Tell which environment a host belongs to, where it is one of Invoisys; `host` is in lower case."""
    if any(host == domain or host.endswith(f".{domain}") for domain in _DOMAINS):
        return "sandbox" if "sandbox" in host else "production"
    return None


def _put_missing(tree: Node, name: str, key: str, text: str | None) -> None:
    path = ("apis", name, key)
    node = tree.find(path)
    if text is not None and (node is None or node.value is None):
        tree.put(path, Node(text, text=text))
