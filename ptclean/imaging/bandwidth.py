# SPDX-License-Identifier: GPL-3.0-or-later
"""Weigh a chunk with the bandwidth of the whole cube.

``weighting='briggsbwtaper'`` tapers with the fractional bandwidth *of the image*
(``SynthesisImagerVi2::weight``), and no argument of ``setweighting`` says what that is.
:func:`set_bandwidth` makes it the whole cube's.
"""

from __future__ import annotations

from typing import Any

from ..records import ImagingRecords
from ..workers.worker import hidden_messages

#: What CASA says of an image that is to be gridded in more pieces than it has channels.
_TOO_MANY_PIECES = "cannot be divided into"

#: What CASA says of weights, when there is no image.
_NO_IMAGE = "Need to define image"


def tapers_with_bandwidth(records: ImagingRecords) -> bool:
    """Tell whether the weights depend on the fractional bandwidth of the cube."""
    return bool(records.weighting["rmode"] == "bwtaper")


def set_bandwidth(imager: Any, records: ImagingRecords) -> None:
    """Have a `synthesisimager` take its parameters of weighting, and the bandwidth, from a cube.

    Parameters
    ----------
    imager : synthesisimager
        It has selected the data and defined no image. The next image that it defines is weighted
        as the cube is, and ``setweighting`` must not be called again.
    records : ImagingRecords
        Of the whole cube, with its coordinates and its number of channels.

    Raises
    ------
    RuntimeError
        If CASA does something else than what is described below.

    Notes
    -----
    ``SynthesisImagerVi2::defineImage`` notes the shape and the coordinates of an image before it
    prepares to grid it. Here the second fails, since the image would be gridded in more pieces than
    it has channels, so that CASA knows the cube's frequencies and has nothing to grid.
    ``SynthesisImagerVi2::weight`` then works the bandwidth out and keeps it with the other
    parameters, with which it later weighs each piece of an image (``runCubeGridding``); what it
    does afterwards fails, for want of an image, and is of no use for cubes.
    """
    pieces = {"chanchunks": int(records.image["nchan"]) + 1}
    with hidden_messages(_TOO_MANY_PIECES):
        _expect(_TOO_MANY_PIECES, imager.defineimage, records.image, records.gridding | pieces)
    _expect(_NO_IMAGE, imager.setweighting, **records.weighting)


def _expect(message: str, function: Any, *args: Any, **kwargs: Any) -> None:
    """Call a function that must fail with a message."""
    try:
        function(*args, **kwargs)
    except RuntimeError as error:
        if message in str(error):
            return
        raise
    raise RuntimeError(
        f"CASA's {function.__name__} did not say {message!r}: this version of CASA does not weigh "
        "chunks with the bandwidth of the cube; use another weighting, or tclean"
    )
