# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the steps of a chunk in this process, one after the other, with no Dask at all.

What the engine asks of :class:`ptclean.workers.splitter.CubeSplitter` where it images many chunks,
for a worker that images one from beginning to end (:mod:`ptclean.imaging.independent`); and what
both leave out, since a former driver has had it made (`take_known`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from ..keeping.journal import Journal
from ..reporting.events import Task
from ..steps import Job, Step
from . import at_work, chunk_imager
from .chunk_job import ChunkJob


class Steps(Protocol):
    """Runs steps of chunks, here or elsewhere."""

    def run(self, steps: Iterable[Step]) -> dict[int, Any]:
        """Run steps of different chunks; what they returned, by the chunk's index."""

    def skip(self, step: Step) -> None:
        """Count a step as complete that has been made before."""

    def map(
        self,
        function: Callable[[Any], Any],
        arguments: Iterable[Any],
        tasks: Sequence[Task] | None = None,
    ) -> Any:
        """Call a function with each argument."""

    def forget(self, job: Job, *, wait: bool) -> None:
        """Let go of CASA's tools."""


def take_known(
    journal: Journal, runner: Steps, steps: Sequence[Step]
) -> tuple[dict[int, Any], list[Step]]:
    """Take from the journal what steps returned that a former driver has had made.

    Returns
    -------
    known : dict
        What they returned, by the chunk's index; the runner counts them as complete.
    missing : list of Step
        The others.
    """
    known = journal.take(steps)
    missing = []
    for step in steps:
        if step.job.index in known:
            runner.skip(step)
        else:
            missing.append(step)
    return known, missing


class StepsHere:
    """Runs steps of chunks in this process.

    Parameters
    ----------
    journal : Journal
        Keeps what each step returned.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._done: dict[int, int] = {}

    def run(self, steps: Iterable[Step]) -> dict[int, Any]:
        """Run steps of different chunks.

        Parameters
        ----------
        steps : iterable of Step

        Returns
        -------
        dict
            What each step returned, by the chunk's index.
        """
        results = {}
        for step in steps:
            index = step.job.index
            done = self._done.get(index, 0)
            assert isinstance(step.job, ChunkJob)
            results[index] = chunk_imager.step(step.job, done, step.name, step.arguments)
            self._done[index] = done + 1
            self._journal.add(step, results[index])
            self._journal.sync()
        return results

    def skip(self, step: Step) -> None:
        """Count a step as complete that has been made before."""
        self._done[step.job.index] = self._done.get(step.job.index, 0) + 1

    def map(
        self,
        function: Callable[[Any], Any],
        arguments: Iterable[Any],
        tasks: Sequence[Task] | None = None,
    ) -> list[Any]:
        """Call a function with each argument; `tasks` are of no interest here."""
        return [function(argument) for argument in arguments]

    def forget(self, job: Job, *, wait: bool) -> None:
        """Close CASA's tools of a run; `wait` is of no interest here."""
        at_work.forget(job.run)
