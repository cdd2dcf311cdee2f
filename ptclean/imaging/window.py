# SPDX-License-Identifier: GPL-3.0-or-later
"""Grid, in major cycles, no more channels of a chunk than have a model.

Where a run begins without a model, the first pass over the data leaves each channel's residual as
it is without one. That stays right for all channels that no model reaches: a major cycle need not
grid them. The others are within one *window*, from the first to the last of them, which has guard
channels and an imager of its own, as if it were a chunk. A window only grows. So that it need not
grow in each cycle, its first size takes in the channels whose residual is above the threshold.

A line in a few channels then costs major cycles of these channels; and the first pass, over all of
them, needs no guard channels for models.

The window's images are ``window.*`` in the chunk's folder; `_RANGE` tells its channels, to whoever
takes the chunk up.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from typing import Any

from ..keeping.durable import write_json
from ..keeping.workdir import empty_folder
from ..planning.axis import shifted
from ..planning.chunks import Chunk
from ..products import images
from .chunk_job import IMAGER_PRODUCTS, ChunkJob
from .gridding import (
    gather_model,
    grid_residual,
    gridding_records,
    make_psf,
    open_imager,
    refuse_cut,
)
from .history import Components, components, write_model

_RANGE = "window.json"

#: File that is there while an imager grids for the first time, and after a process has died of it.
_BEGUN = "window-begun"


class Window:
    """The channels of a chunk that major cycles grid, and CASA's imager for them.

    Parameters
    ----------
    job : ChunkJob

    Attributes
    ----------
    channels : Chunk or None
        Core and guard channels; None as long as there is no window.
    """

    #: Names in the chunk's folder of what is needed to take it up; the model, only where the last
    #: major cycle is complete.
    STATE = (_RANGE, _BEGUN)
    MODEL = "window.model"

    def __init__(self, job: ChunkJob) -> None:
        self._job = job
        self._scratch = job.new_scratch("window-scratch")
        self._imager: Any = None
        self._records: Any = None
        self.channels: Chunk | None = self._kept_range()

    def major(self, *, lastcycle: bool, threshold: float, reselects: bool) -> bool:
        """Renew the residual of the chunk's core channels.

        Parameters
        ----------
        lastcycle : bool
            tclean's control of the same name.
        threshold : float
            Of the clean, in Jy; 0 if there is none.
        reselects : bool
            As for `ImagingRecords.channels`.

        Returns
        -------
        bool
            Whether there was anything to grid.
        """
        wanted = self._wanted(threshold)
        if wanted is None:
            return False
        self._set(*wanted)
        self._gather_model()
        self._grid(lastcycle=lastcycle, reselects=reselects)
        return True

    def renew(self, *, lastcycle: bool, reselects: bool, gathers: bool) -> None:
        """Grid the window as it is, if there is one, after another worker has had it.

        Parameters
        ----------
        lastcycle, reselects : bool
            As for `major`.
        gathers : bool
            Whether to take the models as they are now; otherwise as they were for the last major
            cycle.
        """
        if self.channels is None:
            return
        if gathers:
            self._gather_model()
        self._grid(lastcycle=lastcycle, reselects=reselects)

    def repeat(self, start: int, stop: int, model: Components, *, reselects: bool) -> None:
        """Run a major cycle of an earlier worker again.

        Parameters
        ----------
        start, stop : int
            Core channels of the window, as they were.
        model : Components
            Of all its channels.
        reselects : bool
            As for `major`.
        """
        self._set(start, stop)
        self._empty_model()
        write_model(model, self._model, self._model)
        self._grid(lastcycle=False, reselects=reselects)

    @property
    def core(self) -> list[int]:
        """First core channel, and that after the last."""
        assert self.channels is not None
        return [self.channels.start, self.channels.stop]

    def components(self) -> Components:
        """Return the components of the model that was gridded last."""
        return components(self._model)

    def close(self) -> None:
        """Close CASA's tool; the images stay."""
        if self._imager is not None:
            self._imager.done()
            self._imager = None

    # What the window is

    def _wanted(self, threshold: float) -> tuple[int, int] | None:
        """First core channel, and that after the last, of those that a model reaches."""
        if self.channels is not None and self.channels.channels == self._job.chunk.channels:
            # It cannot grow: the models need not be looked through.
            return self.channels.start, self.channels.stop
        with_model = self._channels_with_model()
        reached = self._reached(with_model)
        if self.channels is not None:
            reached |= {self.channels.start, self.channels.stop - 1}
        elif reached:
            reached = self._reached(with_model | self._above(threshold))
        return (min(reached), max(reached) + 1) if reached else None

    def _reached(self, with_model: set[int]) -> set[int]:
        """Core channels whose residual the models of some channels reach."""
        chunk, reach = self._job.chunk, self._job.cube.guards.reach
        return {
            channel
            for channel in range(chunk.start, chunk.stop)
            if with_model.intersection(range(channel - reach, channel + reach + 1))
        }

    def _channels_with_model(self) -> set[int]:
        """Channels of the cube, among the chunk's core and guard channels, that have a model."""
        chunk = self._job.chunk
        found = set()
        for other in (chunk, *self._job.neighbours):
            start = max(other.start, chunk.gridded_start)
            stop = min(other.stop, chunk.gridded_stop)
            of_other = slice(start - other.start, stop - other.start)
            has_values = images.channels_with_values(f"{self._job.core(other)}.model", of_other)
            found |= {start + i for i, has in enumerate(has_values) if has}
        return found

    def _above(self, threshold: float) -> set[int]:
        """Core channels that will be cleaned, as far as can be told."""
        chunk = self._job.chunk
        if threshold <= 0:
            return {chunk.start, chunk.stop - 1}
        peaks = images.channel_peaks(f"{self._job.core()}.residual")
        return {chunk.start + i for i, peak in enumerate(peaks) if peak > threshold}

    def _set(self, start: int, stop: int) -> None:
        job = self._job
        channels = job.cube.guards.around(start, stop, job.cube.channels, job.chunk.index)
        if channels == self.channels:
            return
        self.close()
        self._remove(*IMAGER_PRODUCTS, "model", "gridwt")
        write_json(os.path.join(job.folder(), _RANGE), [start, stop])
        self.channels = channels

    def _kept_range(self) -> Chunk | None:
        job = self._job
        try:
            with open(os.path.join(job.folder(), _RANGE)) as f:
                start, stop = json.load(f)
        except FileNotFoundError:
            return None
        return job.cube.guards.around(start, stop, job.cube.channels, job.chunk.index)

    # Its images

    @property
    def _prefix(self) -> str:
        return os.path.join(self._job.folder(), "window")

    @property
    def _model(self) -> str:
        return f"{self._prefix}.model"

    def _remove(self, *products: str) -> None:
        for product in products:
            shutil.rmtree(f"{self._prefix}.{product}", ignore_errors=True)

    def _empty_model(self) -> None:
        assert self.channels is not None
        job = self._job
        self._remove("model")
        (*plane, _), _ = images.shape_and_coordinates(f"{job.core()}.residual")
        images.new_model(
            self._model,
            (*plane, self.channels.gridded_channels),
            shifted(job.cube.coordinates, self.channels.gridded_start),
        )

    def _gather_model(self) -> None:
        """Bring the models of core and guard channels into the window's."""
        assert self.channels is not None
        if not os.path.isdir(self._model):
            self._empty_model()
        gather_model(self._job, self.channels, self._model)

    def _grid(self, *, lastcycle: bool, reselects: bool) -> None:
        if self._imager is None:
            self._begin(reselects=reselects)
        with contextlib.chdir(self._scratch):
            grid_residual(self._imager, self._records, lastcycle=lastcycle)
        self._copy_residual()

    def _begin(self, *, reselects: bool) -> None:
        """Open an imager and make the PSF.

        The PSF is of no use, but without it CASA weighs the residual otherwise where channels have
        flags of their own.
        """
        assert self.channels is not None
        os.makedirs(self._scratch, exist_ok=True)
        with contextlib.chdir(self._scratch):
            begun = os.path.join(self._job.folder(), _BEGUN)
            make_psf(self._open, begun, reselects=reselects)
        refuse_cut(f"{self._prefix}.psf", str(self.channels))

    def _open(self, *, reselects: bool) -> Any:
        assert self.channels is not None
        self.close()
        empty_folder(self._scratch)
        self._remove(*IMAGER_PRODUCTS, "gridwt")
        self._records = gridding_records(
            self._job, self.channels, self._prefix, reselects=reselects
        )
        self._imager = open_imager(self._job, self._records)
        return self._imager

    def _copy_residual(self) -> None:
        """Bring the core channels' residual to the chunk's."""
        assert self.channels is not None
        first = self.channels.start - self._job.chunk.start
        for product in ("residual", "sumwt"):
            images.copy_channels(
                f"{self._prefix}.{product}",
                self.channels.core_in_gridded,
                f"{self._job.core()}.{product}",
                first,
            )
