# SPDX-License-Identifier: GPL-3.0-or-later
"""Masks of ``usemask='auto-multithresh'`` for a chunk, as CASA makes them for the whole cube.

CASA makes the masks of a *block* of channels at a time
(:func:`ptclean.planning.blocks.block_channels`). What a channel's mask depends on outside of the
channel, and what stands for it in a chunk (``SDMaskHandler::autoMask``, ``SynthesisDeconvolver``,
``CubeMinorCycleAlgorithm``):

- the largest sidelobe of the cube's PSF, as a factor of the sidelobe threshold;
- whether the cube has seen an iteration yet: masks grow only then, and only then are the noise
  statistics renewed. The deconvolver counts its own;
- whether the block's first plane is masked all over, which makes CASA take the noise of all
  planes from within the masks;
- the common beam of the block's PSFs, which smooths and prunes;
- an image of one channel goes another way through CASA than one of more;
- whether the threshold of the clean has been reached, which the controls say.

The first five are said by a *stand-in*: a channel before the chunk's first one, without emission.
Its PSF has the cube's largest sidelobe, its mask is full where the block's first is, and where the
deconvolver must count an iteration that others made, it makes one there. The common beam is
written into the residual image, where CASA looks first. So chunks must not go beyond a block.

CASA's deconvolver holds a state that nobody can read or set: which channels need no mask any more,
their noise statistics, iterations. It is rebuilt by going through the cycles again, with the models
of each (:meth:`ptclean.imaging.chunk_imager.ChunkImager.recover`).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from typing import Any

import numpy as np
from casatools import regionmanager, synthesisdeconvolver

from ..products import images
from ..products.casa_io import open_image
from ..records import Record
from .control import ZERO_MASK

#: Warnings of CASA's that speak of the channels that it masks at a time, of a chunk here.
_OF_A_CHUNK = re.compile("No regions found|used .* threshold to mask|had all regions removed")

#: Peak of the stand-in where it must see an iteration, and a threshold that no other channel
#: reaches, in Jy.
_PEAK = 1e20
_OUT_OF_REACH = 1e19

_STAND_IN = slice(0, 1)


class MaskingImages:
    """The images that a chunk's deconvolver works on: the core channels behind a stand-in.

    Parameters
    ----------
    prefix : str
        Prefix of their names.
    deconvolution : dict
        Parameters for ``setupdeconvolution``.
    """

    def __init__(self, prefix: str, deconvolution: Record) -> None:
        self.prefix = prefix
        self._deconvolution = {**deconvolution, "imagename": prefix, "mask": ""}
        self._tool: Any = None
        self._counted = False

    def make(self, core: str, coordinates: Record, sidelobe: float, beam: Record) -> None:
        """Make the images and open the deconvolver.

        Parameters
        ----------
        core : str
            Prefix of the core images: ``.psf``, ``.pb``, ``.residual`` and ``.sumwt``, and
            ``.weight`` if there is one.
        coordinates : dict
            Coordinate record whose first channel is the one before the chunk's first.
        sidelobe : float
            Largest sidelobe of the PSFs of the cube.
        beam : dict
            Common beam of the PSFs of the block, as an entry of ``imageinfo``.
        """
        first = f"{self.prefix}.first"
        for product in ("psf", "pb", "residual", "sumwt", "weight"):
            if not os.path.isdir(f"{core}.{product}"):
                continue
            images.cut(f"{core}.{product}", first, _STAND_IN)
            images.assemble(
                f"{self.prefix}.{product}", [first, f"{core}.{product}"], coordinates, exact=True
            )
            shutil.rmtree(first)
            if product == "sumwt":
                continue
            with open_image(f"{self.prefix}.{product}") as im:
                shape = [int(n) for n in im.shape()]
                plane = np.zeros([*shape[:3], 1])
                if product in ("pb", "weight"):
                    plane[:] = 1
                elif product == "psf":
                    plane[0, 0] = -sidelobe
                    plane[shape[0] // 2, shape[1] // 2] = 1
                im.putchunk(plane)
                if product in ("pb", "residual"):
                    box = regionmanager().box([0, 0, 0, 0], [n - 1 for n in shape[:3]] + [0])
                    im.putregion(pixelmask=np.ones(plane.shape, bool), usemask=False, region=box)
        info = images.image_info(f"{self.prefix}.residual")
        images.set_image_info(f"{self.prefix}.residual", {**info, "restoringbeam": beam})
        self._open()
        level = self._tool.initminorcycle()["maxpsfsidelobe"]
        if level != sidelobe:
            raise RuntimeError(
                f"the largest sidelobe of the PSFs of the cube is {sidelobe!r}, CASA finds "
                f"{level!r}; use usemask='user' or 'pb', or chanchunks as large as the cube"
            )

    def _open(self) -> None:
        self._tool = synthesisdeconvolver()
        self._tool.setupdeconvolution(decpars=self._deconvolution)

    def set_residual(self, source: str, channels: slice) -> None:
        """Take the core channels of the residual from another image."""
        images.copy_channels(source, channels, f"{self.prefix}.residual", 1)

    def set_model(self, core: str) -> None:
        """Take the model of the core channels from another image."""
        with open_image(core) as im:
            channels = int(im.shape()[3])
        images.copy_channels(core, slice(0, channels), f"{self.prefix}.model", 1)

    def put_model(self, core: str) -> None:
        """Bring the model of the core channels into another image, which is made if need be."""
        channels = self._core_channels()
        if os.path.isdir(core):
            images.copy_channels(f"{self.prefix}.model", channels, core)
        else:
            images.cut(f"{self.prefix}.model", core, channels)

    def put_mask(self, name: str, core: str) -> None:
        """Bring the core channels of the mask, or of the one before it, into a new image.

        Parameters
        ----------
        name : {'mask', 'prev.mask'}
        core : str
            Image to make.
        """
        images.cut(f"{self.prefix}.{name}", core, self._core_channels())

    def _core_channels(self) -> slice:
        with open_image(f"{self.prefix}.residual") as im:
            return slice(1, int(im.shape()[3]))

    def measure(self) -> Record:
        """Measure residual and mask; returns the deconvolver's initialization record."""
        if os.path.isdir(f"{self.prefix}.mask"):
            self._fill("mask", 0.0)
        record: Record = self._tool.initminorcycle()
        return record

    def minor(self, controls: Record) -> Record:
        """Run a minor cycle.

        Parameters
        ----------
        controls : dict
            Record of the iteration control.

        Returns
        -------
        dict
            The deconvolver's execution record of the core channels.
        """
        record: Record = self._tool.executeminorcycle(iterbotrecord=controls)
        self._counted |= int(record["iterdone"]) > 0
        return without_stand_in(record)

    def imitate_minor(self, controls: Record) -> None:
        """Let the deconvolver know the controls of a minor cycle that it need not run again."""
        self._tool.executeminorcycle(iterbotrecord={**controls, "cyclethreshold": _OUT_OF_REACH})

    def count(self, controls: Record) -> None:
        """Let the deconvolver know that the cube has seen iterations, if it has not made any.

        Parameters
        ----------
        controls : dict
            Those of the last minor cycle.
        """
        if self._counted:
            return
        with open_image(f"{self.prefix}.residual") as im:
            nx, ny = (int(n) for n in im.shape()[:2])
        plane = np.zeros([nx, ny, 1, 1])
        plane[nx // 2, ny // 2] = 1
        self._fill("residual", plane * _PEAK)
        self._fill("mask", plane)
        record = self._tool.executeminorcycle(
            iterbotrecord={**controls, "cyclethreshold": _OUT_OF_REACH, "cycleniter": 1}
        )
        if int(record["iterdone"]) < 1:
            raise RuntimeError(f"the stand-in of {self.prefix} has seen no iteration")
        for product in ("residual", "mask", "model"):
            self._fill(product, 0.0)
        self._counted = True

    def mask(self, *, full: bool) -> bool:
        """Make the masks anew, after keeping the ones that there are as ``.prev.mask``.

        Parameters
        ----------
        full : bool
            Whether the block's first plane is masked all over.

        Returns
        -------
        bool
            Whether the first core plane now is.
        """
        mask, previous = f"{self.prefix}.mask", f"{self.prefix}.prev.mask"
        if os.path.isdir(mask):
            shutil.rmtree(previous, ignore_errors=True)
            shutil.copytree(mask, previous)
            self._fill("mask", float(full))
        self._tool.setupmask()
        with open_image(mask) as im:
            nx, ny = (int(n) for n in im.shape()[:2])
            return bool(np.all(im.getchunk([0, 0, 0, 1], [nx - 1, ny - 1, 0, 1]) == 1))

    def close(self) -> None:
        """Close CASA's tool; the images stay."""
        if self._tool is not None:
            self._tool.done()
            self._tool = None

    def _fill(self, product: str, values: Any) -> None:
        """Write the stand-in's plane of one image."""
        with open_image(f"{self.prefix}.{product}") as im:
            shape = [int(n) for n in im.shape()]
            im.putchunk(np.broadcast_to(values, [*shape[:3], 1]))


def without_stand_in(record: Record) -> Record:
    """Return an execution record without its first channel, the stand-in, which did nothing."""
    summary = np.array(record["summaryminor"], dtype=float)
    channel_row = 5
    summary = summary[:, summary[channel_row] != 0]
    summary[channel_row] -= 1
    return {**record, "summaryminor": summary}


def speaks_of_a_chunk(message: str) -> bool:
    """Tell whether a warning is about the masks of a chunk being empty; others need not be."""
    return _OF_A_CHUNK.search(message) is not None


def stay_empty(before: Record, after: Record, masking: Record) -> bool:
    """Tell whether a chunk's masks are empty for as long as its residual is the same.

    The mask of a plane depends on its residual, its former masks, and on what `masking` says.
    Where a mask is empty, CASA leaves the plane out from then on if noise has set the threshold,
    and otherwise does the same again (``SDMaskHandler::autoMaskByMultiThreshold``,
    ``skipChannels``). So masks that were made of empty ones, after an iteration, and are empty,
    come out empty next time.

    Parameters
    ----------
    before, after : dict
        Initialization records of the chunk, before and after its masks were made.
    masking : dict
        What they were made with, the arguments of
        :meth:`ptclean.imaging.chunk_imager.ChunkImager.mask`.

    Returns
    -------
    bool
    """
    return bool(masking["iterated"]) and before["masksum"] == after["masksum"] == ZERO_MASK


def block_of(start: int, block: int) -> int:
    """Number of the block of channels that a channel belongs to."""
    return start // block


def full_blocks(starts: Iterable[int], full: Iterable[bool], block: int) -> dict[int, bool]:
    """Tell of each block whether its first plane is masked all over.

    Parameters
    ----------
    starts : iterable of int
        First channel of each chunk.
    full : iterable of bool
        Whether its plane is masked all over.
    block : int
        Channels of a block.

    Returns
    -------
    dict
        By the block's number.
    """
    return {
        block_of(start, block): is_full
        for start, is_full in zip(starts, full, strict=True)
        if start % block == 0
    }
