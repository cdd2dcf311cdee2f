# SPDX-License-Identifier: GPL-3.0-or-later
"""What a worker must know of a chunk, and what it says of its beginning: plain data."""

from __future__ import annotations

import os
import pickle
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, lru_cache

from ..planning.chunks import Chunk, Guards
from ..planning.continuing import Beginning
from ..planning.memory import AtOnce
from ..products import beams
from ..records import ImagingRecords, Record

#: Products that CASA's imager makes, from the visibilities; the deconvolver makes the others.
IMAGER_PRODUCTS = ("psf", "pb", "residual", "sumwt", "weight")

#: Prefixes of images in a chunk's folder that are of no use when it is finished: all but ``core``.
SPENT = ("gridded", "window", "masked", "users")

#: What the memory of each step is counted as (:class:`ptclean.planning.memory.StepMemory`).
_COUNTED_AS = {
    "begin": "first",
    "set_beam": "minor",
    "start_masks": "masks",
    "minor": "minor",
    "major": "major",
    "mask": "masks",
    "finish": "minor",
}


def limits_of_steps(at_once: AtOnce) -> dict[str, int]:
    """Say how many tasks of each step may run at once."""
    counts = asdict(at_once)
    return {step: counts[name] for step, name in _COUNTED_AS.items()}


@dataclass(frozen=True)
class CubeJob:
    """What a worker must know of the cube as a whole; plain data.

    Pickled once, not once for each chunk: CASA's records are most of what is sent with a task, and
    the scheduler pickles each task by itself. So the chunks of a worker share one.

    Attributes
    ----------
    run : str
        Name of the run, unique among runs.
    records : ImagingRecords
    coordinates : dict
        Coordinate record.
    channels : int
    directory : str
        Work directory of the run, absolute; the same path on each worker.
    cleans : bool
        Whether there are minor cycles.
    restores, corrects : bool
        tclean's `restoration` and `pbcor`.
    mask : str or None
        The user's clean mask on the grid of the cube, absolute; one channel stands for all.
    automasks : bool
        Whether the masks of the minor cycles are made by CASA.
    beginning : Beginning
        Images from which the run goes on.
    guards : Guards
        Of each chunk, and of each part of one that is gridded by itself.
    data_guards : Guards or None
        Of the first pass, which knows no model, where major cycles grid no more of a chunk than
        they must (:mod:`ptclean.imaging.window`). None: CASA's imager is the same throughout.
    """

    run: str
    records: ImagingRecords
    coordinates: Record
    channels: int
    directory: str
    cleans: bool
    restores: bool
    corrects: bool
    mask: str | None = None
    automasks: bool = False
    beginning: Beginning = field(default_factory=Beginning)
    guards: Guards = field(default_factory=Guards)
    data_guards: Guards | None = None

    def __reduce__(self) -> tuple[Callable[[bytes], CubeJob], tuple[bytes]]:
        return _unpickled, (self._pickled,)

    @cached_property
    def _pickled(self) -> bytes:
        return pickle.dumps({each.name: getattr(self, each.name) for each in fields(self)})


@lru_cache(maxsize=4)
def _unpickled(pickled: bytes) -> CubeJob:
    job = CubeJob(**pickle.loads(pickled))
    # The scheduler passes it on.
    vars(job)["_pickled"] = pickled
    return job


@dataclass(frozen=True)
class ChunkJob:
    """What a worker must know of a chunk; plain data.

    Attributes
    ----------
    cube : CubeJob
    chunk : Chunk
        With the guard channels that it has where models are degridded.
    neighbours : tuple of Chunk
        Chunks whose core channels are among this chunk's guard channels.
    """

    cube: CubeJob
    chunk: Chunk
    neighbours: tuple[Chunk, ...]

    @property
    def run(self) -> str:
        """Name of the run, unique among runs."""
        return self.cube.run

    @property
    def first(self) -> Chunk:
        """The channels as they are gridded in the first pass."""
        guards, chunk = self.cube.data_guards, self.chunk
        if guards is None:
            return chunk
        return guards.around(chunk.start, chunk.stop, self.cube.channels, chunk.index)

    @property
    def index(self) -> int:
        """Position of the chunk among the chunks."""
        return self.chunk.index

    @property
    def cost(self) -> int:
        """Channels that are gridded, which the time of a step grows with."""
        return self.chunk.gridded_channels

    @property
    def label(self) -> str:
        """Name in the keys of its tasks."""
        return f"chunk-{self.index:04d}"

    def __str__(self) -> str:
        return str(self.chunk)

    @property
    def deconvolves(self) -> bool:
        """Whether a deconvolver is wanted: for minor cycles, or to restore."""
        return self.cube.cleans or self.cube.restores

    @property
    def has_one_beam(self) -> bool:
        """Whether the cube is restored with one beam, given or common."""
        return beams.is_single(self.cube.records.deconvolution["restoringbeam"])

    def folder(self, chunk: Chunk | None = None) -> str:
        """Directory of a chunk's images, this one's if none is given."""
        index = (chunk or self.chunk).index
        return os.path.join(self.cube.directory, f"chunk-{index:05d}")

    @property
    def place(self) -> str:
        """Directory of the chunk's images, there as long as the chunk is wanted."""
        return self.folder()

    def core(self, chunk: Chunk | None = None) -> str:
        """Prefix of a chunk's core images."""
        return os.path.join(self.folder(chunk), "core")

    @property
    def gridded(self) -> str:
        """Prefix of this chunk's gridded images, those of the first pass."""
        if self.cube.data_guards is None and self.chunk.gridded_channels == self.chunk.channels:
            return self.core()
        return os.path.join(self.folder(), "gridded")

    def new_scratch(self, kind: str) -> str:
        """Directory for CASA's tables of weights, with another name for each imager.

        Their own names tell neither image nor process. An imager takes over tables that it finds,
        and when it is closed deletes those of the names that it made: where another worker has
        taken the chunk up, the tables of that one, and if both are closed at once, the process
        ends with an exception that nobody can catch (``SynthesisImager::cleanupTempFiles``).
        """
        return os.path.join(self.folder(), f"{kind}-{uuid.uuid4().hex}")

    def core_plane(self, plane: int) -> int | None:
        """Number of a plane of the whole cube among this chunk's, None if it is none of them."""
        pol, channel = divmod(plane, self.cube.channels)
        if not self.chunk.start <= channel < self.chunk.stop:
            return None
        return pol * self.chunk.channels + channel - self.chunk.start

    @property
    def masked(self) -> str:
        """Prefix of the images on which masks are made."""
        return os.path.join(self.folder(), "masked")


@dataclass(frozen=True)
class Begun:
    """What the first step of a chunk found.

    Attributes
    ----------
    records : list of dict
        The deconvolver's initialization records, before and after the mask is set up; empty if
        there are no minor cycles. With automasking one record, which knows no mask.
    largest_beam : dict or None
        Of the largest area that was fitted to a core plane.
    lacks_beams : bool
        Whether there are core planes to which no beam could be fitted.
    """

    records: list[Record]
    largest_beam: Record | None
    lacks_beams: bool
