# SPDX-License-Identifier: GPL-3.0-or-later
"""The Dask cluster that a run uses: one of our own, or the one that the user already has.

This module covers:

- starting workers for CASA on this machine, from any kind of script or shell, and ending them;
- using a cluster that somebody else started, without changing it;
- preparing the workers' processes, and finding their log files.

It does *not* cover starting workers on other machines (dask-jobqueue and others do that; make a
`distributed.Client`, or set ``DASK_SCHEDULER_ADDRESS``), nor what the workers compute.

Our own workers are processes started as ``python -m dask spec``, not by `distributed.LocalCluster`:

- LocalCluster runs the user's script again in each worker, unless all of it stands behind
  ``if __name__ == '__main__'``, which scripts for CASA hardly ever have;
- Ctrl-C in a terminal would reach its workers too, and end them;
- forked workers hang in CASA once the parent has used it.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import os
import platform
import shutil
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import dask
import psutil
from dask.system import cpu_count
from dask.utils import format_bytes, parse_timedelta
from distributed import Client, Scheduler
from distributed.scheduler import WorkerState
from distributed.system import MEMORY_LIMIT

from .. import logs
from ..config import setting
from ..errors import WorkerStartError
from ..planning.sizing import Machine
from ..reporting import progress
from .admission import BELOW_PAUSE
from .borrowed import (
    connected_client,
    dashboard_of,
    reports_of,
    scheduler_address,
    scheduler_of,
    unregister_later,
    users_client,
)
from .deaths import Death, KernelKills, is_of_memory, memory_file, read_seen
from .launching import Launcher, NamedCluster, WorkerProcess
from .patience import SCHEDULER_SETTINGS, impatient_scheduler
from .security import make_security, worker_security_config
from .worker import WorkerReport, WorkerSetup, free_memory, process_token
from .worker_spec import (
    casarc_text,
    parse_memory_limit,
    shell_lines,
    worker_config,
    worker_environment,
)

_POLL_INTERVAL = 0.05

_LINES_OF_EVIDENCE = 20

#: Time after which Dask gives up a task that finds no worker.
NO_WORKERS_TIMEOUT = "10s"

#: Managers that have started workers or found some, the innermost last.
_open_managers: list[DaskClusterManager] = []


def default_nworkers() -> int:
    """Return the number of workers for this machine: one for each physical core we may use.

    Returns
    -------
    int
        Physical cores, but no more than the CPUs that the process's affinity and its control
        group allow.
    """
    available = cpu_count()
    return min(psutil.cpu_count(logical=False) or available, available)


def job_script_prologue() -> list[str]:
    """Return the lines of shell with which CASA wants the workers of a batch system started.

    Threads, malloc and Dask's memory thresholds can only be set before a process is there, so a
    worker that runs already can only be told of them.

    Returns
    -------
    list of str
        As `dask_jobqueue.SLURMCluster` and its like take them under that name.

    Examples
    --------
    >>> SLURMCluster(cores=1, processes=1, memory='16GiB',
    ...              job_script_prologue=job_script_prologue())  # doctest: +SKIP
    """
    return shell_lines(_glibc_version())


def machine_at_hand(nworkers: int, memory_limit: str) -> Machine:
    """Find out what a run would have to work with, without starting anything.

    Parameters
    ----------
    nworkers, memory_limit
        As for `DaskClusterManager`.

    Returns
    -------
    Machine
        This machine, or the cluster that a `DaskClusterManager` would use. Of a Dask cluster of
        the user's, workers may be filled to somewhat below the point where Dask pauses them.

    Raises
    ------
    ValueError
        If `memory_limit` cannot be read.
    WorkerStartError
        If ``DASK_SCHEDULER_ADDRESS`` names a scheduler that does not answer.
    """
    cores = default_nworkers()
    limit = parse_memory_limit(memory_limit, nworkers or cores, MEMORY_LIMIT)
    free = free_memory()
    if _open_managers:
        manager = _open_managers[-1]
        if manager.owned:
            return Machine(manager.nworkers, free, manager._limit)
        return _cluster_at_hand(manager.client, free)
    client = users_client()
    if client is not None:
        return _cluster_at_hand(client, free)
    if address := scheduler_address():
        with connected_client(address, parse_timedelta(setting("start-timeout"))) as connected:
            return _cluster_at_hand(connected, free)
    return Machine(cores, free, limit)


@contextlib.contextmanager
def cluster_for_run(
    nworkers: int, memory_limit: str, casa_memory: int
) -> Iterator[DaskClusterManager]:
    """Give the workers for one run: those of a manager that is open, or new ones.

    Parameters
    ----------
    nworkers, memory_limit, casa_memory
        As for `DaskClusterManager`; of no effect on workers that are there already.
    """
    if _open_managers:
        yield _open_managers[-1]
        return
    with DaskClusterManager(nworkers, memory_limit, casa_memory=casa_memory) as manager:
        yield manager


def autopsy(worker: WorkerState) -> Death:
    """Say what is known of a worker that has died.

    Parameters
    ----------
    worker : distributed.scheduler.WorkerState
        As in `distributed.KilledWorker`.
    """
    if not _open_managers:
        return Death(str(worker.name), worker.pid)
    return _open_managers[-1].autopsy(worker)


def _cluster_at_hand(client: Client, free: int) -> Machine:
    """What the workers of a user's cluster have; `free` bytes as long as it has none."""
    reports = reports_of(client)
    if not reports:
        return Machine(1, free)
    limits = [each.memory_limit for each in reports if each.memory_limit]
    if len(limits) == len(reports):
        return Machine(len(limits), sum(limits), int(min(limits) * BELOW_PAUSE), is_one=False)
    hosts = Counter(each.host for each in reports)
    # All are planned for as the one that has least.
    share = min(each.memory // hosts[each.host] for each in reports)
    return Machine(len(reports), share * len(reports), is_one=len(hosts) == 1)


class DaskClusterManager:
    """Owns the Dask workers of a run, or borrows those of the user.

    A context manager. On entry it takes, in this order: the Dask client that is open in this
    process; the scheduler that ``DASK_SCHEDULER_ADDRESS`` names (or ``scheduler-address`` in
    Dask's configuration); or workers of its own on this machine. Only the last are ended on exit.
    While one is open, calls of `ptclean` in this process use its workers.

    Parameters
    ----------
    nworkers : int, default 0
        Number of workers to start; 0 for `default_nworkers`. On a cluster of the user's it starts
        nothing and bounds the number of tasks at a time; 0 is the number of its workers.
    memory_limit : str, default '0'
        Memory at which a worker is killed and started anew, in Dask's notation, see
        :func:`ptclean.workers.worker_spec.parse_memory_limit`. ``'0'`` is no limit, and the best
        choice where the machine is ours alone. It has no effect on a cluster of the user's.
    casa_memory : int, optional
        CASA's own memory budget for each worker, in MB. CASA cuts images that do not fit it. None:
        the memory limit, or an even share of the machine's memory; on a cluster of the user's it
        is left alone. CASA reads it once in the life of a process, so a cluster of the user's is
        given more, if it has more memory, for the runs to come.
    log_directory : path, optional
        Folder for the workers' log files. None: ``log-directory`` of the configuration, else
        beside the user's CASA log.
    local_directory : path, optional
        Folder for scratch files. None: ``local-directory`` of the configuration, else that of
        Dask, else that of the system.
    start_timeout : str or float, optional
        How long to wait for workers. None: ``start-timeout`` of the configuration.

    Attributes
    ----------
    client : distributed.Client
        Client of the cluster, once started.
    nworkers : int
        Number of tasks to run at a time.
    owned : bool
        Whether the workers are our own.
    log_directory : Path
        Folder of the log files.
    worker_logs : dict of str to Path
        CASA log file of each worker, by the worker's name.

    Raises
    ------
    ValueError
        If a parameter is wrong, or if the user's cluster cannot run CASA in parallel.

    Examples
    --------
    >>> with DaskClusterManager(nworkers=2) as cluster:  # doctest: +SKIP
    ...     future = cluster.client.submit(worker.run, function, argument, pure=False)
    ...     outcome = future.result()
    """

    client: Client
    log_directory: Path

    def __init__(
        self,
        nworkers: int = 0,
        memory_limit: str = "0",
        *,
        casa_memory: int | None = None,
        log_directory: str | os.PathLike[str] | None = None,
        local_directory: str | os.PathLike[str] | None = None,
        start_timeout: str | float | None = None,
    ) -> None:
        requested = operator.index(nworkers)
        if requested < 0:
            raise ValueError(
                f"nworkers={nworkers!r} is not a number of workers; use nworkers=0 for one worker "
                "per core, or a positive number"
            )
        if casa_memory is not None and casa_memory <= 0:
            raise ValueError(
                f"casa_memory={casa_memory!r} is not an amount of memory; use a positive number "
                "of MB for each worker, or None"
            )
        self.owned = False
        self.nworkers = requested or default_nworkers()
        self.worker_logs: dict[str, Path] = {}
        self._requested = requested
        self._memory_limit = memory_limit
        self._limit = parse_memory_limit(memory_limit, self.nworkers, MEMORY_LIMIT)
        self._casa_memory = casa_memory
        self._log_directory = setting("log-directory", log_directory)
        self._local_directory = setting("local-directory", local_directory)
        self._start_timeout = parse_timedelta(setting("start-timeout", start_timeout))
        self._stack: contextlib.ExitStack | None = None
        self._scratch = ""
        self._kills: KernelKills

    def __repr__(self) -> str:
        state = "not started" if self._stack is None else "owned" if self.owned else "borrowed"
        return f"<{type(self).__name__}: {self.nworkers} workers, {state}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        exc_traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> Self:
        """Start or find the workers, and prepare them for CASA.

        Returns
        -------
        DaskClusterManager
            Itself. A manager that has been started already is left as it is.

        Raises
        ------
        WorkerStartError
            If there are no workers in time, or they cannot run ptclean. Nothing stays behind.
        ValueError
            If the user's cluster cannot run CASA in parallel.
        """
        if self._stack is not None:
            return self
        # Whatever interrupts this, Ctrl-C included, undoes the part that was done.
        with contextlib.ExitStack() as stack:
            client = users_client()
            if client is None and (address := scheduler_address()):
                client = stack.enter_context(connected_client(address, self._start_timeout))
            self.owned = client is None
            self.log_directory = self._made_log_directory()
            if client is None:
                self.client = self._start_own(stack)
            else:
                self.client = client
                self._use_borrowed()
            self._prepare_workers(stack)
            _open_managers.append(self)
            stack.callback(_open_managers.remove, self)
            self._stack = stack.pop_all()
        return self

    def autopsy(self, worker: WorkerState) -> Death:
        """Say what is known of a worker that has died.

        Parameters
        ----------
        worker : distributed.scheduler.WorkerState
            As in `distributed.KilledWorker`.
        """
        log = self.log_directory / f"{worker.name}.log"
        log_path = str(self.worker_logs.get(str(worker.name), log if log.exists() else ""))
        if not self.owned:
            return Death(str(worker.name), worker.pid, log_path)
        # Its nanny looks now and then.
        time.sleep(5 * _POLL_INTERVAL)
        seen = read_seen(memory_file(self._scratch, worker.pid))
        return Death(
            str(worker.name),
            worker.pid,
            log_path,
            seen.peak,
            self._limit,
            is_of_memory(seen, self._limit, self._kills.claim),
        )

    def close(self) -> None:
        """End what this manager started. A cluster of the user's is left alone."""
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()

    def _made_log_directory(self) -> Path:
        directory = Path(self._log_directory or logs.default_log_directory()).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def _start_own(self, stack: contextlib.ExitStack) -> Client:
        if str(self._memory_limit).strip().lower() == "auto":
            logs.post(
                f"memory_limit='auto' gives each of {self.nworkers} workers "
                f"{format_bytes(self._limit or 0)}. Imaging takes its memory inside CASA, where "
                "Dask cannot free it: Dask's way of pausing a worker near its limit only stalls "
                "it, so here a worker that exceeds the limit is killed and its work repeated. "
                "Use memory_limit='0' unless other programs need the memory of this machine.",
                "WARN",
            )
        if self._casa_memory is None:
            self._casa_memory = (self._limit or MEMORY_LIMIT // self.nworkers) // 2**20
        base = self._local_directory or dask.config.get("temporary-directory", None)
        scratch = tempfile.mkdtemp(prefix="ptclean-", dir=base and os.path.abspath(base))
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        self._scratch, self._kills = scratch, KernelKills()

        comm_timeout = setting("comm-timeout")
        stack.enter_context(
            dask.config.set(
                {
                    "distributed.comm.timeouts.connect": comm_timeout,
                    "distributed.comm.timeouts.tcp": comm_timeout,
                    # A worker may be silent for as long as one call of CASA takes.
                    "distributed.scheduler.worker-ttl": None,
                    # Tasks that found no worker in that time are submitted again, for as long as
                    # workers may take to start (:mod:`ptclean.workers.splitter`).
                    "distributed.scheduler.no-workers-timeout": NO_WORKERS_TIMEOUT,
                    "distributed.scheduler.allowed-failures": setting("allowed-failures"),
                    # The nanny of a killed worker must have the time to start it anew.
                    "distributed.deploy.lost-worker-timeout": self._start_timeout,
                    # Its pages tell every user of the machine what runs.
                    "distributed.scheduler.http.routes": [],
                }
            )
        )
        security = make_security()
        environ = worker_environment(
            os.environ,
            sys_path=sys.path,
            working_directory=os.getcwd(),
            glibc=_glibc_version(),
            casarc=self._made_casarc(),
        )
        launcher = Launcher(
            environ=environ,
            config=worker_config(
                dask.config.config,
                environ=environ,
                limited=self._limit is not None,
                comm_timeout=comm_timeout,
                security=worker_security_config(security),
            ),
            memory_limit=self._limit,
            scratch=scratch,
            log_directory=self.log_directory,
            start_timeout=self._start_timeout,
            stop_timeout=parse_timedelta(setting("stop-timeout")),
        )
        cluster = NamedCluster(
            scheduler={
                "cls": Scheduler,
                "options": {
                    "host": "127.0.0.1",
                    "port": 0,
                    "security": security,
                    "dashboard": False,
                    # The scheduler has an HTTP server in any case.
                    "dashboard_address": "127.0.0.1:0",
                },
            },
            worker={"cls": WorkerProcess, "options": {"launcher": launcher}},
            security=security,
            silence_logs=logging.ERROR,
            name="ptclean",
        )
        stack.callback(cluster.close)
        # Asking busy workers to end takes as long as their call of CASA: end them, then the rest.
        stack.callback(launcher.stop)
        client = stack.enter_context(Client(cluster, set_as_default=False))
        cluster.scale(self.nworkers)
        self._wait_for_own(client, launcher)
        return client

    def _made_casarc(self) -> str | None:
        if self._casa_memory is None:
            return None
        casarc = self.log_directory / f"casarc-{self._casa_memory}MB"
        casarc.write_text(casarc_text(self._casa_memory))
        return str(casarc)

    def _wait_for_own(self, client: Client, launcher: Launcher) -> None:
        deadline = time.monotonic() + self._start_timeout
        while (ready := len(client.nthreads())) < self.nworkers:
            launcher.raise_if_failed()
            if time.monotonic() > deadline:
                raise WorkerStartError(
                    f"Of {self.nworkers} workers {ready} were ready after "
                    f"{self._start_timeout:g} s",
                    "Raise ptclean.start-timeout in Dask's configuration if Python starts slowly "
                    "here, or start fewer workers",
                    *launcher.evidence(),
                )
            time.sleep(_POLL_INTERVAL)

    def _use_borrowed(self) -> None:
        if self._limit is not None:
            logs.post(
                f"memory_limit={self._memory_limit!r} has no effect on a Dask cluster that is "
                "running already; set the limit where its workers are started.",
                "WARN",
            )
        deadline = time.monotonic() + self._start_timeout
        while not (count := len(self.client.nthreads())):
            if time.monotonic() > deadline:
                raise WorkerStartError(
                    f"The Dask cluster {scheduler_of(self.client)} had no worker after "
                    f"{self._start_timeout:g} s",
                    "Start workers, raise ptclean.start-timeout in Dask's configuration, or close "
                    "the client to let ptclean start workers of its own",
                )
            time.sleep(_POLL_INTERVAL)
        self.nworkers = self._requested or count

    def _prepare_workers(self, stack: contextlib.ExitStack) -> None:
        if not self.owned:
            # Before anything is set: a worker thread of this process shares its CASA log.
            self._refuse_threads(reports_of(self.client))
        name = f"ptclean-{uuid.uuid4().hex}"
        plugin = WorkerSetup(
            str(self.log_directory),
            casa_memory=self._casa_memory,
            sets_budget=not self.owned,
            casa_config=casa_config(),
        )
        try:
            self.client.register_plugin(plugin, name=name)
        except Exception as error:
            raise WorkerStartError(
                f"The workers could not be prepared for CASA ({type(error).__name__}: {error})",
                "Check that casatools starts with the workers' Python, and that they can write to "
                f"{self.log_directory}",
            ) from error
        if not self.owned:
            stack.callback(unregister_later, self.client, name)
        reports = reports_of(self.client)
        self.worker_logs = {each.name: Path(each.log_path) for each in reports}
        for problem in [*_problems(reports), *self._problems_of_scheduler()]:
            logs.post(problem, "WARN")
        logs.post(
            f"Using {len(reports)} Dask workers ({'own' if self.owned else 'existing'} cluster); "
            f"their logs are in {self.log_directory}, each in a file of its name"
        )
        if not self.owned and (link := dashboard_of(self.client)):
            logs.post(f"Dask's dashboard shows the workers and their tasks: {link}")
            progress.write(f"Dask's dashboard: {link}")

    def _problems_of_scheduler(self) -> list[str]:
        if self.owned:
            return []
        # Dask's own function: there need be no ptclean where the scheduler runs.
        found = {
            key: self.client.run_on_scheduler(dask.config.get, key, None)
            for key in SCHEDULER_SETTINGS
        }
        return [f"Dask scheduler: {problem}" for problem in impatient_scheduler(found)]

    def _refuse_threads(self, reports: Sequence[WorkerReport]) -> None:
        if any(each.token == process_token() for each in reports):
            raise ValueError(
                "The Dask client that is open has its workers in this very process, as threads, "
                "where CASA can do one thing at a time only. Start it with worker processes, "
                "client = Client(processes=True, threads_per_worker=1), or close it "
                "(client.close()) to let ptclean start workers of its own"
            )


def _problems(reports: Sequence[WorkerReport]) -> list[str]:
    """Return what is wrong with the workers, once for all that have it in common."""
    workers: dict[str, list[str]] = {}
    for each in reports:
        for problem in each.problems:
            workers.setdefault(problem, []).append(each.name)
    return [
        f"Dask worker {names[0]}"
        + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        + f": {problem}"
        for problem, names in workers.items()
    ]


def casa_config() -> dict[str, Any]:
    """Settings of ``casaconfig`` in this process, which other processes of a run are given."""
    from casaconfig import config

    return {key: getattr(config, key) for key in ("measurespath", "datapath")}


def _glibc_version() -> str:
    library, version = platform.libc_ver()
    return version if library == "glibc" else ""
