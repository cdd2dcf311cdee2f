# SPDX-License-Identifier: GPL-3.0-or-later
"""Grid one part of a continuum image's data, inside a worker.

A part has images of its own on disk, sums that are not divided by weights. The steps of a part
are, in this order, `PartImager.weigh` where the weights depend on the density of the data in the
uv plane, `make_psf`, and any number of `major`. CASA's tool lives as long as the imager; a part
whose worker died is taken up by another, from the visibilities and the model on disk.

What is done with the sums of all parts, and the deconvolution, is
:mod:`ptclean.imaging.whole_image`'s; the sequence of steps the driver's
(:mod:`ptclean.imaging.continuum`).
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from casatools import synthesisimager

from ..keeping.durable import sync_tree
from ..keeping.workdir import make_folder
from ..planning.axis import select_and_define
from ..planning.partition import Part
from ..records import ImagingRecords, Record

#: Types of weighting that do not depend on where in the uv plane other data are.
_WITHOUT_DENSITY = ("natural", "radial")

#: Deconvolvers that begin each cycle from the images alone.
_WITHOUT_STATE = ("hogbom", "clark", "clarkstokes", "multiscale", "mtmfs")


@dataclass(frozen=True)
class ContinuumJob:
    """What a worker must know of the image as a whole; plain data.

    Attributes
    ----------
    run : str
        Name of the run, unique among runs: its directory.
    parts : tuple of Part
    records : ImagingRecords
    coordinates : dict
        Coordinate record of the image.
    directory : str
        Directory of the attempt, in the run's work directory, absolute; the same path on each
        worker.
    cleans, restores, corrects : bool
        Whether there are minor cycles; tclean's `restoration` and `pbcor`.
    continued : tuple of (str, str)
        Extension and path of each image of an earlier run from which the clean goes on.
    """

    run: str
    parts: tuple[Part, ...]
    records: ImagingRecords
    coordinates: Record
    directory: str
    cleans: bool
    restores: bool
    corrects: bool
    continued: tuple[tuple[str, str], ...] = ()

    @property
    def density(self) -> str | None:
        """The image of the density of all data in the uv plane; None if there is none."""
        if self.records.weighting["type"] in _WITHOUT_DENSITY:
            return None
        return os.path.join(self.directory, "density.gridwt")

    @property
    def parts_have_density(self) -> bool:
        """Whether the density is the sum of the parts'.

        With a density for each field (`mosweight`) it is not: CASA numbers the fields as they come
        in the data.
        """
        return self.density is not None and not self.records.weighting["multifield"]

    def prefix(self, part: Part) -> str:
        """Prefix of a part's images."""
        return os.path.join(self.directory, f"part-{part.index:03d}", "part")

    @property
    def keeps_state(self) -> bool:
        """Whether all that the deconvolver knows between cycles is in its images.

        Not so of automasks, and of ``asp``, which goes on from the scales that it found last.
        """
        deconvolution = self.records.deconvolution
        is_known = deconvolution["deconvolver"] in _WITHOUT_STATE
        return not self.cleans or (is_known and "auto" not in deconvolution["usemask"])

    @property
    def index(self) -> int:
        """Position among the jobs of the run: after those of the parts."""
        return len(self.parts)

    @property
    def place(self) -> str:
        """Directory that is there as long as the run is wanted."""
        return self.run

    @property
    def cost(self) -> int:
        """Before the parts, where there is a choice."""
        return 1 + sum(part.nrows for part in self.parts)

    @property
    def label(self) -> str:
        """Name in the keys of its tasks."""
        return "whole"

    def __str__(self) -> str:
        return "the image as a whole"


@dataclass(frozen=True)
class PartJob:
    """What a worker must know of a part; plain data."""

    whole: ContinuumJob
    part: Part

    @property
    def run(self) -> str:
        """Name of the run, unique among runs."""
        return self.whole.run

    @property
    def index(self) -> int:
        """Position among the parts."""
        return self.part.index

    @property
    def place(self) -> str:
        """Directory that is there as long as the run is wanted."""
        return self.run

    @property
    def cost(self) -> int:
        """Rows, which the time of a step grows with."""
        return self.part.nrows

    @property
    def label(self) -> str:
        """Name in the keys of its tasks."""
        return f"part-{self.index:02d}"

    def __str__(self) -> str:
        return str(self.part)


def is_start(name: str) -> bool:
    """Tell whether an entry of a part's folder is what its major cycles start from."""
    return _product(name) == "model"


def is_gridded(name: str) -> bool:
    """Tell whether an entry of a part's folder is what its major cycles leave."""
    return _product(name) in ("residual", "sumwt", "weight")


def sync_images(folder: str, are: Callable[[str], bool]) -> None:
    """Have the images of a part's folder written to disk that are of a kind, such as `is_start`."""
    for name in filter(are, os.listdir(folder)):
        sync_tree(os.path.join(folder, name))


def _product(name: str) -> str:
    kind, _, product = name.partition(".")
    return product.split(".")[0] if kind == "part" else ""


class PartImager:
    """CASA's imager for one part of the data.

    Parameters
    ----------
    job : PartJob

    Attributes
    ----------
    steps : int
        Steps that are complete.
    """

    def __init__(self, job: PartJob) -> None:
        self.job = job
        self.steps = 0
        self._imager: Any = None

    def weigh(self) -> None:
        """Sum the weights of this part's data in the cells of the uv plane, into an image."""
        self._open()
        with contextlib.chdir(self._scratch):
            self._imager.getweightdensity()
        self.steps += 1

    def make_psf(self) -> None:
        """Make the PSF, weighted with the density of all data."""
        if self._imager is None:
            self._open()
        self._grid_psf()
        self.steps += 1

    def major(self, *, lastcycle: bool) -> None:
        """Make the residual, with the model that is on disk.

        Parameters
        ----------
        lastcycle : bool
            tclean's control of the same name.
        """
        with contextlib.chdir(self._scratch):
            self._imager.executemajorcycle(
                controls={
                    "lastcycle": lastcycle,
                    "usemask": self.job.whole.records.deconvolution["usemask"],
                }
            )
        # A driver that comes later adds them up again.
        sync_images(os.path.dirname(self._prefix), is_gridded)
        self.steps += 1

    def recover(self, steps: int, next_step: str) -> None:
        """Take up a part whose first `steps` steps another worker has made.

        Parameters
        ----------
        steps : int
        next_step : {'make_psf', 'major'}
        """
        self._open()
        if next_step == "major":
            self._grid_psf()
        self.steps = steps

    def close(self) -> None:
        """Close CASA's tool; the images stay."""
        if self._imager is not None:
            self._imager.done()
            self._imager = None

    @property
    def _prefix(self) -> str:
        return self.job.whole.prefix(self.job.part)

    @property
    def _scratch(self) -> str:
        return os.path.join(os.path.dirname(self._prefix), "scratch")

    def _open(self) -> None:
        """Select the data and define the image, with nothing of a former worker but the model."""
        folder = os.path.dirname(self._prefix)
        make_folder(folder)
        for name in os.listdir(folder):
            if not name.startswith("part.model"):
                shutil.rmtree(os.path.join(folder, name))
        os.mkdir(self._scratch)
        records = self.job.whole.records
        part = ImagingRecords(
            **{
                **records.named(self._prefix).__dict__,
                "selection": self.job.part.selection(records.selection),
            }
        )
        # The frequency is that of all data; a start model comes with the models of the clean.
        part.image["csys"] = copy.deepcopy(self.job.whole.coordinates)
        part.image.pop("startmodel", None)
        with contextlib.chdir(self._scratch):
            self._imager = synthesisimager()
            select_and_define(self._imager, part)
            self._imager.normalizerinfo(part.normalization)
            self._imager.setweighting(**part.weighting)

    def _grid_psf(self) -> None:
        density = self.job.whole.density
        with contextlib.chdir(self._scratch):
            if density is not None:
                self._imager.setweightdensity(density)
            self._imager.makepsf()
