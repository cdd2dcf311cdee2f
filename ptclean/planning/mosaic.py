# SPDX-License-Identifier: GPL-3.0-or-later
"""At which frequency CASA makes the primary beam of a mosaic, and how to have a chunk use the same.

``gridder='mosaic'`` grids with the transform of the primary beam. CASA makes it at few frequencies,
from the highest channel of a spectral window down in steps of half a percent: at those steps that
lie between the lowest and the highest channel *of the image*, but the highest of them; or, where
that leaves none, at the next one below the image
(``SimplePBConvFunc::findUsefulChannels``). So a chunk may get another beam than the whole cube,
and with it another PSF, weight and primary beam: by half a percent of the peak.

What counts is the highest frequency that the table of spectral windows holds, whether there are
data or not. A chunk therefore gets the cube's beam if it reads its data through a table with one
more channel, the *decoy*, at the right frequency (:mod:`ptclean.planning.standin`). This works
where the cube has one beam in each window, below the cube: wherever the cube is narrower than the
steps, and in a part of those that are up to twice as wide.

Plain functions on plain data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .windows import SpectralWindow

#: Fewest channels with which CASA looks for steps at all, instead of taking a beam for each.
FEWEST_CHANNELS = 3

#: Beams at frequencies that differ by less than this part are the same.
_SAME = 1e-9

#: Channels that a spectral window must have for CASA to select those that the image needs
#: (``SynthesisImagerVi2::tuneSelectData``).
_SELECTED_ANEW = 30

#: Channels by which CASA may grid beyond the image, on either side.
_BEYOND = 3

#: What CASA takes for the radius to which the voltage pattern of ALMA's dishes is known, at 100 GHz
#: and in arcsec: at least the first, or the part of the image's side that is the second
#: (``HetArrayConvFunc::findAntennaSizes``; other versions have the first alone).
_RADII = ((150.0, 1 / 5), (300.0, 1 / 3))

_ARCSEC = math.pi / (180 * 3600)


@dataclass(frozen=True)
class Decoy:
    """A channel to be added to a spectral window.

    Attributes
    ----------
    ms : str
        Key of the measurement set among the selections.
    window : int
        Spectral window.
    frequency : float
        In Hz.
    """

    ms: str
    window: int
    frequency: float


def beam_frequency(top: float, low: float, high: float) -> float | None:
    """Frequency at which CASA makes the only beam of an image, or None if it makes several.

    Parameters
    ----------
    top : float
        Highest channel of the spectral window, in Hz.
    low, high : float
        Lowest and highest channel that is gridded, in Hz.

    Returns
    -------
    float or None
    """
    step = top * 0.5 / 100
    point = top
    while point > high:
        point -= step
    if point < low:
        point += step
    beams = 0
    while point > low:
        beams += 1
        point -= step
    if beams > 2:
        return None
    return point + step if beams == 2 else point


def common_beam_frequency(
    window: SpectralWindow, low: float, high: float, width: float
) -> float | None:
    """Frequency of the only beam of a cube in one spectral window, if it has but one.

    Parameters
    ----------
    window : SpectralWindow
    low, high : float
        Lowest and highest channel of the cube, in Hz, in the cube's frame.
    width : float
        Of the cube's channels, in Hz.

    Returns
    -------
    float or None
        None also if the beam is not below the cube, or if it hangs on a channel more or less:
        what is gridded depends on the time of the observation, and CASA begins a major cycle with
        the data's own frequencies.
    """
    margin = _BEYOND * max(window.width, width)
    first = [low, low - margin]
    last = [high, high + margin]
    for factor in (1.0, *window.shift):
        # Where the image is wider than the data, what is gridded ends with the data.
        first += [max(low, window.low * factor) + sign * margin for sign in (-1, 1)]
        last += [min(high, window.high * factor) + sign * margin for sign in (-1, 1)]
    lists = list(itertools.product(first, last))
    for factor, sign in itertools.product(window.shift, (-1, 1)):
        a, b = low / factor - sign * margin, high / factor + sign * margin
        lists.append((max(window.low, a), min(window.high, b)))
    if window.total < _SELECTED_ANEW:
        lists.append((window.low, window.high))
    lists = [(a, b) for a, b in lists if a < b]
    found = {beam_frequency(window.top, a, b) for a, b in lists}
    beam = beam_frequency(window.top, low, high)
    if beam is None or any(f is None or abs(f / beam - 1) > _SAME for f in found):
        return None
    return beam if beam < min(a for a, _ in lists) else None


def decoy_frequency(beam: float, top: float, high: float) -> float | None:
    """Frequency of a channel with which CASA makes the beam of anything below `high` at `beam`.

    Parameters
    ----------
    beam : float
        In Hz, below all that is gridded.
    top : float
        Highest channel that the spectral window has, in Hz.
    high : float
        In Hz, above all that is gridded.

    Returns
    -------
    float or None
        None if no frequency leads to `beam` to the last bit.

    Notes
    -----
    Steps are half a percent of the decoy: the farther up it is, the wider they are.
    """
    low = math.nextafter(beam, math.inf)
    for steps in range(1, 190):
        frequency = beam / (1 - 0.005 * steps)
        if frequency <= top or beam + 0.0045 * frequency < high:
            continue
        for away in range(-200, 201):
            candidate = frequency + away * math.ulp(frequency)
            if beam_frequency(candidate, low, high) == beam:
                return candidate
    return None


def decoys(
    windows: Iterable[SpectralWindow], low: float, high: float, width: float
) -> tuple[Decoy, ...] | None:
    """Find the decoys with which all chunks of a cube get the cube's beams.

    Parameters
    ----------
    windows : iterable of SpectralWindow
        All that are selected.
    low, high : float
        Lowest and highest channel of the cube, in Hz.
    width : float
        Of the cube's channels, in Hz.

    Returns
    -------
    tuple of Decoy or None
        None if there are none with which they would.
    """
    found = []
    for window in windows:
        margin = 2 * _BEYOND * max(window.width, width)
        if (
            window.high * window.shift[1] < low - margin
            or window.low * window.shift[0] > high + margin
        ):
            continue
        beam = common_beam_frequency(window, low, high, width)
        if beam is None or window.nchan <= FEWEST_CHANNELS:
            return None
        above = max(high, window.high, window.high * window.shift[1]) + margin
        frequency = decoy_frequency(beam, window.top, above)
        if frequency is None:
            return None
        found.append(Decoy(window.ms, window.window, frequency))
    return tuple(found)


def screen_size(pixels: int, cell: float, frequency: float, radius: float) -> int:
    """Side of the screen on which CASA makes a primary beam, in pixels of its own.

    Parameters
    ----------
    pixels : int
        Longer side of the image.
    cell : float
        Size of a pixel of the image, in rad.
    frequency : float
        Of the first channel that is gridded, in Hz.
    radius : float
        To which the voltage pattern is known at 100 GHz, in rad.

    Returns
    -------
    int
        As ``HetArrayConvFunc::findConvFunction`` finds it with ``PBMath1D::support``.
    """
    support = math.floor(radius * 100 / cell * 2.0 * 1e9 / frequency)
    size = min(max(support, pixels // 10), pixels) + 1
    while size % 2 or not _is_composite(size):
        size += 1
    return size // 16 * 16


def has_one_screen(nx: int, ny: int, cells: Sequence[float], low: float, high: float) -> bool:
    """Tell whether CASA makes the beams of all chunks of ALMA data on screens of one size.

    Parameters
    ----------
    nx, ny : int
    cells : sequence of float
        Sizes of a pixel along x and y, in rad.
    low, high : float
        Lowest and highest channel of the cube, in Hz.

    Returns
    -------
    bool
    """
    side = max(nx * abs(cells[0]), ny * abs(cells[1]))
    radii = {least * _ARCSEC for least, _ in _RADII}
    radii |= {max(least * _ARCSEC, part * side) for least, part in _RADII}
    return all(
        screen_size(max(nx, ny), abs(cell), low * (1 - _SAME), radius)
        == screen_size(max(nx, ny), abs(cell), high * (1 + _SAME), radius)
        for radius in radii
        for cell in cells
    )


def _is_composite(number: int) -> bool:
    for factor in (2, 3, 5):
        while number % factor == 0:
            number //= factor
    return number == 1
