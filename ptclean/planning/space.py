# SPDX-License-Identifier: GPL-3.0-or-later
"""Disk space that a run takes beside its images, until it is over, and what it writes.

All of it is in the work directory, on the file system of ``imagename``: the chunks' images, what
only cycles need (images with guard channels, those on which masks are made, CASA's tables of
weights), and the finished products, for which the latter make room. Plain functions on plain data.

Does not cover: what there is, and what a file system says when it is full
(:mod:`ptclean.keeping.disk`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .chunks import Chunk
from .memory import ImageSize
from .scope import AUTOMASK

#: Bytes of a pixel; of its mask, one bit.
_PIXEL = 4
_MASK = 1 / 8

#: Bytes that an image takes beside its pixels: its table, those of its log and its mask (measured:
#: 70 to 190 kB), and so does a table of weights.
_TABLE = 150_000

#: What is added to the estimate, of itself.
_MARGIN = 0.1

#: Images that CASA's imager makes; a mosaic has one more, its weight.
_IMAGER = 3

#: Of these, residual and primary beam have a pixel mask.
_MASKED = 2

#: Copies of a model while one is being replaced by the next.
_MODELS_KEPT = 2

#: Images on which masks are made: three of the imager's, model, mask and the mask before.
_MASKING = 6


#: Images of a chunk that a cycle writes anew: residual and model in the minor cycle, the residual
#: in the major cycle, and a copy of the model. With guard channels, residual and model once more.
#: (Measured: 123 MB for 16 channels of 512 x 512 with four guard channels; by this, 109 MB.)
_IN_CYCLES = 4
_OF_WINDOWS_IN_CYCLES = 2

#: Images on which masks are made that are written anew in a cycle: residual, model, and both masks.
_MASKING_A_CYCLE = 4


@dataclass(frozen=True)
class Outputs:
    """What a call makes; plain data.

    Attributes
    ----------
    cleans, restores, corrects : bool
        Whether there are minor cycles; tclean's `restoration` and `pbcor`.
    automasks : bool
        Whether the masks of the minor cycles are made by CASA.
    mask_channels : int
        Channels of the user's clean mask that are made in the work directory; 0 for no mask.
    """

    cleans: bool
    restores: bool
    corrects: bool
    automasks: bool = False
    mask_channels: int = 0

    def products(self, size: ImageSize) -> int:
        """Number of the images that stay, summed weights not counted."""
        deconvolves = self.cleans or self.restores
        return (
            _from_imager(size)
            + deconvolves
            + self.cleans
            + self.restores
            + (self.restores and self.corrects)
        )


def outputs(tclean: Mapping[str, Any], mask_channels: int = 0) -> Outputs:
    """Say what a call makes, for the estimate of disk space."""
    cleans = tclean["niter"] > 0
    return Outputs(
        cleans=cleans,
        restores=bool(tclean["restoration"]),
        corrects=bool(tclean["pbcor"]),
        automasks=cleans and tclean["usemask"] == AUTOMASK,
        mask_channels=mask_channels,
    )


def _from_imager(size: ImageSize) -> int:
    return _IMAGER + (size.gridder in ("mosaic", "awproject"))


@dataclass(frozen=True)
class Volume:
    """Bytes of the images of a cube, and of what belongs to them, at most.

    Attributes
    ----------
    kept : float
        The chunks' images, tables of weights, and what is made of the user's masks and models.
    spent : float
        Those that only cycles need.
    finished : float
        The products.
    a_cycle : float
        What each cycle writes anew, if there is emission in all channels.
    is_removed : bool
        Whether what is spent goes before the products are put together.
    """

    kept: float
    spent: float
    finished: float
    a_cycle: float
    is_removed: bool

    @property
    def space(self) -> int:
        """Disk space that the work directory takes at most."""
        other = max(self.spent, self.finished) if self.is_removed else self.spent + self.finished
        return round((self.kept + other) * (1 + _MARGIN))

    @property
    def written(self) -> int:
        """Bytes that are written once, in the first pass and at the end."""
        return round(self.kept + self.spent + self.finished)

    @property
    def written_a_cycle(self) -> int:
        """Bytes that a cycle writes at most."""
        return round(self.a_cycle)


def cube_volume(
    size: ImageSize,
    chunks: Sequence[Chunk],
    outputs: Outputs,
    *,
    weight_bytes_a_channel: int = 0,
    start_models: int = 0,
    in_windows: bool = False,
) -> Volume:
    """Count what the work directory of a cube holds.

    Parameters
    ----------
    size : ImageSize
        One channel of the cube.
    chunks : sequence of Chunk
    outputs : Outputs
    weight_bytes_a_channel : int
        Of the table of imaging weights that CASA keeps for each chunk, for each gridded channel; 0
        for weights that need none.
    start_models : int
        Models that are put on the grid of the cube.
    in_windows : bool
        Whether major cycles have images of their own.

    Returns
    -------
    Volume
    """
    plane = size.pixels * _PIXEL
    masks = _MASKED * size.pixels * _MASK
    made = _from_imager(size)
    products = outputs.products(size)
    kept = spent = cycle = 0.0
    for chunk in chunks:
        cycle += _IN_CYCLES * chunk.channels * plane
        if in_windows or chunk.gridded_channels != chunk.channels:
            images = made + outputs.cleans
            spent += chunk.gridded_channels * (images * plane + masks) + (images + 1) * _TABLE
            cycle += _OF_WINDOWS_IN_CYCLES * chunk.gridded_channels * plane
        images = products + _MODELS_KEPT * outputs.cleans + bool(outputs.mask_channels)
        kept += chunk.channels * (images * plane + 2 * masks) + (images + 1) * _TABLE
        if outputs.automasks:
            # Behind a channel that stands for all others, and cut into a mask of the user's.
            spent += (chunk.channels + 1) * (_MASKING * plane + masks) + (_MASKING + 2) * _TABLE
            spent += chunk.channels * plane
            cycle += chunk.channels * _MASKING_A_CYCLE * plane
        if weight_bytes_a_channel:
            kept += chunk.gridded_channels * weight_bytes_a_channel + _TABLE
    nchan = sum(chunk.channels for chunk in chunks)
    kept += (outputs.mask_channels + start_models * nchan) * plane
    return Volume(
        kept=kept,
        spent=spent,
        finished=nchan * (products * plane + 2 * masks) + (products + 1) * _TABLE,
        a_cycle=cycle if outputs.cleans else 0.0,
        is_removed=outputs.restores or outputs.automasks,
    )


def continuum_space(size: ImageSize, parts: int, terms: int, outputs: Outputs) -> int:
    """Bytes that the work directory of a continuum image takes at most.

    Parameters
    ----------
    size : ImageSize
    parts : int
        Parts that the rows of the data are cut into.
    terms : int
        Taylor terms.
    outputs : Outputs

    Returns
    -------
    int
    """
    plane = size.pixels * _PIXEL
    # PSFs of the sums of two orders, and residuals, models and a density of the weights.
    weights = (2 * terms - 1) * (_from_imager(size) - _IMAGER)
    images = (2 * terms - 1) + 2 * terms + 1 + weights
    total: float = parts * images * (plane + _TABLE)
    # All products of each term, the sums of parts, two spectral indices, and a mask.
    whole = (outputs.products(size) + 2) * terms + (2 * terms - 1) + weights
    total += whole * (plane + size.pixels * _MASK + _TABLE)
    if outputs.cleans:
        # Copies of the models after the last two minor cycles.
        total += 2 * terms * (plane + _TABLE)
    return round(total * (1 + _MARGIN))
