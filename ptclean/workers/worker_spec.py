# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Dask worker for CASA is started with, as plain data.

This module covers:

- the notation of ``memory_limit``;
- the environment a worker process must be born with (threads, malloc, CASA's own memory budget);
- Dask's configuration inside a worker (memory thresholds, timeouts);
- the options of the worker's nanny, which restarts it when it dies.

This module does *not* cover starting anything (:mod:`ptclean.workers.cluster`), nor what a worker
does once it runs (:mod:`ptclean.workers.worker`). All functions are pure.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from dask.utils import parse_bytes

#: A worker holds about 215 MB before it images anything (measured, casatools 6.7.0.31), so that a
#: smaller limit would have every worker killed as soon as it starts.
SMALLEST_MEMORY_LIMIT = 256 * 2**20

#: One task uses one core: workers share out the cores, not the threads of each. In serial tclean
#: automasking was even 2.5 times slower with threads (measured on 2 cores).
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

#: Part of its memory limit at which the nanny kills a worker; Dask's own default.
TERMINATE = 0.95

_MALLOC_THRESHOLD = 1_000_000_000

#: glibc before 2.35 ignores a larger MALLOC_MMAP_THRESHOLD_ (``HEAP_MAX_SIZE / 2`` in malloc.c).
_MALLOC_MMAP_THRESHOLD_OLD_GLIBC = 32 * 2**20

#: Tunable of glibc, since 2.35: it asks for huge pages, where the system gives them to whom asks.
_HUGE_PAGES = "glibc.malloc.hugetlb"

#: Set by mpirun. CASA reads OMPI_COMM_WORLD_LOCAL_SIZE as the number of processes among which it
#: has to divide the memory, and would divide a worker's own budget once more.
_MPI_PREFIX = "OMPI_COMM_WORLD_"

_MEMORY_LIMIT_EXAMPLE = "memory_limit='16GiB'"


def parse_memory_limit(value: str | float | None, nworkers: int, total: int) -> int | None:
    """Translate Dask's notation of a memory limit into bytes for each worker.

    Parameters
    ----------
    value : str, float, int or None
        By type of value, as in `distributed.LocalCluster`:

        * None, 0, ``'0'``, ``''`` or ``'none'``: no limit;
        * ``'auto'``: `total` is split evenly between the workers;
        * a number up to 1, also as a string (``'0.5'``): that fraction of `total` for each
          worker;
        * a larger number, also as a string: that many bytes for each worker;
        * a string with a unit (``'16GiB'``, ``'16 GB'``): that amount for each worker.
    nworkers : int
        Number of workers between which ``'auto'`` splits the memory.
    total : int
        Memory of the machine, in bytes.

    Returns
    -------
    int or None
        Bytes for each worker, at most `total`; None for no limit.

    Raises
    ------
    ValueError
        If `value` cannot be read, is negative, or is less than a worker needs to start.

    Examples
    --------
    >>> parse_memory_limit('16GiB', nworkers=4, total=64 * 2**30)
    17179869184
    >>> parse_memory_limit('auto', nworkers=4, total=64 * 2**30)
    17179869184
    >>> parse_memory_limit('0', nworkers=4, total=64 * 2**30) is None
    True
    """
    text = "none" if value is None else str(value).strip().lower()
    if text in ("", "none"):
        return None
    if text == "auto":
        limit: float = total // nworkers
    else:
        limit = _number_of_bytes(value, text)
        if not 0 <= limit < float("inf"):
            raise ValueError(
                f"memory_limit={value!r} is not an amount of memory; use, for example, "
                f"{_MEMORY_LIMIT_EXAMPLE} for each worker, or memory_limit='0' for no limit"
            )
        if limit == 0:
            return None
        if limit <= 1:
            limit *= total
    if limit < SMALLEST_MEMORY_LIMIT:
        raise ValueError(
            f"memory_limit={value!r} gives each of {nworkers} workers {limit / 2**20:.3g} MiB, "
            f"but one needs {SMALLEST_MEMORY_LIMIT // 2**20} MiB before it images anything; use "
            f"a larger limit for each worker, for example {_MEMORY_LIMIT_EXAMPLE}, fewer workers, "
            "or memory_limit='0' for no limit"
        )
    return min(int(limit), total)


def _number_of_bytes(value: object, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return float(parse_bytes(text))
    except ValueError as error:
        raise ValueError(
            f"memory_limit={value!r} cannot be read ({error}); use, for example, "
            f"{_MEMORY_LIMIT_EXAMPLE} for each worker, memory_limit='auto', or memory_limit='0' "
            "for no limit"
        ) from None


def casarc_text(casa_memory: int) -> str:
    """Return a CASA resource file that sets CASA's own memory budget.

    Parameters
    ----------
    casa_memory : int
        What CASA may plan with, in MB (of 2**20 bytes).

    Returns
    -------
    str
        Contents of the file, to be named by ``CASARCFILES`` (casacore, ``Aipsrc``). CASA reads it
        when casatools is first imported, and never again.
    """
    return f"system.resources.memory: {casa_memory}\n"


def casarc_files(casarc: str, environ: Mapping[str, str]) -> str:
    """Return the value of ``CASARCFILES`` that puts one file before the user's own.

    Of the files named there, separated by colons, CASA takes each setting from the first that has
    it (measured, 6.7.0.31). Once the variable is set CASA does not look for ``~/.casarc`` by
    itself, so that one is named too.

    Parameters
    ----------
    casarc : str
        The file that wins.
    environ : mapping
        Environment that says what the user has (``CASARCFILES`` and ``HOME``).

    Returns
    -------
    str
        Value for ``CASARCFILES``.
    """
    users = environ.get("CASARCFILES") or os.path.join(environ.get("HOME", "~"), ".casarc")
    return f"{casarc}:{users}"


def malloc_environment(glibc: str, tunables: str = "") -> dict[str, str]:
    """Return the settings of malloc with which CASA's large arrays stay mapped, in huge pages.

    Dask sets ``MALLOC_TRIM_THRESHOLD_=65536``, after which each freed array goes back to the
    kernel at once and is faulted in again for the next: 40 to 55 % more CPU time for imaging
    (measured). Here memory stays with the process for the length of a task;
    :func:`ptclean.workers.worker.run` returns it at the end.

    Parameters
    ----------
    glibc : str
        Version of the C library, such as ``'2.36'``; empty if it is another one.
    tunables : str, default ''
        The user's own ``GLIBC_TUNABLES``, which are kept.

    Returns
    -------
    dict
        Environment variables.

    Notes
    -----
    Setting the trim threshold alone is worse than nothing: it switches off the automatic
    adaptation of the mmap threshold (mallopt(3)), which then stays at 128 KiB.

    Only the main arena can hold blocks larger than 64 MiB, and a worker runs its tasks in a
    thread, which would get another arena. A dirty cube of 2 channels of 4096 x 4096 pixels, made
    in a thread for the second time (tclean 6.7.0.31, glibc 2.36, one run each; user and system CPU
    time, page faults):

    ======================  ===================
    Dask's setting          23.5 s, 2.9 million
    nothing set             19.7 s, 2.3 million
    both thresholds         17.5 s, 2.3 million
    both, and one arena     11.4 s, 0.3 million
    ======================  ===================

    Visibilities are gridded all over the plane, so that with pages of 4 KiB most of them are
    looked up anew. Many systems give a process huge pages only if it asks for them (``madvise`` in
    ``/sys/kernel/mm/transparent_hugepage/enabled``), as glibc does since 2.35 with the tunable. A
    dirty cube of 256 channels of 1024 x 1024 pixels on 2 workers took 0.87 to 0.91 of the time
    (three runs of each in turn); a worker's peak memory was at most 1 % higher.
    """
    version = tuple(int(part) for part in glibc.split(".")[:2] if part.isdigit())
    old = len(version) == 2 and version < (2, 35)
    if version >= (2, 35) and _HUGE_PAGES not in tunables:
        tunables = ":".join(filter(None, [tunables, f"{_HUGE_PAGES}=1"]))
    return {
        **({"GLIBC_TUNABLES": tunables} if tunables else {}),
        "MALLOC_TRIM_THRESHOLD_": str(_MALLOC_THRESHOLD),
        "MALLOC_MMAP_THRESHOLD_": str(
            _MALLOC_MMAP_THRESHOLD_OLD_GLIBC if old else _MALLOC_THRESHOLD
        ),
        "MALLOC_ARENA_MAX": "1",
    }


def worker_environment(
    environ: Mapping[str, str],
    *,
    sys_path: Sequence[str],
    working_directory: str,
    glibc: str = "",
    casarc: str | None = None,
) -> dict[str, str]:
    """Return the environment in which a worker's process starts.

    Parameters
    ----------
    environ : mapping
        Environment of the user's process, which is not changed.
    sys_path : sequence of str
        ``sys.path`` of the user's process: what can be imported there can be in the workers.
    working_directory : str
        The user's working directory, against which relative paths are meant.
    glibc : str, default ''
        Version of the C library, see `malloc_environment`.
    casarc : str, optional
        CASA resource file with the worker's memory budget, see `casarc_text`.

    Returns
    -------
    dict
        The whole environment. Dask's own variables are left out: they are in the configuration
        already (`worker_config`), and would win over it.
    """
    env = {
        name: value
        for name, value in environ.items()
        if not name.startswith(("DASK_", _MPI_PREFIX))
    }
    env |= dict.fromkeys(THREAD_VARIABLES, "1")
    env |= malloc_environment(glibc, env.get("GLIBC_TUNABLES", ""))
    # An empty entry of sys.path stands for the working directory, which is another in a worker.
    paths = [
        os.path.join(working_directory, path) if path else working_directory for path in sys_path
    ]
    env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    if "CASASITECONFIG" in env:
        env["CASASITECONFIG"] = os.path.join(working_directory, env["CASASITECONFIG"])
    if casarc is not None:
        env["CASARCFILES"] = casarc_files(casarc, environ)
    return env


def shell_lines(glibc: str) -> list[str]:
    """Return the lines of shell with which CASA wants a worker started by somebody else.

    For workers that dask-jobqueue, or a script of the user's, starts: threads, malloc and Dask's
    memory thresholds can only be set before the process is there.

    Parameters
    ----------
    glibc : str
        Version of the C library, see `malloc_environment`.

    Returns
    -------
    list of str

    Examples
    --------
    >>> shell_lines('2.36')[0]
    'export OMP_NUM_THREADS=1'
    """
    settings = dict.fromkeys(THREAD_VARIABLES, "1")
    # The nanny writes these over the environment before it starts the worker.
    spawned = settings | malloc_environment(glibc)
    memory = dict.fromkeys(("TARGET", "SPILL", "PAUSE"), "False")
    settings |= {f"DASK_DISTRIBUTED__WORKER__MEMORY__{key}": value for key, value in memory.items()}
    # Dask writes names in capitals small, so these stand in a value, which it reads as Python.
    settings["DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON"] = shlex.quote(str(spawned))
    return [f"export {name}={value}" for name, value in settings.items()]


def worker_config(
    config: Mapping[str, Any],
    *,
    environ: Mapping[str, str],
    limited: bool,
    comm_timeout: str,
    security: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return Dask's configuration for a worker.

    Parameters
    ----------
    config : mapping
        Dask's configuration in the user's process, which is not changed.
    environ : mapping
        The worker's environment (`worker_environment`).
    limited : bool
        Whether there is a memory limit, to be enforced by killing the worker.
    comm_timeout : str
        How long processes wait for each other's answers.
    security : mapping, optional
        What proves that the worker belongs to its cluster, see
        :func:`ptclean.workers.security.worker_security_config`.

    Returns
    -------
    dict
        Configuration of plain values, as JSON can hold them.

    Notes
    -----
    A worker is never paused: the memory is CASA's, which gives it back only at the end of the
    task, so that a paused worker waits for itself. Data are not spilled to disk either, since
    there are none. ``terminate`` must be off by false and not by 0, which kills at once.
    """
    result = {key: value for key, value in config.items() if _is_plain(value)}
    # A client in the user's process must not become the default of computations in the worker.
    for key in ("scheduler", "scheduler-address", "scheduler_address", "shuffle"):
        result.pop(key, None)

    preset = dict.fromkeys((*THREAD_VARIABLES, *malloc_environment("")))
    changes: dict[str, Any] = {
        "distributed": {
            "worker": {
                "memory": {"target": False, "spill": False, "pause": False},
                "http": {"routes": []},
                # Sampling the call stack says nothing about what CASA does in C++.
                "profile": {"enabled": False},
                "lifetime": {"duration": None},
            },
            "nanny": {
                # The nanny writes these over the environment before it starts the worker.
                "pre-spawn-environ": {name: environ[name] for name in preset},
            },
            "scheduler": {"worker-ttl": None},
            "comm": {
                "timeouts": {"connect": comm_timeout, "tcp": comm_timeout},
                **(security or {}),
            },
            "admin": {
                # CASA holds the interpreter lock for minutes; that is no news.
                "tick": {"limit": "24h"},
                "system-monitor": {"gil": {"enabled": False}},
            },
        }
    }
    # A limit that was asked for is kept, whatever the user has set for other clusters.
    changes["distributed"]["worker"]["memory"]["terminate"] = TERMINATE if limited else False
    return _merged(result, changes)


def worker_spec(
    name: str,
    *,
    memory_limit: int | None,
    local_directory: str,
    start_timeout: float,
) -> dict[str, Any]:
    """Return the specification of a nanny and its worker, as ``dask spec`` takes it.

    Parameters
    ----------
    name : str
        Name of the worker.
    memory_limit : int or None
        Bytes above which the nanny kills the worker and starts it anew; None for no limit.
    local_directory : str
        Folder for the worker's scratch files.
    start_timeout : float
        Seconds after which a worker that cannot reach the scheduler gives up.

    Returns
    -------
    dict
        ``cls`` and ``opts``. All ports are bound to the loopback interface: a Dask worker runs
        whatever it is sent.
    """
    return {
        "cls": "distributed.Nanny",
        "opts": {
            "name": name,
            "nthreads": 1,
            "memory_limit": memory_limit or 0,
            "local_directory": local_directory,
            "host": "127.0.0.1",
            "dashboard": False,
            "dashboard_address": "127.0.0.1:0",
            "death_timeout": start_timeout,
            "preload_nanny": ["ptclean.workers.watchdog"],
        },
    }


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(value, Mapping):
            result[key] = _merged(old if isinstance(old, Mapping) else {}, value)
        else:
            result[key] = value
    return result
