# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of a chunk that CASA's imager makes in its first pass over the data, and that imager.

They have the chunk's channels and the guard channels of that pass, and are ``gridded.*`` in the
chunk's folder, of which the core channels are copied out. Where there are no guard channels they
are the chunk's ``core.*`` themselves.

Major cycles are this imager's too, with the models of the chunk and of its neighbours, but where
the first pass knows no model: there they have an imager of their own
(:mod:`ptclean.imaging.window`), and this one is closed.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import Any

from casatools import synthesisnormalizer, synthesisutils

from ..keeping.workdir import empty_folder
from ..planning.axis import selected_imager
from ..products import beams, images
from ..records import ImagingRecords, Record
from .chunk_job import IMAGER_PRODUCTS, ChunkJob
from .gridding import (
    gather_model,
    grid_residual,
    gridding_records,
    make_psf,
    open_imager,
    refuse_cut,
)


class Gridded:
    """The gridded images of a chunk, and CASA's tools for them.

    Its methods are called with `scratch` as the working directory.

    Parameters
    ----------
    job : ChunkJob
    scratch : str
        Directory for what CASA's tools write for themselves; empty at first.

    Attributes
    ----------
    reselects : bool
        As for `ImagingRecords.channels`: False after CASA has failed with the data selected so.
    """

    #: Name in the chunk's folder of what tells the next worker that this one died of the PSF.
    STATE = "psf-begun"

    def __init__(self, job: ChunkJob, scratch: str) -> None:
        self.reselects = True
        self._job = job
        self._scratch = scratch
        self._imager: Any = None
        self._normalizer: Any = None

    def make(self, *, lastcycle: bool, with_residual: bool) -> None:
        """Make PSF, primary beam and residual, with the gridded model if there is one.

        What the run goes on from is brought before, and of what is made the core channels are
        copied out.

        Parameters
        ----------
        lastcycle : bool
            tclean's control of the same name.
        with_residual : bool
            Whether the residual is made, or an earlier run's stays.
        """
        job, beginning = self._job, self._job.cube.beginning
        if beginning.makes_psf:
            self._make_psf()
            refuse_cut(f"{job.gridded}.psf", str(job.chunk))
            if job.cube.records.gridding["gridder"] != "standard":
                # The standard gridder's is made with the PSF, in C++.
                self._imager.makepb()
            self._normalizer.normalizeprimarybeam()
        else:
            self._bring_earlier()
            self._open()
            if beginning.makes_residual or job.cube.cleans:
                refuse_cut(self._probe(), str(job.chunk))
        made = set(beginning.made_first)
        if with_residual:
            self.major(lastcycle=lastcycle)
            made |= {"residual", "sumwt"}
        if job.cube.data_guards is not None:
            self.close()
        self._copy_out(*(product for product in IMAGER_PRODUCTS if product in made))

    def major(self, *, lastcycle: bool) -> None:
        """Make the residual, with the gridded model as it is on disk.

        Parameters
        ----------
        lastcycle : bool
            tclean's control of the same name.
        """
        grid_residual(self._imager, self._job.cube.records, lastcycle=lastcycle)

    def gather_model(self) -> None:
        """Bring the models of core and guard channels into the gridded model."""
        job = self._job
        if job.gridded == job.core():
            return
        target = f"{job.gridded}.model"
        if not os.path.isdir(target):
            images.empty_model(f"{job.gridded}.residual", target)
        gather_model(job, job.chunk, target)

    def copy_residual(self) -> None:
        """Copy the core channels of the residual to the core images."""
        job = self._job
        if job.gridded == job.core():
            return
        for product in ("residual", "sumwt"):
            images.copy_channels(
                f"{job.gridded}.{product}", job.chunk.core_in_gridded, f"{job.core()}.{product}"
            )

    def fitted_beams(self) -> tuple[Record | None, list[int]]:
        """Find to which core planes of the PSF CASA could fit a beam.

        Returns
        -------
        largest : dict or None
            The beam of the largest area.
        unfitted : list of int
            Core planes without a fit.
        """
        job, chunk = self._job, self._job.first
        if not job.cube.beginning.makes_psf:
            return None, []
        psf = f"{job.core() if self._is_core else job.gridded}.psf"
        all_beams = beams.plane_beams(images.image_info(psf), chunk.gridded_channels)
        failed = {plane for plane in beams.suspects(all_beams) if not self._fits(psf, plane)}
        core = [
            plane
            for plane in range(len(all_beams))
            if chunk.is_core(plane % chunk.gridded_channels)
        ]
        largest = beams.largest(all_beams[plane] for plane in core if plane not in failed)
        return largest, [i for i, plane in enumerate(core) if plane in failed]

    def close(self) -> None:
        """Close CASA's tools; the images stay."""
        for tool in (self._normalizer, self._imager):
            if tool is not None:
                tool.done()
        self._normalizer = self._imager = None

    def _records(self, prefix: str) -> ImagingRecords:
        return gridding_records(self._job, self._job.first, prefix, reselects=self.reselects)

    def _open(self) -> None:
        records = self._records(self._job.gridded)
        self._imager = open_imager(self._job, records)
        self._normalizer = synthesisnormalizer()
        self._normalizer.setupnormalizer(normpars=records.normalization)

    def _make_psf(self) -> None:
        """Make the PSF, and with it the standard gridder's primary beam."""

        def begin(*, reselects: bool) -> Any:
            self.close()
            self.reselects = reselects
            # An imager takes over tables of weights that it finds.
            empty_folder(self._scratch)
            for product in IMAGER_PRODUCTS:
                shutil.rmtree(f"{self._job.gridded}.{product}", ignore_errors=True)
            self._bring_earlier()
            self._open()
            return self._imager

        make_psf(begin, os.path.join(self._job.folder(), self.STATE), reselects=self.reselects)

    def _bring_earlier(self) -> None:
        """Cut this chunk out of the images from which the run goes on.

        CASA writes into them, as into tclean's. It does not begin a residual's summed weights
        anew, for one thing, where they exist.
        """
        chunk, beginning = self._job.chunk, self._job.cube.beginning
        core, gridded = self._job.core(), self._job.gridded
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

    def _probe(self) -> str:
        """Have CASA make an image as large as the gridded ones, for what it says of itself."""
        probe = os.path.join(self._scratch, "probe")
        records = self._records(probe)
        start = os.path.join(self._scratch, "start.model")
        images.empty_model(f"{self._job.gridded}.psf", start)
        image = {**records.image, "startmodel": start}
        with selected_imager(replace(records, image=image)):
            return f"{probe}.model"

    @property
    def _is_core(self) -> bool:
        """Whether CASA's imager made the core images as they are, and is done with them."""
        first = self._job.first
        is_first_pass_alone = self._job.cube.data_guards is not None
        return is_first_pass_alone and first.gridded_channels == first.channels

    def _copy_out(self, *products: str) -> None:
        job = self._job
        if job.gridded == job.core():
            return
        for product in products:
            source, target = f"{job.gridded}.{product}", f"{job.core()}.{product}"
            if os.path.isdir(source):
                shutil.rmtree(target, ignore_errors=True)
                if self._is_core:
                    os.rename(source, target)
                else:
                    images.cut(source, target, job.first.core_in_gridded)

    def _fits(self, psf: str, plane: int) -> bool:
        """Tell whether CASA can fit a beam to one plane of the PSF, by having it do so."""
        pol, channel = divmod(plane, self._job.first.gridded_channels)
        single = os.path.join(self._scratch, "plane")
        images.cut(psf, f"{single}.psf", slice(channel, channel + 1), pol=pol)
        synthesisutils().fitPsfBeam(
            imagename=single, psfcutoff=self._job.cube.records.normalization["psfcutoff"]
        )
        (beam,) = beams.plane_beams(images.image_info(f"{single}.psf"), 1)
        shutil.rmtree(f"{single}.psf")
        return not beams.is_missing(beam)
