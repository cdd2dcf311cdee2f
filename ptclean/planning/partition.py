# SPDX-License-Identifier: GPL-3.0-or-later
"""Cut the rows of measurement sets into parts that are gridded one by one.

Plain functions on plain data: nothing here knows CASA, Dask or a file system.

Into how many parts the data are cut, and where, depends on the data and on the size of the image
alone, never on workers or memory: the parts' images are added in a fixed order, so that their sum
comes out the same on any machine. Each part takes its share of each measurement set, as in CASA's
own parallel imaging, so that all parts have rows of the first one, from which CASA takes what it
wants to know of an observation.

Where channels are selected the rows are interleaved. CASA turns such a selection into frequencies
in another frame, and widens it by the Doppler shift among the rows that it is given
(``SynthesisImagerVi2::selectData``, ``MSUtil::getFreqRangeInSpw``). Parts of other times would have
other channels (measured with 7 hours of data: a sixth of the weights); parts with rows of all times
have those of tclean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..records import Record

#: Fewest parts, whatever their cost, and most, beyond which adding them up takes longer than it
#: saves.
FEWEST_PARTS = 4
MOST_PARTS = 32
MOST_INTERLEAVED = 8

#: Visibilities for each pixel of a part that make its fixed costs a third of the gridding's.
_PER_PIXEL = 3


@dataclass(frozen=True)
class Part:
    """One part of the selected rows.

    Attributes
    ----------
    index : int
        Position among the parts.
    rows : tuple of (str, int, int, int)
        Of each measurement set that has rows in the part: its key in the selection, and the rows
        ``range(first, stop, step)`` among its selected ones.
    totals : tuple of int
        Selected rows of these measurement sets, all parts together.
    """

    index: int
    rows: tuple[tuple[str, int, int, int], ...]
    totals: tuple[int, ...]

    @property
    def nrows(self) -> int:
        """Number of rows."""
        return sum(len(range(*rows)) for _, *rows in self.rows)

    def selection(self, whole: Mapping[str, Record]) -> dict[str, Record]:
        """Return the selection records of this part.

        Parameters
        ----------
        whole : mapping of dict
            Those of all rows, by the measurement sets' keys.

        Returns
        -------
        dict of dict
            The same with a condition on the row numbers, which CASA counts from 1 within its
            selection. The first part has no lower limit and the last no upper one.
        """
        result = {}
        for (key, first, stop, step), total in zip(self.rows, self.totals, strict=True):
            if step > 1:
                conditions = [f"ROWNUMBER() % {step} == {(first + 1) % step}"]
            else:
                conditions = [f"ROWNUMBER() > {first}"] * (first > 0)
                conditions += [f"ROWNUMBER() <= {stop}"] * (stop < total)
            result[key] = {**whole[key], "taql": " && ".join(conditions)}
        return result

    def __str__(self) -> str:
        return f"part {self.index} of the data ({self.nrows} rows)"


def cut_rows(rows: Mapping[str, int], parts: int, *, interleaved: bool = False) -> tuple[Part, ...]:
    """Cut the selected rows of measurement sets into parts of nearly equal size.

    Parameters
    ----------
    rows : mapping of int
        Selected rows of each measurement set, by its key, in the order of selection.
    parts : int
        Parts wanted; no more come out than the first measurement set with any rows has rows.
    interleaved : bool
        Whether each part takes every so-manieth row, and not rows that follow each other.

    Returns
    -------
    tuple of Part
        They cover all rows once; empty if there are no rows.

    Raises
    ------
    ValueError
        If `parts` is not positive.
    """
    if parts < 1:
        raise ValueError(f"cannot cut rows into {parts} parts")
    there = {key: number for key, number in rows.items() if number > 0}
    if not there:
        return ()
    parts = min(parts, next(iter(there.values())))
    result = []
    for index in range(parts):
        shares = [
            (key, index, number, parts)
            if interleaved
            else (key, index * number // parts, (index + 1) * number // parts, 1)
            for key, number in there.items()
        ]
        taken = [share for share in shares if share[1] < share[2]]
        result.append(Part(index, tuple(taken), tuple(there[share[0]] for share in taken)))
    return tuple(result)


def choose_parts(visibilities: float, pixels: int, *, interleaved: bool = False) -> int:
    """Choose into how many parts the data of an image are cut.

    Each part costs Fourier transforms and images of its own, in each major cycle: about 0.3
    microseconds for a pixel, as much as a channel of a row takes to be gridded (measured, two
    correlations). So parts are such that they add a third to the gridding at most, unless that
    leaves fewer than `FEWEST_PARTS`.

    Parameters
    ----------
    visibilities : float
        Selected channels of all selected rows.
    pixels : int
        Pixels of all images of one part's residual: Stokes planes, and Taylor terms.
    interleaved : bool
        As for `cut_rows`. Each part then reads the tiles of all rows.

    Returns
    -------
    int
        Between `FEWEST_PARTS` and `MOST_PARTS`, or `MOST_INTERLEAVED`.
    """
    most = MOST_INTERLEAVED if interleaved else MOST_PARTS
    return max(FEWEST_PARTS, min(most, math.floor(visibilities / pixels / _PER_PIXEL)))


def has_simultaneous_fields(
    rows: Iterable[tuple[NDArray[np.float64], NDArray[np.integer]]],
) -> bool:
    """Tell whether rows of several fields have the same time, as those of subarrays may.

    Images then depend on the rows that CASA grids together (measured: 80 % of the peak); it seems
    that phase centres are remembered by their time alone.

    Parameters
    ----------
    rows : iterable of two arrays
        Times and fields of the rows, piece by piece.
    """
    pairs = np.empty((0, 2))
    for times, fields in rows:
        new = np.stack([times, fields.astype(float)], axis=1)
        pairs = np.unique(np.concatenate([pairs, new]), axis=0)
    return len(np.unique(pairs[:, 0])) < len(pairs)


def have_all_times(
    times: NDArray[np.float64],
    windows: NDArray[np.integer],
    fields: NDArray[np.integer],
    parts: int,
) -> bool:
    """Tell whether each of some interleaved parts has rows of each time, window and field.

    Parameters
    ----------
    times, windows, fields : array
        Of the selected rows of a measurement set, in their order.
    parts : int
    """
    keys = np.stack([times, windows.astype(float), fields.astype(float)], axis=1)
    groups, group = np.unique(keys, axis=0, return_inverse=True)
    places = np.unique(group.reshape(-1) * parts + np.arange(len(times)) % parts)
    return len(places) == len(groups) * parts
