# SPDX-License-Identifier: GPL-3.0-or-later
"""How many workers, and how many channels each, for a given machine.

Pure functions on plain data: cores, memory and the size of the cube come in, chunks come out. The
images do not depend on any of it, only time and memory do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from . import chunks as cutting
from .chunks import Chunk, Guards
from .memory import (
    USABLE,
    WORKER_BASE,
    AtOnce,
    ImageSize,
    StepMemory,
    largest_gridded,
    step_memory,
    tasks_at_once,
    worker_memory,
    workers_that_fit,
)

_GIB = 2**30

#: Part of a memory limit that a worker may fill: Dask's nanny kills it at 95 % of the limit.
USABLE_OF_LIMIT = 0.9

#: tclean's time, in seconds: for a call, for each channel and pixel, and for each channel and row
#: of data (measured, 40 antennas: 0.17 s a channel at 512 x 512, 50 s at 8000 x 8000).
_SECONDS_PER_CALL = 0.7
_SECONDS_PER_PIXEL = 0.65e-6
_SECONDS_PER_ROW = 1e-6

#: What a chunk takes, in seconds, before its first channel: for each row of data (measured: 1.9 s
#: with 54180 rows).
_SECONDS_PER_ROW_OF_CHUNK = 23e-6

#: Part of its time that a chunk may spend on that where it is not the machine that sets its size.
_FIXED_PART = 0.2

#: Bytes of images at which a dirty cube's chunk is fastest. Measured, 256 channels of 1024 x 1024,
#: two workers, 24 GiB: PSF and residual take 84 s in chunks of 16 channels, of 1 GiB, 93 s in such
#: of 32, 113 s of 64 and 194 s of 128, when workers take the memory in which the system would keep
#: the images that they write.
_COMFORTABLE = 2**30

#: Core channels for each guard channel of a chunk above which guards do not matter, and major
#: cycles after the first pass, for the choice of chunks.
_MANY = 4
_CYCLES = 3

#: Times the dirty cube that a clean takes, for the estimate of what is not worth a cluster.
_CLEAN_FACTOR = 3


@dataclass(frozen=True)
class Machine:
    """What there is to work with.

    Attributes
    ----------
    workers : int
        Tasks that can run at once: physical cores, or the workers of the user's own cluster.
    memory : int
        Bytes that are free for all workers together.
    limit : int or None
        Bytes that one worker must not exceed, if there is a limit.
    is_one : bool
        Whether all workers take their memory from the same, so that one may take what another one
        leaves.
    """

    workers: int
    memory: int
    limit: int | None = None
    is_one: bool = True

    def room(self, workers: int) -> int:
        """Bytes that so many workers may take together."""
        usable = self.memory * USABLE
        if self.limit is not None:
            usable = min(usable, workers * self.limit * USABLE_OF_LIMIT)
        return int(usable)

    def at_once(self, memory: StepMemory, workers: int) -> AtOnce:
        """Say how many tasks of each step run at once, if so many workers are wanted."""
        if self.is_one:
            return tasks_at_once(memory, workers, self.room(workers))
        count = workers_that_fit(workers, memory.most, self.room(workers))
        return AtOnce(count, count, count, count, count)


@dataclass(frozen=True)
class Sizing:
    """Outcome of `size_run`.

    Attributes
    ----------
    chunks : tuple of Chunk
    memory : StepMemory
        What the largest chunk takes of its worker.
    at_once : AtOnce
        Workers, and tasks at once.
    warnings : tuple of str
        What the user should know before the run.
    """

    chunks: tuple[Chunk, ...]
    memory: StepMemory
    at_once: AtOnce
    warnings: tuple[str, ...]

    @property
    def nworkers(self) -> int:
        """Workers."""
        return self.at_once.nworkers

    @property
    def worker_memory(self) -> int:
        """Bytes that a worker takes at its peak."""
        return self.memory.most


def size_run(
    size: ImageSize,
    nchan: int,
    guards: Guards,
    machine: Machine,
    *,
    first_guards: Guards | None = None,
    nworkers: int = 0,
    chanchunks: int = -1,
    cleans: bool = True,
    rows: int = 0,
    data_bytes: int | None = None,
    block: int | None = None,
    whole_blocks: bool = False,
) -> Sizing:
    """Choose workers and chunks.

    Parameters
    ----------
    size : ImageSize
        One channel of the cube.
    nchan : int
        Channels of the cube.
    guards : Guards
        Of a chunk.
    machine : Machine
    first_guards : Guards, optional
        Of a chunk in the first pass over the data, if these are others.
    nworkers, chanchunks : int
        ptclean's parameters: 0 and -1 leave the choice here.
    cleans : bool
        Whether there are minor cycles.
    rows : int
        Rows of data.
    data_bytes : int, optional
        Bytes of data, all of which a chunk may have to read; not known if not given.
    block : int, optional
        Channels of a block that no chunk may go beyond.
    whole_blocks : bool
        Whether chunks are to be of whole blocks instead, one or several.

    Returns
    -------
    Sizing

    Raises
    ------
    MemoryError
        If a worker's limit does not even hold one channel with its guards.
    """
    cube = _Cube(size, nchan, guards, first_guards or guards, cleans)
    wanted = nworkers or machine.workers
    usable = machine.room(wanted)
    per_worker = usable if machine.limit is None else int(machine.limit * USABLE_OF_LIMIT)
    least = cube.memory(1).most
    if machine.limit is not None:
        smallest = guards.gridded_channels(1, nchan)
        _refuse_too_small(size, smallest, least, per_worker, machine.limit)
    each = least
    if chanchunks > 0:
        each = cube.memory(min(nchan, chanchunks)).most
        if machine.limit is not None and each > per_worker:
            raise MemoryError(
                f"chanchunks={chanchunks}: such a chunk takes {each / _GIB:.2f} GiB of a worker, "
                f"which may fill {per_worker / _GIB:.2f} GiB under its memory_limit; use "
                f"chanchunks={cube.largest_chunk(per_worker)} or -1"
            )
        chunks = cutting.cut(nchan, chanchunks, guards)
    else:
        fitting = min(workers_that_fit(wanted, least, usable), nchan)
        largest = cube.largest_chunk(min(usable // fitting, per_worker))
        if cleans and largest < min(nchan, _MANY * guards.most):
            fitting, largest = cube.quickest(machine, wanted)
        elif not cleans and data_bytes is not None:
            comfortable = _comfortable_chunk(size, guards, rows)
            room = machine.memory - fitting * worker_memory(size, comfortable + guards.most)
            if data_bytes <= room / 2:
                # They are read from disk once, in however many chunks.
                largest = min(largest, comfortable)
        parts = cutting.choose_parts(nchan, fitting, largest, cleans=cleans, pixels=size.pixels)
        chunks = cutting.cut_evenly(nchan, parts, guards)
    if block is not None:
        longest = max(chunk.channels for chunk in chunks)
        cut = cutting.cut_at_blocks if whole_blocks else cutting.cut_in_blocks
        chunks = cut(nchan, longest, block, guards)
    memory = cube.memory_of(chunks)
    at_once = machine.at_once(memory, min(wanted, len(chunks)))
    warnings = (
        *_want_of_memory(each, usable, memory, at_once, min(nworkers, len(chunks)), nworkers),
        *_other_chunks(chanchunks, nchan, block, whole_blocks=whole_blocks),
    )
    return Sizing(chunks=chunks, memory=memory, at_once=at_once, warnings=warnings)


@dataclass(frozen=True)
class _Cube:
    """What chunks are cut from; as for `size_run`."""

    size: ImageSize
    nchan: int
    guards: Guards
    first_guards: Guards
    cleans: bool

    def memory(self, channels: int) -> StepMemory:
        """What the steps of a chunk of so many core channels take, in the middle of the cube."""
        first, gridded = (
            guards.gridded_channels(channels, self.nchan)
            for guards in (self.first_guards, self.guards)
        )
        return step_memory(self.size, channels, first, gridded, cleans=self.cleans)

    def memory_of(self, chunks: Sequence[Chunk]) -> StepMemory:
        """What the steps of the largest of some chunks take."""
        firsts = [self.first_guards.around(c.start, c.stop, self.nchan) for c in chunks]
        return step_memory(
            self.size,
            max(chunk.channels for chunk in chunks),
            max(chunk.gridded_channels for chunk in firsts),
            max(chunk.gridded_channels for chunk in chunks),
            cleans=self.cleans,
        )

    def largest_chunk(self, available: int) -> int:
        """Core channels of the largest chunk that fits into a worker; at least one."""
        fits, beyond = 1, self.nchan + 1
        while beyond - fits > 1:
            middle = (fits + beyond) // 2
            if self.memory(middle).most <= available:
                fits = middle
            else:
                beyond = middle
        return fits

    def quickest(self, machine: Machine, wanted: int) -> tuple[int, int]:
        """Choose chunks for a clean where guard channels take much of the memory.

        Returns
        -------
        tuple of int
            Tasks at once in the first pass, and core channels, with which a core channel takes
            least time, if each channel and step take the same: larger chunks have fewer guard
            channels for each, and fewer of them are in memory at once.
        """
        room = machine.room(wanted if machine.limit is None else 1)
        best = (math.inf, 1, 1)
        for core in range(1, min(self.nchan, _MANY * self.guards.most) + 1):
            memory = self.memory(core)
            if core > 1 and memory.most > room:
                break
            tasks = machine.at_once(memory, wanted)
            # Masks are made on one channel more.
            masks = (core + 1) / core / tasks.masks if memory.masks else 0
            cycle = (core + self.guards.most) / core / tasks.major + masks + 1 / tasks.minor
            seconds = (core + self.first_guards.most) / core / tasks.first + _CYCLES * cycle
            best = min(best, (seconds, min(tasks.first, self.nchan), core))
        return best[1:]


def _want_of_memory(
    each: int, usable: int, memory: StepMemory, at_once: AtOnce, useful: int, nworkers: int
) -> tuple[str, ...]:
    """Say that a chunk does not fit, or that fewer tasks run at once than workers are wanted."""
    if each > usable:
        return (
            f"a worker takes {each / _GIB:.2f} GiB for a chunk, of {usable / _GIB:.2f} GiB that "
            "are free: the machine may run out of memory. tclean would cut such a cube into "
            "single channels, which changes the images; ptclean does not",
        )
    if at_once.fewest >= useful:
        return ()
    others = f", others up to {at_once.nworkers}" if at_once.nworkers > at_once.fewest else ""
    return (
        f"nworkers={nworkers} of {memory.most / _GIB:.2f} GiB each do not fit into "
        f"{usable / _GIB:.2f} GiB: of steps that take so much {at_once.fewest} run at "
        f"once{others}. The images are the same",
    )


def _other_chunks(
    chanchunks: int, nchan: int, block: int | None, *, whole_blocks: bool
) -> tuple[str, ...]:
    """Say that chunks are others than `chanchunks` asks for, since CASA has blocks of channels."""
    if block is None or chanchunks < 1:
        return ()
    if whole_blocks:
        return (
            ()
            if chanchunks % block == 0
            else (
                f"chanchunks={chanchunks}: chunks are of the whole blocks of {block} channels "
                "that CASA cleans at a time. The images are the same",
            )
        )
    if block < nchan and (chanchunks > block or block % chanchunks):
        return (
            f"chanchunks={chanchunks}: chunks end where the blocks of {block} channels end "
            "for which CASA makes masks at a time. The images are the same",
        )
    return ()


def _refuse_too_small(
    size: ImageSize, channels: int, needed: int, per_worker: float, limit: int
) -> None:
    if needed <= per_worker:
        return
    raise MemoryError(
        f"memory_limit={limit / _GIB:.2f}GiB: one channel of {size.nx} x {size.ny} pixels, gridded "
        f"with its guard channels ({channels} in all), takes {needed / _GIB:.2f} GiB of a worker, "
        f"which may fill {per_worker / _GIB:.2f} GiB; give each worker at least "
        f"{needed / USABLE_OF_LIMIT / _GIB:.1f}GiB, or make smaller images"
    )


def _comfortable_chunk(size: ImageSize, guards: Guards, rows: int) -> int:
    """Core channels at which a chunk of a dirty cube is fastest, if its data are in memory."""
    fixed = _SECONDS_PER_CALL + rows * _SECONDS_PER_ROW_OF_CHUNK
    worthwhile = math.ceil(fixed / _FIXED_PART / _seconds_per_channel(size, rows))
    # Guard channels are to be few, and a single channel is gridded with another one.
    least = max(4 * guards.most, guards.fewest)
    gridded = largest_gridded(size, WORKER_BASE + _COMFORTABLE)
    return max(gridded - guards.most, worthwhile, least)


def tclean_seconds(size: ImageSize, nchan: int, rows: int, *, cleans: bool) -> float:
    """Estimate roughly how long serial tclean takes for a cube, in seconds."""
    channels = nchan * _seconds_per_channel(size, rows)
    return (_SECONDS_PER_CALL + channels) * (_CLEAN_FACTOR if cleans else 1)


def _seconds_per_channel(size: ImageSize, rows: int) -> float:
    return size.pixels * _SECONDS_PER_PIXEL + rows * _SECONDS_PER_ROW
