# SPDX-License-Identifier: GPL-3.0-or-later
"""Image weights of a chunk that depend on the whole cube.

Most schemes weigh each channel by itself, or all selected data together: a chunk that selects all
data then has the cube's weights. ``weighting='briggsbwtaper'`` also tapers with the fractional
bandwidth *of the image* (``SynthesisImagerVi2::weight``), and no argument of ``setweighting`` says
what that is. :func:`set_bandwidth` makes it the whole cube's.

Of lists of measurement sets CASA may weigh data with the channels of others
(:func:`confuses_channels`).

Does not cover: the tables of weights that CASA leaves in the working directory
(:mod:`ptclean.imaging.chunk_imager`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..records import ImagingRecords
from ..workers.worker import hidden_messages

#: What CASA says of an image that is to be gridded in more pieces than it has channels.
_TOO_MANY_PIECES = "cannot be divided into"

#: What CASA says of weights, when there is no image.
_NO_IMAGE = "Need to define image"


#: Weightings without a density of visibilities.
_WITHOUT_DENSITY = ("natural", "radial")


def weighs_each_channel(parameters: Mapping[str, Any]) -> bool:
    """Tell whether a cube is weighted with a density of visibilities for each channel.

    Parameters
    ----------
    parameters : mapping
        tclean's.
    """
    return (
        parameters["weighting"] not in _WITHOUT_DENSITY
        and bool(parameters["perchanweightdensity"])
        and not (parameters["gridder"] == "mosaic" and parameters["mosweight"])
    )


def confuses_channels(windows: Sequence[Sequence[int]], selected: Sequence[int]) -> bool:
    """Tell whether CASA may weigh the last of several measurement sets by too few channels.

    Parameters
    ----------
    windows : sequence of sequence of int
        For each measurement set, in the order in which they are selected, the channels of each of
        its spectral windows.
    selected : sequence of int
        Windows of the last one that are selected.

    Returns
    -------
    bool

    Notes
    -----
    ``FTMachine::matchChannel`` maps as many channels as the window has in the measurement set that
    it looked up last, and looks up another one when the number of the set is not that of the last
    one *gridded*. ``BriggsCubeWeightor::getWeightUniform``, which grids nothing, comes to the last
    set of the list with the windows of the one before, and reads beyond the end of the map if that
    has fewer channels: the weights are anything, or the process crashes. It does not where the sets
    are weighted one by one (``initImgWeightCol``): that depends on how many channels the image has,
    so that it is otherwise in chunks than in the whole cube.
    """
    *others, last = windows
    return any(
        window >= len(other) or other[window] < last[window]
        for other in others
        for window in selected
    )


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
