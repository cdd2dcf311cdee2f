# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether CASA resamples data for a chunk of channels exactly as for the whole cube.

With ``interpolation='linear'`` or ``'cubic'`` CASA brings visibilities to the image's frequencies
before it grids them, and models back to the data's. Where an image channel is wider than a data
channel (in the frame in which CASA compares them, at the time of the row), the frequencies in
between are not the image's own: CASA divides an image channel into as many as the whole number of
data channels that go into it, and counts them up from the first channel of the image, adding the
same step again and again (``FTMachine::interpolateFrequencyTogrid``). So they depend, by rounding,
on where the image begins, and a chunk begins elsewhere: the images then differ in their last
digits, up to 1e-7 of the peak. They are the same where every sum is exact, which can be told from
the step; where no image channel is wider than a data channel; and with ``'nearest'``.

CASA compares frequencies in LSRK. Those of a cube in another frame are converted, and rounded
each for itself, so that their steps are never equal.

Plain functions on plain data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: Largest change of a ratio of widths by a change of frame, of up to 90 km/s and back.
_FRAME = 4e-4

#: Frames of frequencies that CASA does not convert to LSRK when it resamples.
_NOT_CONVERTED = ("LSRK", "REST", "Undefined")

#: Data channels from which on CASA selects data anew for the image at hand
#: (``SynthesisImagerVi2::tuneSelectData``).
_RESELECTED = 30

#: Points from which CASA's cubic interpolates.
_POINTS_OF_CUBIC = 4


@dataclass(frozen=True)
class SpectralSampling:
    """Channels of image and data.

    Attributes
    ----------
    interpolation : {'nearest', 'linear', 'cubic'}
        tclean's parameter.
    start, width : float
        Frequency of the first image channel, and its increment, in Hz.
    nchan : int
        Image channels.
    frame : str
        Frame of the image's frequencies.
    data_widths : tuple of float
        Widths of the selected data channels, in Hz, each once.
    data_channels : int
        Channels of the largest spectral window that is selected.
    """

    interpolation: str
    start: float
    width: float
    nchan: int
    frame: str
    data_widths: tuple[float, ...]
    data_channels: int

    @property
    def converted(self) -> bool:
        """Whether CASA converts the image's frequencies."""
        return self.frame not in _NOT_CONVERTED

    def divisions(self) -> set[int]:
        """Parts into which CASA may divide an image channel; empty if it never does."""
        parts = set()
        for data_width in self.data_widths:
            ratio = abs(self.width / data_width)
            parts |= set(
                range(math.floor(ratio * (1 - _FRAME)), math.floor(ratio * (1 + _FRAME)) + 1)
            )
        return parts - {0}

    def exact(self, divisor: int) -> bool:
        """Whether frequencies at multiples of a part of the width are sums without rounding."""
        last = self.start + self.width * (self.nchan - 1)
        unit = float(np.spacing(max(abs(self.start), abs(last))))
        return all((value / unit).is_integer() for value in (self.start, self.width / divisor))


@dataclass(frozen=True)
class Unlike:
    """Why chunks would not be resampled as the whole cube.

    Attributes
    ----------
    parameter : {'interpolation', 'width', 'outframe', 'spw'}
        tclean's parameter that is the cause.
    reason : str
    slight : bool
        Whether images differ by rounding alone, up to 1e-7 of their peak.
    """

    parameter: str
    reason: str
    slight: bool


def unlike(sampling: SpectralSampling) -> Unlike | None:
    """Say why chunks would not be resampled as the whole cube, if so.

    Parameters
    ----------
    sampling : SpectralSampling

    Returns
    -------
    Unlike or None
    """
    if sampling.interpolation == "nearest" or sampling.nchan == 1:
        return None
    if sampling.interpolation == "cubic" and sampling.nchan < _POINTS_OF_CUBIC:
        return Unlike("interpolation", "of fewer than four channels", slight=False)
    divisions = sampling.divisions()
    if not divisions:
        return None
    reselected = sampling.data_channels >= _RESELECTED
    if reselected and _ambiguous(sampling):
        return Unlike(
            "width",
            "a whole number of data channels, which CASA finds to be one more or less, depending "
            "on which channels of the data it looks at",
            slight=False,
        )
    if sampling.converted:
        return Unlike(
            "outframe",
            "whose frequencies CASA converts to LSRK and adds up along the cube, with rounding",
            slight=True,
        )
    if all(sampling.exact(2 * parts if parts > 1 else 1) for parts in divisions):
        return None
    return Unlike(
        "width",
        f"{max(divisions)} data channels, whose frequencies CASA adds up along the cube, "
        "with rounding",
        slight=True,
    )


def _ambiguous(sampling: SpectralSampling) -> bool:
    """Tell whether a whole number of data channels, more than one, go into an image channel."""
    ratios = [abs(sampling.width / data_width) for data_width in sampling.data_widths]
    return any(
        math.floor(ratio * (1 + _FRAME)) >= 2
        and math.floor(ratio * (1 - _FRAME)) != math.floor(ratio * (1 + _FRAME))
        for ratio in ratios
    )


def even_start(sampling: SpectralSampling) -> bool:
    """Tell whether chunks must begin at an even channel.

    For models CASA counts from the lower edge of the first channel, half a width below it; that
    is rounded in the same way for each second channel (``interpolateFrequencyFromgrid``).

    Parameters
    ----------
    sampling : SpectralSampling

    Returns
    -------
    bool
    """
    return (
        sampling.interpolation != "nearest"
        and not sampling.converted
        and 1 in sampling.divisions()
        and not sampling.exact(2)
    )


def wants_one_above(sampling: SpectralSampling) -> bool:
    """Tell whether chunks want a guard channel more at their upper end.

    Models are not made for image channels above the last one with the centre of a data channel in
    it (``FTMachine::getInterpolateArrays``). Where data channels are as wide as the image's but
    for the frame, that may be the last but one.

    Parameters
    ----------
    sampling : SpectralSampling

    Returns
    -------
    bool
    """
    return sampling.interpolation == "linear" and any(
        abs(data_width) > abs(sampling.width) * (1 - _FRAME) for data_width in sampling.data_widths
    )
