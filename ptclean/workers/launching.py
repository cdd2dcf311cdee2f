# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes of our own workers: how they are started, looked after, and ended.

They are started as ``python -m dask spec``, each with a nanny; :mod:`ptclean.workers.cluster` says
why. What they are started with is :mod:`ptclean.workers.worker_spec`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
from distributed import SpecCluster
from distributed.deploy.spec import ProcessInterface

from ..errors import WorkerStartError
from .watchdog import PARENT, SCRATCH
from .worker_spec import worker_spec

_LINES_OF_EVIDENCE = 20


class NamedCluster(SpecCluster):
    """A cluster whose workers have names that make good file names."""

    def _new_worker_name(self, worker_number: int) -> str:
        return f"worker-{worker_number}"


@dataclass
class Launcher:
    """Starts the processes of our own workers, and ends them.

    Each has a session of its own, so that Ctrl-C in the user's terminal does not reach it.
    """

    environ: Mapping[str, str]
    config: Mapping[str, Any]
    memory_limit: int | None
    scratch: str
    log_directory: Path
    start_timeout: float
    stop_timeout: float
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    error: OSError | None = None

    def output(self, name: str) -> Path:
        """Return the file with what a worker's process prints."""
        return self.log_directory / f"{name}.out"

    def launch(self, name: str, scheduler: str) -> subprocess.Popen[bytes]:
        """Start one worker."""
        spec = worker_spec(
            name,
            memory_limit=self.memory_limit,
            local_directory=self.scratch,
            start_timeout=self.start_timeout,
        )
        environ = {
            **self.environ,
            "DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(self.config),
            PARENT: str(os.getpid()),
            SCRATCH: self.scratch,
        }
        command = [sys.executable, "-m", "dask", "spec", scheduler, "--spec", json.dumps(spec)]
        try:
            with open(self.output(name), "ab") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # "python -m" would put the user's folder, with any dask.py there, first.
                    cwd=self.scratch,
                    env=environ,
                    start_new_session=True,
                )
        except OSError as error:
            self.error = error
            raise
        self.processes[name] = process
        return process

    def raise_if_failed(self) -> None:
        """Raise WorkerStartError if a worker could not be started or has ended."""
        if self.error is not None:
            raise WorkerStartError(
                f"A worker process could not be started ({self.error})",
                f"Check that {sys.executable} can be run and {self.log_directory} be written",
            ) from self.error
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise WorkerStartError(
                    f"{name} ended with exit status {process.returncode} before it was ready",
                    "Its output says why",
                    *self.evidence(name),
                )

    def evidence(self, name: str | None = None) -> tuple[str, str]:
        """Return the end of what a worker printed, and the file; by default of the last one."""
        if name is None and not self.processes:
            return "", ""
        path = self.output(name if name is not None else list(self.processes)[-1])
        lines = path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LINES_OF_EVIDENCE:]), str(path)

    def stop(self) -> None:
        """End all workers."""
        _stop(list(self.processes.values()), self.stop_timeout)


class WorkerProcess(ProcessInterface):
    """One worker with its nanny, as `distributed.SpecCluster` wants it."""

    def __init__(self, scheduler: str, name: str, launcher: Launcher) -> None:
        super().__init__(scheduler, name)
        self.scheduler = scheduler
        self.name = name
        self.launcher = launcher
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.process = self.launcher.launch(self.name, self.scheduler)
        await super().start()

    async def close(self) -> None:
        if self.process is not None:
            await asyncio.to_thread(_stop, [self.process], self.launcher.stop_timeout)
        await super().close()


def _stop(processes: Sequence[subprocess.Popen[bytes]], timeout: float) -> None:
    """End processes with all they have started: politely, and after a while by force."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        # To the nanny alone, which ends its worker: a worker that died first would be replaced.
        process.terminate()
    deadline = time.monotonic() + timeout
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
