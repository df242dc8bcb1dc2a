"""A machine whose first process is systemd, in namespaces of this one: what a container engine would do for it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.deploy.manifests import run
from tests.support.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.netns import Place

_BOOT = """
set -e
root=$1 group=$2
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$group"
echo $$ >"/sys/fs/cgroup/$group/cgroup.procs"
exec unshare --cgroup sh -ec '
    mount --bind "$0" "$0"
    cd "$0"
    mount -t proc proc proc
    mount --bind proc/sys proc/sys
    mount -o remount,bind,ro proc/sys  # its settings are the host'"'"'s
    mount -t sysfs -o ro sysfs sys
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    for each in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs $each; done
    for each in null zero full random urandom tty; do
        touch dev/$each
        mount --bind /dev/$each dev/$each
    done
    mkdir dev/pts dev/shm
    mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    chmod 1777 tmp
    pivot_root . mnt
    exec chroot . sh -ec "umount -l /mnt; mount --make-rshared /; exec /usr/lib/systemd/systemd --system"
' "$root"
"""
"""In namespaces of its own: a group for what it starts, a root file system, and then systemd in the place of this."""

_END = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup
find "/sys/fs/cgroup/$0" -depth -type d -exec rmdir {} +
"""


class Machine:
    """A systemd that runs."""

    def __init__(self, unshared: int) -> None:
        self._unshared = unshared

    @property
    def first(self) -> int:
        """The number, out here, of its first process; raises `ValueError` while there is none."""
        (child,) = Path(f"/proc/{self._unshared}/task/{self._unshared}/children").read_text().split()
        return int(child)

    def command(self, *command: str) -> list[str]:
        """A command as somebody would give it who is on the machine."""
        into = ["nsenter", "--target", str(self.first), "--all", "--root", "--wd"]
        return [*into, "env", "-i", "PATH=/usr/sbin:/usr/bin", *command]

    def run(self, *command: str, text: str = "") -> str:
        return run(*self.command(*command), text=text).strip()

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Tell what systemd says of a unit."""
        told = self.run("systemctl", "show", "--property", ",".join(properties), unit)
        return dict(line.split("=", 1) for line in told.splitlines())

    def journal(self, unit: str) -> list[str]:
        return self.run("journalctl", "--unit", unit, "--output", "cat", "--no-pager").splitlines()


@contextlib.contextmanager
def booted(root: Path, place: Place) -> Iterator[Machine]:
    """Start a machine with a root file system, in the network of a place; in the end, switch it off."""
    group = f"invoisys-{os.getpid()}"
    namespaces = ("--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child")
    command = [*place.command, "unshare", *namespaces, "sh", "-c", _BOOT, "sh", str(root), group]
    env = {"container": "other", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        machine = Machine(process.pid)
        try:
            _wait_for(machine, process)
            yield machine
        finally:
            # With the first process of their own kind all others end, and then the one that waits for it.
            with contextlib.suppress(ValueError, FileNotFoundError):
                os.kill(machine.first, signal.SIGKILL)
            process.wait(PATIENCE)
            run("unshare", "--mount", "sh", "-c", _END, group)


def _wait_for(machine: Machine, process: subprocess.Popen[bytes]) -> None:
    """Wait until all is started that starts by itself; as long as nobody is there to be asked, asking fails."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(ValueError):
            asking = machine.command("systemctl", "is-system-running", "--wait")
            asked = subprocess.run(asking, capture_output=True, text=True, check=False, timeout=PATIENCE)
            if asked.stdout.strip() in {"running", "degraded"}:
                return
    raise AssertionError(f"systemd does not run: {process.poll()}")
