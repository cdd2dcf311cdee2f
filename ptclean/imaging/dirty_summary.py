# SPDX-License-Identifier: GPL-3.0-or-later
"""What tclean returns of images that were made and not cleaned, in a small part of its time.

CASA's task opens up to three images for each plane and has their pixels handed over as Python
objects: 28 s for 256 planes of 1024 x 1024, in one process, while all workers are idle. Here the
pixels are read from the images' files (:mod:`ptclean.products.tiles`). Whether that gives what the
installed CASA says is tried on the first plane; if it does not, CASA does all of them.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from casatasks.private.imagerhelpers.imager_return_dict import ImagingDict

from ..products import tiles
from ..products.tiles import Tiles
from ..records import Record

#: Most bytes of pixels of an image held at a time.
_BLOCK_BYTES = 2**28


class DirtySummary(ImagingDict):  # type: ignore[misc]
    """CASA's maker of that dictionary, with another way to the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self._images: dict[str, _Planes | None] = {}
        #: Whether what is read here leads to what CASA says; None if not tried yet.
        self.is_own: bool | None = None

    def fill_summary_minor(
        self, channo: int, stokes: int, stokes_axis: int, freq_axis: int, fullsummary: bool
    ) -> Record:
        """Sum up one plane; overrides CASA's method, of which it has name and arguments."""
        own = None
        if self.is_own is not False and (stokes_axis, freq_axis) == (2, 3):
            own = self._summed_up(channo, stokes, fullsummary)
        if self.is_own and own is not None:
            return own
        found: Record = super().fill_summary_minor(
            channo, stokes, stokes_axis, freq_axis, fullsummary
        )
        if self.is_own is None:
            self.is_own = _are_same(found, own)
        return found

    def _summed_up(self, channel: int, stokes: int, full: bool) -> Record | None:
        """Return the same as CASA; None if an image is not as this package knows it."""
        residual = self._plane(self.residname, channel, stokes)
        if residual is None:
            return None
        peak = unmasked = np.float64(np.amax(residual))
        mask_sum = np.float64(0.0)
        if self.maskname:
            mask = self._plane(self.maskname, channel, stokes)
            if mask is None:
                return None
            mask = mask.astype(np.float64)
            peak, mask_sum = np.amax(residual * mask), np.sum(mask)
        flux: Any = 0
        if os.path.exists(self.modelname):
            model = self._plane(self.modelname, channel, stokes)
            if model is None:
                return None
            # CASA adds up in double precision, in this order.
            flux = np.sum(model.astype(np.float64)) if model.any() else np.float64(0.0)
        told = {
            "iterDone": [0.0],
            "peakRes": [peak],
            "modelFlux": [flux],
            "cycleThresh": [0.0],
        }
        if full:
            told |= {
                "cycleStartIters": [0.0],
                "startIterDone": [0.0],
                "startPeakRes": [peak],
                "startModelFlux": [flux],
                "startPeakResNM": [unmasked],
                "peakResNM": [unmasked],
                "masksum": [mask_sum],
                "mpiServer": [0.0],
                "stopCode": [3],
            }
        return told

    def _plane(self, path: str, channel: int, stokes: int) -> Any:
        if path not in self._images:
            layout = tiles.tiles(path, tiles.PIXELS)
            # Complex images have no peak.
            self._images[path] = _Planes(layout) if layout and layout.bits == 32 else None
        planes = self._images[path]
        return None if planes is None else planes.plane(channel, stokes)


class _Planes:
    """Planes of an image, read by as many channels as make up a tile."""

    def __init__(self, layout: Tiles) -> None:
        self._layout = layout
        bytes_of_channel = 4 * int(np.prod(layout.shape[:3]))
        self._step = max(1, min(layout.tile[3], _BLOCK_BYTES // bytes_of_channel))
        self._start = -1
        self._pixels: Any = None

    def plane(self, channel: int, stokes: int) -> Any:
        """Return a plane, its axes being y and x."""
        start = channel // self._step * self._step
        if start != self._start:
            stop = min(start + self._step, self._layout.shape[3])
            self._pixels = tiles.planes(self._layout, start, stop, np.float32)
            self._start = start
        return self._pixels[channel - start, stokes]


def _are_same(expected: Record, found: Record | None) -> bool:
    """Whether two dictionaries of lists have the same values of the same types."""
    return (
        found is not None
        and list(expected) == list(found)
        and all(
            value == found[name] and [type(v) for v in value] == [type(v) for v in found[name]]
            for name, value in expected.items()
        )
    )
