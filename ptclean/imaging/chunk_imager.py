# SPDX-License-Identifier: GPL-3.0-or-later
"""Image one chunk of the cube with CASA's synthesis tools, inside a worker.

A chunk has two image sets on disk: the *gridded* one, its channels and guard channels, which
``synthesisimager`` works on, and the *core* one, its channels alone, which
``synthesisdeconvolver`` works on. After each major cycle the core channels of the residual are
copied over; before it, the models of core and neighbours come the other way. Where a chunk has no
guard channels the two are one. Where the gridded images are those of the first pass alone, major
cycles have an imager and images of their own (:mod:`ptclean.imaging.window`).

The steps of a chunk are `ChunkImager.begin`, `set_beam` where it is wanted, any number of `minor`
and `major` in turn, and `finish`. With automasking (:mod:`ptclean.imaging.automask`) the
deconvolver works on a third image set, `start_masks` comes before the first `minor`, and `mask` in
the place of a `major` that is left out. Their sequence over all chunks, and the iteration control,
are the driver's (:mod:`ptclean.imaging.imager`). CASA's tools live as long as the imager;
:func:`step` keeps imagers alive in the worker between steps and, when a step meets a worker that
has none (the former one died, or another took over), rebuilds it from the images on disk as they
were when the last step was complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import replace
from typing import Any

from casatools import (
    synthesisdeconvolver,
    synthesisnormalizer,
    synthesisutils,
)

from ..keeping.disk import require_room
from ..keeping.durable import sync_tree, write_bytes, write_json
from ..keeping.workdir import make_folder
from ..planning.axis import selected_imager, shifted
from ..products import beams, images
from ..products.casa_io import flush, take_over_locks
from ..records import ImagingRecords, Record
from .automask import MaskingImages
from .chunk_job import IMAGER_PRODUCTS, Begun, ChunkJob
from .gridding import gather_model, grid_residual, gridding_records, open_imager, refuse_cut
from .history import Entry, History, components, write_model
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
        self._reselects = True
        self._imager: Any = None
        self._normalizer: Any = None
        self._deconvolver: Any = None
        self._masking = MaskingImages(job.masked, job.cube.records.deconvolution)
        self._history = History(os.path.join(job.folder(), "history"))
        self._scratch = job.new_scratch("scratch")
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
            fitted, self._unfitted = self._fitted_beams()
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
            self._save_model()
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
                self._gather_model()
                self._major(lastcycle=lastcycle)
                is_gridded = True
            else:
                is_gridded = self._window.major(
                    lastcycle=lastcycle, threshold=threshold, reselects=self._reselects
                )
            if masking is not None:
                if is_gridded:
                    self._set_masking_residual()
                record = self._renew_masks(**masking)
                self._history.add(self.steps, self._entry_of_major(masking, is_gridded))
                self._complete("major")
                return record
            if self._window is None:
                self._copy_residual()
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
        self._close_imager()
        if self._window is not None:
            self._window.close()
        self._masking.close()

    def _close_imager(self) -> None:
        for tool in (self._normalizer, self._imager):
            if tool is not None:
                tool.done()
        self._normalizer = self._imager = None

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
            keep += self._restore_model(steps)
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
                self._gather_model()
                self._major(lastcycle=True)
                self._copy_residual()
            self._begin_deconvolution()
        self.steps = steps

    def _recover_window(self, window: Window, steps: int, next_step: str) -> None:
        """Take up a chunk whose first pass knows no model."""
        keep = ["core.model", os.path.basename(self._beam_file), *window.STATE]
        if next_step == "minor":
            keep += [window.MODEL, *self._restore_model(steps)]
        self._clear(*keep)
        with contextlib.chdir(self._scratch):
            self._make_first_images_again()
            if next_step in ("minor", "finish"):
                is_last = next_step == "finish"
                window.renew(lastcycle=is_last, gathers=is_last, reselects=self._reselects)
            self._begin_deconvolution()
        self.steps = steps

    def _recover_masks(self, steps: int, next_step: str) -> None:
        """Go through all cycles again, but for the minor cycles.

        What the deconvolver knows of masks and noise is in its tool alone; a major cycle with the
        same models gives the same residual, and that the same masks.
        """
        self._return_model()
        keep = ["history", os.path.basename(self._beam_file)]
        if next_step == "minor":
            keep += self._restore_model(steps)
        self._hide_model()
        self._clear("core.model", "core.kept", *keep)
        if self._window is not None:
            # It grows anew.
            self._window = Window(self.job)
        with contextlib.chdir(self._scratch):
            self._make_first_images_again()
            for entry in self._history.before(steps):
                self._repeat(entry)
            self._return_model()
            model = f"{self.job.core()}.model"
            if os.path.isdir(model):
                self._masking.set_model(model)

    def _hide_model(self) -> None:
        """Keep the model from CASA's imager, which would go on from it."""
        model = f"{self.job.core()}.model"
        if self.job.gridded == self.job.core() and os.path.isdir(model):
            os.rename(model, f"{self.job.core()}.kept")

    def _return_model(self) -> None:
        """Undo `_hide_model`, also that of a worker that has died on the way."""
        model, kept = f"{self.job.core()}.model", f"{self.job.core()}.kept"
        if os.path.isdir(kept):
            shutil.rmtree(model, ignore_errors=True)
            os.rename(kept, model)

    def _make_first_images_again(self) -> None:
        self._make_images(lastcycle=False)
        _, self._unfitted = self._fitted_beams()
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
                    self._major(lastcycle=False)
                else:
                    start, stop = entry.arguments["window"]
                    self._window.repeat(start, stop, entry.model, reselects=self._reselects)
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
            self._copy_residual()
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
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if name in keep:
                take_over_locks(path)
            elif name != os.path.basename(self._psf_begun):
                if os.path.isdir(path):
                    shutil.rmtree(path)
                else:
                    os.remove(path)
        os.mkdir(self._scratch)

    @property
    def _psf_begun(self) -> str:
        """File that is there while the PSF is made, and after a process died of it."""
        return os.path.join(self.job.folder(), "psf-begun")

    def _saved_model(self, steps: int) -> str:
        return os.path.join(self.job.folder(), f"model-{steps}")

    def _save_model(self) -> None:
        """Keep a copy of the model as it is before a minor cycle; an empty one if there is none."""
        model, saved = f"{self.job.core()}.model", self._saved_model(self.steps)
        if os.path.isdir(saved):
            # By a worker that died in this cycle; the model has been restored from it.
            return
        if os.path.isdir(model):
            shutil.copytree(model, f"{saved}.new")
        else:
            os.mkdir(f"{saved}.new")
        sync_tree(f"{saved}.new")
        # A copy that is not complete never has the name of one that is.
        os.rename(f"{saved}.new", saved)
        for name in os.listdir(self.job.folder()):
            if name.startswith("model-") and name != os.path.basename(saved):
                shutil.rmtree(os.path.join(self.job.folder(), name))

    def _restore_model(self, steps: int) -> list[str]:
        """Undo what a minor cycle did to the model; returns the names to be kept."""
        model, saved = f"{self.job.core()}.model", self._saved_model(steps)
        if not os.path.isdir(saved):
            # It had not begun.
            return []
        shutil.rmtree(model, ignore_errors=True)
        if os.listdir(saved):
            shutil.copytree(saved, model)
        return [os.path.basename(saved)]

    def _complete(self, step: str) -> None:
        self.steps += 1
        self._last_step = step

    def _gridding_records(self, prefix: str) -> ImagingRecords:
        return gridding_records(self.job, self.job.first, prefix, reselects=self._reselects)

    def _open_imager(self) -> None:
        records = self._gridding_records(self.job.gridded)
        self._imager = open_imager(self.job, records)
        self._normalizer = synthesisnormalizer()
        self._normalizer.setupnormalizer(normpars=records.normalization)

    def _bring_earlier(self) -> None:
        """Cut this chunk out of the images from which the run goes on.

        CASA writes into them, as into tclean's. It does not begin a residual's summed weights
        anew, for one thing, where they exist.
        """
        chunk, beginning = self.job.chunk, self.job.cube.beginning
        core, gridded = self.job.core(), self.job.gridded
        for product, source in beginning.images.items():
            if product == "psf" and beginning.makes_psf:
                # Nothing of it stays; the new one tells into how many pieces CASA cut the chunk.
                continue
            targets = {}
            if gridded != core and product in (*IMAGER_PRODUCTS, "model"):
                targets[gridded] = slice(chunk.gridded_start, chunk.gridded_stop)
            if gridded == core or product not in beginning.made_first:
                targets[core] = slice(chunk.start, chunk.stop)
            for prefix, channels in targets.items():
                # A chunk that is taken up by another worker has a model that is further on.
                if not os.path.isdir(f"{prefix}.{product}"):
                    images.cut(source, f"{prefix}.{product}", channels)

    def _make_images(self, *, lastcycle: bool) -> None:
        """Make PSF, primary beam and residual, with the gridded model if there is one."""
        beginning = self.job.cube.beginning
        self._bring_earlier()
        if beginning.makes_psf:
            self._make_psf()
            refuse_cut(f"{self.job.gridded}.psf", str(self.job.chunk))
            if self.job.cube.records.gridding["gridder"] != "standard":
                # The standard gridder's is made with the PSF, in C++.
                self._imager.makepb()
            self._normalizer.normalizeprimarybeam()
        else:
            self._open_imager()
            if beginning.makes_residual or self.job.cube.cleans:
                refuse_cut(self._probe(), str(self.job.chunk))
        made = set(beginning.made_first)
        if self._has_residual:
            self._major(lastcycle=lastcycle)
            made |= {"residual", "sumwt"}
        self._copy_out(*(product for product in IMAGER_PRODUCTS if product in made))
        if self.job.cube.mask:
            core = slice(self.job.chunk.start, self.job.chunk.stop)
            images.cut_clean_mask(self.job.cube.mask, self._mask, f"{self.job.core()}.psf", core)

    def _make_psf(self) -> None:
        """Make the PSF, and with it the standard gridder's primary beam.

        For channels at the ends of the data CASA may select data that it cannot read: it raises
        ("A nasty Visbuffer2 error occured"), or the process crashes. Then, and so after a worker
        has died of something else, it is given all of them.
        """
        self._reselects = self._reselects and not os.path.exists(self._psf_begun)
        with open(self._psf_begun, "w"):
            pass
        self._open_imager()
        try:
            self._imager.makepsf()
        except RuntimeError:
            if not self._reselects:
                raise
            self.close()
            self._reselects = False
            self._remove_unfinished()
            self._open_imager()
            self._imager.makepsf()
        os.remove(self._psf_begun)

    def _remove_unfinished(self) -> None:
        """Remove what a PSF that failed has left: images, and tables of weights."""
        gridded = os.path.basename(self.job.gridded)
        for product in IMAGER_PRODUCTS:
            shutil.rmtree(os.path.join(self.job.folder(), f"{gridded}.{product}"), True)
        for name in os.listdir(self._scratch):
            shutil.rmtree(os.path.join(self._scratch, name), True)

    @property
    def _mask(self) -> str:
        """The core channels of the user's mask; not under the name of CASA's own."""
        return os.path.join(self.job.folder(), "users.mask")

    def _put_beam(self, beam: Record) -> None:
        psf = f"{self.job.core()}.psf"
        info = images.image_info(psf)
        images.set_image_info(psf, beams.with_beam(info, self._unfitted, beam))

    def _probe(self) -> str:
        """Have CASA make an image as large as the gridded ones, for what it says of itself."""
        probe = os.path.join(self._scratch, "probe")
        records = self._gridding_records(probe)
        start = os.path.join(self._scratch, "start.model")
        images.empty_model(f"{self.job.gridded}.psf", start)
        image = {**records.image, "startmodel": start}
        with selected_imager(replace(records, image=image)):
            return f"{probe}.model"

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

    @property
    def _is_first_pass_alone(self) -> bool:
        """Whether CASA's imager made the core images as they are, and is done with them."""
        first = self.job.first
        return self._window is not None and first.gridded_channels == first.channels

    def _fitted_beams(self) -> tuple[Record | None, list[int]]:
        """Largest beam that was fitted to a core plane, and the core planes without a fit."""
        if not self.job.cube.beginning.makes_psf:
            return None, []
        psf = f"{self.job.core() if self._is_first_pass_alone else self.job.gridded}.psf"
        chunk = self.job.first
        all_beams = beams.plane_beams(images.image_info(psf), chunk.gridded_channels)
        failed = {plane for plane in beams.suspects(all_beams) if not self._fits(psf, plane)}
        core = [
            plane
            for plane in range(len(all_beams))
            if chunk.is_core(plane % chunk.gridded_channels)
        ]
        fitted = beams.largest(all_beams[plane] for plane in core if plane not in failed)
        return fitted, [i for i, plane in enumerate(core) if plane in failed]

    def _fits(self, psf: str, plane: int) -> bool:
        """Tell whether CASA can fit a beam to one plane of the PSF, by having it do so."""
        pol, channel = divmod(plane, self.job.first.gridded_channels)
        single = os.path.join(self._scratch, "plane")
        images.cut(psf, f"{single}.psf", slice(channel, channel + 1), pol=pol)
        synthesisutils().fitPsfBeam(
            imagename=single, psfcutoff=self.job.cube.records.normalization["psfcutoff"]
        )
        (beam,) = beams.plane_beams(images.image_info(f"{single}.psf"), 1)
        shutil.rmtree(f"{single}.psf")
        return not beams.is_missing(beam)

    def _major(self, *, lastcycle: bool) -> None:
        grid_residual(self._imager, self.job.cube.records, lastcycle=lastcycle)

    def _copy_out(self, *products: str) -> None:
        if self._window is not None:
            self._close_imager()
        if self.job.gridded == self.job.core():
            return
        for product in products:
            source, target = f"{self.job.gridded}.{product}", f"{self.job.core()}.{product}"
            if os.path.isdir(source):
                shutil.rmtree(target, ignore_errors=True)
                if self._is_first_pass_alone:
                    os.rename(source, target)
                else:
                    images.cut(source, target, self.job.first.core_in_gridded)

    def _copy_residual(self) -> None:
        job = self.job
        if job.gridded != job.core():
            for product in ("residual", "sumwt"):
                images.copy_channels(
                    f"{job.gridded}.{product}", job.chunk.core_in_gridded, f"{job.core()}.{product}"
                )

    def _gather_model(self) -> None:
        """Bring the models of core and guard channels into the gridded model."""
        job = self.job
        if job.gridded == job.core():
            return
        target = f"{job.gridded}.model"
        if not os.path.isdir(target):
            images.empty_model(f"{job.gridded}.residual", target)
        gather_model(job, job.chunk, target)


_imagers: dict[tuple[str, int], ChunkImager] = {}


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

    Raises
    ------
    OSError
        If the disk is full before or after it.
    """
    require_room(job.cube.directory)
    key = (job.run, job.chunk.index)
    imager = _imagers.get(key)
    if imager is None or imager.steps != steps:
        _forget_gone()
        forget(*key)
        imager = ChunkImager(job)
        if steps:
            imager.recover(steps, name)
    _imagers[key] = imager
    try:
        result = getattr(imager, name)(**arguments)
        require_room(job.cube.directory)
    except BaseException:
        forget(*key)
        raise
    if name == "finish":
        forget(*key)
    return result


def _forget_gone() -> None:
    """Close what this worker holds of runs whose driver has died, and that others went on with."""
    for key in [key for key, each in _imagers.items() if not os.path.isdir(each.job.folder())]:
        _imagers.pop(key).close()


def forget(run: str, index: int | None = None) -> None:
    """Close what this worker holds of a run, or of one chunk of it."""
    for key in [k for k in _imagers if k[0] == run and index in (None, k[1])]:
        _imagers.pop(key).close()
