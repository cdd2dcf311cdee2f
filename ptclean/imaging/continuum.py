# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine for continuum images: parts of the data on workers, tclean's order of things.

Covers the sequence of weights, PSF, residual, minor and major cycles. Gridding is done for each
part of the rows (:mod:`ptclean.imaging.part_imager`), all else once, on the image as a whole
(:mod:`ptclean.imaging.whole_image`). Where a step runs is :mod:`ptclean.workers.splitter`'s, when
to stop :mod:`ptclean.imaging.control`'s.

The parts and the order in which they are added do not depend on the workers, and so neither do the
images, in any bit. tclean adds the same visibilities in another order: its images differ by the
rounding of single precision.

When the worker dies that has the image as a whole, or the driver, an *attempt* ends, and another
goes on from where it stood (:func:`ptclean.imaging.whole_image.take_over`); where the deconvolver
has a state of its own, from the beginning.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

from distributed import Client

from .. import logs
from ..config import setting
from ..errors import ChunkError, TaskError
from ..keeping.durable import sync_tree
from ..keeping.journal import Journal
from ..planning.continuum_plan import ContinuumPlan
from ..products import images
from ..records import Record
from ..reporting.events import Cycle, Listener, Phase, cycle_of, task_of, told
from ..reporting.story import Story
from ..steps import Step
from ..workers.splitter import Admit, CubeSplitter
from . import at_work, whole_image
from .control import IterationControl, separate_planes
from .part_imager import ContinuumJob, PartJob
from .savemodel import ModelsToSave
from .steps_here import take_known
from .whole_image import take_over


class ContinuumImager:
    """Makes a continuum image as planned, on the workers of a Dask client.

    Parameters
    ----------
    plan : ContinuumPlan
        A plan that is not serial.
    client : distributed.Client
        Its workers are prepared (:class:`ptclean.workers.cluster.DaskClusterManager`).
    directory : str
        Work directory, absolute, seen by all workers under this path. What an earlier imager of the
        same plan has done in it is not done again.
    admit : callable, optional
        As for :class:`ptclean.workers.splitter.CubeSplitter`.
    listener : Listener, optional
        Told what happens; by default the log is.

    Attributes
    ----------
    skipped : int
        0: all parts are gridded in each major cycle.
    models : ModelsToSave
        Models that tclean would write to the measurement sets.
    """

    def __init__(
        self,
        plan: ContinuumPlan,
        client: Client,
        directory: str,
        admit: Admit | None = None,
        listener: Listener | None = None,
    ) -> None:
        if plan.serial or plan.records is None:
            raise ValueError(f"this plan is tclean's own ({plan.serial}), not for the engine")
        self._plan = plan
        self._records = plan.records
        self._client = client
        self._directory = directory
        self._journal = Journal(directory)
        self._admit = admit
        self.skipped = 0
        self.models = ModelsToSave(plan.parameters)
        self._listener = listener or Story()

    def run(self, history: Sequence[str]) -> tuple[Record | None, dict[str, str]]:
        """Make the images in the work directory.

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
            If a step fails; the workers have then let go of the others.
        """
        if end := self._journal.end():
            summary, made, models = end
            self.models.go_on(models)
            return summary, made
        summary, made = self._attempts()
        for path in made.values():
            images.set_history(path, "ptclean", history)
            sync_tree(path)
        self._journal.put_end(summary, made, self.models.state())
        return summary, made

    def _attempts(self) -> tuple[Record | None, dict[str, str]]:
        failures = 0
        while True:
            attempt = _Attempt(
                self._plan,
                self._client,
                self._directory,
                self._journal,
                self._admit,
                self._listener,
            )
            self.models = attempt.models
            try:
                return attempt.run()
            except ChunkError as error:
                failures += 1
                if not _is_lost_state(error) or failures > setting("allowed-failures"):
                    raise
                goes_on = self._journal.knows("begun")
                logs.post(
                    "The worker that deconvolved the image died: "
                    + (f"it goes on from {self._journal.place()}" if goes_on else "it begins anew"),
                    "WARN",
                )


def _is_lost_state(error: ChunkError) -> bool:
    cause = error.__cause__
    return isinstance(cause, TaskError) and cause.error_type == "StateLostError"


class _Attempt:
    """One attempt at the image, from where the former one stood."""

    def __init__(
        self,
        plan: ContinuumPlan,
        client: Client,
        work: str,
        journal: Journal,
        admit: Admit | None,
        listener: Listener,
    ) -> None:
        assert plan.records is not None
        self._listener = listener
        self._cycle = 0
        self._iteration = plan.records.iteration
        self.models = ModelsToSave(plan.parameters)
        npol = plan.shape[2] if plan.shape else 1
        self._planes = separate_planes(npol, plan.parameters["deconvolver"])
        self._journal = journal
        self._work = work
        # A worker of an earlier attempt may still write below the one that it was given.
        directory = tempfile.mkdtemp(prefix="attempt-", dir=work)
        self._whole = ContinuumJob(
            run=directory,
            parts=plan.parts,
            records=plan.records,
            coordinates=plan.coordinates,
            directory=directory,
            cleans=plan.parameters["niter"] > 0,
            restores=bool(plan.parameters["restoration"]),
            corrects=bool(plan.parameters["pbcor"]),
            continued=tuple((name, f"{plan.imagename}.{name}") for name in plan.existing),
        )
        self._parts = tuple(PartJob(self._whole, part) for part in plan.parts)
        self._splitter = CubeSplitter(
            client,
            plan.nworkers,
            listener,
            journal=journal if self._whole.keeps_state else None,
            step=whole_image.step,
            forget=at_work.forget,
            needs_less="use fewer workers (nworkers)",
            admit=admit,
        )

    def run(self) -> tuple[Record | None, dict[str, str]]:
        """As `ContinuumImager.run`."""
        self._go_on()
        try:
            summary = None
            stopped = False
            if self._whole.cleans:
                with IterationControl(self._iteration, planes=self._planes) as control:
                    self._clean(control)
                    summary = control.summary()
                    stopped = control.stopcode > 0
            else:
                self._make_psf()
                self._residual(lastcycle=True, first=True)
            made: list[str] = self._on_whole("finishing", "finish", {"revert_mask": stopped})
        except BaseException:
            self._splitter.forget(self._whole, wait=False)
            raise
        self._splitter.forget(self._whole, wait=True)
        folder = os.path.join(self._work, self._attempt, "whole")
        return summary, {product: os.path.join(folder, f"whole.{product}") for product in made}

    def _go_on(self) -> None:
        """Take over what there is of a former attempt, or begin anew."""
        journal = self._journal
        journal.rewind()
        self._attempt = os.path.basename(self._whole.directory)
        if not journal.knows("begun"):
            journal.clear()
        else:
            former = journal.fact("attempt")
            names = journal.steps_of(self._whole.index)
            if names[-1] == "finish":
                # Nothing is left to be done to it.
                self._attempt = former
            else:
                logs.post(f"What was done of the image is gone on with, from {journal.place()}")
                cycles = [journal.steps_of(part.index).count("major") for part in self._parts]
                take_over(os.path.join(self._work, former), self._whole, names, cycles)
        journal.put("attempt", self._attempt)
        for entry in os.scandir(self._work):
            if entry.name.startswith("attempt-") and entry.name != self._attempt:
                # Somebody may be writing there.
                shutil.rmtree(entry.path, ignore_errors=True)

    def _make_psf(self) -> None:
        if self._whole.parts_have_density:
            # The parts and the whole at the same time.
            self._phase(
                "weights",
                [Step(self._whole, "open"), *(Step(part, "weigh") for part in self._parts)],
            )
            self._on_whole("adding weights", "sum_density")
        else:
            self._on_whole("definition", "open")
            if self._whole.density is not None:
                self._on_whole("weights", "make_density")
        self._phase("PSF", [Step(part, "make_psf") for part in self._parts])
        self._on_whole("adding PSFs", "begin")
        if self._whole.keeps_state:
            self._journal.remember("begun", lambda: True)

    def _residual(self, *, lastcycle: bool, first: bool = False) -> list[Record]:
        """Run a major cycle; returns the deconvolver's initialization records."""
        self._on_whole("handing out the model", "scatter_model")
        self._phase(
            "major cycle",
            [Step(part, "major", {"lastcycle": lastcycle}) for part in self._parts],
        )
        records: list[Record] = self._on_whole("adding residuals", "gather", {"first": first})
        self.models.major_cycle(lastcycle=lastcycle)
        return records

    def _clean(self, control: IterationControl) -> None:
        self._make_psf()
        before, state = self._residual(lastcycle=control.is_last_cycle(), first=True)
        control.end_major_cycle(clean=False)
        control.has_converged([before])
        stop = control.has_converged([state])
        threshold, peak = float(control.summary()["threshold"]), float(state["peakresidual"])
        self._listener.cycle_done(Cycle(0, 0, 0.0, threshold, peak, total=len(self._parts)))
        while not stop:
            if self.models.wants_copy:
                number = control.major_cycles
                kept = self._on_whole("keeping the model", "keep_model", {"number": number})
                for former in self.models.keep(kept):
                    for image in former.values():
                        shutil.rmtree(image, ignore_errors=True)
            controls = control.minor_cycle_controls()
            self._cycle = control.minor_cycles + 1
            executed = self._on_whole("minor cycle", "minor", {"controls": controls})
            iterations = control.end_minor_cycle([executed], [0])
            if iterations:
                (state,) = self._residual(lastcycle=control.is_last_cycle())
                control.end_major_cycle()
            else:
                (state,) = self._on_whole("mask", "set_up_mask")
            stop = control.has_converged([state]) or not iterations
            self._listener.cycle_done(
                cycle_of(
                    self._cycle,
                    controls,
                    [executed],
                    threshold=threshold,
                    peak=float(state["peakresidual"]),
                    planes=self._planes,
                    gridded=[part.index for part in self._parts] if iterations else (),
                    total=len(self._parts),
                    stopcode=control.stopcode,
                )
            )
        self._cycle = 0

    def _on_whole(self, title: str, name: str, arguments: Record | None = None) -> Any:
        results = self._phase(title, [Step(self._whole, name, arguments or {})])
        return results[self._whole.index]

    def _phase(self, title: str, steps: Sequence[Step]) -> dict[int, Any]:
        known, missing = take_known(self._journal, self._splitter, steps)
        if not missing:
            return known
        tasks = tuple(task_of(step) for step in missing)
        kinds = {step.job is self._whole for step in missing}
        unit = "tasks" if len(kinds) > 1 else "image" if kinds == {True} else "parts"
        with told(self._listener, Phase(title, tasks, len(tasks), self._cycle, unit)):
            return known | self._splitter.run(missing)
