# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep CASA's tools in a worker, from one step of a job to the next.

A job is a chunk of a cube, a part of a continuum image's rows, or that image as a whole; what a
worker makes of it has the tools, and its methods are the steps. A step that meets a worker that
lacks the steps before it (the former worker died, or another took over) has them taken up from
what is on disk; one that fails leaves no tools behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

from ..keeping.disk import require_room
from ..records import Record
from ..steps import Job


class PlacedJob(Job, Protocol):
    """A job that has a place on disk."""

    @property
    def place(self) -> str:
        """Directory that is there as long as the job is wanted, once its first step has begun."""


class Worked(Protocol):
    """What has steps, and CASA's tools between them."""

    @property
    def job(self) -> PlacedJob:
        """What it was made of."""

    #: Steps that are complete.
    steps: int

    def recover(self, steps: int, next_step: str) -> None:
        """Take up what another worker has begun."""

    def close(self) -> None:
        """Close CASA's tools; the images stay."""


#: The step after which there is none.
_LAST = "finish"

_at_work: dict[tuple[str, int], Worked] = {}


def run_step(
    make: Callable[[Any], Worked], job: PlacedJob, steps: int, name: str, arguments: Record
) -> Any:
    """Run one step of a job.

    Parameters
    ----------
    make : callable
        Makes what has the steps, of the job.
    job : PlacedJob
    steps : int
        Steps of the job that are complete.
    name : str
        Name of a method.
    arguments : dict
        Its arguments.

    Returns
    -------
    Any
        What the method returns.

    Raises
    ------
    OSError
        If the disk is full before or after it.
    """
    disk = os.path.dirname(job.place)
    require_room(disk)
    key = (job.run, job.index)
    worked = _at_work.get(key)
    if worked is None or worked.steps != steps:
        _forget_unwanted()
        forget(*key)
        worked = make(job)
        if steps:
            worked.recover(steps, name)
    _at_work[key] = worked
    try:
        result = getattr(worked, name)(**arguments)
        require_room(disk)
    except BaseException:
        forget(*key)
        raise
    if name == _LAST:
        forget(*key)
    return result


def _forget_unwanted() -> None:
    """Close what this worker holds of runs whose driver has died, and that others went on with."""
    for key in [key for key, each in _at_work.items() if not os.path.isdir(each.job.place)]:
        _at_work.pop(key).close()


def forget(run: str, index: int | None = None) -> None:
    """Close what this worker holds of a run, or of one job of it."""
    for key in [k for k in _at_work if k[0] == run and index in (None, k[1])]:
        _at_work.pop(key).close()
