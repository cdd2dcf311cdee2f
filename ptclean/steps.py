# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps of jobs, which the driver has workers make, and what comes of them: plain data.

A job is a chunk of a cube, a part of a continuum image's rows, or that image as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from .logs import LogLine
from .records import Record


class Job(Protocol):
    """What must be known of a job; its text names it to the user."""

    @property
    def run(self) -> str:
        """Name of the run, unique among runs."""

    @property
    def index(self) -> int:
        """Position among the jobs of the run."""

    @property
    def cost(self) -> int:
        """Grows with the time that a step takes."""

    @property
    def label(self) -> str:
        """Name in the keys of its tasks, such as ``'chunk-0042'``."""


@dataclass(frozen=True, eq=False)
class Step:
    """One step of one job.

    Attributes
    ----------
    job : Job
    name : str
        Name of the step, such as ``'minor'``.
    arguments : dict
    """

    job: Job
    name: str
    arguments: Record = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a task returned, and what it took.

    Attributes
    ----------
    value : Any
        What the function returned.
    seconds : float
        Elapsed time of the function.
    peak_memory : int
        Largest resident memory of the worker's process during the task, in bytes. Where the
        system cannot reset that mark: during the life of the process.
    warnings : list of LogLine
        WARN and SEVERE lines that CASA logged during the task: (priority, origin, message).
    worker : str
        Name of the worker.
    pid : int
        Number of its process.
    """

    value: Any
    seconds: float
    peak_memory: int
    warnings: list[LogLine]
    worker: str
    pid: int
