# SPDX-License-Identifier: GPL-3.0-or-later
"""Go on with what a run has left that was killed, stopped, or ran into a full disk.

Covers finding out whether a call is the one that left it, what of a run that fails is worth being
kept, and taking over the chunks' directories. To the chunks it is as if all workers had died at the
same time: each is rebuilt from its model as it was before the step that is to be made
(:meth:`ptclean.imaging.chunk_imager.ChunkImager.recover`). What the driver knew it finds in the
journal (:mod:`ptclean.keeping.journal`).

A worker of the former driver may still be at work: one of a cluster of the user's ends its step
whatever becomes of the driver. So each driver has a directory of its own for the chunks, an
*attempt*, and takes into it copies of what nobody writes to.

Of a continuum image, what there is to be taken over is :mod:`ptclean.imaging.whole_image`'s to say.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .. import logs
from ..call.own_parameters import OWN_PARAMETERS
from ..call.parameters import Parameters, absolute_paths
from ..config import setting
from ..errors import (
    ChunkError,
    DataChangedError,
    LeftoverError,
    PtcleanError,
    SaveModelError,
    TaskError,
)
from ..planning.continuum_plan import ContinuumPlan, fit_again
from ..planning.plan import Plan
from ..planning.sizing import USABLE_OF_LIMIT, Machine
from ..products.casa_io import copy_table
from .disk import FELL_SHORT
from .durable import sync_directory
from .journal import Journal, JournalError
from .manifest import Manifest, ManifestError, read_manifest
from .workdir import refuse_if_in_use

_GIB = 2**30

#: Where a worker that rebuilds a chunk's tools puts away its model for a moment.
_PUT_AWAY = "core.kept"

#: How often a chunk's state is looked for that is moved while it is copied.
_LOOKS = 3

#: What the system says where the disk is at fault, and neither data nor parameters (strerror(3)).
_OF_THE_DISK = re.compile(
    "no space left|quota exceeded|input/output error|read-only file system|stale file handle"
    "|too many open files|cannot allocate memory|bad_alloc",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Leftover:
    """Work that a call has left.

    Attributes
    ----------
    manifest : Manifest
    place : str
        Where it is to be gone on with.
    """

    manifest: Manifest
    place: str

    def plan(self, own: Parameters, machine: Machine) -> Plan:
        """Return its plan, for the machine on which it is gone on with; see `plan_on`."""
        made = plan_on(self.manifest.plan, own, machine)
        return replace(made, resumes=f"the call of {self.manifest.since}, from {self.place}")


def find_leftover(parameters: Parameters) -> Leftover | None:
    """Find the work that the same call has left.

    Parameters
    ----------
    parameters : dict
        All parameters of ptclean, validated.

    Returns
    -------
    Leftover or None
        None if there is nothing to go on with.

    Raises
    ------
    ImageInUseError
        If a run that goes on has the same imagename.
    LeftoverError
        If there is work of another call, or it cannot be gone on with.
    """
    tclean = {name: value for name, value in parameters.items() if name not in OWN_PARAMETERS}
    if not tclean["imagename"]:
        return None
    tclean = absolute_paths(tclean)
    imagename = tclean["imagename"]
    path = f"{imagename}.ptclean"
    if not os.path.isdir(path):
        return None
    refuse_if_in_use(imagename)
    if not setting("resume"):
        return None
    try:
        manifest = read_manifest(path)
        if manifest is None:
            return None
        journal = Journal(path)
    except (ManifestError, JournalError) as error:
        raise LeftoverError(path, "", "", [str(error)]) from error
    if not journal.has_work:
        return None
    changes = manifest.changes(tclean, with_inputs=not journal.knows("assembled"))
    if changes and journal.knows("installed"):
        # There is nothing to be given up.
        return None
    if changes:
        raise LeftoverError(path, manifest.since, journal.place(), changes)
    return Leftover(manifest, journal.place())


def plan_on(plan: Plan, own: Parameters, machine: Machine) -> Plan:
    """Fit the plan of a run that was begun earlier to the machine on which it goes on.

    Parameters
    ----------
    plan : Plan
    own : dict
        ptclean's own parameters.
    machine : Machine

    Returns
    -------
    Plan
        With the same chunks, on which the memory of a worker depends, whatever `chanchunks` is now,
        or the same parts.

    Raises
    ------
    MemoryError
        If a chunk does not fit into a worker any more.
    """
    if isinstance(plan, ContinuumPlan):
        return fit_again(plan, machine, own["nworkers"])
    wanted = own["nworkers"] or machine.workers
    if machine.limit is not None and plan.worker_memory > machine.limit * USABLE_OF_LIMIT:
        raise MemoryError(
            f"memory_limit={machine.limit / _GIB:.2f}GiB: the run that is to be gone on with "
            f"has chunks that take {plan.worker_memory / _GIB:.2f} GiB of a worker; give each "
            f"at least {plan.worker_memory / USABLE_OF_LIMIT / _GIB:.1f}GiB"
        )
    assert plan.memory is not None
    at_once = machine.at_once(plan.memory, min(wanted, len(plan.chunks)))
    return replace(
        plan,
        nworkers=at_once.nworkers,
        at_once=at_once,
        memory_limit=machine.limit,
    )


def keeps(error: BaseException, directory: str) -> bool:
    """Tell whether the work of a run that ends with an exception is worth being kept.

    It is if the run was stopped, or if workers or the disk failed. It is not if CASA has refused
    the data before the first step of each chunk was complete. Says so in the log and in the
    exception.

    Parameters
    ----------
    error : BaseException
    directory : str
        Work directory.
    """
    try:
        journal = Journal(directory)
    except JournalError:
        return False
    # The text of the latter says how to go on.
    of_no_use = isinstance(error, DataChangedError | SaveModelError)
    if not journal.has_work or journal.knows("installed") or of_no_use:
        return False
    if _is_of_the_input(error) and not journal.knows("begun"):
        return False
    kept = (
        f"what is done is kept in {directory}: the same call again goes on from {journal.place()}"
    )
    logs.post(kept[0].upper() + kept[1:], "WARN")
    if isinstance(error, ChunkError):
        error.add_advice(kept)
    else:
        error.add_note(kept)
    return True


def _is_of_the_input(error: BaseException) -> bool:
    cause = error.__cause__ if isinstance(error, PtcleanError) and error.__cause__ else error
    if not isinstance(cause, TaskError):
        return False
    return not (_OF_THE_DISK.search(cause.error) or FELL_SHORT.search(cause.error))


@dataclass(frozen=True)
class TakingOver:
    """What is to be taken over of one chunk; plain data.

    Attributes
    ----------
    former, now : str
        Directory of the chunk in the former attempt, and in this one, where there is none yet.
    steps : int
        Steps of it that are complete, at least one.
    finished : bool
        Whether there are no more to come.
    keeps_psf : bool
        Whether the driver wants to see the PSF.
    """

    former: str
    now: str
    steps: int
    finished: bool
    keeps_psf: bool


class _Job(Protocol):
    @property
    def index(self) -> int: ...

    def folder(self) -> str: ...


def take_over_chunks(
    jobs: Sequence[_Job],
    journal: Journal,
    directory: str,
    attempt: str,
    on_workers: Callable[[Callable[[TakingOver], None], Sequence[TakingOver]], Any],
    last_step: str,
    *,
    keeps_psf: bool = False,
) -> None:
    """Take over what an earlier driver has left of the chunks, and remove the rest.

    Parameters
    ----------
    jobs : sequence
        With `index` and `folder`, the latter in the new attempt.
    journal : Journal
    directory : str
        Work directory of the run.
    attempt : str
        Directory of this attempt, in it.
    on_workers : callable
        Calls a function with each of some arguments.
    last_step : str
        Name of the step after which a chunk is finished.
    keeps_psf : bool
        See `TakingOver`.
    """
    logs.post(f"What an earlier call has done is gone on with, from {journal.place()}")
    former = os.path.join(directory, journal.fact("attempt"))
    chunks = []
    for job in jobs:
        names = journal.steps_of(job.index)
        if names:
            folder = job.folder()
            chunks.append(
                TakingOver(
                    former=os.path.join(former, os.path.basename(folder)),
                    now=folder,
                    steps=len(names),
                    finished=names[-1] == last_step,
                    keeps_psf=keeps_psf,
                )
            )
    on_workers(take_over, chunks)
    journal.put("attempt", os.path.basename(attempt))
    remove_former(directory, os.path.basename(attempt))


def take_over(chunk: TakingOver) -> None:
    """Take over one chunk; what workers execute."""
    former, now = os.path.realpath(chunk.former), chunk.now
    if chunk.finished:
        # Nobody has it open any more.
        if os.path.islink(now):
            return
        # Of a worker that died of copying it.
        shutil.rmtree(now, ignore_errors=True)
        try:
            os.symlink(former, now)
        except OSError:
            # A file system without links.
            shutil.copytree(former, now)
        return
    for looks_left in reversed(range(_LOOKS)):
        # A worker has died of it, or something was gone before it was copied.
        shutil.rmtree(now, ignore_errors=True)
        os.mkdir(now)
        try:
            _copy_state(chunk, former)
            return
        except (FileNotFoundError, shutil.Error):
            if not looks_left:
                raise


def _copy_state(chunk: TakingOver, former: str) -> None:
    """Copy what a chunk goes on from; raises FileNotFoundError if it is moved meanwhile."""
    now = chunk.now
    saved, model = f"model-{chunk.steps}", "core.model"
    names = ["gridded.model", "window.model", "window.json", "beam.json", "cycled", "history"]
    if chunk.keeps_psf:
        names.append("core.psf")
    put_away = _is_put_away(former)
    _copy(former, _PUT_AWAY if put_away else model, now, model)
    for name in names:
        _copy(former, name, now)
    if os.path.isdir(os.path.join(former, saved)):
        # A minor cycle has begun, before we looked or meanwhile: the model is not to be trusted.
        shutil.rmtree(os.path.join(now, model), ignore_errors=True)
        _copy(former, saved, now)
    if _is_put_away(former) != put_away:
        raise FileNotFoundError(f"{former}: the model was moved while it was copied")


def _is_put_away(former: str) -> bool:
    return os.path.isdir(os.path.join(former, _PUT_AWAY))


def _copy(source: str, name: str, target: str, new_name: str = "") -> None:
    path, new = os.path.join(source, name), os.path.join(target, new_name or name)
    if os.path.isdir(path):
        copy_table(path, new)
    elif os.path.exists(path):
        shutil.copy2(path, new)


def remove_former(directory: str, attempt: str) -> None:
    """Remove the attempts before one, but for the chunks that it has taken over as they are."""
    wanted = {
        os.path.realpath(entry.path)
        for entry in os.scandir(os.path.join(directory, attempt))
        if entry.is_symlink()
    }
    for other in os.scandir(directory):
        if not other.name.startswith("attempt-") or other.name == attempt:
            continue
        for entry in os.scandir(other.path):
            if not entry.is_dir(follow_symlinks=False):
                os.remove(entry.path)
            elif os.path.realpath(entry.path) not in wanted:
                shutil.rmtree(entry.path, ignore_errors=True)
    sync_directory(directory)
