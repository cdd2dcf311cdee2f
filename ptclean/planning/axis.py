# SPDX-License-Identifier: GPL-3.0-or-later
"""The cube's axes, resolved once from the whole selection.

``start``, ``width`` and ``nchan`` may be channels, frequencies, velocities or nothing at all, in
any frame. What they mean depends on all selected data, so they are resolved here, by CASA itself,
for the whole cube; chunks get their channels as coordinates
(:func:`ptclean.planning.axis.shifted`), never as a ``start`` of their own, which comes out with
gaps and doubles.

Reads measurement sets, writes nothing.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from casatools import ctsys, measures, quanta, synthesisimager
from casatools import ms as measurement_set

from ..products.casa_io import open_table
from ..records import ImagingRecords, Record
from .weighting import confuses_channels

#: Entries of a coordinate record that say where pixels are.
_AXES = (
    *("cdelt", "crpix", "crval", "pc", "projection", "system", "stokes", "wcs", "tabular"),
    *("units", "unit", "latpole", "longpole", "projection_parameters", "conversion"),
    "conversionSystem",
)


#: Held by a thread of this process while it uses CASA's imager, or plans.
one_imager = threading.RLock()


@dataclass(frozen=True)
class CubeAxes:
    """Axes of the cube that tclean would make.

    Attributes
    ----------
    coordinates : dict
        CASA's record of the coordinate system.
    shape : tuple of int
        (nx, ny, npol, nchan).
    start, width : float
        Frequency of the first channel, and channel increment, in Hz.
    frame : str
        Frame of the frequencies ('LSRK', ...).
    linear : bool
        Whether the frequencies are linear in the channel.
    """

    coordinates: Record
    shape: tuple[int, int, int, int]
    start: float
    width: float
    frame: str
    linear: bool

    @property
    def nchan(self) -> int:
        """Number of channels."""
        return self.shape[3]


@dataclass(frozen=True)
class SelectedData:
    """What the selection reads.

    Attributes
    ----------
    rows : int
        Selected rows of all measurement sets.
    widths : tuple of float
        Widths of the selected windows' channels, in Hz, positive, each once, ascending.
    channels : int
        Channels of the largest selected window.
    bytes : int
        Size of the data column of the measurement sets, in bytes, as if read whole.
    confusing : bool
        Whether CASA may weigh one measurement set with the channels of another
        (:func:`ptclean.planning.weighting.confuses_channels`).
    """

    rows: int
    widths: tuple[float, ...]
    channels: int
    bytes: int
    confusing: bool = False


def _has_plain_quantities(weighting: Record) -> bool:
    """Tell whether taper and noise can be read without doubt; what CASA refuses cannot."""
    taper = weighting["uvtaper"]
    tapers = [taper] if isinstance(taper, str) else list(taper)
    values = [each for each in (*tapers, weighting["noise"]) if each != ""]
    qa = quanta()
    return len(tapers) <= 3 and all(
        isinstance(each, str) and qa.isquantity(each) for each in values
    )


def resolve_axes(records: ImagingRecords) -> CubeAxes:
    """Let CASA define the image of the whole cube, and read its axes.

    Parameters
    ----------
    records : ImagingRecords
        For the whole cube.

    Returns
    -------
    CubeAxes

    Raises
    ------
    RuntimeError
        CASA's own, for data or axes that do not exist, and tapers or noise that are no quantities;
        the same as tclean.
    """
    with selected_imager(records) as imager:
        coordinates = imager.getcsys()["coordsys"]
        nchan = int(imager.updatenchan())
        if not _has_plain_quantities(records.weighting):
            # CASA says what is wrong with them. Not without need: this looks at the data, and the
            # last digits of frequencies depend on which data a process looked at first.
            imager.setweighting(
                **{**records.weighting, "type": "natural", "rmode": "none", "multifield": False}
            )
    spectral = next(key for key in coordinates if key.startswith("spectral"))
    stokes = next(key for key in coordinates if key.startswith("stokes"))
    axis = coordinates[spectral]
    linear = "wcs" in axis and "tabular" not in axis
    imsize = records.image["imsize"]
    imsize = list(imsize) if isinstance(imsize, list) else [imsize]
    nx, ny = imsize[0], imsize[-1]
    return CubeAxes(
        coordinates=coordinates,
        shape=(int(nx), int(ny), len(coordinates[stokes]["stokes"]), nchan),
        start=float(axis["wcs"]["crval"] - axis["wcs"]["crpix"] * axis["wcs"]["cdelt"])
        if linear
        else 0.0,
        width=float(axis["wcs"]["cdelt"]) if linear else 0.0,
        frame=str(axis["system"]),
        linear=linear,
    )


def observatory(coordinates: Record) -> Record | None:
    """Look up where the telescope of a coordinate record is.

    CASA does so while it makes coordinates, and tracks sources that move from there; it does not
    read it from coordinates that it is given (``SynthesisParamsImage::buildCoordinateSystem``).
    Nor would the position in the record do, which is converted, and so rounded.

    Parameters
    ----------
    coordinates : dict

    Returns
    -------
    dict or None
        A position measure; None for a telescope that CASA does not know.
    """
    me = measures()
    telescope = str(coordinates.get("telescope", ""))
    if telescope.upper() not in (str(name).upper() for name in me.obslist()):
        return None
    position: Record = me.observatory(telescope)
    return position


@contextlib.contextmanager
def selected_imager(records: ImagingRecords) -> Iterator[Any]:
    """Give a `synthesisimager` that has selected the data and defined the image.

    Others in this process wait: two threads that define images at once crash CASA.
    """
    with one_imager:
        imager = synthesisimager()
        try:
            select_and_define(imager, records)
            yield imager
        finally:
            imager.done()


def select_and_define(imager: Any, records: ImagingRecords) -> None:
    """Have a `synthesisimager` select the data and define the image, in tclean's order."""
    select(imager, records)
    imager.defineimage(records.image, records.gridding)


def select(imager: Any, records: ImagingRecords) -> None:
    """Have a `synthesisimager` select the data, in tclean's order."""
    for key in sorted(records.selection):
        imager.selectdata(records.selection[key])


def shifted(coordinates: Record, first: int) -> Record:
    """Return the coordinate record of a cube that begins with channel `first` of this one.

    Only the reference pixel moves, so that each channel's frequency comes out of the same
    arithmetic as in the whole cube.
    """
    result = copy.deepcopy(coordinates)
    spectral = next(key for key in result if key.startswith("spectral"))
    result[spectral]["wcs"]["crpix"] -= first
    return result


def same_axes(first: Record, second: Record) -> bool:
    """Tell whether two coordinate records give each pixel the same position and frequency."""
    return all(
        key in second and _equal(first[key], second[key], _AXES)
        for key in first
        if key.startswith(("direction", "spectral", "stokes"))
    )


def _equal(first: Any, second: Any, names: tuple[str, ...]) -> bool:
    """Compare the entries of two records that have one of some names, records within included."""
    for name in names:
        if (name in first) != (name in second):
            return False
        if name not in first:
            continue
        a, b = first[name], second[name]
        if isinstance(a, dict):
            if not _equal(a, b, names):
                return False
        elif not np.array_equal(a, b):
            return False
    return True


def summarize_data(records: ImagingRecords) -> SelectedData:
    """Read how much the selection is.

    Parameters
    ----------
    records : ImagingRecords

    Returns
    -------
    SelectedData
    """
    rows = size = channels = 0
    widths: set[float] = set()
    all_windows: list[list[int]] = []
    selected: list[int] = []
    for _, selection in sorted(records.selection.items()):
        name = selection["msname"]
        windows = _spectral_windows(selection)
        with open_table(name) as tb:
            rows += tb.nrows()
        with open_table(f"{name}/SPECTRAL_WINDOW") as tb:
            all_windows.append([int(n) for n in tb.getcol("NUM_CHAN")])
            selected = windows or list(range(tb.nrows()))
            for window in selected:
                in_window = np.abs(tb.getcell("CHAN_WIDTH", window))
                widths.update(float(width) for width in in_window)
                channels = max(channels, len(in_window))
        size += _data_bytes(name)
    return SelectedData(
        rows=rows,
        widths=tuple(sorted(widths)),
        channels=channels,
        bytes=size,
        confusing=confuses_channels(all_windows, selected),
    )


def _spectral_windows(selection: Record) -> list[int]:
    if not selection.get("spw"):
        return []
    ms = measurement_set()
    found = ms.msseltoindex(selection["msname"], spw=selection["spw"])["spw"]
    return [int(window) for window in found]


def _data_bytes(name: str) -> int:
    with open_table(name) as tb:
        column = next(c for c in ("CORRECTED_DATA", "DATA", "FLOAT_DATA") if c in tb.colnames())
        shape = tb.getcell(column, 0).shape if tb.nrows() else (0, 0)
        return int(tb.nrows() * shape[0] * shape[1] * 8)


def casa_memory() -> int:
    """Bytes that CASA in this process takes for available (the user's own budget, if set)."""
    return int(ctsys.hostinfo()["memory"]["available"]) * 1024
