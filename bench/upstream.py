"""The one upstream of every measurement: nginx on loopback, plain and with TLS."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.places import BENCH, LUA_LIBRARY, NGINX, NGINX_MODULES, OPENSSL, with_libraries
from bench.processes import Child, free_port
from bench.templates import write_filled

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE = 100 * 1024 * 1024
"""Bytes of the large body."""

SMALL = "x" * 1024
"""The small answer."""

NAME = "upstream.test"
"""The name in the certificate, beside 127.0.0.1."""


@dataclass(frozen=True)
class Upstream:
    """Where upstream is, and what it takes for the right token."""

    child: Child
    folder: Path
    plain_port: int
    tls_port: int
    token: str

    def values(self, *, tls: bool) -> dict[str, object]:
        """Return what a peer's configuration says of upstream."""
        scheme, port = ("https", self.tls_port) if tls else ("http", self.plain_port)
        return {
            "scheme": scheme,
            "upstream_port": port,
            "upstream": f"{scheme}://127.0.0.1:{port}",
            "ca": self.folder / "upstream.pem",
            "name": NAME,
            "token": self.token,
        }


@contextlib.contextmanager
def working_folder() -> Iterator[Path]:
    """Lend a folder for the files of one run."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def upstream(folder: Path, *, core: int | str, template: str = "upstream.conf", **values: object) -> Iterator[Upstream]:
    """Run upstream on one core; `values` fill in what the template names beyond the usual."""
    own = folder / "upstream"
    own.mkdir()
    _make_certificate(own)
    with (own / "large").open("wb") as large:
        large.truncate(LARGE)
    token, plain_port, tls_port = f"bench.{secrets.token_urlsafe(48)}", free_port(), free_port()
    usual = {
        "folder": own,
        "modules": NGINX_MODULES,
        "lua": LUA_LIBRARY,
        "plain_port": plain_port,
        "tls_port": tls_port,
        "token": token,
        "small": SMALL,
    }
    configuration = write_filled(BENCH / template, own, usual | values)
    child = Child([str(NGINX), "-p", str(own), "-c", str(configuration)], core=core, folder=own, env=with_libraries())
    try:
        child.await_answer(plain_port, "/bench/state")
        yield Upstream(child, own, plain_port, tls_port, token)
    finally:
        child.stop()


def _make_certificate(folder: Path) -> None:
    openssl = shutil.which("openssl") or str(OPENSSL)
    subprocess.run(  # noqa: S603 - our own command
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-keyout", "upstream.key", "-out", "upstream.pem", "-subj", f"/CN={NAME}"),
            *("-addext", f"subjectAltName=DNS:{NAME},IP:127.0.0.1"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def invoice(size: int = 30 * 1024) -> bytes:
    """Return a made-up NF-e in JSON, of about so many bytes."""
    items: list[dict[str, object]] = []
    document = {
        "cnpj": "12345678000195",
        "modelo": "55",
        "serie": "1",
        "numero": "1",
        "naturezaOperacao": "VENDA DE MERCADORIA",
        "destinatario": {"cpf": "12345678909", "nome": "CLIENTE DE EXEMPLO", "municipio": "São Paulo", "uf": "SP"},
        "itens": items,
    }
    while len(body := json.dumps(document, ensure_ascii=False).encode()) < size:
        number = len(items) + 1
        items.append({
            "numeroItem": number,
            "codigo": f"P{number:05}",
            "descricao": f"PRODUTO DE EXEMPLO {number}",
            "ncm": "84713012",
            "cfop": "5102",
            "unidade": "UN",
            "quantidade": "1.0000",
            "valorUnitario": f"{number}.90",
            "icms": {"origem": "0", "cst": "00", "aliquota": "18.00"},
            "pis": {"cst": "01", "aliquota": "1.65"},
            "cofins": {"cst": "01", "aliquota": "7.60"},
        })  # fmt: skip
    return body
