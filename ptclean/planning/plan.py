# SPDX-License-Identifier: GPL-3.0-or-later
"""What ptclean is going to do with a call, as plain data that can be printed.

Made by :func:`ptclean.planning.cube_plan.make_plan`, and for continuum images by
:func:`ptclean.planning.continuum_plan.make_continuum_plan`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..records import ImagingRecords
from .chunks import Chunk, Guards
from .cleanmask import CleanMask
from .memory import AtOnce, StepMemory
from .standin import StandIn

_GIB = 2**30

#: What the steps are called whose memory is told apart.
_STEPS = {
    "first": "the first pass",
    "major": "major cycles",
    "masks": "masking",
    "minor": "minor cycles",
}


@dataclass(frozen=True)
class Plan:
    """What ptclean is going to do.

    Attributes
    ----------
    imagename : str
        Absolute.
    serial : str or None
        Why tclean itself runs, in this process; None if ptclean's engine does. If it is set, the
        attributes below it are None or empty.
    nworkers : int
        Workers.
    chunks : tuple of Chunk
        Core and guard channels of each chunk.
    guards : Guards
        Of chunks.
    data_guards : Guards or None
        Of chunks where they are first gridded, if major cycles then grid parts of them alone.
    shape : tuple of int or None
        (nx, ny, npol, nchan) of the cube.
    start, width : float
        Frequency of the first channel, and channel increment, in Hz.
    frame : str
        Frame of the frequencies.
    rows : int
        Rows of the measurement sets.
    read_bytes : int
        Bytes of visibilities that all chunks together read in one pass, if each reads all of them
        (as it does where the tiles of the data column span the band).
    passes : int
        Passes over the visibilities before the first minor cycle. Each major cycle is one more, of
        the chunks with emission alone. (Measured, 6.7.0: those for weights and PSF read none.)
    written_bytes, written_bytes_a_cycle : int
        Bytes of images that are written, in the first pass and at the end, and in each cycle if
        there is emission in all channels; 0 for continuum images, where nobody has counted.
    worker_memory : int
        Bytes that a worker takes at its peak.
    memory : StepMemory or None
        The same for each kind of step.
    at_once : AtOnce or None
        Tasks of each kind of step that run at once.
    memory_limit : int or None
        Bytes at which Dask kills a worker, or None.
    casa_memory : int
        MB that CASA is told it may plan with in each worker.
    independent : bool
        Whether each chunk is cleaned by itself (``ptclean.iteration-control``).
    mask : CleanMask or None
        What is to be made of the user's clean mask.
    warnings : tuple of str
    standins : tuple of StandIn
        What chunks read their data through, where that is not the measurement sets themselves.
    existing : tuple of str
        Extensions of the images of an earlier run, from which this one goes on.
    space, free_space : int
        Bytes that the run takes on the file system of its images until it is over, and those that
        are free there.
    resumes : str
        Where a run that did not come to its end is gone on with; empty for a new one.
    """

    imagename: str
    serial: str | None = None
    nworkers: int = 1
    chunks: tuple[Chunk, ...] = ()
    guards: Guards = field(default_factory=Guards)
    data_guards: Guards | None = None
    shape: tuple[int, int, int, int] | None = None
    start: float = 0.0
    width: float = 0.0
    frame: str = ""
    rows: int = 0
    read_bytes: int = 0
    passes: int = 1
    written_bytes: int = 0
    written_bytes_a_cycle: int = 0
    worker_memory: int = 0
    memory: StepMemory | None = None
    at_once: AtOnce | None = None
    memory_limit: int | None = None
    casa_memory: int = 0
    independent: bool = False
    mask: CleanMask | None = None
    warnings: tuple[str, ...] = ()
    existing: tuple[str, ...] = ()
    space: int = 0
    free_space: int = 0
    resumes: str = ""
    parameters: dict[str, Any] = field(default_factory=dict, repr=False)
    records: ImagingRecords | None = field(default=None, repr=False)
    coordinates: dict[str, Any] = field(default_factory=dict, repr=False)
    standins: tuple[StandIn, ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, without the records for CASA's tools."""
        plain = asdict(self)
        for name in ("parameters", "records", "coordinates", "standins"):
            del plain[name]
        return plain

    def __str__(self) -> str:
        rows = [("image", self.imagename)]
        if self.shape is None:
            rows.append(("engine", f"tclean, serially: {self.serial}"))
        else:
            if self.resumes:
                rows.append(("resumes", self.resumes))
            rows += self._table()
            rows.append(
                (
                    "space",
                    f"{self.space / _GIB:.3g} GiB until the run is over; "
                    f"{self.free_space / _GIB:.3g} GiB are free",
                )
            )
        rows += [("warning", warning) for warning in self.warnings]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)

    def _table(self) -> list[tuple[str, str]]:
        nx, ny, npol, nchan = self.shape or (0, 0, 0, 0)
        sizes = [chunk.channels for chunk in self.chunks]
        channels = f"{min(sizes)}" if len(set(sizes)) == 1 else f"{min(sizes)} to {max(sizes)}"
        guard = self.guards.sides
        guards = f"{guard} guard channel{'s' * (guard != 1)} on either side"
        limit = "none" if self.memory_limit is None else f"{self.memory_limit / _GIB:.2f} GiB"
        return [
            ("cube", f"{nx} x {ny} pixels, {npol} Stokes, {nchan} channels"),
            (
                "axis",
                f"{self.start / 1e9:.9f} GHz, {self.width / 1e3:+.6f} kHz a channel, {self.frame}",
            ),
            ("engine", self._engine()),
            ("chunks", f"{len(self.chunks)} of {channels} channels, {guards}"),
            (
                "memory",
                f"{self.worker_memory / _GIB:.2f} GiB a worker, limit {limit}; "
                f"CASA plans with {self.casa_memory} MB",
            ),
            (
                "reads",
                f"{self.rows} rows; up to {self.read_bytes / _GIB:.2f} GiB a pass, over all "
                f"chunks; {self._passes()}",
            ),
            ("writes", self._writes()),
        ]

    @property
    def _has_cycles(self) -> bool:
        return bool(self.parameters.get("niter"))

    def _passes(self) -> str:
        text = f"{self.passes} pass{'es' * (self.passes != 1)}"
        return text + ", and one for each major cycle" * self._has_cycles

    def _writes(self) -> str:
        text = f"{self.written_bytes / _GIB:.3g} GiB of images"
        if self._has_cycles:
            text += f", and up to {self.written_bytes_a_cycle / _GIB:.3g} GiB in each cycle"
        return text

    def _engine(self) -> str:
        text = f"{self.nworkers} worker{'s' * (self.nworkers != 1)}"
        counts = asdict(self.at_once) if self.at_once else {}
        fewer = [
            f"{counts[name]} in {step}"
            for name, step in _STEPS.items()
            if counts.get(name, self.nworkers) < self.nworkers
        ]
        if fewer:
            text += f", of which memory lets fewer work at once: {', '.join(fewer)}"
        return text
