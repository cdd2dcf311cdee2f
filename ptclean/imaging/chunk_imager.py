# SPDX-License-Identifier: GPL-3.0-or-later
"""Image one chunk of the cube with CASA's synthesis tools, inside a worker.

A chunk has two image sets on disk: the *gridded* one, its channels and guard channels, which
``synthesisimager`` works on (:mod:`ptclean.imaging.gridded`), and the *core* one, its channels
alone, which ``synthesisdeconvolver`` works on. After each major cycle the core channels of the
residual are copied over; before it, the models of core and neighbours come the other way. Where a
chunk has no guard channels the two are one. Where the gridded images are those of the first pass
alone, major cycles have an imager and images of their own (:mod:`ptclean.imaging.window`).

The steps of a chunk are `ChunkImager.begin`, `set_beam` where it is wanted, any number of `minor`
and `major` in turn, and `finish`. With automasking (:mod:`ptclean.imaging.automask`) the
deconvolver works on a third image set, `start_masks` comes before the first `minor`, and `mask` in
the place of a `major` that is left out. Their sequence over all chunks, and the iteration control,
are the driver's (:mod:`ptclean.imaging.imager`). CASA's tools live as long as the imager, which the
worker keeps between steps (:mod:`ptclean.imaging.at_work`); another worker rebuilds it from the
images on disk as they were when the last step was complete.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from casatools import synthesisdeconvolver

from ..keeping.durable import sync_tree, write_bytes, write_json
from ..keeping.workdir import empty_folder, make_folder
from ..planning.axis import shifted
from ..products import beams, images
from ..products.casa_io import flush, take_over_locks
from ..records import Record
from .at_work import run_step
from .automask import MaskingImages
from .chunk_job import Begun, ChunkJob
from .gridded import Gridded
from .history import Entry, History, components, write_model
from .model_copies import ModelCopies
from .window import Window


class ChunkImager:
    """CASA's tools for one chunk.

    Parameters
    ----------
    job : ChunkJob

    Attributes
    ----------
    steps : int
        Steps that are complete.
    """

    def __init__(self, job: ChunkJob) -> None:
        self.job = job
        self.steps = 0
        self._last_step = ""
        self._unfitted: list[int] = []
        self._deconvolver: Any = None
        self._masking = MaskingImages(job.masked, job.cube.records.deconvolution)
        self._history = History(os.path.join(job.folder(), "history"))
        self._scratch = job.new_scratch("scratch")
        self._models = ModelCopies(job)
        self._gridded = Gridded(job, self._scratch)
        self._window = Window(job) if job.cube.data_guards else None
        self._controls: Record = {}

    def begin(self, *, lastcycle: bool) -> Begun:
        """Make PSF, primary beam and first residual.

        Parameters
        ----------
        lastcycle : bool
            tclean's control of the same name.

        Returns
        -------
        Begun
        """
        self._clear()
        with contextlib.chdir(self._scratch):
            self._make_images(lastcycle=lastcycle)
            fitted, self._unfitted = self._gridded.fitted_beams()
            records = self._begin_deconvolution()
            self._complete("begin")
        return Begun(records, fitted, bool(self._unfitted))

    def set_beam(self, *, beam: Record) -> list[Record]:
        """Give planes whose beam could not be fitted the one that they get in the whole cube.

        Parameters
        ----------
        beam : dict
            Of the largest area in the cube.

        Returns
        -------
        list of dict
            As `Begun.records`, which these replace: the level of the PSF's sidelobes depends on
            the beams.
        """
        with contextlib.chdir(self._scratch):
            if self._deconvolver is not None:
                self._deconvolver.done()
            self._put_beam(beam)
            write_json(self._beam_file, beam)
            records = self._begin_deconvolution()
            self._complete("set_beam")
        return records

    def minor(self, controls: Record) -> Record:
        """Run the minor cycle of the core channels.

        Parameters
        ----------
        controls : dict
            Record of the iteration control, the same for all chunks.

        Returns
        -------
        dict
            The deconvolver's execution record; with tclean's `nsigma` also ``nsigmathreshold``,
            which the next initialization record has: CASA takes the noise from before the cycle
            (``SynthesisDeconvolver::initMinorCycle``, ``executeCubeMinorCycle``).
        """
        with contextlib.chdir(self._scratch):
            self._models.save(self.steps)
            if self.job.cube.automasks:
                return self._minor_with_masks(controls)
            if self.job.chunk.channels == 1 and self._last_step == "minor":
                # For a single channel the tool adds to the last cycle's record until it is
                # initialized again; for more, CASA makes a deconvolver for each cycle.
                self._deconvolver.initminorcycle()
            record = self._deconvolver.executeminorcycle(iterbotrecord=controls)
            if self.job.cube.records.deconvolution["nsigma"] > 0:
                # Of the residual before the cycle; only this tool knows it.
                noise = self._deconvolver.initminorcycle()["nsigmathreshold"]
                record = {**record, "nsigmathreshold": noise}
            model = f"{self.job.core()}.model"
            if os.path.isdir(model):
                flush(model)
            sync_tree(model)
            self._complete("minor")
        return record

    def major(self, *, lastcycle: bool, threshold: float, masking: Record | None = None) -> Record:
        """Run the major cycle, with the models of this chunk and of its neighbours.

        Parameters
        ----------
        lastcycle : bool
            tclean's control of the same name.
        threshold : float
            Of the clean, in Jy; 0 if there is none.
        masking : dict
            With automasking, the arguments of `mask`.

        Returns
        -------
        dict
            The deconvolver's initialization record for the next minor cycle.
        """
        with contextlib.chdir(self._scratch):
            if self._window is None:
                self._gridded.gather_model()
                self._gridded.major(lastcycle=lastcycle)
                is_gridded = True
            else:
                is_gridded = self._window.major(
                    lastcycle=lastcycle, threshold=threshold, reselects=self._gridded.reselects
                )
            if masking is not None:
                if is_gridded:
                    self._set_masking_residual()
                record = self._renew_masks(**masking)
                self._history.add(self.steps, self._entry_of_major(masking, is_gridded))
                self._complete("major")
                return record
            if self._window is None:
                self._gridded.copy_residual()
                write_bytes(self._cycled, b"")
            self._deconvolver.setupmask()
            record = self._deconvolver.initminorcycle()
            self._complete("major")
        return record

    def start_masks(self, *, sidelobe: float, beam: Record) -> list[Record]:
        """Make the first masks.

        Parameters
        ----------
        sidelobe, beam
            See `MaskingImages.make`.

        Returns
        -------
        list of dict
            The deconvolver's initialization records, before and after; see `mask`.
        """
        with contextlib.chdir(self._scratch):
            arguments: Record = {"sidelobe": sidelobe, "beam": beam}
            self._make_masking_images(**arguments)
            before = self._masking.measure()
            after = self._renew_masks(iterated=False, full=False)
            self._history.add(self.steps, Entry("start_masks", arguments))
            self._complete("start_masks")
        return [before, after]

    def mask(self, **masking: Any) -> Record:
        """Renew the masks of a chunk whose residual is as it was.

        Parameters
        ----------
        iterated : bool
            Whether the cube has seen iterations.
        full : bool
            Whether the first plane of the block is masked all over.

        Returns
        -------
        dict
            The deconvolver's initialization record for the next minor cycle; under ``full``,
            whether the chunk's first plane is masked all over.
        """
        with contextlib.chdir(self._scratch):
            record = self._renew_masks(**masking)
            self._history.add(self.steps, Entry("mask", {"masking": masking}))
            self._complete("mask")
        return record

    def finish(
        self,
        *,
        beam: Record | None = None,
        unscaled: int | None = None,
        masks: list[str] | None = None,
    ) -> None:
        """Restore the core images, if wanted, and close the tools.

        Parameters
        ----------
        beam : dict, optional
            To restore with; tclean's `restoringbeam` if not given.
        unscaled : int, optional
            Core plane whose residual is taken for one that has that beam already
            (:class:`ptclean.products.beams.CommonBeam`).
        masks : list of {'mask', 'prev.mask'}
            With automasking, the masks to keep: the first one as the mask, a second one under its
            own name.
        """
        with contextlib.chdir(self._scratch):
            if masks is not None:
                self._finish_masks(masks)
            if self.job.cube.restores:
                self._restore(beam, unscaled)
            self.close()
            sync_tree(self.job.folder())
            self._complete("finish")

    def _restore(self, beam: Record | None, unscaled: int | None) -> None:
        psf = f"{self.job.core()}.psf"
        info = images.image_info(psf)
        if beam is not None and self._deconvolver is not None:
            self._deconvolver.done()
        if beam is not None and unscaled is not None:
            images.set_image_info(psf, beams.with_beam(info, [unscaled], beam))
        if beam is not None:
            self._open_deconvolver(restoringbeam=beams.as_text(beam))
        elif self.job.cube.automasks:
            self._open_deconvolver()
        self._deconvolver.restore()
        if self.job.cube.corrects:
            self._deconvolver.pbcor()
        if beam is not None and unscaled is not None:
            # The tool has a lock on it.
            self._deconvolver.done()
            self._deconvolver = None
            images.set_image_info(psf, info)

    def close(self) -> None:
        """Close CASA's tools; the images stay."""
        if self._deconvolver is not None:
            self._deconvolver.done()
            self._deconvolver = None
        self._gridded.close()
        if self._window is not None:
            self._window.close()
        self._masking.close()

    def recover(self, steps: int, next_step: str) -> None:
        """Take up a chunk whose first `steps` steps another worker has made.

        Parameters
        ----------
        steps : int
            Steps that are complete.
        next_step : str
            The one that follows; it may have been begun, and is made from its start again.
        """
        if self.job.cube.automasks:
            self._recover_masks(steps, next_step)
            self.steps = steps
            return
        if self._window is not None:
            self._recover_window(self._window, steps, next_step)
            return
        keep = ["core.model", os.path.basename(self._beam_file), os.path.basename(self._cycled)]
        if next_step == "minor":
            # Its neighbours may have changed their models since; this one has them as they were.
            keep.append("gridded.model")
            keep += self._models.restore(steps)
        self._clear(*keep)
        with contextlib.chdir(self._scratch):
            # Images are made from the visibilities again: what was being written when a process
            # was killed may be damaged in any way. The models are not: nobody writes to them now.
            self._make_first_images_again()
            if (
                next_step == "finish"
                and self._has_residual
                and os.path.isdir(f"{self.job.core()}.model")
            ):
                self._gridded.gather_model()
                self._gridded.major(lastcycle=True)
                self._gridded.copy_residual()
            self._begin_deconvolution()
        self.steps = steps

    def _recover_window(self, window: Window, steps: int, next_step: str) -> None:
        """Take up a chunk whose first pass knows no model."""
        keep = ["core.model", os.path.basename(self._beam_file), *window.STATE]
        if next_step == "minor":
            keep += [window.MODEL, *self._models.restore(steps)]
        self._clear(*keep)
        with contextlib.chdir(self._scratch):
            self._make_first_images_again()
            if next_step in ("minor", "finish"):
                is_last = next_step == "finish"
                window.renew(lastcycle=is_last, gathers=is_last, reselects=self._gridded.reselects)
            self._begin_deconvolution()
        self.steps = steps

    def _recover_masks(self, steps: int, next_step: str) -> None:
        """Go through all cycles again, but for the minor cycles.

        What the deconvolver knows of masks and noise is in its tool alone; a major cycle with the
        same models gives the same residual, and that the same masks.
        """
        self._models.give_back()
        keep = ["history", os.path.basename(self._beam_file)]
        if next_step == "minor":
            keep += self._models.restore(steps)
        self._models.hide()
        self._clear("core.model", "core.kept", *keep)
        if self._window is not None:
            # It grows anew.
            self._window = Window(self.job)
        with contextlib.chdir(self._scratch):
            self._make_first_images_again()
            for entry in self._history.before(steps):
                self._repeat(entry)
            self._models.give_back()
            model = f"{self.job.core()}.model"
            if os.path.isdir(model):
                self._masking.set_model(model)

    def _make_first_images_again(self) -> None:
        self._make_images(lastcycle=False)
        _, self._unfitted = self._gridded.fitted_beams()
        if os.path.exists(self._beam_file):
            with open(self._beam_file) as f:
                self._put_beam(json.load(f))

    def _repeat(self, entry: Entry) -> None:
        if entry.name == "start_masks":
            self._make_masking_images(**entry.arguments)
            self._masking.mask(full=False)
        elif entry.name == "minor":
            self._controls = entry.arguments["controls"]
            self._masking.imitate_minor(self._controls)
        else:
            if entry.model is not None:
                if self._window is None:
                    gridded = self.job.gridded
                    write_model(entry.model, f"{gridded}.residual", f"{gridded}.model")
                    self._gridded.major(lastcycle=False)
                else:
                    start, stop = entry.arguments["window"]
                    self._window.repeat(start, stop, entry.model, reselects=self._gridded.reselects)
                self._set_masking_residual()
            self._renew_masks(**entry.arguments["masking"])

    def _entry_of_major(self, masking: Record, is_gridded: bool) -> Entry:
        if not is_gridded:
            return Entry("major", {"masking": masking})
        if self._window is None:
            model = components(f"{self.job.gridded}.model")
            return Entry("major", {"masking": masking}, model)
        return Entry(
            "major",
            {"masking": masking, "window": self._window.core},
            self._window.components(),
        )

    def _make_masking_images(self, *, sidelobe: float, beam: Record) -> None:
        self._masking.make(
            self.job.core(),
            shifted(self.job.cube.coordinates, self.job.chunk.start - 1),
            sidelobe,
            beam,
        )

    def _set_masking_residual(self) -> None:
        job = self.job
        if self._window is None:
            source, channels = f"{job.gridded}.residual", job.chunk.core_in_gridded
        else:
            source, channels = f"{job.core()}.residual", slice(0, job.chunk.channels)
        self._masking.set_residual(source, channels)

    def _renew_masks(self, *, iterated: bool, full: bool) -> Record:
        if iterated:
            self._masking.count(self._controls)
        is_full = self._masking.mask(full=full)
        return {**self._masking.measure(), "full": is_full}

    def _minor_with_masks(self, controls: Record) -> Record:
        model = f"{self.job.core()}.model"
        self._controls = controls
        record = self._masking.minor(controls)
        if int(record["iterdone"]) > 0 or not os.path.isdir(model):
            self._masking.put_model(model)
            sync_tree(model)
        self._history.add(self.steps, Entry("minor", {"controls": controls}))
        self._complete("minor")
        return record

    def _finish_masks(self, masks: list[str]) -> None:
        core = self.job.core()
        if self._window is None:
            self._gridded.copy_residual()
        if not os.path.isdir(f"{core}.model"):
            self._masking.put_model(f"{core}.model")
        first, *others = masks
        self._masking.put_mask(first, f"{core}.mask")
        for name in others:
            self._masking.put_mask(name, f"{core}.{name}")
        self._masking.close()

    @property
    def _beam_file(self) -> str:
        return os.path.join(self.job.folder(), "beam.json")

    @property
    def _cycled(self) -> str:
        """File that exists as soon as a major cycle followed a minor one."""
        return os.path.join(self.job.folder(), "cycled")

    @property
    def _has_residual(self) -> bool:
        """Whether the residual is one of this run, not an earlier one's."""
        return self.job.cube.beginning.makes_residual or os.path.exists(self._cycled)

    def _clear(self, *keep: str) -> None:
        """Remove all that a former process has left, but for some names.

        CASA would go on from its images, and take over its tables of weights. Where that process
        lives, its tools have locks on what stays.
        """
        folder = self.job.folder()
        make_folder(folder)
        empty_folder(folder, (*keep, Gridded.STATE))
        for name in keep:
            take_over_locks(os.path.join(folder, name))
        os.mkdir(self._scratch)

    def _complete(self, step: str) -> None:
        self.steps += 1
        self._last_step = step

    def _make_images(self, *, lastcycle: bool) -> None:
        """Make PSF, primary beam and residual, with the gridded model if there is one."""
        self._gridded.make(lastcycle=lastcycle, with_residual=self._has_residual)
        if self.job.cube.mask:
            core = slice(self.job.chunk.start, self.job.chunk.stop)
            images.cut_clean_mask(self.job.cube.mask, self._mask, f"{self.job.core()}.psf", core)

    @property
    def _mask(self) -> str:
        """The core channels of the user's mask; not under the name of CASA's own."""
        return os.path.join(self.job.folder(), "users.mask")

    def _put_beam(self, beam: Record) -> None:
        psf = f"{self.job.core()}.psf"
        info = images.image_info(psf)
        images.set_image_info(psf, beams.with_beam(info, self._unfitted, beam))

    def _open_deconvolver(self, **changes: Any) -> None:
        # As a list: one mask by itself is refused where CASA's own exists already, as it does when
        # tools are opened anew.
        changes["mask"] = [self._mask] if self.job.cube.mask else ""
        self._deconvolver = synthesisdeconvolver()
        self._deconvolver.setupdeconvolution(
            decpars=self.job.cube.records.named(self.job.core()).deconvolution | changes
        )

    def _begin_deconvolution(self) -> list[Record]:
        if self.job.cube.automasks:
            self._open_deconvolver(usemask="user", nsigma=0.0)
            self._deconvolver.checkrestoringbeam()
            record = self._deconvolver.initminorcycle()
            self._deconvolver.done()
            self._deconvolver = None
            return [record]
        if self.job.deconvolves:
            self._open_deconvolver()
            self._deconvolver.checkrestoringbeam()
        if not self.job.cube.cleans:
            return []
        before = self._deconvolver.initminorcycle()
        self._deconvolver.setupmask()
        return [before, self._deconvolver.initminorcycle()]


def step(job: ChunkJob, steps: int, name: str, arguments: Record) -> Any:
    """Run one step of a chunk; the function that workers execute.

    Parameters
    ----------
    job : ChunkJob
    steps : int
        Steps of the chunk that are complete.
    name : str
        'begin', 'set_beam', 'start_masks', 'minor', 'major', 'mask' or 'finish'.
    arguments : dict
        Arguments of the method of that name.

    Returns
    -------
    list or dict or None
        What the method returns.
    """
    return run_step(ChunkImager, job, steps, name, arguments)
