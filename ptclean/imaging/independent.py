# SPDX-License-Identifier: GPL-3.0-or-later
"""The other engine: each chunk is cleaned by itself, as if it were a cube.

For those who prefer throughput to tclean's own images (``ptclean.iteration-control: chunk``, never
the default). A chunk is one task, from the first residual to restored images: nobody waits at the
end of a cycle for others, and no model goes from chunk to chunk. The task is the engine of
:mod:`ptclean.imaging.imager`, in one worker, for a cube of the chunk's core and guard channels. The
guard channels are cleaned as well, so that the core channels at the edges see models beyond them;
what comes out of them is then dropped.

PSF, primary beam, weights and first residual are tclean's. What differs is how deep a minor cycle
goes: tclean takes the largest residual and the highest sidelobe of the cube for it, this engine
those of the chunk; and `niter` and `nmajor` hold for each chunk.

Does not cover what is of the whole cube
(:func:`ptclean.planning.independence.reason_for_one_control`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from distributed import Client
from numpy.typing import NDArray

from .. import logs
from ..keeping.disk import require_room
from ..keeping.durable import sync_tree
from ..keeping.journal import Journal
from ..keeping.resumption import take_over_chunks
from ..keeping.workdir import make_folder
from ..planning.axis import shifted
from ..planning.chunks import Chunk
from ..planning.cleanmask import CleanMask
from ..planning.plan import Plan
from ..products import images
from ..records import Record
from ..reporting.events import Listener, Phase, task_of, told
from ..reporting.story import Story
from ..steps import Step
from ..workers.splitter import Admit, CubeSplitter
from .assembly import assemble_all, assemblies
from .at_work import forget
from .chunk_job import ChunkJob
from .control import CHANNEL_ROW, ITERATIONS_ROW
from .imager import ParallelCubeImager, cube_job
from .savemodel import ModelsToSave
from .steps_here import take_known

#: The only step of a chunk.
_STEP = "clean"

#: tclean's stop code of a clean that came down to its threshold.
_THRESHOLD = 2


@dataclass(frozen=True)
class ChunkAlone(ChunkJob):
    """What a worker must know of a chunk that it cleans by itself; plain data.

    Attributes
    ----------
    plan : Plan
        Of the whole cube.
    """

    plan: Plan = field(kw_only=True)


class IndependentChunks:
    """Images a cube as planned, each chunk by itself, on the workers of a Dask client.

    Parameters
    ----------
    plan, client, directory, admit, listener
        As for :class:`ptclean.imaging.imager.ParallelCubeImager`.

    Attributes
    ----------
    skipped : int
        As there; what a chunk leaves out within its task is not counted.
    models : ModelsToSave
        As there; none.
    """

    def __init__(
        self,
        plan: Plan,
        client: Client,
        directory: str,
        admit: Admit | None = None,
        listener: Listener | None = None,
    ) -> None:
        if plan.records is None or not plan.independent:
            raise ValueError("this plan is not for chunks that are cleaned each by itself")
        self._shape = plan.shape or (1, 1, 1, 1)
        self._directory = directory
        self._listener = listener or Story()
        self._journal = Journal(directory)
        self._splitter = CubeSplitter(
            client,
            plan.nworkers,
            self._listener,
            journal=self._journal,
            step=step,
            forget=forget,
            limits={_STEP: plan.at_once.fewest} if plan.at_once else None,
            admit=admit,
        )
        self.skipped = 0
        self.models = ModelsToSave(plan.parameters)
        attempt = tempfile.mkdtemp(prefix="attempt-", dir=directory)
        cube = cube_job(plan, plan.records, directory, attempt)
        self._jobs = [ChunkAlone(cube, chunk, (), plan=plan) for chunk in plan.chunks]

    def run(self, history: Sequence[str]) -> tuple[Record, dict[str, str]]:
        """Make the images of all chunks, and of them those of the cube, in the work directory.

        Parameters
        ----------
        history : sequence of str
            Lines for the images' history.

        Returns
        -------
        summary : dict
            What the iteration controls of all chunks say, as of one (`join_summaries`).
        made : dict
            The image of each product.

        Raises
        ------
        ChunkError
            If a chunk fails.
        """
        journal = self._journal
        if end := journal.end():
            summary, made, _ = end
            return summary, made
        attempt = self._jobs[0].cube.directory
        on_workers = self._splitter.map
        if journal.steps:
            take_over_chunks(self._jobs, journal, self._directory, attempt, on_workers, _STEP)
        else:
            journal.put("attempt", os.path.basename(attempt))
        results = self._clean()
        summary = join_summaries(results, [job.chunk for job in self._jobs])
        made = assemble_all(
            assemblies(self._jobs, history), self._shape, on_workers, self._listener
        )
        journal.put_end(summary, made)
        return summary, made

    def _clean(self) -> list[Record]:
        steps = [Step(job, _STEP) for job in self._jobs]
        results, missing = take_known(self._journal, self._splitter, steps)
        tasks = tuple(task_of(step) for step in missing)
        with told(self._listener, Phase("chunks, each by itself", tasks, len(steps))):
            results |= self._splitter.run(missing)
        for job in self._jobs:
            result = results[job.index]
            logs.post(
                f"{job}: {result['iterdone']} iterations in {result['nmajordone']} major cycles, "
                f"stop code {result['stopcode']}"
            )
        return [results[job.index] for job in self._jobs]


def join_summaries(summaries: Sequence[Record], chunks: Sequence[Chunk]) -> Record:
    """Make of the summaries of chunks that were cleaned as cubes that of the whole cube.

    Parameters
    ----------
    summaries : sequence of dict
        What the iteration control of each chunk says, guard channels included.
    chunks : sequence of Chunk
        In the order of their channels.

    Returns
    -------
    dict
        Minor cycles of the core channels, in the cube's numbers, those of chunks that had fewer
        followed by some without iterations; the sum of their iterations; the threshold as its
        stop code if all chunks came down to it, otherwise that of the first that did not. All else
        is of the chunk that had most major cycles.
    """
    longest = max(summaries, key=lambda summary: int(summary["nmajordone"]))
    parts = []
    for summary, chunk in zip(summaries, chunks, strict=True):
        columns = np.array(summary["summaryminor"], dtype=float)
        # Axes: quantity, minor cycle, channel.
        cycles = columns.reshape(len(columns), -1, chunk.gridded_channels)
        first = chunk.start - chunk.gridded_start
        parts.append(cycles[:, :, first : first + chunk.channels])
    most = max(part.shape[1] for part in parts)
    joined = np.concatenate([_with_idle_cycles(part, most) for part in parts], axis=2)
    joined[CHANNEL_ROW] = np.arange(chunks[0].start, chunks[-1].stop)
    minor = joined.reshape(len(joined), -1)
    codes = [int(summary["stopcode"]) for summary in summaries]
    return {
        **longest,
        "summaryminor": minor,
        "iterdone": int(minor[ITERATIONS_ROW].sum()),
        "stopcode": next((code for code in codes if code != _THRESHOLD), _THRESHOLD),
    }


def _with_idle_cycles(part: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """Let minor cycles without iterations follow, in which nothing changes, up to a number."""
    rows, cycles, channels = part.shape
    # A chunk that is below the threshold from the beginning has none at all.
    last = part[:, -1:] if cycles else np.zeros((rows, 1, channels))
    idle = np.repeat(last, most - cycles, axis=1)
    idle[ITERATIONS_ROW] = 0
    return np.concatenate([part, idle], axis=1)


def step(job: ChunkAlone, steps: int, name: str, arguments: Record) -> Record:
    """Clean one chunk by itself; the function that workers execute.

    Parameters
    ----------
    job : ChunkAlone
    steps : int
        Steps that are complete: none.
    name : str
        'clean'.
    arguments : dict
        Empty.

    Returns
    -------
    dict
        Summary of the chunk's iteration control.
    """
    require_room(job.cube.directory)
    make_folder(job.folder())
    inside = os.path.join(job.folder(), "alone")
    # That of a worker that has died is gone on with, as that of a driver.
    make_folder(inside)
    imager = ParallelCubeImager(_as_cube(job, inside), None, inside)
    summary = imager.make_chunks()
    assert summary is not None
    (made,) = imager.jobs
    chunk = job.chunk
    core = slice(chunk.start - chunk.gridded_start, chunk.stop - chunk.gridded_start)
    for product in images.image_products(made.core()):
        target = f"{job.core()}.{product}"
        shutil.rmtree(target, ignore_errors=True)
        images.cut(f"{made.core()}.{product}", target, core)
    density = f"{made.gridded}.{images.WEIGHT_DENSITY}"
    if os.path.isdir(density):
        shutil.copytree(density, f"{job.gridded}.{images.WEIGHT_DENSITY}", dirs_exist_ok=True)
    sync_tree(job.folder())
    shutil.rmtree(inside)
    require_room(job.cube.directory)
    return summary


def _as_cube(job: ChunkAlone, directory: str) -> Plan:
    """Return the plan of a cube that has the core and guard channels of a chunk."""
    plan = job.plan
    assert plan.shape is not None
    chunk = job.chunk
    nchan = chunk.gridded_channels
    return replace(
        plan,
        nworkers=1,
        chunks=(Chunk(0, 0, nchan, 0, nchan),),
        shape=(*plan.shape[:3], nchan),
        coordinates=shifted(plan.coordinates, chunk.gridded_start),
        mask=_cut_mask(job, directory) if job.cube.mask else None,
        independent=False,
    )


def _cut_mask(job: ChunkJob, directory: str) -> CleanMask:
    """Cut the core and guard channels out of the cube's clean mask, if it has more than one."""
    assert job.cube.mask is not None
    chunk = job.chunk
    target = os.path.join(directory, "cut.mask")
    shutil.rmtree(target, ignore_errors=True)
    (*_, channels), _ = images.shape_and_coordinates(job.cube.mask)
    wanted = slice(chunk.gridded_start, chunk.gridded_stop) if channels > 1 else slice(0, 1)
    images.cut(job.cube.mask, target, wanted)
    nchan = chunk.gridded_channels
    return CleanMask((target,), nchan, nchan, on_grid=True)
