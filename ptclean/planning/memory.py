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
from dataclasses import asdict, dataclass

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

#: Measured peak of a worker, bytes for each pixel: of the first channel that is gridded and of each
#: further one; of masks that CASA makes, for the channel that stands for all others, for each core
#: channel, and for each core channel in a major cycle; of a minor cycle, for each core channel
#: without such masks and with them, and for each scale of multiscale.
_FIRST_CHANNEL = 102
_FURTHER_CHANNEL = 59
_FURTHER_MOSAIC = 80
_MASKS = 104
_MASKS_CHANNEL = 89
_MASKED_MAJOR = 18
_MINOR_CHANNEL = 44
_MINOR_MASKED = 47
_MINOR_SCALE = 25

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
    scales : int
        Number of scales that are cleaned, if the deconvolver knows any.
    """

    nx: int
    ny: int
    npol: int = 1
    gridder: str = "standard"
    automasks: bool = False
    scales: int = 0

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
    wproject            2       428      525
    wproject            6       609      761
    mosaic              6       830      922
    ===========  ========  ========  =======
    """
    planes = _PLANES.get(size.gridder, _PLANES_OTHERWISE) / _PLANES["standard"]
    further = _FURTHER_MOSAIC if size.gridder == "mosaic" else _FURTHER_CHANNEL
    return round(WORKER_BASE + size.pixels * (_FIRST_CHANNEL * planes + further * (channels - 1)))


def masks_memory(size: ImageSize, channels: int) -> int:
    """Bytes that a worker takes while CASA makes the masks of a chunk of `channels` core channels.

    They are made on images that have one channel more.
    """
    return round(WORKER_BASE + size.pixels * (_MASKS + _MASKS_CHANNEL * channels))


def minor_memory(size: ImageSize, channels: int) -> int:
    """Bytes that a worker takes in a minor cycle of a chunk of `channels` core channels.

    Restoring takes less.
    """
    each = _MINOR_MASKED if size.automasks else _MINOR_CHANNEL
    of_channels = each * (channels + size.automasks)
    return round(WORKER_BASE + size.pixels * (of_channels + _MINOR_SCALE * size.scales))


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a worker takes at its peak in the steps of a chunk.

    Attributes
    ----------
    first : int
        While the data are gridded for the first time.
    major : int
        In a major cycle with a model, and so where a worker takes up a chunk that another has had;
        0 where there are none.
    masks : int
        While CASA makes masks; 0 where it makes none.
    minor : int
        In a minor cycle, and while the chunk is restored.
    """

    first: int
    major: int
    masks: int
    minor: int

    @property
    def most(self) -> int:
        """The largest of them."""
        return max(self.first, self.major, self.masks, self.minor)


def step_memory(
    size: ImageSize, channels: int, first: int, gridded: int, *, cleans: bool = True
) -> StepMemory:
    """Say what the steps of a chunk take.

    Parameters
    ----------
    size : ImageSize
    channels : int
        Core channels.
    first : int
        Channels that are gridded in the first pass over the data.
    gridded : int
        Channels that major cycles grid, guards included.
    cleans : bool
        Whether there are major cycles.

    Returns
    -------
    StepMemory

    Notes
    -----
    As for `worker_memory`, chunks of a cube of 1024 x 1024 pixels, MiB, measured / planned (the
    former's base is 90 MiB less); with core and gridded channels:

    =======================  ===========  ===========  ===========  ===========
    case                     first        masks        major        minor
    =======================  ===========  ===========  ===========  ===========
    standard, 2, 7           373 / 457    --           668 / 752    295 / 384
    standard, 4, 9           484 / 575    --           813 / 870    361 / 472
    multiscale, 4, 9         484 / 575    --           809 / 870    433 / 547
    automasking, 2, 7        385 / 457    479 / 578    691 / 788    350 / 437
    automasking, 4, 7        492 / 575    629 / 756    745 / 824    448 / 531
    automasking, 6, 6        603 / 693    808 / 934    814 / 934    529 / 625
    =======================  ===========  ===========  ===========  ===========
    """
    major, masks = worker_memory(size, gridded) if cleans else 0, 0
    if size.automasks:
        masks = masks_memory(size, channels)
        # Which ends with making masks.
        major = max(masks, major + size.pixels * _MASKED_MAJOR * channels)
    return StepMemory(worker_memory(size, first), major, masks, minor_memory(size, channels))


def largest_gridded(size: ImageSize, available: int) -> int:
    """Channels that a worker with `available` bytes can grid at once; 0 if not even one."""
    spare = available - worker_memory(size, 1)
    if spare < 0:
        return 0
    return 1 + int(spare / (worker_memory(size, 2) - worker_memory(size, 1)))


def workers_that_fit(wanted: int, each: int, available: int) -> int:
    """Workers that fit into `available` bytes when each takes `each`; at least one."""
    return max(1, min(wanted, available // max(1, each)))


@dataclass(frozen=True)
class AtOnce:
    """How many tasks run at once.

    Attributes
    ----------
    nworkers : int
        Workers, most of which may have no task in steps that take much memory.
    first, major, masks, minor : int
        Tasks at once in the steps of `StepMemory`.
    """

    nworkers: int
    first: int
    major: int
    masks: int
    minor: int

    @property
    def fewest(self) -> int:
        """Tasks at once in the steps that take most."""
        return min(self.first, self.major, self.masks, self.minor)


def tasks_at_once(memory: StepMemory, wanted: int, available: int) -> AtOnce:
    """Say how many tasks of each step fit into memory, beside workers that wait.

    Parameters
    ----------
    memory : StepMemory
    wanted : int
        Workers at most.
    available : int
        Bytes for all of them together.

    Returns
    -------
    AtOnce
        At least one task at once. As many workers as make the sum of the steps' times least, if
        each takes the same time with one worker: more take memory from steps that need much of it.
    """
    steps = {name: each for name, each in asdict(memory).items() if each}

    def counts(nworkers: int) -> dict[str, int]:
        left = available - nworkers * WORKER_BASE
        found = {name: left // (each - WORKER_BASE) for name, each in steps.items()}
        return {name: max(1, min(nworkers, count)) for name, count in found.items()}

    beside_one = (available - memory.most) // WORKER_BASE
    nworkers = min(
        range(1, max(1, min(wanted, 1 + beside_one)) + 1),
        key=lambda n: sum(1 / count for count in counts(n).values()),
    )
    return AtOnce(nworkers, **dict.fromkeys(asdict(memory), nworkers) | counts(nworkers))
