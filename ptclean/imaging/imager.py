# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine: chunks on workers, one iteration control, tclean's order of things.

Covers the sequence of PSF, residual, minor and major cycles over all chunks of a cube. What a step
does within a chunk is :mod:`ptclean.imaging.chunk_imager`'s; where it runs,
:mod:`ptclean.workers.splitter`'s; when to stop, :mod:`ptclean.imaging.control`'s.

A chunk whose model did not change in a minor cycle, nor that of its guard channels, is left out of
the major cycle: its residual would come out the same. So are, within a chunk, the channels on
either side of those that have a model (:mod:`ptclean.imaging.window`). tclean grids all channels
each time, and makes all masks; here, masks that stay empty are left
(:func:`ptclean.imaging.automask.stay_empty`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from distributed import Client

from .. import logs
from ..keeping.journal import Journal
from ..keeping.resumption import take_over_chunks
from ..planning.axis import selected_imager
from ..planning.blocks import block_channels
from ..planning.chunks import neighbours
from ..planning.continuing import Beginning, startmodel_path
from ..planning.plan import Plan
from ..planning.scope import AUTOMASK
from ..planning.standin import make_standin, with_standins
from ..products import beams, images
from ..records import ImagingRecords, Record
from ..reporting.events import Cycle, Listener, Listeners, Phase, Task, cycle_of, task_of, told
from ..reporting.story import Story
from ..steps import Outcome, Step
from ..workers.splitter import Admit, CubeSplitter
from . import at_work, chunk_imager
from .assembly import assemble, assemble_all, assemblies, assembly_of_model, remove_spent
from .automask import block_of, full_blocks, speaks_of_a_chunk, stay_empty
from .chunk_job import ChunkJob, CubeJob, limits_of_steps
from .control import (
    ZERO_MASK,
    IterationControl,
    changed_channels,
    idle_again,
    join_initialization,
    separate_planes,
    unchanged,
    with_noise_of,
)
from .savemodel import ModelsToSave
from .steps_here import Steps, StepsHere, take_known


def cube_job(plan: Plan, records: ImagingRecords, directory: str, attempt: str) -> CubeJob:
    """Say what workers must know of a cube, without what it begins from and makes masks of.

    Parameters
    ----------
    plan : Plan
    records : ImagingRecords
        Those that workers are to use.
    directory : str
        Work directory of the image, in which the clean mask is.
    attempt : str
        That of the run, in it.
    """
    return CubeJob(
        run=uuid.uuid4().hex,
        records=records,
        coordinates=plan.coordinates,
        channels=(plan.shape or (1, 1, 1, 1))[3],
        directory=attempt,
        cleans=plan.parameters["niter"] > 0,
        restores=bool(plan.parameters["restoration"]),
        corrects=bool(plan.parameters["pbcor"]),
        mask=plan.mask.image(directory) if plan.mask else None,
        guards=plan.guards,
        data_guards=plan.data_guards,
    )


class ParallelCubeImager:
    """Images a cube as planned, on the workers of a Dask client.

    Parameters
    ----------
    plan : Plan
        A plan that is not serial.
    client : distributed.Client or None
        Its workers are prepared (:class:`ptclean.workers.cluster.DaskClusterManager`). None: all
        is done in this process.
    directory : str
        Work directory, absolute, seen by all workers under this path; the clean mask has been
        resolved in it (:func:`ptclean.planning.cleanmask.resolve`). What an earlier imager of the
        same plan has done in it is not done again (:mod:`ptclean.keeping.resumption`).
    admit : callable, optional
        As for :class:`ptclean.workers.splitter.CubeSplitter`.
    listener : Listener, optional
        Told what happens; by default the log is.

    Attributes
    ----------
    jobs : tuple of ChunkJob
        One for each chunk.
    skipped : int
        Major cycles of chunks that were left out.
    models : ModelsToSave
        Models that tclean would write to the measurement sets.
    """

    def __init__(
        self,
        plan: Plan,
        client: Client | None,
        directory: str,
        admit: Admit | None = None,
        listener: Listener | None = None,
    ) -> None:
        if plan.serial or plan.records is None:
            raise ValueError(f"this plan is tclean's own ({plan.serial}), not for the engine")
        self._records = with_standins(plan.records, plan.standins, directory)
        self._standins = plan.standins
        self._shape = nx, ny, npol, nchan = plan.shape or (1, 1, 1, 1)
        self._block = block_channels(nx, ny, nchan)
        self._planes = separate_planes(npol, plan.parameters["deconvolver"])
        self._directory = directory
        self._journal = Journal(directory)
        # A worker of an earlier driver may still write below the one that it was given.
        attempt = tempfile.mkdtemp(prefix="attempt-", dir=directory)
        self._startmodel = startmodel_path(plan.parameters["startmodel"])
        self._first_model = os.path.join(directory, "start.model")
        existing_model = f"{plan.imagename}.model" if "model" in plan.existing else None
        cube = cube_job(plan, self._records, directory, attempt)
        self._cube = replace(
            cube,
            automasks=cube.cleans and plan.parameters["usemask"] == AUTOMASK,
            beginning=Beginning(
                prefix=plan.imagename,
                products=plan.existing,
                model=self._first_model if self._startmodel else existing_model,
                makes_psf=bool(plan.parameters["calcpsf"]),
                makes_residual=bool(plan.parameters["calcres"]),
            ),
        )
        self.jobs = tuple(
            ChunkJob(self._cube, chunk, tuple(neighbours(plan.chunks, chunk)))
            for chunk in plan.chunks
        )
        listeners = _WithoutWarningsOfChunks if self._cube.automasks else Listeners
        self._listener = listeners(listener or Story())
        self._nworkers = plan.nworkers
        self._limits = limits_of_steps(plan.at_once) if plan.at_once else {}
        self._splitter: Steps
        if client is None:
            self._splitter = StepsHere(self._journal)
        else:
            self._splitter = CubeSplitter(
                client,
                plan.nworkers,
                self._listener,
                journal=self._journal,
                step=chunk_imager.step,
                forget=at_work.forget,
                limits=self._limits,
                admit=admit,
            )
        self.skipped = 0
        self._cycle = 0
        self._gridded: tuple[int, ...] = ()
        self.models = ModelsToSave(plan.parameters)
        self._kept = 0
        #: Records of chunks whose last minor cycle saw no iteration, their residual being the same.
        self._idle: dict[int, Record] = {}
        self._masks_may_stop = plan.parameters["minpercentchange"] >= 0
        #: What was said of the last masks of chunks that stay empty for as long as it is the same.
        self._settled: dict[int, Record | None] = {}
        self._beam: beams.CommonBeam | None = None

    def run(self, history: Sequence[str]) -> tuple[Record | None, dict[str, str]]:
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
            The image of each product.

        Raises
        ------
        ChunkError
            If a step of a chunk fails; the workers have then let go of the others.
        """
        if end := self._journal.end():
            summary, made, models = end
            self.models.go_on(models)
            return summary, made
        summary = self.make_chunks()
        if self._finishes:
            # Otherwise a later driver would have to make them again.
            folders = [job.folder() for job in self.jobs]
            self._splitter.map(
                remove_spent, [folders[i :: self._nworkers] for i in range(self._nworkers)]
            )
        made = assemble_all(
            assemblies(self.jobs, history), self._shape, self._splitter.map, self._listener
        )
        self._journal.put_end(summary, made, self.models.state())
        return summary, made

    def make_chunks(self) -> Record | None:
        """Make the images of all chunks.

        Returns
        -------
        dict or None
            As `run`'s summary.
        """
        if self._journal.steps:
            self._take_over()
        else:
            for standin in self._standins:
                make_standin(standin, self._directory)
            if self._startmodel:
                self._put_startmodel()
            self._journal.put("attempt", os.path.basename(self._cube.directory))
        try:
            if self._cube.cleans:
                summary, finishing = self._clean()
            else:
                summary, finishing = None, {}
                self._begin(lastcycle=True)
            if self._finishes:
                self._finish(finishing)
        except BaseException:
            self._splitter.forget(self.jobs[0], wait=False)
            raise
        self._splitter.forget(self.jobs[0], wait=True)
        return summary

    def _take_over(self) -> None:
        """Take over what an earlier driver has left of the chunks."""
        wanted = ["common beam"] * self._finishes + ["beams of blocks"] * self._cube.automasks
        take_over_chunks(
            self.jobs,
            self._journal,
            self._directory,
            self._cube.directory,
            self._splitter.map,
            "finish",
            keeps_psf=not all(map(self._journal.knows, wanted)),
        )

    @property
    def _finishes(self) -> bool:
        """Whether chunks have a step after the last cycle."""
        return self._cube.restores or self._cube.automasks

    def _put_startmodel(self) -> None:
        """Have CASA put tclean's `startmodel` on the grid of the whole cube."""
        named = self._records.named(self._first_model.removesuffix(".model"))
        image = {**named.image, "startmodel": self._startmodel}
        with selected_imager(replace(named, image=image)):
            # It is made when the image is defined (SynthesisImager::createIMStore).
            pass

    def _begin(self, *, lastcycle: bool) -> list[list[Record]]:
        """Make PSF and residual; returns the chunks' initialization records."""
        begun = self._phase("PSF and residual", "begin", {"lastcycle": lastcycle})
        self.models.major_cycle(lastcycle=lastcycle)
        records = [each.records for each in begun]
        beam = beams.largest(each.largest_beam for each in begun)
        lacking = [job for job, each in zip(self.jobs, begun, strict=True) if each.lacks_beams]
        if beam and lacking:
            renewed = self._phase("beams of blank planes", "set_beam", {"beam": beam}, lacking)
            for job, record in zip(lacking, renewed, strict=True):
                records[job.chunk.index] = record
        self._journal.remember("begun", lambda: True)
        if self._finishes:
            # While the PSFs are there: later drivers need not have them made for this.
            self._beam = self._journal.remember("common beam", self._common_beam)
        return records

    def _clean(self) -> tuple[Record, Record]:
        """Run all cycles; returns the control's summary, and arguments for the last step."""
        starts = [job.chunk.start for job in self.jobs]
        with IterationControl(self._records.iteration, self._block, self._planes) as control:
            if self._cube.beginning.makes_residual:
                begun = self._begin(lastcycle=control.is_last_cycle())
                if self._cube.automasks:
                    begun = self._start_masks(begun)
                control.end_major_cycle(clean=False)
            else:
                begun = self._begin(lastcycle=False)
            control.has_converged([before for before, _ in begun])
            state: list[Record] = [after for _, after in begun]
            stop = control.has_converged(state)
            threshold = float(control.summary()["threshold"])
            peak = float(join_initialization(state)["peakresidual"])
            self._listener.cycle_done(Cycle(0, 0, 0.0, threshold, peak, total=len(self.jobs)))
            while not stop:
                self._keep_model()
                controls = control.minor_cycle_controls()
                self._cycle, self._gridded = control.minor_cycles + 1, ()
                executed = self._minor(controls)
                iterations = control.end_minor_cycle(executed, starts)
                if self._cube.automasks:
                    self._renew_masks(control, executed, state, threshold)
                else:
                    state = [unchanged(record) for record in state]
                if iterations and not self._cube.automasks:
                    self._major(control, self._changed(executed), state, threshold)
                # A tool that is made anew after a worker has died does not know this one.
                state = [with_noise_of(*each) for each in zip(state, executed, strict=True)]
                stop = control.has_converged(state) or not iterations
                self._listener.cycle_done(
                    cycle_of(
                        self._cycle,
                        controls,
                        executed,
                        threshold=threshold,
                        peak=float(join_initialization(state)["peakresidual"]),
                        planes=self._planes,
                        gridded=self._gridded,
                        total=len(self.jobs),
                        stopcode=control.stopcode,
                    )
                )
            self._cycle = 0
            return control.summary(), self._last_masks(control)

    def _minor(self, controls: Record) -> list[Record]:
        """Run the minor cycle of the chunks that may see an iteration; returns all records."""
        executed: dict[int, Record] = {}
        for job in self.jobs:
            record = idle_again(self._idle.get(job.index), controls)
            if record is not None:
                executed[job.index] = record
        busy = [job for job in self.jobs if job.index not in executed]
        if busy:
            records = self._phase("minor cycle", "minor", {"controls": controls}, busy)
            executed |= {job.index: record for job, record in zip(busy, records, strict=True)}
        self._idle = {index: record for index, record in executed.items() if not record["iterdone"]}
        return [executed[job.index] for job in self.jobs]

    def _keep_model(self) -> None:
        """Keep a copy of the cube's model before it changes, if tclean has written it."""
        if not self.models.wants_copy:
            return
        self._kept += 1
        kept = self._journal.remember(f"kept model {self._kept}", self._copy_of_model)
        for former in self.models.keep(kept):
            for image in former.values():
                # An earlier driver may have done it.
                shutil.rmtree(image, ignore_errors=True)

    def _copy_of_model(self) -> dict[str, str]:
        """Assemble the cube's model as it is now; nothing if there is none."""
        if not all(os.path.isdir(f"{job.core()}.model") for job in self.jobs):
            return {}
        target = os.path.join(self._directory, f"kept-{self._kept}.model")
        shutil.rmtree(target, ignore_errors=True)
        self._splitter.map(assemble, [assembly_of_model(self.jobs, target)])
        return {"model": target}

    def _start_masks(self, begun: list[list[Record]]) -> list[list[Record]]:
        """Make the first masks; returns the chunks' initialization records."""
        sidelobe = max(record["maxpsfsidelobe"] for (record,) in begun)
        beams_of_blocks = self._journal.remember("beams of blocks", self._common_beams_of_blocks)
        steps = [
            Step(
                job,
                "start_masks",
                {
                    "sidelobe": sidelobe,
                    "beam": beams_of_blocks[block_of(job.chunk.start, self._block)],
                },
            )
            for job in self.jobs
        ]
        results = self._steps("first masks", steps)
        started = [results[job.chunk.index] for job in self.jobs]
        if all(last["masksum"] == ZERO_MASK for _, last in started):
            logs.post("No regions found by automasking", "WARN")
        return started

    def _common_beams_of_blocks(self) -> dict[int, Record]:
        """Find the common beam of each block of channels that CASA masks at a time."""
        parts: dict[int, list[str]] = {}
        for job in self.jobs:
            block = block_of(job.chunk.start, self._block)
            parts.setdefault(block, []).append(f"{job.core()}.psf")
        scratch = os.path.join(self._cube.directory, "block")
        return {
            block: images.common_beam(psfs, f"{scratch}-{block}").beam
            for block, psfs in parts.items()
        }

    def _renew_masks(
        self,
        control: IterationControl,
        executed: Sequence[Record],
        state: list[Record],
        threshold: float,
    ) -> None:
        """Run the major cycles that are wanted, and make all masks anew that may change."""
        changed = self._changed(executed)
        affected = {job.chunk.index for job in self._affected(changed)}
        full = full_blocks(
            [job.chunk.start for job in self.jobs], [r["full"] for r in state], self._block
        )
        lastcycle = control.is_last_cycle() if changed else False
        steps = []
        maskings: dict[int, Record] = {}
        for job in self.jobs:
            index = job.chunk.index
            masking = maskings[index] = {
                "iterated": control.iterations > 0,
                "full": full[block_of(job.chunk.start, self._block)],
            }
            if index in affected:
                arguments = {"lastcycle": lastcycle, "threshold": threshold, "masking": masking}
                steps.append(Step(job, "major", arguments))
            elif masking != self._settled.get(index):
                steps.append(Step(job, "mask", masking))
        results = self._steps("major cycle and masks", steps)
        self._gridded = tuple(sorted(affected))
        for number, job in enumerate(self.jobs):
            index = job.chunk.index
            if index in results:
                is_settled = stay_empty(state[number], results[index], maskings[index])
                self._settled[index] = maskings[index] if is_settled else None
                state[number] = results[index]
            # CASA's deconvolver must see the controls of each cycle if it may stop making masks.
            if self._settled[index] is None or index in affected or self._masks_may_stop:
                self._idle.pop(index, None)
        if changed:
            self.skipped += len(self.jobs) - len(affected)
            control.end_major_cycle()

    def _last_masks(self, control: IterationControl) -> Record:
        """Say which masks are left (``PySynthesisImager.hasConverged``)."""
        if not self._cube.automasks:
            return {}
        if control.minor_cycles == 0:
            return {"masks": ["mask"]}
        # The masks of the last minor cycle are gone back to if the control says stop. It need not:
        # a minor cycle without an iteration ends the clean as well.
        return {"masks": ["prev.mask"] if control.stopcode > 0 else ["mask", "prev.mask"]}

    def _finish(self, finishing: Record) -> None:
        """Restore all chunks, if wanted, with the common beam of the whole cube, if wanted."""
        common = self._beam
        if common is None:
            self._phase("restoring", "finish", finishing)
            return
        steps = []
        for job in self.jobs:
            plane = None if common.replaces is None else job.core_plane(common.replaces)
            arguments = {**finishing, "beam": common.beam, "unscaled": plane}
            steps.append(Step(job, "finish", arguments))
        self._steps("restoring", steps)

    def _common_beam(self) -> beams.CommonBeam | None:
        """Find the beam for ``restoringbeam='common'``: that of the whole cube, by CASA."""
        if self._records.deconvolution["restoringbeam"] not in ("common", ["common"]):
            return None
        parts = [f"{job.core()}.psf" for job in self.jobs]
        common = images.common_beam(parts, os.path.join(self._cube.directory, "common"))
        logs.post(f"Common beam of the cube: {', '.join(beams.as_text(common.beam))}")
        return common

    def _major(
        self,
        control: IterationControl,
        changed: Collection[int],
        state: list[Record],
        threshold: float,
    ) -> None:
        """Run the major cycle of the chunks that saw a model change, and renew their records."""
        # An earlier run's residual need not be that of its model and these data.
        earlier = not self._cube.beginning.makes_residual and control.major_cycles == 0
        affected = list(self.jobs) if earlier else self._affected(changed)
        self.skipped += len(self.jobs) - len(affected)
        self._gridded = tuple(job.chunk.index for job in affected)
        lastcycle = control.is_last_cycle()
        arguments = {"lastcycle": lastcycle, "threshold": threshold}
        renewed = self._phase("major cycle", "major", arguments, affected)
        self.models.major_cycle(lastcycle=lastcycle)
        for job, record in zip(affected, renewed, strict=True):
            state[job.chunk.index] = record
            self._idle.pop(job.index, None)
        control.end_major_cycle()

    def _changed(self, executed: Sequence[Record]) -> set[int]:
        """Channels of the cube whose model a minor cycle has changed."""
        return {
            job.chunk.start + channel
            for job, record in zip(self.jobs, executed, strict=True)
            for channel in changed_channels(record, job.chunk.channels)
        }

    def _affected(self, changed: Collection[int]) -> list[ChunkJob]:
        """Chunks that see a model change, among their core or guard channels."""
        return [
            job
            for job in self.jobs
            if any(
                channel in changed
                for channel in range(job.chunk.gridded_start, job.chunk.gridded_stop)
            )
        ]

    def _phase(
        self,
        title: str,
        name: str,
        arguments: Record,
        jobs: Collection[ChunkJob] | None = None,
    ) -> list[Any]:
        """Run one step of all, or of some, chunks; results in the order of the chunks."""
        jobs = self.jobs if jobs is None else jobs
        results = self._steps(title, [Step(job, name, arguments) for job in jobs])
        return [results[job.chunk.index] for job in jobs]

    def _steps(self, title: str, steps: Sequence[Step]) -> dict[int, Any]:
        """Run steps of different chunks; results by the chunk's index."""
        known, missing = take_known(self._journal, self._splitter, steps)
        if not missing:
            return known
        tasks = tuple(task_of(step) for step in missing)
        at_once = self._limits.get(missing[0].name)
        phase = Phase(title, tasks, len(self.jobs), self._cycle, at_once=at_once)
        with told(self._listener, phase):
            return known | self._splitter.run(missing)


class _WithoutWarningsOfChunks(Listeners):
    """Keeps from listeners what CASA warns of where the automask of a chunk, not a cube, is odd."""

    def task_done(self, task: Task, outcome: Outcome) -> None:
        warnings = [line for line in outcome.warnings if not speaks_of_a_chunk(line.message)]
        super().task_done(task, replace(outcome, warnings=warnings))
