# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine: chunks on workers, one iteration control, tclean's order of things.

Covers the sequence of PSF, residual, minor and major cycles over all chunks of a cube. What a
step does within a chunk is :mod:`ptclean.chunk_imager`'s; where it runs, :mod:`ptclean.splitter`'s;
when to stop, :mod:`ptclean.control`'s.

A chunk whose model did not change in a minor cycle, nor that of its guard channels, is left out of
the major cycle: its residual would come out the same. tclean grids all channels each time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from typing import Any

from distributed import Client

from . import beams, images, logs
from .chunk_imager import ChunkJob
from .chunks import neighbours
from .control import IterationControl, block_channels, unchanged
from .planning import Plan
from .products import Assembly, assemble, assemblies
from .records import Record
from .scope import is_path, masks
from .splitter import CubeSplitter, Step
from .worker import Outcome


class ParallelCubeImager:
    """Images a cube as planned, on the workers of a Dask client.

    Parameters
    ----------
    plan : Plan
        A plan that is not serial.
    client : distributed.Client
        Its workers are prepared (:class:`ptclean.cluster.DaskClusterManager`).
    directory : str
        Work directory, absolute, seen by all workers under this path.

    Attributes
    ----------
    jobs : tuple of ChunkJob
        One for each chunk.
    skipped : int
        Major cycles of chunks that were left out.
    """

    def __init__(self, plan: Plan, client: Client, directory: str) -> None:
        if plan.serial or plan.records is None:
            raise ValueError(f"this plan is tclean's own ({plan.serial}), not for the engine")
        self._records = plan.records
        nx, ny, _, nchan = plan.shape or (1, 1, 1, 1)
        self._block = block_channels(nx, ny, nchan)
        self._cleans = plan.parameters["niter"] > 0
        self._restores = bool(plan.parameters["restoration"])
        self._splitter = CubeSplitter(client, plan.nworkers, self._note)
        self.skipped = 0
        self.jobs = tuple(
            ChunkJob(
                run=directory,
                chunk=chunk,
                neighbours=tuple(neighbours(plan.chunks, chunk)),
                records=plan.records,
                coordinates=plan.coordinates,
                directory=directory,
                cleans=self._cleans,
                restores=self._restores,
                corrects=bool(plan.parameters["pbcor"]),
                mask=next(filter(is_path, masks(plan.parameters["mask"])), None),
            )
            for chunk in plan.chunks
        )

    def run(self, history: Sequence[str]) -> tuple[Record | None, dict[str, Assembly]]:
        """Make the images of all chunks, and of them those of the cube, in the work directory.

        Parameters
        ----------
        history : sequence of str
            Lines for the images' history.

        Returns
        -------
        summary : dict or None
            Of the iteration control; None without minor cycles.
        made : dict
            Assembly of each product.

        Raises
        ------
        ChunkError
            If a step of a chunk fails; the workers have then let go of the others.
        """
        try:
            if self._cleans:
                summary = self._clean()
            else:
                summary = None
                self._begin(lastcycle=True)
            if self._restores:
                self._phase("restoring", "finish", {"beam": self._common_beam()})
        except BaseException:
            self._splitter.forget(self.jobs[0], wait=False)
            raise
        self._splitter.forget(self.jobs[0], wait=True)
        started = time.monotonic()
        made = assemblies(self.jobs, history)
        self._splitter.map(assemble, made.values())
        logs.post(f"Phase assembling: {len(made)} products, {time.monotonic() - started:.1f} s")
        return summary, made

    def _begin(self, *, lastcycle: bool) -> list[list[Record]]:
        """Make PSF and residual; returns the chunks' initialization records."""
        begun = self._phase("PSF and residual", "begin", {"lastcycle": lastcycle})
        records = [each.records for each in begun]
        beam = beams.largest(each.largest_beam for each in begun)
        lacking = [job for job, each in zip(self.jobs, begun, strict=True) if each.lacks_beams]
        if beam and lacking:
            renewed = self._phase("beams of blank planes", "set_beam", {"beam": beam}, lacking)
            for job, record in zip(lacking, renewed, strict=True):
                records[job.chunk.index] = record
        return records

    def _clean(self) -> Record:
        starts = [job.chunk.start for job in self.jobs]
        with IterationControl(self._records.iteration, self._block) as control:
            begun = self._begin(lastcycle=control.is_last_cycle())
            control.end_major_cycle(clean=False)
            control.has_converged([before for before, _ in begun])
            state: list[Record] = [after for _, after in begun]
            stop = control.has_converged(state)
            while not stop:
                controls = control.minor_cycle_controls()
                executed = self._phase("minor cycle", "minor", {"controls": controls})
                iterations = control.end_minor_cycle(executed, starts)
                logs.post(
                    f"Minor cycle {control.major_cycles + 1}: {iterations} iterations down to a "
                    f"cyclethreshold of {controls['cyclethreshold']:.6g} Jy"
                )
                state = [unchanged(record) for record in state]
                if iterations:
                    changed = {i for i, r in enumerate(executed) if int(r["iterdone"]) > 0}
                    self._major(control, changed, state)
                stop = control.has_converged(state) or not iterations
            return control.summary()

    def _common_beam(self) -> list[str] | None:
        """Find the beam for ``restoringbeam='common'``: that of the whole cube, by CASA."""
        if self._records.deconvolution["restoringbeam"] != "common":
            return None
        parts = [f"{job.core()}.psf" for job in self.jobs]
        beam = images.common_beam(parts, os.path.join(self.jobs[0].directory, "common"))
        logs.post(f"Common beam of the cube: {', '.join(beam)}")
        return beam

    def _major(
        self, control: IterationControl, changed: Collection[int], state: list[Record]
    ) -> None:
        """Run the major cycle of the chunks that saw a model change, and renew their records."""
        affected = [
            job
            for job in self.jobs
            if job.chunk.index in changed or any(n.index in changed for n in job.neighbours)
        ]
        self.skipped += len(self.jobs) - len(affected)
        renewed = self._phase(
            "major cycle", "major", {"lastcycle": control.is_last_cycle()}, affected
        )
        for job, record in zip(affected, renewed, strict=True):
            state[job.chunk.index] = record
        control.end_major_cycle()

    def _phase(
        self,
        title: str,
        name: str,
        arguments: Record,
        jobs: Collection[ChunkJob] | None = None,
    ) -> list[Any]:
        """Run one step of all, or of some, chunks; results in the order of the chunks."""
        jobs = self.jobs if jobs is None else jobs
        started = time.monotonic()
        results = self._splitter.run(Step(job, name, arguments) for job in jobs)
        logs.post(
            f"Phase {title}: {len(jobs)} of {len(self.jobs)} chunks, "
            f"{time.monotonic() - started:.1f} s"
        )
        return [results[job.chunk.index] for job in jobs]

    @staticmethod
    def _note(step: Step, outcome: Outcome) -> None:
        logs.forward_warnings(outcome)
