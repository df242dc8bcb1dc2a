"""Complete and check the bill of materials that cyclonedx-py wrote: `python -m tools.sbom SBOM LOCK`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from proxy import __version__
from tools.locks import read_lock


def complete(sbom: dict[str, Any]) -> None:
    """Say what cyclonedx-py cannot read from pyproject.toml: the version, and that all of it is the sidecar's."""
    root = sbom["metadata"]["component"]
    root["version"] = __version__
    others = [each for each in sbom.get("dependencies", []) if each["ref"] != root["bom-ref"]]
    of_root = {"ref": root["bom-ref"], "dependsOn": sorted(each["bom-ref"] for each in sbom["components"])}
    sbom["dependencies"] = [of_root, *others]


def faults(sbom: dict[str, Any], lock: Path) -> list[str]:
    """Say what keeps this from being the list of just what is locked, each with its hashes."""
    listed = {
        (each["name"].lower(), each["version"]): {
            f"{digest['alg'].replace('-', '').lower()}:{digest['content']}"
            for reference in each.get("externalReferences", ())
            for digest in reference.get("hashes", ())
        }
        for each in sbom.get("components", ())
    }
    locked = {(each.name, each.version): set(each.hashes) for each in read_lock(lock)}
    found = [] if sbom.get("bomFormat") == "CycloneDX" else ["it is not in the form of CycloneDX"]
    found += [f"{name} {version} is locked and not listed" for name, version in locked if (name, version) not in listed]
    found += [f"{name} {version} is listed and not locked" for name, version in listed if (name, version) not in locked]
    found += [
        f"{name} {version} has other hashes"
        for (name, version), hashes in locked.items()
        if listed.get((name, version), hashes) != hashes
    ]
    return found


def main(sbom_file: str, lock_file: str) -> int:
    """Complete one file and check it against a lock; 0 if nothing is wrong with it."""
    sbom = json.loads(Path(sbom_file).read_text())
    if found := faults(sbom, Path(lock_file)):
        print("\n".join([f"{sbom_file}:", *found]), file=sys.stderr)
        return 1
    complete(sbom)
    Path(sbom_file).write_text(json.dumps(sbom, indent=2) + "\n")
    print(f"{sbom_file}: {len(sbom['components'])} components")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
