# SPDX-License-Identifier: GPL-3.0-or-later
"""Spectral windows that a selection reads, and how far their frequencies are from the image's.

Reads measurement sets, writes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from casatools import ms as measurement_set
from numpy.typing import NDArray

from ..products.casa_io import open_table
from ..records import ImagingRecords, Record

#: Frames of frequency by their numbers in measurement sets (``MFrequency::Types``).
_FRAMES = ("REST", "LSRK", "LSRD", "BARY", "GEO", "TOPO", "GALACTO", "LGROUP", "CMB")

#: Frames of direction that may be taken for J2000 here.
_EQUATORIAL = ("J2000", "ICRS")

#: Times at which the frames are compared, evenly spaced over the observation.
_TIMES = 9

#: What the Earth's rotation, its distance from a circle, and months between those times may add.
_UNCERTAIN = 5e-6

_LIGHT = 299_792.458
_ORBITAL = 29.786
_COS, _SIN = math.cos(math.radians(23.439)), math.sin(math.radians(23.439))


def _unit(ra: float, dec: float) -> NDArray[np.float64]:
    return np.array(
        [math.cos(dec) * math.cos(ra), math.cos(dec) * math.sin(ra), math.sin(dec)], dtype=float
    )


#: Velocities of the Sun in the frames, in km/s, equatorial.
_VELOCITIES = {
    "LSRK": 20.0 * _unit(math.radians(270.96), math.radians(30.0)),
    "BARY": np.zeros(3),
    "GEO": np.zeros(3),
}

#: Rows of a column that are read at a time.
_SLAB = 10**6


@dataclass(frozen=True)
class SpectralWindow:
    """What a selection takes of one spectral window.

    Attributes
    ----------
    ms : str
        Key of the measurement set among the selections.
    window : int
        Row in its table of spectral windows.
    top : float
        Highest channel of the window, selected or not, in Hz.
    low, high : float
        Lowest and highest channel that is selected, in Hz.
    width : float
        Width of the widest channel, in Hz.
    nchan, total : int
        Number of channels that are selected, and that there are.
    shift : tuple of float
        Smallest and largest factor from the window's frequencies to those in the image's frame.
    """

    ms: str
    window: int
    top: float
    low: float
    high: float
    width: float
    nchan: int
    total: int
    shift: tuple[float, float] = (1.0, 1.0)


def explicit_channels(selection: Record) -> str:
    """Write out a selection's spectral windows and channels, as ``'0:0~63,2:10~20'``."""
    return ",".join(
        f"{window}:{first}~{last}^{step}" if step > 1 else f"{window}:{first}~{last}"
        for window, first, last, step in _selected(selection)["channel"]
    )


def spectral_windows(records: ImagingRecords, frame: str) -> tuple[SpectralWindow, ...] | None:
    """Read the spectral windows of all measurement sets.

    Parameters
    ----------
    records : ImagingRecords
    frame : str
        The image's frame.

    Returns
    -------
    tuple of SpectralWindow or None
        None if CASA cannot convert a window's frequencies to the frame.
    """
    found = []
    for key, selection in records.selection.items():
        name = selection["msname"]
        selected = _selected(selection)
        with open_table(f"{name}/SPECTRAL_WINDOW") as tb:
            for window in sorted({int(row[0]) for row in selected["channel"]}):
                frequencies = tb.getcell("CHAN_FREQ", window)
                picked = np.concatenate(
                    [
                        frequencies[first : last + 1 : step]
                        for w, first, last, step in selected["channel"]
                        if w == window
                    ]
                )
                own = _FRAMES[int(tb.getcell("MEAS_FREQ_REF", window)) % len(_FRAMES)]
                shift = _shift(name, selected["field"], own, frame)
                if shift is None:
                    return None
                found.append(
                    SpectralWindow(
                        ms=key,
                        window=window,
                        top=float(frequencies.max()),
                        low=float(picked.min()),
                        high=float(picked.max()),
                        width=float(np.abs(tb.getcell("CHAN_WIDTH", window)).max()),
                        nchan=len(picked),
                        total=len(frequencies),
                        shift=shift,
                    )
                )
    return tuple(found)


def telescopes(records: ImagingRecords) -> set[str]:
    """Names of the telescopes that observed."""
    names: set[str] = set()
    for selection in records.selection.values():
        with open_table(f"{selection['msname']}/OBSERVATION") as tb:
            names |= {str(name) for name in tb.getcol("TELESCOPE_NAME")}
    return names


def _selected(selection: Record) -> Any:
    expressions = {name: selection.get(name) or "*" for name in ("spw", "field")}
    return measurement_set().msseltoindex(selection["msname"], **expressions)


def _shift(name: str, fields: Any, own: str, frame: str) -> tuple[float, float] | None:
    """Smallest and largest factor from one frame to another during the observation."""
    if own == frame:
        return (1.0, 1.0)
    if own != "TOPO" or frame not in _VELOCITIES:
        return None
    with open_table(f"{name}/FIELD") as tb:
        if tb.getcolkeywords("PHASE_DIR")["MEASINFO"].get("Ref") not in _EQUATORIAL:
            return None
        rows = [int(f) for f in fields] if len(fields) else range(tb.nrows())
        directions = [tb.getcell("PHASE_DIR", row)[:, 0] for row in rows]
    times = np.linspace(*_time_range(name), _TIMES) / 86400
    factors = [frame_factor(time, d[0], d[1], frame) for time in times for d in directions]
    return (min(factors) - _UNCERTAIN, max(factors) + _UNCERTAIN)


def frame_factor(mjd: float, ra: float, dec: float, frame: str) -> float:
    """Factor from the frequency at the centre of the Earth to that in another frame, roughly.

    Parameters
    ----------
    mjd : float
        Time, as a modified Julian date.
    ra, dec : float
        Direction of the source, J2000, in rad.
    frame : {'LSRK', 'BARY', 'GEO'}

    Returns
    -------
    float
        Good to 2e-6.

    Notes
    -----
    The Earth moves in a circle here. CASA's own measures know it better; but each conversion leaves
    something behind in a process that changes the last bit of what tclean makes in it later.
    """
    days = mjd - 51544.5
    anomaly = math.radians(357.528 + 0.9856003 * days)
    sun = math.radians(280.461 + 0.9856474 * days + 1.915 * math.sin(anomaly))
    orbit = _ORBITAL * np.array([math.sin(sun), -_COS * math.cos(sun), -_SIN * math.cos(sun)])
    velocity = _VELOCITIES[frame] + (orbit if frame != "GEO" else 0)
    return float(1 - velocity @ _unit(ra, dec) / _LIGHT)


def _time_range(name: str) -> tuple[float, float]:
    first, last = np.inf, -np.inf
    with open_table(name) as tb:
        for start in range(0, tb.nrows(), _SLAB):
            times = tb.getcol("TIME", start, _SLAB)
            first, last = min(first, times.min()), max(last, times.max())
    return float(first), float(last)
