# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker needs of memory, and what CASA must be told so that it does not cut a chunk.

Covers: the memory that CASA plans with when it decides into how many pieces it cuts a cube, the
memory that a worker really takes, and how many channels and workers fit. Plain functions on plain
data.

Does not cover: how Dask enforces a limit (:mod:`ptclean.workers.worker_spec`).

Why it matters for the image: CASA cuts a cube that does not fit its budget, down to single
channels, and a piece of one channel is gridded without interpolation in frequency. So a worker's
budget must never be the reason for a cut, and the chunks must be such that they do fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Float planes for each channel that CASA reckons with, by gridder
#: (``SynthesisImagerVi2::runCubeGridding``: ``fudge_factor``).
_PLANES = {"standard": 9, "mosaic": 20}
_PLANES_OTHERWISE = 15

#: CASA's padding of the gridded image (tclean has no parameter for it) and its margin.
_PADDING = 1.2
_MARGIN = 1.1

#: What a worker holds before it images anything, in bytes (measured, 6.7.0.31: 215 MB after the
#: imports, 310 MB with a measurement set selected).
WORKER_BASE = 310 * 10**6

#: Measured peak of a worker, bytes for each pixel: of the first channel and of every further one,
#: and of every further one where masks are made, on images of their own.
_FIRST_CHANNEL = 102
_FURTHER_CHANNEL = 59
_FURTHER_MASKED = 93
_FURTHER_MOSAIC = 80

#: Part of the memory that is free which ptclean plans to use; as CASA, which leaves a fifth.
USABLE = 0.8


@dataclass(frozen=True)
class ImageSize:
    """Size of one channel of the cube.

    Attributes
    ----------
    nx, ny : int
        Pixels.
    npol : int
        Stokes planes.
    gridder : str
        tclean's parameter.
    automasks : bool
        Whether CASA makes masks of the residual (``usemask='auto-multithresh'``).
    """

    nx: int
    ny: int
    npol: int = 1
    gridder: str = "standard"
    automasks: bool = False

    @property
    def pixels(self) -> int:
        """Pixels of all Stokes planes of one channel."""
        return self.nx * self.ny * self.npol


def padded(pixels: int) -> int:
    """Length to which CASA pads an image axis: the next even number with factors 2, 3 and 5.

    Follows ``SynthesisUtilMethods``/``nSubCubeFitInMemory``.
    """
    length = int(_PADDING * pixels - 0.5)
    length += 1 + (length + 1) % 2
    while not _composite(length):
        length += 2
    return length


def _composite(number: int) -> bool:
    for factor in (2, 3, 5):
        while number % factor == 0:
            number //= factor
    return number == 1


def casa_requirement(size: ImageSize, channels: int) -> int:
    """Bytes that CASA reckons it needs to grid `channels` channels in one piece.

    Parameters
    ----------
    size : ImageSize
    channels : int
        Gridded channels, guards included.

    Returns
    -------
    int
        The number that tclean writes into its images' ``miscinfo`` as ``memreq``, there in GiB.
    """
    planes = _PLANES.get(size.gridder, _PLANES_OTHERWISE)
    area = padded(size.nx) * padded(size.ny) * size.npol
    return round(_MARGIN * planes * 4 * area * channels)


def casa_budget(size: ImageSize, channels: int) -> int:
    """MB to give CASA as ``system.resources.memory`` so that it grids `channels` in one piece.

    Twice what CASA reckons with, so that another version's other margin does not cut the chunk;
    it is a promise to CASA's planning, not an allocation.
    """
    return max(1024, math.ceil(2 * casa_requirement(size, channels) / 2**20))


def worker_memory(size: ImageSize, channels: int) -> int:
    """Bytes that a worker takes at its peak while it grids `channels` channels.

    The first channel, the one that is gridded, is scaled by CASA's own count of planes for the
    gridder; the others take no more with wproject than with standard, and a third more in mosaics.

    Notes
    -----
    ``benchmarks/worker_memory.py`` on a small measurement set, whose base is 90 MiB less; images of
    1024 x 1024 pixels, peak in MiB beside what is planned (tclean 6.7.0.31):

    ===========  ========  ========  =======
    case         channels  measured  planned
    ===========  ========  ========  =======
    standard            1       316      398
    standard            6       603      693
    automasking         2       486      491
    automasking         6       840      863
    wproject            2       428      525
    wproject            6       609      761
    mosaic              6       830      922
    ===========  ========  ========  =======
    """
    planes = _PLANES.get(size.gridder, _PLANES_OTHERWISE) / _PLANES["standard"]
    first = _FIRST_CHANNEL * planes
    further = _FURTHER_MASKED if size.automasks else _FURTHER_CHANNEL
    if size.gridder == "mosaic":
        further += _FURTHER_MOSAIC - _FURTHER_CHANNEL
    return round(WORKER_BASE + size.pixels * (first + further * (channels - 1)))


def largest_gridded(size: ImageSize, available: int) -> int:
    """Channels that a worker with `available` bytes can grid at once; 0 if not even one."""
    spare = available - worker_memory(size, 1)
    if spare < 0:
        return 0
    return 1 + int(spare / (worker_memory(size, 2) - worker_memory(size, 1)))


def workers_that_fit(wanted: int, each: int, available: int) -> int:
    """Workers that fit into `available` bytes when each takes `each`; at least one."""
    return max(1, min(wanted, available // max(1, each)))
