# SPDX-License-Identifier: GPL-3.0-or-later
"""One iteration control over the whole cube.

CASA's own (``iterbotsink``) decides how far each minor cycle goes and when the clean stops, as in
tclean. What it is given is what one deconvolver would report that had the whole cube: chunks'
records are joined first (:func:`join_initialization`, :func:`join_execution`; plain functions).
Handed over chunk by chunk it would count cycles wrongly and keep the last chunk's thresholds.

``iterbotsink`` is one object for each process, so only one clean at a time can run in a process;
:class:`IterationControl` holds a lock for as long as it lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from casatools import iterbotsink
from numpy.typing import NDArray

from ..planning.iteration import one_control
from ..records import Record

#: Rows of ``summaryminor``: iterations, channel, and with ``fullsummary`` iterations before
#: (``SynthesisDeconvolver::mergeReturnRecord``, ``SummaryMinor.rowDescriptionsOldOrder``).
#: Its columns are planes: within each channel, the Stokes planes that are deconvolved one by one.
ITERATIONS_ROW = 0
_PEAK_ROW = 1
_THRESHOLD_ROW = 3
CHANNEL_ROW = 5
_STOKES_ROW = 6
_ITERATIONS_BEFORE_ROW = 8

#: What :mod:`ptclean.imaging.automask` adds to the records.
_OWN_FIELDS = ("full",)

#: Sum of a mask that is empty.
ZERO_MASK = 0.0


def join_initialization(records: Sequence[Record]) -> Record:
    """Join the initialization records of all chunks' deconvolvers.

    Parameters
    ----------
    records : sequence of dict
        What ``initminorcycle`` returned, chunk by chunk.

    Returns
    -------
    dict
        What it would return for the whole cube: the largest of each number. A chunk whose mask is
        empty does not count in the peak residual, unless all are; CASA gives its peak outside the
        mask.
    """
    joined = dict(records[0])
    for name, value in records[0].items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            joined[name] = max(record[name] for record in records)
    masked = [record for record in records if record["masksum"] != ZERO_MASK]
    if masked:
        joined["peakresidual"] = max(record["peakresidual"] for record in masked)
        # -1 stands for a mask that did not change since the last record, or for none.
        known = all(record["masksum"] >= 0 for record in masked)
        joined["masksum"] = sum(record["masksum"] for record in masked) if known else -1.0
    return {name: value for name, value in joined.items() if name not in _OWN_FIELDS}


def unchanged(record: Record) -> Record:
    """Return the initialization record of a chunk of which nothing changed since `record`.

    CASA reports the sum of a mask once, and -1 for as long as it stays; an empty mask each time.
    """
    return record if record["masksum"] == ZERO_MASK else {**record, "masksum": -1.0}


def changed_channels(record: Record, channels: int) -> set[int]:
    """Channels of a chunk whose model a minor cycle has changed.

    Parameters
    ----------
    record : dict
        Execution record of the chunk.
    channels : int
        Core channels of the chunk.

    Returns
    -------
    set of int
        Counted from the first one of the chunk. All of them, should the summary not account for
        all iterations.
    """
    total = int(record["iterdone"])
    iterations = np.array(record["summaryminor"], dtype=float)[ITERATIONS_ROW]
    if not total:
        return set()
    if iterations.sum() != total or iterations.size % channels:
        return set(range(channels))
    by_channel = iterations.reshape(channels, -1).any(axis=1)
    return {int(channel) for channel in np.flatnonzero(by_channel)}


def idle_again(record: Record | None, controls: Record) -> Record | None:
    """Return the execution record of a minor cycle that will see no iteration, without running it.

    Parameters
    ----------
    record : dict or None
        Of the last minor cycle of a chunk, which saw no iteration and changed nothing; None if it
        did.
    controls : dict
        Of the minor cycle that is at hand.

    Returns
    -------
    dict or None
        None if the cycle must be run. That is where a peak is not below the threshold of the cycle
        (``SIMinorCycleController::majorCycleRequired``), for single planes, to whose record the
        tool adds, and where there is more to a record: with ``fullsummary`` and with `nsigma`.
    """
    if record is None or "nsigmathreshold" in record:
        return None
    summary = np.array(record["summaryminor"], dtype=float)
    threshold = float(controls["cyclethreshold"])
    peak = max(float(abs(summary[_PEAK_ROW]).max()), float(record["peakresidual"]))
    if len(summary) > CHANNEL_ROW + 1 or summary.shape[1] == 1 or not peak < threshold:
        return None
    summary[_THRESHOLD_ROW] = threshold
    return {**record, "summaryminor": summary}


def with_noise_of(record: Record, executed: Record) -> Record:
    """Return an initialization record with the n-sigma threshold that a minor cycle has told.

    Parameters
    ----------
    record : dict
        Initialization record of a chunk.
    executed : dict
        Execution record of its last minor cycle, under ``nsigmathreshold`` the threshold if there
        is one (:meth:`ptclean.imaging.chunk_imager.ChunkImager.minor`).
    """
    known = {k: v for k, v in executed.items() if k == "nsigmathreshold"}
    return {**record, **known}


def join_execution(
    records: Sequence[Record],
    first_channels: Sequence[int],
    *,
    block: int | None = None,
    planes: int = 1,
) -> Record:
    """Join the execution records of all chunks' minor cycles.

    Parameters
    ----------
    records : sequence of dict
        What ``executeminorcycle`` returned, chunk by chunk.
    first_channels : sequence of int
        First core channel of each chunk.
    block : int, optional
        Channels that CASA deconvolves at a time (`block_channels`); all, if not given.
    planes : int
        Planes of a channel that are deconvolved one by one (`separate_planes`).

    Returns
    -------
    dict
        What it would return for the whole cube, as ``SynthesisDeconvolver::mergeReturnRecord``
        joins blocks of channels.
    """
    summaries = []
    for record, first in zip(records, first_channels, strict=True):
        summary = np.array(record["summaryminor"], dtype=float)
        summary[CHANNEL_ROW] = first + np.arange(summary.shape[1]) // planes
        summaries.append(summary)
    joined = np.concatenate(summaries, axis=1)
    block = block or joined.shape[1] // planes
    if len(joined) > _ITERATIONS_BEFORE_ROW:
        _count_on(joined, block * planes)
    elif len(joined) <= _STOKES_ROW:
        _number_planes(joined, block, planes)
    return {
        "iterdone": sum(int(record["iterdone"]) for record in records),
        "maxcycleiterdone": max(int(record["maxcycleiterdone"]) for record in records),
        "peakresidual": max(float(record["peakresidual"]) for record in records),
        "updatedmodelflag": any(bool(record["updatedmodelflag"]) for record in records),
        "summaryminor": joined,
    }


def separate_planes(npol: int, deconvolver: str) -> int:
    """Stokes planes that CASA deconvolves one by one: ``clark`` takes them all at once.

    From ``queryDesiredShape`` of ``SDAlgorithmBase`` and of ``SDAlgorithmClarkClean2``.
    """
    return 1 if deconvolver == "clark" else npol


def _number_planes(summary: NDArray[np.float64], block: int, planes: int) -> None:
    """Number channels and Stokes planes in one row, as CASA 6.7.0 does without ``fullsummary``.

    Stokes planes follow all channels of a block (``SDAlgorithmBase::deconvolve``), so that numbers
    occur twice in a cube of several blocks.
    """
    columns = summary.shape[1]
    plane = np.arange(columns) % planes
    for start in range(0, columns, block * planes):
        stop = min(start + block * planes, columns)
        summary[CHANNEL_ROW, start:stop] += plane[start:stop] * ((stop - start) // planes)


def _count_on(summary: NDArray[np.float64], block: int) -> None:
    """Let iterations count on from plane to plane, as they do within one of CASA's blocks.

    Those of the cycles before are added by ``iterbotsink``.
    """
    for start in range(0, summary.shape[1], block):
        done = summary[ITERATIONS_ROW, start : start + block]
        summary[_ITERATIONS_BEFORE_ROW, start : start + block] = np.cumsum(done) - done


class IterationControl:
    """CASA's iteration control, called in tclean's order.

    A context manager: it waits for other cleans in this process to end.

    Parameters
    ----------
    iteration : dict
        tclean's iteration parameters as CASA's record.
    block : int, optional
        Channels that CASA would deconvolve at a time, see
        :func:`ptclean.planning.blocks.block_channels`.
    planes : int
        Planes of a channel that CASA deconvolves one by one, see `separate_planes`.

    Attributes
    ----------
    major_cycles : int
        Major cycles of the clean, the first residual not counted.
    minor_cycles, iterations : int
        Minor cycles, and the iterations of all of them.
    stopcode : int
        tclean's stop code, 0 while it goes on.
    """

    def __init__(self, iteration: Record, block: int | None = None, planes: int = 1) -> None:
        self._iteration = iteration
        self._block = block
        self._planes = planes
        self._tool: Any = None
        self._left = 0
        self.major_cycles = 0
        self.minor_cycles = 0
        self.iterations = 0
        self.stopcode = 0

    def __enter__(self) -> IterationControl:
        one_control.acquire()
        try:
            self._tool = iterbotsink()
            self._tool.setupiteration(iterpars=self._iteration)
            # CASA does not set this count when a clean begins: it holds what the memory held, which
            # after a clean that was broken off need not be zero (measured, 6.7.0).
            self._left = int(self._tool.getiterationsummary()["interactiveiterdone"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            if self._tool is not None:
                self._tool.done()
                self._tool = None
        finally:
            one_control.release()

    def is_last_cycle(self) -> bool:
        """Tell whether the major cycle to come is known to be the last."""
        return bool(self._tool.cleanComplete(lastcyclecheck=True) > 0)

    def end_major_cycle(self, *, clean: bool = True) -> None:
        """Count a major cycle; `clean` is False for the first residual."""
        self.major_cycles += clean
        self._tool.endmajorcycle()

    def has_converged(self, records: Sequence[Record]) -> bool:
        """Decide whether to stop, from the initialization records of all chunks."""
        limit = self._iteration["nmajor"]
        self._tool.resetminorcycleinfo()
        self._tool.mergeinitrecord(join_initialization(records), 0)
        self.stopcode = int(
            self._tool.cleanComplete(reachedMajorLimit=0 <= limit <= self.major_cycles)
        )
        return self.stopcode > 0

    def minor_cycle_controls(self) -> Record:
        """Controls of the minor cycle to come."""
        controls: Record = self._tool.getminorcyclecontrols()
        self._tool.resetminorcycleinfo()
        return controls

    def end_minor_cycle(self, records: Sequence[Record], first_channels: Sequence[int]) -> int:
        """Count the iterations of a minor cycle; returns how many there were."""
        joined = join_execution(records, first_channels, block=self._block, planes=self._planes)
        self._tool.mergeexecrecord(joined, 0)
        self.minor_cycles += 1
        self.iterations += int(joined["iterdone"])
        return int(joined["iterdone"])

    def summary(self) -> Record:
        """What tclean returns, but for the texts and the form of ``summaryminor``."""
        summary: Record = self._tool.getiterationsummary()
        summary["interactiveiterdone"] -= self._left
        return summary
