# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends a worker at once when the process that started it is gone.

Loaded into the nannies of our own workers (``preload_nanny``), which have an idle interpreter at
all times. The worker itself notices a lost scheduler only between two calls of CASA: until then,
perhaps for many minutes, it would go on writing images that a new run may already be making.

It also removes the folder of scratch files, in which :mod:`ptclean.workers.cluster` starts the
nanny, and writes into it what memory the worker has and how it ended
(:mod:`ptclean.workers.deaths`).

Not covered: an orderly end, for which see :mod:`ptclean.workers.cluster`, and workers that somebody
else started.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psutil
from distributed import Nanny

from .deaths import Seen, memory_file, peak_of, write_seen

#: Variables of the environment with the number of the process that starts the worker, and with the
#: folder of scratch files. Either may be gone before anybody here could ask the system: the former
#: is killed, the latter removed by the watchdog of another worker.
PARENT = "PTCLEAN_PARENT"
SCRATCH = "PTCLEAN_SCRATCH"

_INTERVAL = 0.1

#: Growth of a worker's memory that is written down, in bytes.
_STEP = 2**24


def dask_setup(nanny: Nanny) -> None:
    """Start watching; Dask calls this in the nanny's process before it starts the worker."""
    threading.Thread(
        target=_watch,
        args=(int(os.environ[PARENT]), os.environ[SCRATCH], nanny),
        name="ptclean watchdog",
        daemon=True,
    ).start()


def _watch(parent: int, scratch: str, nanny: Nanny) -> None:
    memory = _MemoryWatch(scratch, nanny)
    while os.getppid() == parent:
        # The nanny's own thread may be taking a process that has ended to pieces meanwhile.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            memory.look()
        time.sleep(_INTERVAL)
    # Nobody reads on, and what is written while the folder is being removed would keep it.
    memory.stop()
    workers = psutil.Process().children(recursive=True)
    for worker in workers:
        worker.kill()
    psutil.wait_procs(workers, timeout=3)
    shutil.rmtree(scratch, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


class _MemoryWatch:
    """Writes down what memory a nanny's worker has, and how it ended."""

    def __init__(self, scratch: str, nanny: Nanny) -> None:
        self._scratch = scratch
        self._nanny = nanny
        self._pid: int | None = None
        self._seen = Seen()
        self._lock = threading.Lock()
        self._is_over = False

    def stop(self) -> None:
        """Write nothing any more."""
        with self._lock:
            self._is_over = True

    def look(self) -> None:
        """Look once."""
        # The nanny's own note of the process that it has killed for its memory.
        terminated = getattr(self._nanny.memory_manager, "_last_terminated_pid", None)
        if self._pid is not None and terminated == self._pid and not self._seen.over_limit:
            self._write(over_limit=True)
        process, pid = self._nanny.process, self._nanny.pid
        if process is None or pid is None:
            return
        if pid != self._pid:
            self._pid, self._seen = pid, Seen()
            process.on_exit = functools.partial(self._on_exit, pid, process.on_exit)
        peak = peak_of(pid)
        # It is reset with each task (:func:`ptclean.workers.worker.run`).
        if peak is not None and abs(peak - (self._seen.peak or 0)) > _STEP:
            self._write(peak=peak)

    def _on_exit(self, pid: int, before: Callable[[int], None], exit_code: int) -> None:
        """Write down how a process ended; Dask calls this in its own thread."""
        if pid == self._pid:
            with contextlib.suppress(OSError):
                self._write(exit_code=exit_code)
        before(exit_code)

    def _write(self, **news: Any) -> None:
        assert self._pid is not None
        with self._lock:
            self._seen = replace(self._seen, **news)
            if not self._is_over:
                write_seen(memory_file(self._scratch, self._pid), self._seen)
