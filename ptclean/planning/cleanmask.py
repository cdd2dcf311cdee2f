# SPDX-License-Identifier: GPL-3.0-or-later
"""The user's clean mask, resolved once against the whole cube.

tclean's ``mask`` may be an image, a file of regions, the text of a region, or a list of these.
Channels in a region are those of the whole cube, and an image on another grid is interpolated in
channels too, so a chunk cannot make anything of them. CASA itself resolves them, before anything
else is made, into one image of zeros and ones (:func:`resolve`), of which each chunk gets its
channels (:func:`ptclean.products.images.cut_clean_mask`). What depends on the data, ``pbmask``, is
applied in the chunks.

Does not cover: masks that CASA finds in the data (``usemask='pb'``, ``'auto-multithresh'``), for
which it does not look at ``mask`` (``SynthesisDeconvolver::setupMask``).
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from casatools import synthesisdeconvolver

from ..call.parameters import expanded
from ..products import images
from ..records import Record
from .axis import CubeAxes, same_axes

#: Bytes a pixel that CASA takes to resolve a mask (measured with 6.7.0, regions and images alike;
#: its budget of memory does not bound it).
_BYTES_A_PIXEL = 51

#: Largest text in which a range of channels is looked for; a file of regions is smaller.
_TEXT_BYTES = 2**24

#: CASA spreads the one channel of an image over the channels of the cube if there are at least so
#: many; otherwise it takes it to be at a frequency (``SDMaskHandler::fillMask``).
_SEVERAL = 2


@dataclass(frozen=True)
class CleanMask:
    """What is to be made of the user's clean mask; plain data.

    Attributes
    ----------
    masks : tuple of str
        What `mask` lists: files, absolute, and texts of regions.
    channels : int
        Channels of the cube on which it is resolved: all, or a few that stand for all.
    nchan : int
        Channels of the cube.
    on_grid : bool
        Whether it is one image on the grid of the cube, which need not be resolved.
    """

    masks: tuple[str, ...]
    channels: int
    nchan: int
    on_grid: bool = False

    def memory(self, shape: tuple[int, ...]) -> int:
        """Bytes that it takes to resolve the mask; `shape` is (nx, ny, npol, nchan) of the cube."""
        channels = 0 if self.on_grid else self.channels
        return _BYTES_A_PIXEL * math.prod(shape[:3]) * channels

    def image(self, directory: str) -> str:
        """Name of the image, resolved in the work directory of a run, from which chunks are cut.

        It has one channel if all are the same.
        """
        return self.masks[0] if self.on_grid else os.path.join(directory, "clean.mask")


def used_masks(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Masks that tclean makes use of.

    Parameters
    ----------
    parameters : mapping
        tclean's, validated.

    Returns
    -------
    tuple of str
        Those of its `mask`; none if `usemask` is not 'user', if nothing is cleaned, or if the
        first one is empty (``SynthesisDeconvolver::setupMask``).
    """
    mask = parameters["mask"]
    masks = [mask] if isinstance(mask, str) else list(mask or ())
    if parameters["usemask"] != "user" or parameters["niter"] <= 0 or not any(masks[:1]):
        return ()
    return tuple(each for each in masks if each)


def is_missing(mask: str) -> bool:
    """Tell whether a mask is meant to be a file, without brackets, and there is none.

    CASA would say so in its log, and clean nothing.
    """
    return "[" not in mask and not os.path.exists(expanded(mask))


def clean_mask(parameters: Mapping[str, Any], axes: CubeAxes) -> CleanMask | None:
    """Find out what is to be made of the user's mask.

    Parameters
    ----------
    parameters : mapping
        tclean's, validated, with absolute paths.
    axes : CubeAxes
        Of the cube.

    Returns
    -------
    CleanMask or None
        None if there is none, or tclean would not use it.
    """
    masks = used_masks(parameters)
    if not masks:
        return None
    if len(masks) == 1 and _is_on_grid(masks[0], axes):
        return CleanMask(masks, axes.nchan, axes.nchan, on_grid=True)
    channels = _SEVERAL if all(map(is_same_in_all_channels, masks)) else axes.nchan
    return CleanMask(masks, min(channels, axes.nchan), axes.nchan)


def is_same_in_all_channels(mask: str) -> bool:
    """Tell whether a mask is known to have the same pixels in each channel of a cube.

    Parameters
    ----------
    mask : str
        A file's name, absolute, or the text of a region.

    Returns
    -------
    bool
        True for regions, in a text or in a text file, that do not say ``range``, and for images of
        one channel, in a cube of several.
    """
    if os.path.isfile(mask):
        if os.path.getsize(mask) > _TEXT_BYTES:
            return False
        with open(mask, errors="replace") as file:
            return not _has_range(file.read())
    if os.path.isdir(mask):
        return _spectral_length(mask) == 1
    return not _has_range(mask)


def resolve(
    mask: CleanMask, axes_shape: tuple[int, ...], coordinates: Record, directory: str, name: str
) -> None:
    """Let CASA resolve a mask against the whole cube.

    In this process, whose working directory, log and exceptions are the user's. Takes
    `CleanMask.memory`, about 0.3 us a pixel of the channels on which the mask is resolved, and 4
    bytes of disk.

    Parameters
    ----------
    mask : CleanMask
    axes_shape : tuple of int
        (nx, ny, npol, nchan) of the cube.
    coordinates : dict
        Its coordinate record.
    directory : str
        Where `CleanMask.image` is made.
    name : str
        The user's `imagename`, for messages.

    Raises
    ------
    RuntimeError
        CASA's own, for a mask that it cannot bring on to the grid; tclean raises it later.
    """
    if mask.on_grid:
        return
    prefix = os.path.join(directory, "mask-of-all")
    # An image set needs no more than one image to be one, and this one stays without pixels.
    images.make_empty(f"{prefix}.psf", (*axes_shape[:3], mask.channels), coordinates)
    tool = synthesisdeconvolver()
    try:
        tool.setupdeconvolution(
            decpars={
                "imagename": prefix,
                "deconvolver": "hogbom",
                "usemask": "user",
                "mask": list(mask.masks),
                "pbmask": 0.0,
            }
        )
        # Opens the image set, as initminorcycle does, but does not look for peaks in it.
        tool.checkrestoringbeam()
        tool.setupmask()
    except RuntimeError as error:
        raise RuntimeError(str(error).replace(prefix, name)) from error
    finally:
        tool.done()
    shutil.rmtree(f"{prefix}.psf")
    if mask.channels == mask.nchan:
        os.rename(f"{prefix}.mask", mask.image(directory))
    else:
        images.cut(f"{prefix}.mask", mask.image(directory), slice(0, 1))
        shutil.rmtree(f"{prefix}.mask")


def _has_range(text: str) -> bool:
    return re.search(r"\brange\b", text, re.IGNORECASE) is not None


def _spectral_length(image: str) -> int | None:
    """Channels of an image, 1 if it has no spectral axis; None if it is no image."""
    found = _shape_and_coordinates(image)
    if found is None:
        return None
    shape, coordinates = found
    spectral = [key.removeprefix("spectral") for key in coordinates if key.startswith("spectral")]
    axes = [int(axis) for key in spectral for axis in coordinates[f"pixelmap{key}"]]
    return shape[axes[0]] if axes and axes[0] >= 0 else 1


def _is_on_grid(image: str, axes: CubeAxes) -> bool:
    found = _shape_and_coordinates(image)
    return found is not None and found[0] == axes.shape and same_axes(found[1], axes.coordinates)


def _shape_and_coordinates(image: str) -> tuple[tuple[int, ...], Record] | None:
    """Shape and coordinates of an image in CASA's own format, None if it is something else."""
    if not os.path.isfile(os.path.join(image, "table.dat")):
        return None
    try:
        return images.shape_and_coordinates(image)
    except (OSError, RuntimeError, KeyError):
        return None
