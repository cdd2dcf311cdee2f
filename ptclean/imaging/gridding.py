# SPDX-License-Identifier: GPL-3.0-or-later
"""CASA's imager for some channels of a cube: which they are, how they are weighted.

For cubes CASA normalises inside ``makepsf`` and ``executemajorcycle``: the normaliser's gather and
divide steps must not be called.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

from casatools import synthesisimager

from ..keeping.durable import sync_tree
from ..planning.axis import select, shifted
from ..planning.chunks import Chunk
from ..products import images
from ..products.casa_io import open_table
from ..records import ImagingRecords
from .bandwidth import set_bandwidth, tapers_with_bandwidth
from .chunk_job import ChunkJob


def gridding_records(
    job: ChunkJob, channels: Chunk, prefix: str, *, reselects: bool
) -> ImagingRecords:
    """Return the records for images of a range of channels, guard channels included."""
    coordinates = shifted(job.cube.coordinates, channels.gridded_start)
    return job.cube.records.named(prefix).channels(
        coordinates, channels.gridded_channels, reselects=reselects
    )


def open_imager(job: ChunkJob, records: ImagingRecords) -> Any:
    """Select the data, define the image and say how it is weighted.

    Parameters
    ----------
    job : ChunkJob
    records : ImagingRecords
        Of the channels (`gridding_records`).

    Returns
    -------
    synthesisimager
    """
    imager = synthesisimager()
    select(imager, records)
    tapers = tapers_with_bandwidth(records)
    if tapers:
        set_bandwidth(imager, records.channels(job.cube.coordinates, job.cube.channels))
    imager.defineimage(records.image, records.gridding)
    imager.normalizerinfo(records.normalization)
    if not tapers:
        imager.setweighting(**records.weighting)
    return imager


class Begin(Protocol):
    """Opens an imager."""

    def __call__(self, *, reselects: bool) -> Any:
        """Open one anew, with nothing of a former one; returns CASA's tool."""


def make_psf(begin: Begin, begun: str, *, reselects: bool) -> None:
    """Make a PSF, with all data if it fails with those that its channels need.

    For channels at the ends of the data CASA may select data that it cannot read: it raises ("A
    nasty Visbuffer2 error occured"), or the process crashes. Then, and so after a worker has died
    of something else, it is given all of them.

    Parameters
    ----------
    begin : callable
    begun : str
        File that is there while the PSF is made, and after a process has died of it.
    reselects : bool
        As for `ImagingRecords.channels`.
    """
    reselects = reselects and not os.path.exists(begun)
    with open(begun, "w"):
        pass
    imager = begin(reselects=reselects)
    try:
        imager.makepsf()
    except RuntimeError:
        if not reselects:
            raise
        begin(reselects=False).makepsf()
    os.remove(begun)


def gather_model(job: ChunkJob, channels: Chunk, target: str) -> None:
    """Bring the models of a chunk and of its neighbours into one that is gridded.

    Parameters
    ----------
    job : ChunkJob
    channels : Chunk
        Channels of the target, core and guard channels: all of the chunk, or some.
    target : str
        Model image of these channels; it exists.
    """
    for other in (job.chunk, *job.neighbours):
        start = max(other.start, channels.gridded_start)
        stop = min(other.stop, channels.gridded_stop)
        if start < stop:
            images.copy_channels(
                f"{job.core(other)}.model",
                slice(start - other.start, stop - other.start),
                target,
                start - channels.gridded_start,
            )
    sync_tree(target)


def grid_residual(imager: Any, records: ImagingRecords, *, lastcycle: bool) -> None:
    """Run a major cycle, with the model that is on disk.

    Parameters
    ----------
    imager : synthesisimager
    records : ImagingRecords
    lastcycle : bool
        tclean's control of the same name.
    """
    imager.executemajorcycle(
        controls={"lastcycle": lastcycle, "usemask": records.deconvolution["usemask"]}
    )


def refuse_cut(made: str, channels: str) -> None:
    """Stop if CASA has cut channels for lack of memory, which may change the image.

    Parameters
    ----------
    made : str
        Image that CASA's imager made of them.
    channels : str
        What to call them.

    Raises
    ------
    RuntimeError
    """
    with open_table(made) as tb:
        pieces = tb.getkeyword("miscinfo").get("chnchnks", 1)
    if pieces != 1:
        raise RuntimeError(
            f"CASA has cut {channels} into {pieces} pieces, since its memory budget in this worker "
            "is too small; restart the workers, or use a smaller chanchunks"
        )
