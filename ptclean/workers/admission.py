# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the workers of somebody else's cluster can do their part of a run.

Covers: what each must have (versions, threads, memory, the measurement sets and the images'
directory under the same paths), examined on the worker itself, and said with the cure where it is
missing. All workers that are there when a run begins must be fit; one that joins later and is not
is left out of the run.

Does not cover: workers of our own (:mod:`ptclean.workers.cluster`), which are fit by making, nor
what makes a worker slow but not wrong (:class:`ptclean.workers.worker.WorkerSetup`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from distributed import Client, Worker

from .. import logs
from ..errors import UnfitWorkersError
from .borrowed import addresses_of
from .worker import free_memory

_GIB = 2**30

#: Part of a worker's limit that is planned with on a cluster of the user's, where Dask pauses
#: workers at 80 % unless told otherwise.
BELOW_PAUSE = 0.85

#: Names of the files by which the driver and a worker see that they write to the same directory.
_MARK = "seen-by-the-driver"
_ANSWER = "seen-by-"


@dataclass(frozen=True)
class Needs:
    """What a worker must have for a run.

    Attributes
    ----------
    ptclean, casatools : str
        Versions, those of the user's process.
    data : dict of str to str
        Digest of each measurement set (`digest`), by its absolute path.
    directory : str
        Work directory of the run, absolute.
    memory : int
        Bytes that a task takes at its peak.
    token : str
        What is in the files by which both sides see that they share the directory.
    """

    ptclean: str
    casatools: str
    data: Mapping[str, str]
    directory: str
    memory: int
    token: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True)
class Examination:
    """What a worker has of what is needed.

    Attributes
    ----------
    host : str
        Name of its machine.
    ptclean, casatools : str
        Versions.
    nthreads : int
        Tasks that Dask gives it at a time.
    memory_limit : int or None
        Bytes at which Dask restarts it, if there is a limit.
    memory : int
        Bytes that are free on its machine.
    data : dict of str to str
        Digest of each measurement set as this worker sees it; empty where it sees none.
    token : str
        What it reads in the driver's file; empty if it sees none.
    answer : str
        File that it wrote into the directory; empty if it could not.
    """

    host: str
    ptclean: str
    casatools: str
    nthreads: int
    memory_limit: int | None
    memory: int
    data: Mapping[str, str]
    token: str
    answer: str


def needs_of(data: Sequence[str], directory: str, memory: int) -> Needs:
    """Say what workers must have, from what this process has.

    Parameters
    ----------
    data : sequence of str
        Measurement sets, absolute paths.
    directory : str
        Work directory of the run.
    memory : int
        Bytes that a task takes at its peak.

    Returns
    -------
    Needs
    """
    from casatools import version_string

    from .. import __version__

    return Needs(
        ptclean=__version__,
        casatools=version_string(),
        data={path: digest(path) for path in data},
        directory=directory,
        memory=memory,
    )


def digest(table: str) -> str:
    """Tell one state of a CASA table from another, also on another machine's clock.

    Of ``table.dat``, a few kB that hold the table's description and the number of its rows.

    Returns
    -------
    str
        Empty if it cannot be read.
    """
    try:
        with open(os.path.join(table, "table.dat"), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def examine(needs: Needs, dask_worker: Worker) -> Examination:
    """Examine the worker in which this runs.

    Parameters
    ----------
    needs : Needs
    dask_worker : Worker
        The worker, filled in by `distributed.Client.run`.

    Returns
    -------
    Examination
    """
    from casatools import version_string

    from .. import __version__

    token = answer = ""
    with contextlib.suppress(OSError):
        with open(os.path.join(needs.directory, _MARK)) as file:
            token = file.read()
        name = f"{_ANSWER}{socket.gethostname()}-{os.getpid()}"
        with open(os.path.join(needs.directory, name), "w") as file:
            file.write(needs.token)
        answer = name
    return Examination(
        host=socket.gethostname(),
        ptclean=__version__,
        casatools=version_string(),
        nthreads=dask_worker.state.nthreads,
        memory_limit=dask_worker.memory_manager.memory_limit,
        memory=free_memory(),
        data={path: digest(path) for path in needs.data},
        token=token,
        answer=answer,
    )


def faults(found: Examination, needs: Needs, *, answered: bool) -> list[str]:
    """Say what a worker lacks, each time with the cure.

    Parameters
    ----------
    found : Examination
    needs : Needs
    answered : bool
        Whether the driver can read what the worker wrote into the work directory.

    Returns
    -------
    list of str
        Sentences; empty if the worker is fit.
    """
    said = []
    for package, there, here in (
        ("ptclean", found.ptclean, needs.ptclean),
        ("casatools", found.casatools, needs.casatools),
    ):
        if there != here:
            said.append(
                f"{package} is {there}, in this process {here}, which may make another image; "
                "start the workers with this process's Python environment"
            )
    for path, wanted in needs.data.items():
        seen = found.data.get(path, "")
        if not seen:
            said.append(
                f"it does not see {path}; put the data where all workers have them under the same "
                "path, or mount that directory there"
            )
        elif seen != wanted:
            said.append(
                f"{path} is another measurement set there than here; give all machines the same "
                "data under that path"
            )
    if found.token != needs.token:
        said.append(
            f"it does not see {needs.directory} as this process does; use an imagename on a disk "
            "that all workers share under the same path"
        )
    elif not found.answer:
        said.append(
            f"it cannot write to {needs.directory}; start the workers as the same user, or use an "
            "imagename in a directory that they may write to"
        )
    elif not answered:
        said.append(
            f"what it writes to {needs.directory} does not arrive here; use an imagename on a "
            "disk whose files all machines see at once"
        )
    if found.nthreads != 1:
        said.append(
            f"Dask gives it {found.nthreads} tasks at a time, of which CASA can do one; start "
            "workers with one thread each (threads_per_worker=1, --nthreads 1, or cores equal to "
            "processes)"
        )
    if found.memory_limit and found.memory_limit * BELOW_PAUSE < needs.memory:
        said.append(
            f"a chunk takes {needs.memory / _GIB:.2f} GiB, and Dask pauses this worker below its "
            f"limit of {found.memory_limit / _GIB:.2f} GiB; start workers with a larger "
            "memory_limit or with none, or use a smaller chanchunks"
        )
    if found.memory < needs.memory:
        said.append(
            f"a chunk takes {needs.memory / _GIB:.2f} GiB, and {found.host} has "
            f"{found.memory / _GIB:.2f} GiB free; start workers elsewhere, or use a smaller "
            "chanchunks"
        )
    return said


class Admission:
    """Examines the workers of a cluster before they get a task of a run.

    Parameters
    ----------
    client : distributed.Client
        Its workers have been prepared (:class:`ptclean.workers.cluster.DaskClusterManager`).
    needs : Needs
        The work directory exists.
    """

    def __init__(self, client: Client, needs: Needs) -> None:
        self._client = client
        self._needs = needs
        #: Faults by the address of each worker that was examined.
        self._faults: dict[str, list[str]] = {}
        with open(os.path.join(needs.directory, _MARK), "w") as file:
            file.write(needs.token)

    def examine_all(self) -> None:
        """Examine the workers that are there.

        Raises
        ------
        UnfitWorkersError
            If one of them is not fit.
        """
        workers = addresses_of(self._client)
        self._examine(workers)
        unfit = {
            name: self._faults[address]
            for name, address in workers.items()
            if self._faults.get(address)
        }
        if unfit:
            raise UnfitWorkersError(unfit)

    def admit(self, workers: Mapping[str, str]) -> dict[str, str]:
        """Choose the workers that are fit, after having examined those that are new.

        Parameters
        ----------
        workers : dict of str to str
            Addresses by name.

        Returns
        -------
        dict of str to str
            Those that may get tasks.
        """
        new = {name: each for name, each in workers.items() if each not in self._faults}
        if new:
            self._examine(new)
            for name, address in new.items():
                for fault in self._faults.get(address, ()):
                    logs.post(f"Dask worker {name} is left out of this run: {fault}", "WARN")
        # A worker that ended before it could be examined is not in the list.
        return {name: each for name, each in workers.items() if self._faults.get(each) == []}

    def _examine(self, workers: Mapping[str, str]) -> None:
        found = self._client.run(
            examine, self._needs, workers=list(workers.values()), on_error="return"
        )
        for name, address in workers.items():
            result = found.get(address)
            if isinstance(result, Examination):
                self._faults[address] = faults(
                    result, self._needs, answered=self._read(result.answer) == self._needs.token
                )
            elif result is not None and not isinstance(result, OSError):
                self._faults[address] = [
                    f"it could not be examined ({type(result).__name__}: {result}); start the "
                    "workers with this process's Python environment"
                ]
            else:
                logs.post(f"Dask worker {name} ended while it was examined")

    def _read(self, answer: str) -> str:
        if not answer:
            return ""
        path = os.path.join(self._needs.directory, answer)
        try:
            with open(path) as file:
                text = file.read()
            os.remove(path)
        except OSError:
            return ""
        return text
