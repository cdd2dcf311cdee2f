# SPDX-License-Identifier: GPL-3.0-or-later
"""A SLURM cluster of several nodes on this machine, gone when the test is over.

The real munged, slurmctld and slurmd, with their files in a directory of their own; nothing of the
system's is changed. Needs root and Debian's packages slurmctld, slurmd, slurm-client and munge.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")

_CONFIGURATION = """\
ClusterName=ptclean
SlurmctldHost={host}
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def slurm(folder: Path, nodes: int) -> Iterator[dict[str, str]]:
    """Start SLURM with nodes of one processor each.

    Parameters
    ----------
    folder : Path
        For its files.
    nodes : int

    Yields
    ------
    dict of str to str
        What a user of it must have in the environment.
    """
    missing = [command for command in _COMMANDS if not shutil.which(command)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"SLURM needs root and the commands {', '.join(missing)}")
    folder.chmod(0o755)
    (folder / "state").mkdir()
    host = socket.gethostname()
    ports = _free_ports(nodes + 1)
    definitions = [
        f"NodeName=node{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[i]} CPUs=1 "
        "RealMemory=8000"
        for i in range(1, nodes + 1)
    ]
    configuration = folder / "slurm.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            host=f"{host}(127.0.0.1)", port=ports[0], folder=folder, nodes="\n".join(definitions)
        )
    )
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(64))
    key.chmod(0o600)
    environ = {"SLURM_CONF": str(configuration)}
    with contextlib.ExitStack() as stack:
        _start(
            stack,
            ["munged", "--foreground", "--force", "--key-file", str(key)],
            [f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid"],
            [f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"],
        )
        _start(stack, ["slurmctld", "-D", "-f", str(configuration)])
        for i in range(1, nodes + 1):
            (folder / f"spool-node{i}").mkdir()
            _start(stack, ["slurmd", "-D", "-N", f"node{i}", "-f", str(configuration)])
        # Jobs have process groups of their own.
        stack.callback(_say, environ, "scancel", "--full", "--signal=KILL", "--user=root")
        deadline = time.monotonic() + 60
        while _say(environ, "sinfo", "--noheader", "--states=idle", "--format=%D").strip() != str(
            nodes
        ):
            assert time.monotonic() < deadline, _say(environ, "sinfo", "--long", "--Node")
            time.sleep(0.2)
        yield environ


def _say(environ: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, check=False
    )
    return done.stdout


def _start(stack: contextlib.ExitStack, *command: list[str]) -> None:
    process = subprocess.Popen(
        [word for words in command for word in words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    stack.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
