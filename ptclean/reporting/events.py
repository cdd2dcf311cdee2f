# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens in a run, as plain data, and who is told of it.

The engines tell a `Listener`; what it makes of it is its own affair: a line in the log
(:mod:`ptclean.reporting.story`), a bar (:mod:`ptclean.reporting.progress`), a report
(:mod:`ptclean.reporting.run_record`). All is told in the caller's thread, in the order in which it
happens.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..records import Record
from ..steps import Outcome, Step

# Rows of ``summaryminor``; see :mod:`ptclean.imaging.control`.
_ITERATIONS_ROW = 0
_PEAK_ROW = 1


@dataclass(frozen=True)
class Task:
    """One step of one chunk, or of one part of a continuum image.

    Attributes
    ----------
    step : str
        Name of the step, such as ``'minor'``.
    index : int
        Position of the chunk.
    cost : int
        Grows with the time that the step takes.
    """

    step: str
    index: int
    cost: int


@dataclass(frozen=True)
class Phase:
    """Tasks that run side by side, and are waited for.

    Attributes
    ----------
    title : str
        Such as ``'major cycle'``.
    tasks : tuple of Task
    total : int
        Number of chunks of the run, of which some may be left out.
    cycle : int
        Number of the cycle, counted from 1; 0 before the first minor cycle and after the last.
    unit : str
        What is counted: chunks, parts, products.
    at_once : int or None
        Tasks at once, where memory does not hold as many as there are workers.
    """

    title: str
    tasks: tuple[Task, ...]
    total: int
    cycle: int = 0
    unit: str = "chunks"
    at_once: int | None = None

    def __str__(self) -> str:
        return f"{self.title} {self.cycle}" if self.cycle else self.title


@dataclass(frozen=True)
class Cycle:
    """A minor cycle and the major cycle after it.

    Attributes
    ----------
    number : int
        Counted from 1; 0 is the residual before the first minor cycle.
    iterations : int
        Of this minor cycle, in all channels.
    cyclethreshold : float
        Peak residual at which the minor cycle ends, in Jy/beam.
    threshold : float
        Peak residual at which the clean ends, in Jy/beam.
    peak : float
        Largest residual now, within the mask, in Jy/beam.
    channel_iterations, channel_peaks : tuple
        Iterations of each channel in this minor cycle, and its peak residual at the end of it, in
        Jy/beam; the largest of its Stokes planes. Empty for number 0.
    gridded : tuple of int
        Chunks that were gridded in the major cycle.
    total : int
        Number of chunks.
    stopcode : int
        tclean's, 0 while the clean goes on.
    """

    number: int
    iterations: int
    cyclethreshold: float
    threshold: float
    peak: float
    channel_iterations: tuple[int, ...] = ()
    channel_peaks: tuple[float, ...] = ()
    gridded: tuple[int, ...] = ()
    total: int = 0
    stopcode: int = 0


@dataclass(frozen=True)
class Loss:
    """A worker that was lost, and had worked for the run.

    Attributes
    ----------
    worker : str
        Its name.
    tasks : tuple of str
        What it was at, by the names of the tasks, which are run again; none if it was idle.
    when : float
        Time of the system's clock, in s.
    """

    worker: str
    tasks: tuple[str, ...]
    when: float


class Listener:
    """Who is told what happens; this one makes nothing of it."""

    def phase_started(self, phase: Phase) -> None:
        """Tasks are about to be submitted."""

    def task_done(self, task: Task, outcome: Outcome) -> None:
        """A task of the phase is complete."""

    def phase_ended(self, phase: Phase, seconds: float) -> None:
        """All tasks of the phase are complete."""

    def cycle_done(self, cycle: Cycle) -> None:
        """A cycle is over, or the first residual is there."""

    def worker_lost(self, loss: Loss) -> None:
        """A worker died, or was taken away, and its tasks are run again."""

    def close(self) -> None:
        """Nothing more happens; the run may have failed."""


class Listeners(Listener):
    """Several listeners, told one after the other.

    Parameters
    ----------
    *listeners : Listener
    """

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def phase_started(self, phase: Phase) -> None:
        for listener in self._listeners:
            listener.phase_started(phase)

    def task_done(self, task: Task, outcome: Outcome) -> None:
        for listener in self._listeners:
            listener.task_done(task, outcome)

    def phase_ended(self, phase: Phase, seconds: float) -> None:
        for listener in self._listeners:
            listener.phase_ended(phase, seconds)

    def cycle_done(self, cycle: Cycle) -> None:
        for listener in self._listeners:
            listener.cycle_done(cycle)

    def worker_lost(self, loss: Loss) -> None:
        for listener in self._listeners:
            listener.worker_lost(loss)

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()


@contextlib.contextmanager
def told(listener: Listener, phase: Phase) -> Iterator[None]:
    """Tell a listener of a phase, at its beginning, and at its end unless it fails."""
    started = time.monotonic()
    listener.phase_started(phase)
    yield
    listener.phase_ended(phase, time.monotonic() - started)


def task_of(step: Step) -> Task:
    """Return what a listener is told of a step."""
    return Task(step.name, step.job.index, step.job.cost)


def cycle_of(
    number: int,
    controls: Record,
    executed: Sequence[Record],
    *,
    threshold: float,
    peak: float,
    planes: int = 1,
    gridded: Sequence[int] = (),
    total: int = 1,
    stopcode: int = 0,
) -> Cycle:
    """Say what a cycle came to.

    Parameters
    ----------
    number : int
    controls : dict
        What the minor cycle was given.
    executed : sequence of dict
        What ``executeminorcycle`` returned, chunk by chunk.
    threshold, peak
        See `Cycle`.
    planes : int
        Planes of a channel that are deconvolved one by one; they follow each other.
    gridded, total, stopcode
        See `Cycle`.
    """
    summary = np.concatenate(
        [np.asarray(record["summaryminor"])[: _PEAK_ROW + 1] for record in executed], axis=1
    )
    summary = summary.reshape(_PEAK_ROW + 1, -1, 1 if summary.shape[1] % planes else planes)
    return Cycle(
        number=number,
        iterations=sum(int(record["iterdone"]) for record in executed),
        cyclethreshold=float(controls["cyclethreshold"]),
        threshold=threshold,
        peak=peak,
        channel_iterations=tuple(int(n) for n in summary[_ITERATIONS_ROW].sum(axis=1)),
        channel_peaks=tuple(float(value) for value in summary[_PEAK_ROW].max(axis=1)),
        gridded=tuple(gridded),
        total=total,
        stopcode=stopcode,
    )
