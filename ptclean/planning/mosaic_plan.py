# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the chunks of a mosaic can have the whole cube's primary beams, and what they read.

Reads measurement sets, writes nothing. The arithmetic is :mod:`ptclean.planning.mosaic`'s.
"""

from __future__ import annotations

from casatools import quanta

from ..records import ImagingRecords
from .axis import CubeAxes
from .mosaic import FEWEST_CHANNELS, decoys, has_one_screen
from .standin import StandIn, is_plain
from .windows import explicit_channels, spectral_windows, telescopes

#: Telescopes whose primary beams CASA makes in the way that is known here.
_TELESCOPES = frozenset({"ALMA", "ACA"})

#: Image channels may be narrower than data channels by this part, if those are not interpolated.
_NARROWER = 1e-3


def standins_for_mosaic(
    records: ImagingRecords, axes: CubeAxes, interpolation: str
) -> tuple[StandIn, ...] | str:
    """Find what the chunks of a mosaic read their data through.

    Parameters
    ----------
    records : ImagingRecords
        Of the whole cube.
    axes : CubeAxes
    interpolation : str
        tclean's parameter.

    Returns
    -------
    tuple of StandIn or str
        The reason, naming the parameter, if chunks would not get the whole cube's primary beams.
    """
    low, high = sorted((axes.start, axes.start + (axes.nchan - 1) * axes.width))
    width = abs(axes.width)
    if axes.nchan < FEWEST_CHANNELS:
        return f"gridder='mosaic' with fewer than {FEWEST_CHANNELS} channels"
    others = telescopes(records) - _TELESCOPES
    if others:
        return (
            f"gridder='mosaic' for data of {', '.join(sorted(others))}, whose primary beams may "
            "depend on how a cube is cut"
        )
    if not all(is_plain(selection["msname"]) for selection in records.selection.values()):
        return "gridder='mosaic' for data that are not a measurement set of one table"
    windows = spectral_windows(records, axes.frame)
    if windows is None:
        return f"gridder='mosaic' with frequencies that are converted to {axes.frame}"
    if interpolation == "nearest" and width < (1 - _NARROWER) * max(w.width for w in windows):
        return "gridder='mosaic' and interpolation='nearest', with channels finer than the data's"
    found = decoys(windows, low, high, width)
    nx, ny = axes.shape[:2]
    if found is None or not has_one_screen(nx, ny, _cells(axes), low, high):
        return (
            f"gridder='mosaic' from {low / 1e9:.6g} to {high / 1e9:.6g} GHz, for which CASA makes "
            "primary beams at several frequencies, or would for a part of it"
        )
    return tuple(
        StandIn(
            ms=key,
            path=selection["msname"],
            channels=explicit_channels(selection),
            decoys=tuple((d.window, d.frequency) for d in found if d.ms == key),
        )
        for key, selection in records.selection.items()
        if any(d.ms == key for d in found)
    )


def _cells(axes: CubeAxes) -> tuple[float, float]:
    """Sizes of a pixel, in rad."""
    direction = next(v for k, v in axes.coordinates.items() if k.startswith("direction"))
    qa = quanta()
    x, y = (
        abs(qa.convert(qa.quantity(float(step), str(unit)), "rad")["value"])
        for step, unit in zip(direction["cdelt"], direction["units"], strict=True)
    )
    return x, y
