# SPDX-License-Identifier: GPL-3.0-or-later
"""Several hosts on one machine: network namespaces with addresses and names of their own.

They share the machine's disks, as the nodes of a cluster share a file system, and a network that
this machine itself is not on. Needs root and the ``ip`` command.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import pytest

#: The first three bytes of the addresses, of a network that is reserved for examples (RFC 5737).
_NETWORK = "192.0.2"


class Host:
    """One host.

    Attributes
    ----------
    name, address : str
        Its name and its IP address.
    """

    def __init__(self, name: str, address: str, switch: str, device: str) -> None:
        self.name = name
        self.address = address
        self._namespace = f"{name}-{os.getpid()}"
        self._switch = switch
        self._device = device
        self._processes: list[subprocess.Popen[bytes]] = []

    def plug_in(self) -> None:
        """Make the host, and a cable from it to the switch."""
        inside = self._namespace
        _ip("netns", "add", inside)
        link = ("link", "add", self._device, "type", "veth")
        _ip("-n", self._switch, *link, "peer", "name", "eth0", "netns", inside)
        _ip("-n", self._switch, "link", "set", self._device, "master", "bridge", "up")
        _ip("-n", inside, "addr", "add", f"{self.address}/24", "dev", "eth0")
        _ip("-n", inside, "link", "set", "eth0", "up")
        _ip("-n", inside, "link", "set", "lo", "up")

    def start(
        self,
        command: Sequence[str],
        *,
        cwd: str,
        output: str = "",
        environ: Mapping[str, str] | None = None,
        hidden: str | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process on this host.

        Parameters
        ----------
        command : sequence of str
        cwd : str
            Its working directory.
        output : str, optional
            File there for its output; by default one of the host's name.
        environ : mapping, optional
            Added to this process's environment.
        hidden : str, optional
            A directory that is empty on this host.
        """
        steps = f"hostname {self.name}; "
        if hidden:
            steps += 'mount -t tmpfs none "$HIDDEN"; '
        inside = ["ip", "netns", "exec", self._namespace, "unshare", "--uts", "--mount"]
        with open(os.path.join(cwd, output or f"{self.name}.out"), "ab") as file:
            process = subprocess.Popen(
                [*inside, "sh", "-c", steps + 'exec "$@"', "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(environ or {}), "HIDDEN": hidden or ""},
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def unplug(self) -> None:
        """Take the host from the network; its processes run on."""
        _ip("-n", self._switch, "link", "set", self._device, "down")

    def remove(self) -> None:
        """End all processes of the host, and the host."""
        pids = _ip("netns", "pids", self._namespace).split()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        for process in self._processes:
            process.wait()
        _ip("netns", "del", self._namespace)


def scheduler(host: Host, cwd: str, **environ: str) -> str:
    """Start a scheduler; returns its address."""
    port = "8786"
    command = [sys.executable, "-m", "dask", "scheduler", "--no-dashboard", "--host", host.address]
    host.start([*command, "--port", port], cwd=cwd, environ=environ)
    return f"tcp://{host.address}:{port}"


def worker(host: Host, address: str, cwd: str, *options: str, hidden: str | None = None) -> None:
    """Start a worker."""
    command = [sys.executable, "-m", "dask", "worker", address, "--nworkers", "1", "--no-dashboard"]
    command += ["--host", host.address, "--nthreads", "1", "--memory-limit", "0"]
    command += ["--local-directory", cwd, "--name", host.name, *options]
    host.start(command, cwd=cwd, environ={"OMP_NUM_THREADS": "1"}, hidden=hidden)


@contextlib.contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    """Make hosts and a network between them; gone on leaving.

    Skips the test where that cannot be done.
    """
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("hosts of one's own need root and the command ip")
    switch = f"ptc-switch-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        try:
            _ip("netns", "add", switch)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network can be made here: {error.stderr}")
        stack.callback(_ip, "netns", "del", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        made = []
        for number, name in enumerate(names):
            device, address = f"port{number}", f"{_NETWORK}.{10 + number}"
            host = Host(name, address, switch, device)
            host.plug_in()
            stack.callback(host.remove)
            made.append(host)
        yield made


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    return done.stdout
