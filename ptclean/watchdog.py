# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends a worker at once when the process that started it is gone.

Loaded into the nannies of our own workers (``preload_nanny``), which have an idle interpreter at
all times. The worker itself notices a lost scheduler only between two calls of CASA: until then,
perhaps for many minutes, it would go on writing images that a new run may already be making.

It also removes the folder of scratch files, in which :mod:`ptclean.cluster` starts the nanny.

Not covered: an orderly end, for which see :mod:`ptclean.cluster`, and workers that somebody else
started.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time

import psutil
from distributed import Nanny

_INTERVAL = 1.0


def dask_setup(nanny: Nanny) -> None:
    """Start watching; Dask calls this in the nanny's process before it starts the worker."""
    threading.Thread(
        target=_watch,
        args=(os.getppid(), os.getcwd()),
        name="ptclean watchdog",
        daemon=True,
    ).start()


def _watch(parent: int, scratch: str) -> None:
    while os.getppid() == parent:
        time.sleep(_INTERVAL)
    workers = psutil.Process().children(recursive=True)
    for worker in workers:
        worker.kill()
    psutil.wait_procs(workers, timeout=3)
    shutil.rmtree(scratch, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)
