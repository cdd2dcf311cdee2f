# SPDX-License-Identifier: GPL-3.0-or-later
"""A measurement set that has the data of another, and its own table of spectral windows.

It is a directory of links to the other's files, but for the few that CASA may write and for the
table of spectral windows. What is changed there changes nothing in the other.

Covers measurement sets that are one table. Does not cover multi-MSs, nor what is to be changed:
:mod:`ptclean.planning.mosaic`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..products.casa_io import open_table
from ..records import ImagingRecords

_WINDOWS = "SPECTRAL_WINDOW"

#: Columns of the table of spectral windows that have a value for each channel.
_FOR_EACH_CHANNEL = ("CHAN_FREQ", "CHAN_WIDTH", "EFFECTIVE_BW", "RESOLUTION")


@dataclass(frozen=True)
class StandIn:
    """What a stand-in is made from.

    Attributes
    ----------
    ms : str
        Key of the measurement set among the selections.
    path : str
        The measurement set, absolute.
    channels : str
        All that is selected of its spectral windows, in the syntax of `spw`.
    decoys : tuple of (int, float)
        Spectral windows, and for each the frequency in Hz of a channel that follows the last one.
        There are no data for it.
    """

    ms: str
    path: str
    channels: str
    decoys: tuple[tuple[int, float], ...]

    def name(self, directory: str) -> str:
        """Path of the stand-in in a directory."""
        return os.path.join(directory, f"{self.ms}.standin")


def with_standins(
    records: ImagingRecords, standins: Sequence[StandIn], directory: str
) -> ImagingRecords:
    """Return the same records, to read the data through the stand-ins in a directory."""
    selection = dict(records.selection)
    for each in standins:
        changes = {"msname": each.name(directory), "spw": each.channels}
        selection[each.ms] = {**selection[each.ms], **changes}
    return replace(records, selection=selection)


def is_plain(path: str) -> bool:
    """Tell whether a measurement set is one table that holds its data itself."""
    names = set(os.listdir(path))
    return "SUBMSS" not in names and any(name.startswith("table.f") for name in names)


def make_standin(standin: StandIn, directory: str) -> None:
    """Make a stand-in in a directory, in which there is none yet."""
    target = standin.name(directory)
    os.mkdir(target)
    for entry in os.scandir(standin.path):
        copy = os.path.join(target, entry.name)
        if entry.name == _WINDOWS:
            shutil.copytree(entry.path, copy)
        elif entry.is_dir() or entry.name.startswith("table.f"):
            os.symlink(entry.path, copy)
        elif entry.name != "table.lock":
            shutil.copy(entry.path, copy)
    with open_table(os.path.join(target, _WINDOWS), write=True) as tb:
        for window, frequency in standin.decoys:
            for column in _FOR_EACH_CHANNEL:
                values = tb.getcell(column, window)
                more = frequency if column == "CHAN_FREQ" else values[-1]
                tb.putcell(column, window, np.append(values, more))
            tb.putcell("NUM_CHAN", window, int(tb.getcell("NUM_CHAN", window)) + 1)
