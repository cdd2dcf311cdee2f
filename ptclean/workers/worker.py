# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs inside a Dask worker: preparing its process for CASA, and running one task.

This module covers:

- a CASA log file for each worker process, since CASA names its log files by the second and two
  workers that start together would share one;
- the settings that CASA reads when casatools is first imported: memory budget, place of the
  measures data, no updates of the data by several processes at once;
- a private working directory, the time, the memory and the warnings of each task.

It does *not* cover what has to be set before the process starts
(:mod:`ptclean.workers.worker_spec`).

Workers import casatools and never casatasks, which takes ten times as long to import.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import shutil
import socket
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from distributed import Worker, WorkerPlugin
from distributed.system import MEMORY_LIMIT

from ..errors import TaskError
from ..logs import ALARMING, LogLine, parse
from ..steps import Outcome
from .cgroup import memory_left
from .deaths import peak_of
from .patience import pausing_worker
from .worker_spec import THREAD_VARIABLES, casarc_files, casarc_text

#: Warnings of one task that are kept; a task that logs thousands says the same again and again.
MAX_WARNINGS = 100

#: Dask's own setting is 65536, that of our workers 1e9; see `worker_spec.malloc_environment`.
_SMALL_TRIM_THRESHOLD = 2**20

#: Tells this process from all others on all hosts (a forked one has another number).
_TOKEN = uuid.uuid4().hex

# A process has one working directory, one CASA log and CASA's singletons: one task at a time.
_task_lock = threading.Lock()


@dataclass(frozen=True)
class WorkerReport:
    """What a worker process says of itself.

    Attributes
    ----------
    name : str
        Name of the worker.
    address : str
        Its Dask address.
    host : str
        Name of the machine.
    pid : int
        Number of its process.
    token : str
        Tells its process from all others.
    log_path : str
        CASA log file, an empty string before `WorkerSetup` has acted.
    memory : int
        Bytes that are free on its machine.
    memory_limit : int or None
        Bytes at which Dask restarts it, if there is a limit.
    problems : tuple of str
        What could not be set as wanted, as sentences.
    """

    name: str
    address: str
    host: str
    pid: int
    token: str
    log_path: str
    memory: int
    memory_limit: int | None
    problems: tuple[str, ...] = ()


@dataclass
class _Process:
    """What this process knows of itself; changed by `WorkerSetup` only."""

    name: str = "local"
    log_path: str = ""
    scratch: str | None = None
    problems: list[str] = field(default_factory=list)
    sink: Any = None


_process = _Process()


class WorkerSetup(WorkerPlugin):
    """Dask plugin that prepares a worker's process for CASA.

    Dask runs it in all workers of the cluster, and again in each that is started later, also
    after a crash. It may be registered any number of times.

    Parameters
    ----------
    log_directory : str
        Folder for the log files, as an absolute path that is valid in the workers.
    casa_memory : int, optional
        The memory budget, in MB, that CASA must have. None leaves it as it is.
    sets_budget : bool, default False
        Whether to give CASA that budget, where casatools is not in use yet: at least `casa_memory`,
        and all that the worker may have. Our own workers are born with theirs
        (:func:`ptclean.workers.worker_spec.worker_environment`).
    casa_config : mapping, optional
        Settings of ``casaconfig`` that the user's process has, such as ``measurespath``. A worker
        takes over a path only if it is there.

    Raises
    ------
    ValueError
        If `log_directory` is not absolute, or `casa_memory` is not positive.
    """

    def __init__(
        self,
        log_directory: str,
        *,
        casa_memory: int | None = None,
        sets_budget: bool = False,
        casa_config: Mapping[str, Any] | None = None,
    ) -> None:
        if not os.path.isabs(log_directory):
            raise ValueError(
                f"log_directory={log_directory!r} is a relative path, which means another folder "
                f"in each worker; use {os.path.abspath(log_directory)!r}"
            )
        if casa_memory is not None and casa_memory <= 0:
            raise ValueError(
                f"casa_memory={casa_memory!r} is not an amount of memory; use a positive number "
                "of MB, or None to leave CASA's budget as it is"
            )
        self.log_directory = log_directory
        self.casa_memory = casa_memory
        self.sets_budget = sets_budget
        self.casa_config = dict(casa_config or {})

    def setup(self, worker: Worker) -> None:
        """Point the process's CASA log to its own file, and CASA to its settings.

        Parameters
        ----------
        worker : Worker
            The worker to prepare.
        """
        name = _file_name(str(worker.name))
        log_path = os.path.join(self.log_directory, f"{name}.log")
        os.makedirs(self.log_directory, exist_ok=True)
        if "casatools" not in sys.modules:
            self._before_casatools(log_path, worker)
        import casatools

        _process.name = str(worker.name)
        _process.scratch = worker.local_directory
        _process.problems = self._problems(casatools)
        _process.sink = _global_sink(casatools, log_path)
        _process.log_path = log_path

    def _before_casatools(self, log_path: str, worker: Worker) -> None:
        for variable in THREAD_VARIABLES:
            os.environ.setdefault(variable, "1")
        if self.sets_budget and self.casa_memory is not None:
            limit = worker.memory_manager.memory_limit or free_memory()
            casarc = os.path.join(worker.local_directory, "casarc")
            Path(casarc).write_text(casarc_text(max(self.casa_memory, limit // 2**20)))
            os.environ["CASARCFILES"] = casarc_files(casarc, os.environ)
        from casaconfig import config

        config.logfile = log_path
        # The user's process has brought the data up to date; several workers at once must not.
        config.measures_auto_update = config.data_auto_update = False
        for key, value in self.casa_config.items():
            paths = value if isinstance(value, list) else [value]
            if hasattr(config, key) and all(path and os.path.exists(path) for path in paths):
                setattr(config, key, value)

    def _problems(self, casatools: Any) -> list[str]:
        found = []
        if self.casa_memory is not None:
            # CASA counts in kB.
            budget = casatools.ctsys.hostinfo()["memory"]["available"] // 1024
            if budget < self.casa_memory:
                # Without this worker's own figure, so that it is said once for all workers.
                found.append(
                    f"CASA plans with less memory than the {self.casa_memory} MB that are needed, "
                    "since casatools was in use before ptclean could say so; restart the workers"
                )
        found += _slow_settings(os.environ)
        return found


def _slow_settings(environ: Mapping[str, str]) -> list[str]:
    """Say what slows CASA down and can only be set before a process starts."""
    found = []
    threshold = environ.get("MALLOC_TRIM_THRESHOLD_", "")
    if threshold.isdigit() and int(threshold) < _SMALL_TRIM_THRESHOLD:
        found.append(
            f"MALLOC_TRIM_THRESHOLD_={threshold} costs CASA much CPU time; start workers with "
            "1000000000 for this and for MALLOC_MMAP_THRESHOLD_, and with MALLOC_ARENA_MAX=1 "
            "(environment, or distributed.nanny.pre-spawn-environ in Dask's configuration)"
        )
    if environ.get("OMP_NUM_THREADS") != "1":
        found.append(
            f"OMP_NUM_THREADS={environ.get('OMP_NUM_THREADS', '')} lets each worker use several "
            "cores, which costs more than it gains; start workers with OMP_NUM_THREADS=1"
        )
    return found


def report(dask_worker: Worker) -> WorkerReport:
    """Return what this worker's process says of itself.

    Parameters
    ----------
    dask_worker : Worker
        The worker, filled in by `distributed.Client.run`.

    Returns
    -------
    WorkerReport
        Its report.
    """
    return WorkerReport(
        name=str(dask_worker.name),
        address=dask_worker.address,
        host=socket.gethostname(),
        pid=os.getpid(),
        token=process_token(),
        log_path=_process.log_path,
        memory=free_memory(),
        memory_limit=dask_worker.memory_manager.memory_limit,
        problems=(*_process.problems, *_pausing(dask_worker)),
    )


def _pausing(dask_worker: Worker) -> list[str]:
    manager = dask_worker.memory_manager
    return pausing_worker(manager.memory_limit, manager.memory_pause_fraction)


def process_token() -> str:
    """Return a string that tells this process from all others, on all hosts."""
    return f"{_TOKEN}-{os.getpid()}"


def run(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Outcome:
    """Run one CASA task in this process, in a private and empty working directory.

    CASA leaves tables in the working directory (``IMAGING_WEIGHT_*``), and takes over those that
    it finds there, also when they were made for another image. So paths must be absolute.

    Parameters
    ----------
    function : callable
        What to run.
    *args, **kwargs
        Its arguments.

    Returns
    -------
    Outcome
        Its result with time, memory and warnings.

    Raises
    ------
    TaskError
        If `function` raises an exception.
    """
    with _task_lock:
        log = LogReader(_process.log_path)
        _reset_peak_memory()
        try:
            with _private_directory(_process.scratch):
                started = time.perf_counter()
                value = function(*args, **kwargs)
                seconds = time.perf_counter() - started
            return Outcome(
                value=value,
                seconds=seconds,
                peak_memory=peak_memory(),
                warnings=log.alarming(),
                worker=_process.name,
                pid=os.getpid(),
            )
        except Exception as error:
            failure = TaskError(
                function=getattr(function, "__qualname__", repr(function)),
                error_type=type(error).__qualname__,
                error=str(error),
                worker=_process.name,
                pid=os.getpid(),
                log_path=_process.log_path,
                warnings=log.alarming(),
                traceback=traceback.format_exc(),
            )
        finally:
            trim_memory()
    # Out here the original exception is not its context, which would be pickled with it.
    raise failure


@contextlib.contextmanager
def hidden_messages(*texts: str) -> Iterator[None]:
    """Keep messages that contain one of some texts out of this worker's log, for a while.

    In a process that is no worker, messages go where they always go.
    """
    sink = _process.sink
    if sink is not None:
        sink.filterMsg(list(texts))
    try:
        yield
    finally:
        if sink is not None:
            sink.clearFilterMsgList()


def peak_memory() -> int:
    """Return the largest resident memory of this process since the mark was last reset, in bytes.

    From ``VmHWM`` in /proc (proc(5)); elsewhere from getrusage, whose mark is never reset.
    """
    peak = peak_of(os.getpid())
    if peak is not None:
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory() -> int:
    """Bytes that are free on this machine, or in this process's control group if that has less."""
    left = memory_left()
    return min(psutil.virtual_memory().available, MEMORY_LIMIT, *([] if left is None else [left]))


def _reset_peak_memory() -> None:
    # proc(5): writing 5 to clear_refs resets VmHWM. Not all kernels and containers allow it.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def trim_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc: malloc_trim(3))."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def _private_directory(parent: str | None) -> Iterator[None]:
    """Work in a new, empty directory, which is removed afterwards."""
    try:
        before = os.getcwd()
    except FileNotFoundError:
        # Somebody removed it; any directory that exists will do.
        before = tempfile.gettempdir()
    private = tempfile.mkdtemp(prefix="task-", dir=parent)
    try:
        os.chdir(private)
        yield
    finally:
        os.chdir(before)
        shutil.rmtree(private, ignore_errors=True)


class LogReader:
    """Reads what a CASA log file has gained since the reader was made."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.start = self._size()

    def _size(self) -> int:
        try:
            return os.path.getsize(self.path)
        except OSError:
            return 0

    def alarming(self) -> list[LogLine]:
        """Return the WARN and SEVERE lines, the first `MAX_WARNINGS` of them."""
        if not self.path:
            return []
        try:
            with open(self.path, "rb") as file:
                file.seek(self.start)
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        found = [line for line in parse(text) if line.priority in ALARMING]
        if len(found) > MAX_WARNINGS:
            more = f"{len(found) - MAX_WARNINGS} more warnings are in {self.path}"
            found[MAX_WARNINGS:] = [LogLine("WARN", "ptclean", more)]
        return found


def _global_sink(casatools: Any, log_path: str) -> Any:
    """Make all of CASA in this process log to one file, and return the object that does it.

    The messages of CASA's C++ code go to the sink that was made global, or to stderr if none was.
    CASA keeps no reference to it, and crashes if it has been freed (measured: a segmentation fault
    in 6.7.0 and 6.7.6), so an existing global sink is used again and none is ever freed.
    """
    if "casatasks" in sys.modules:
        sink = sys.modules["casatasks"].casalog
    else:
        sink = _process.sink or casatools.logger or casatools.logsink(log_path)
    if sink.logfile() != log_path:
        sink.setlogfile(log_path)
    sink.showconsole(False)
    if sink is not _process.sink:
        sink.setglobal(True)
    return sink


def _file_name(name: str) -> str:
    """Return the name of a worker as part of a file name: without slashes, colons and so on."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "worker"
