# SPDX-License-Identifier: GPL-3.0-or-later
"""How the data of a cube are weighted, as far as a plan depends on it.

Most schemes weigh each channel by itself, or all selected data together: a chunk that selects all
data then has the cube's weights. Of lists of measurement sets CASA may weigh data with the channels
of others (:func:`confuses_channels`).

Does not cover: ``weighting='briggsbwtaper'``, which takes the bandwidth from the image
(:mod:`ptclean.imaging.bandwidth`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
