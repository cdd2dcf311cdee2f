# SPDX-License-Identifier: GPL-3.0-or-later
"""Cut the channels of a cube into chunks with guard channels.

Plain functions on plain data: nothing here knows CASA, Dask or a file system.

A chunk owns *core* channels, which end up in the cube. It grids them together with *guard*
channels (`Guards`), up to as many on either side as the degridding of its core channels can reach:
the model is interpolated between image channels, and a chunk that did not know its neighbours'
model would leave another residual in its first and last channel. Guards also keep a chunk of one
core channel from being gridded alone: for an image of one channel CASA drops the linear
interpolation of the data (``FTMachine``), which changes even its PSF.

What is *not* decided here: how many channels fit into memory (:mod:`ptclean.planning.memory`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: Channels on one side of a data channel that an interpolation of the given kind takes part in.
_STENCIL = {"nearest": 1, "linear": 1, "cubic": 2}

#: Widths that differ by less than this count as equal: an image's own width comes from the data's
#: by a change of frame, of up to 90 km/s here.
_SAME_WIDTH = 3e-4

#: Chunks for each worker where the cube is cleaned: enough of them that the ones without emission
#: can be left out of major cycles, and that a slow one does not hold up the others.
CHUNKS_PER_WORKER = 4

#: Chunks below this many channels spend more than a tenth of their time on fixed costs
#: (selecting data, defining images), unless the images are large; see `smallest_useful_chunk`.
SMALLEST_USEFUL_CHUNK = 16


@dataclass(frozen=True)
class Guards:
    """How many guard channels a range of channels gets.

    Attributes
    ----------
    sides : int
        On either side, fewer at the ends of the cube.
    fewest : int
        Channels that are gridded at least, if the cube has as many: a range gets more guard
        channels where it would be gridded as fewer, such as a single one.
    even : bool
        Whether the first gridded channel must be an even one; takes another guard channel if not.
    above : int
        Guard channels more at the upper end.
    """

    sides: int = 0
    fewest: int = 2
    even: bool = False
    above: int = 0

    def __post_init__(self) -> None:
        if min(self.sides, self.above) < 0:
            raise ValueError(f"there cannot be fewer guard channels than none: {self}")

    @property
    def most(self) -> int:
        """Guard channels of a range, both sides together, but for those that `fewest` adds."""
        return 2 * self.sides + self.even + self.above

    @property
    def reach(self) -> int:
        """How far away a channel may be that is a guard channel, but for those of `fewest`."""
        return self.sides + max(self.above, int(self.even))

    def gridded_channels(self, channels: int, nchan: int) -> int:
        """Channels that are gridded for so many core ones, at most, wherever these are.

        Parameters
        ----------
        channels : int
            Core channels.
        nchan : int
            Channels of the cube.
        """
        return min(nchan, max(self.fewest + self.even, channels + self.most))

    def around(self, start: int, stop: int, nchan: int, index: int = 0) -> Chunk:
        """Give channels of a cube their guard channels.

        Parameters
        ----------
        start, stop : int
            Channels, ``start <= channel < stop``.
        nchan : int
            Channels of the cube.
        index : int
            Of the chunk.

        Returns
        -------
        Chunk
        """
        first = max(0, start - self.sides)
        last = min(nchan, stop + self.sides + self.above)
        lacking = min(self.fewest, nchan) - (last - first)
        while lacking > 0:
            if first:
                first -= 1
            else:
                last += 1
            lacking -= 1
        if self.even:
            first -= first % 2
        return Chunk(index, start, stop, first, last)


@dataclass(frozen=True)
class Chunk:
    """One piece of the cube; channels count from 0, ranges are half open.

    Attributes
    ----------
    index : int
        Position among the chunks.
    start, stop : int
        Core channels, ``start <= channel < stop``.
    gridded_start, gridded_stop : int
        Core and guard channels.
    """

    index: int
    start: int
    stop: int
    gridded_start: int
    gridded_stop: int

    @property
    def channels(self) -> int:
        """Number of core channels."""
        return self.stop - self.start

    @property
    def gridded_channels(self) -> int:
        """Number of channels gridded, guards included."""
        return self.gridded_stop - self.gridded_start

    @property
    def core_in_gridded(self) -> slice:
        """The core channels as a slice of the gridded ones."""
        first = self.start - self.gridded_start
        return slice(first, first + self.channels)

    def is_core(self, gridded_channel: int) -> bool:
        """Tell whether a channel, counted among the gridded ones, is a core channel."""
        return self.start <= self.gridded_start + gridded_channel < self.stop

    def touches(self, other: Chunk) -> bool:
        """Tell whether core channels of `other` are guard channels of this chunk."""
        return other.start < self.gridded_stop and other.stop > self.gridded_start

    def __str__(self) -> str:
        last = self.stop - 1
        core = f"{self.start}" if last == self.start else f"{self.start}~{last}"
        return f"chunk {self.index} (channels {core})"


def guard_channels(
    interpolation: str, data_width: float, image_width: float, *, degrids: bool = True
) -> int:
    """How many guard channels a chunk needs on either side.

    A data channel takes part in the gridding of an image channel when it is no further away than
    the interpolation reaches, in data channels; its model value comes from image channels no
    further away than the interpolation reaches, in image channels. A data channel that is just as
    far away as the interpolation reaches counts for nothing but the last bit: where data and image
    channels fall together, as they do at the first integration on the default axis, the sum of its
    value and of its difference from the next one is rounded. CASA itself hands its own
    sub-cubes two more model channels on either side (``CubeMajorCycleAlgorithm::subImageStore``).

    Parameters
    ----------
    interpolation : {'nearest', 'linear', 'cubic'}
        tclean's parameter.
    data_width, image_width : float
        Channel widths in Hz, of either sign. `data_width` is that of the widest data channel.
    degrids : bool
        Whether models are interpolated too, and not data alone.

    Returns
    -------
    int
        At least 1 if `degrids`.

    Raises
    ------
    ValueError
        For an unknown interpolation or a width of zero.
    """
    if interpolation not in _STENCIL:
        raise ValueError(
            f"interpolation={interpolation!r}: one of {', '.join(map(repr, _STENCIL))}"
        )
    if not data_width or not image_width:
        raise ValueError(f"channel widths must not be zero: {data_width=}, {image_width=}")
    stencil = _STENCIL[interpolation]
    reach = abs(data_width / image_width)
    if not degrids and interpolation != "cubic" and reach <= 1 + _SAME_WIDTH:
        # Guards are wanted only where few data channels belong to a chunk.
        return 0
    if interpolation == "nearest":
        return max(1, math.ceil(reach - _SAME_WIDTH))
    # A data channel just out of reach is within it where frequencies are equal; CASA's cubic then
    # takes a channel more below, with a weight of zero but for rounding
    # (``InterpolateArray1D::polynomialInterpolation``).
    channels = max(
        math.floor(stencil * reach + _SAME_WIDTH) + stencil,
        math.ceil(stencil * reach - _SAME_WIDTH) + 2 * (stencil - 1),
    )
    if reach > 1 + _SAME_WIDTH:
        # Models are not made for image channels beyond the last one with the centre of a data
        # channel in it (``FTMachine::getInterpolateArrays``): one more data channel is wanted.
        channels += math.ceil(reach) + 1
    return channels


def cut(nchan: int, size: int, guards: Guards) -> tuple[Chunk, ...]:
    """Cut `nchan` channels into chunks of `size` core channels; the last one takes what is left.

    Parameters
    ----------
    nchan : int
        Channels of the cube.
    size : int
        Core channels of a chunk.
    guards : Guards

    Returns
    -------
    tuple of Chunk
        They cover the channels once, in order.

    Raises
    ------
    ValueError
        If `nchan` or `size` is not positive.
    """
    if nchan < 1 or size < 1:
        raise ValueError(f"cannot cut {nchan} channels into chunks of {size}")
    return _cut_at(range(0, nchan, size), nchan, guards)


def cut_evenly(nchan: int, parts: int, guards: Guards) -> tuple[Chunk, ...]:
    """Cut `nchan` channels into `parts` chunks whose sizes differ by one channel at most.

    Parameters
    ----------
    nchan, guards
        As for `cut`.
    parts : int
        Number of chunks; no more than there are channels come out.

    Returns
    -------
    tuple of Chunk
    """
    if nchan < 1 or parts < 1:
        raise ValueError(f"cannot cut {nchan} channels into {parts} chunks")
    parts = min(parts, nchan)
    return _cut_at([index * nchan // parts for index in range(parts)], nchan, guards)


def cut_in_blocks(nchan: int, size: int, block: int, guards: Guards) -> tuple[Chunk, ...]:
    """Cut `nchan` channels into chunks that do not go beyond blocks of channels.

    Parameters
    ----------
    nchan, size, guards
        As for `cut`; the last chunk of each block takes what is left of it.
    block : int
        Channels of a block; the first one begins at channel 0.

    Returns
    -------
    tuple of Chunk
    """
    if nchan < 1 or size < 1 or block < 1:
        raise ValueError(f"cannot cut {nchan} channels in blocks of {block} into chunks of {size}")
    starts = [
        start
        for first in range(0, nchan, block)
        for start in range(first, min(first + block, nchan), size)
    ]
    return _cut_at(starts, nchan, guards)


def cut_at_blocks(nchan: int, size: int, block: int, guards: Guards) -> tuple[Chunk, ...]:
    """Cut `nchan` channels into chunks of whole blocks of channels.

    Parameters
    ----------
    nchan, guards
        As for `cut`.
    size : int
        Core channels of a chunk, as many whole blocks as there are in it, at least one.
    block : int
        Channels of a block; the first one begins at channel 0. A single channel that is left at
        the end goes with the chunk before.

    Returns
    -------
    tuple of Chunk
    """
    if nchan < 1 or size < 1 or block < 1:
        raise ValueError(
            f"cannot cut {nchan} channels into chunks of {size}, of whole blocks of {block}"
        )
    starts = list(range(0, nchan, max(1, size // block) * block))
    if len(starts) > 1 and nchan - starts[-1] == 1:
        starts.pop()
    return _cut_at(starts, nchan, guards)


def _cut_at(starts: Sequence[int], nchan: int, guards: Guards) -> tuple[Chunk, ...]:
    stops = [*starts[1:], nchan]
    return tuple(
        guards.around(start, stop, nchan, index)
        for index, (start, stop) in enumerate(zip(starts, stops, strict=True))
    )


def choose_parts(nchan: int, nworkers: int, largest: int, *, cleans: bool, pixels: int) -> int:
    """Choose into how many chunks a cube is cut where the user leaves it open.

    As many as their largest size asks for; beyond that one for each worker where each channel is
    gridded once, and `CHUNKS_PER_WORKER` for each where the cube is cleaned, unless that leaves
    chunks too small to be worth their fixed costs. The count is a multiple of `nworkers` where
    possible, so that workers finish together.

    Parameters
    ----------
    nchan : int
        Channels of the cube.
    nworkers : int
        Tasks at once.
    largest : int
        Core channels of a chunk at most: those that fit into a worker's memory, or fewer.
    cleans : bool
        Whether there are minor cycles.
    pixels : int
        Pixels of one channel.

    Returns
    -------
    int
        Between 1 and `nchan`.
    """
    needed = math.ceil(nchan / max(1, largest))
    wanted = nworkers * (CHUNKS_PER_WORKER if cleans else 1)
    useful = max(nworkers, nchan // smallest_useful_chunk(pixels))
    parts = max(needed, min(wanted, useful), 1)
    parts = math.ceil(parts / nworkers) * nworkers
    return min(parts, nchan)


def smallest_useful_chunk(pixels: int) -> int:
    """Core channels below which a chunk's fixed costs are noticed, for images of `pixels` pixels.

    Falls as the images grow, since the work for one channel does: measured with 40 antennas, fixed
    costs are below a tenth at 90 channels of 256 x 256, at 40 of 512 x 512 and at one of
    8000 x 8000. That tenth is worth paying where it buys major cycles that can be left out, so
    the chunks here are smaller than that.
    """
    return max(1, min(SMALLEST_USEFUL_CHUNK, round(SMALLEST_USEFUL_CHUNK * 512**2 / pixels)))


def neighbours(chunks: tuple[Chunk, ...], chunk: Chunk) -> Iterator[Chunk]:
    """Yield the other chunks whose core channels are guard channels of `chunk`."""
    for other in chunks[chunk.index - 1 :: -1] if chunk.index else ():
        if not chunk.touches(other):
            break
        yield other
    for other in chunks[chunk.index + 1 :]:
        if not chunk.touches(other):
            break
        yield other
