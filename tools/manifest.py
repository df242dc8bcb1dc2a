"""The one file that brings the sidecar into a pod, made of its parts by kustomize: `python -m tools.manifest`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

KUBERNETES = Path(__file__).parents[1] / "deploy" / "kubernetes"
FILE = KUBERNETES / "sidecar.yaml"

HEADER = """\
# An ERP's Deployment with the sidecar in its pods, and all that they need but a Secret: to copy, and to change by hand.
# `make manifest` writes it, from overlays/sidecar-sandbox.
#
# 1. kubectl create secret generic invoisys \\
#        --from-literal=username=integracao@empresa.com.br --from-file=password=/path/to/password
# 2. Name both images. If you have a Deployment, give its pods what they have here: the label `invoisys-proxy: sidecar`,
#    initContainers, volumes and terminationGracePeriodSeconds.
# 3. A pod has one network: what else the ERP calls, such as its database, needs a rule in invoisys-egress.
# 4. kubectl apply -f sidecar.yaml
"""


def manifest() -> str:
    """Return the file: without the nightly task, and with a name for the ConfigMap that stays when it is edited."""
    command = ("kubectl", "kustomize", str(KUBERNETES / "overlays" / "sidecar-sandbox"))
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    documents = [each for each in made.split("---\n") if "\nkind: Job\n" not in each]
    return HEADER + re.sub(r"\binvoisys-proxy-[a-z0-9]{10}\b", "invoisys-proxy", "---\n".join(documents))


def main() -> int:
    """Write the file."""
    FILE.write_text(manifest(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
