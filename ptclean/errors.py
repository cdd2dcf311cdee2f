# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong in ptclean besides wrong parameters.

Wrong parameters are ``ValueError``, raised before anything is started. The exceptions here say
what happened, with the evidence, and what to do next. They keep their data as attributes, and
everything in ``args``, so that they survive pickling on their way between processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class PtcleanError(RuntimeError):
    """Base of the exceptions that ptclean raises about a run, as opposed to its parameters."""


class WorkerStartError(PtcleanError):
    """The Dask workers did not get ready for work.

    Parameters
    ----------
    reason : str
        What happened.
    advice : str
        What the user can do about it.
    evidence : str, default ''
        The end of a worker's output.
    log_path : str, default ''
        The file from which `evidence` is taken.
    """

    def __init__(self, reason: str, advice: str, evidence: str = "", log_path: str = "") -> None:
        super().__init__(reason, advice, evidence, log_path)
        self.reason = reason
        self.advice = advice
        self.evidence = evidence
        self.log_path = log_path

    def __str__(self) -> str:
        text = f"{self.reason}. {self.advice}."
        if self.log_path:
            text += f"\nThe end of {self.log_path}:\n{self.evidence or '(the file is empty)'}"
        return text


class UnfitWorkersError(PtcleanError):
    """Workers of the user's cluster lack what the run needs.

    Parameters
    ----------
    faults : mapping of str to sequence of str
        What each lacks, with the cure, by the worker's name.
    """

    #: Workers that the text names one by one; a cluster is likely to lack the same everywhere.
    _NAMED = 3

    def __init__(self, faults: Mapping[str, Sequence[str]]) -> None:
        super().__init__(faults)
        self.faults = faults

    def __str__(self) -> str:
        lines = [
            f"Dask worker {name}: {fault}."
            for name in list(self.faults)[: self._NAMED]
            for fault in self.faults[name]
        ]
        more = len(self.faults) - self._NAMED
        if more > 0:
            lines.append(f"{more} more workers are not fit either.")
        return "\n".join(["The Dask cluster that is open cannot be used for this run:", *lines])


class TaskError(PtcleanError):
    """A function that ran in a worker raised an exception.

    The original exception stays behind in the worker, since not every exception can be pickled;
    its type, text and traceback come along as strings.

    Parameters
    ----------
    function : str
        Name of the function that ran.
    error_type : str
        Name of the exception's class, such as ``'RuntimeError'``.
    error : str
        Text of the exception.
    worker : str
        Name of the worker.
    pid : int
        Number of the worker's process.
    log_path : str
        The worker's CASA log file, or an empty string.
    warnings : sequence of (priority, origin, message)
        WARN and SEVERE lines that CASA logged during the call.
    traceback : str
        The formatted traceback of the original exception.
    """

    def __init__(
        self,
        function: str,
        error_type: str,
        error: str,
        worker: str,
        pid: int,
        log_path: str,
        warnings: Sequence[tuple[str, str, str]],
        traceback: str,
    ) -> None:
        super().__init__(function, error_type, error, worker, pid, log_path, warnings, traceback)
        self.function = function
        self.error_type = error_type
        self.error = error
        self.worker = worker
        self.pid = pid
        self.log_path = log_path
        self.warnings = warnings
        self.traceback = traceback

    def __str__(self) -> str:
        text = (
            f"{self.function} failed in worker {self.worker} (process {self.pid}): "
            f"{self.error_type}: {self.error}"
        )
        if self.log_path:
            text += f"\nThe worker's CASA log is {self.log_path}"
        return text


class ParameterError(ValueError, RuntimeError):
    """A parameter has a value that makes no sense.

    A ``RuntimeError`` as well, since that is what tclean raises for some of them.

    Parameters
    ----------
    parameter : str
        Its name.
    value : object
        Its value.
    advice : str
        What the parameter is, and a value to use instead.
    """

    def __init__(self, parameter: str, value: object, advice: str) -> None:
        super().__init__(parameter, value, advice)
        self.parameter = parameter
        self.value = value
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.parameter}={self.value!r}: {self.parameter} {self.advice}"


class ChunkError(PtcleanError):
    """A step of a chunk failed, and with it the run.

    Parameters
    ----------
    chunk : str
        The chunk and its channels.
    step : str
        What it was at.
    reason : str
        What happened.
    advice : str
        What to look at, or to try.
    """

    def __init__(self, chunk: str, step: str, reason: str, advice: str) -> None:
        super().__init__(chunk, step, reason, advice)
        self.chunk = chunk
        self.step = step
        self.reason = reason
        self.advice = advice

    def add_advice(self, advice: str) -> None:
        """Say more of what to do."""
        self.advice = f"{self.advice}; {advice}"
        self.args = (self.chunk, self.step, self.reason, self.advice)

    def __str__(self) -> str:
        return f"{self.chunk} failed at step {self.step!r}: {self.reason}\nNext: {self.advice}."


class SaveModelError(PtcleanError):
    """The images are complete, and the model could not be written to the measurement sets.

    Parameters
    ----------
    savemodel : str
        tclean's parameter.
    measurement_sets : sequence of str
        Those to which it was to be written.
    reason : str
        What happened.
    """

    def __init__(self, savemodel: str, measurement_sets: Sequence[str], reason: str) -> None:
        super().__init__(savemodel, measurement_sets, reason)
        self.savemodel = savemodel
        self.measurement_sets = measurement_sets
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"savemodel={self.savemodel!r}: the images are complete and under their names, but "
            f"their model could not be written to {', '.join(self.measurement_sets)}, where the "
            f"model may now be missing or incomplete: {self.reason}\nNext: call tclean with the "
            "same parameters and niter=0, calcpsf=False, calcres=False, restoration=False, which "
            "writes it"
        )


class ImageInUseError(PtcleanError):
    """Another run is imaging under the same name.

    Parameters
    ----------
    path : str
        The other run's work directory.
    owner : str
        Who runs it, where and since when.
    """

    def __init__(self, path: str, owner: str) -> None:
        super().__init__(path, owner)
        self.path = path
        self.owner = owner

    def __str__(self) -> str:
        return (
            f"{self.path} belongs to a run that goes on ({self.owner}). Wait for it, or give this "
            "one another imagename; if that run is dead, remove owner.json in that directory to "
            "have its work gone on with, or the directory to start afresh"
        )


class LeftoverError(PtcleanError):
    """There is work of another call under the same name, which has not come to its end.

    Parameters
    ----------
    path : str
        Its work directory.
    since : str
        When it was begun.
    place : str
        Where it would go on.
    changes : sequence of str
        In what this call differs from it, as clauses.
    """

    def __init__(self, path: str, since: str, place: str, changes: Sequence[str]) -> None:
        super().__init__(path, since, place, changes)
        self.path = path
        self.since = since
        self.place = place
        self.changes = list(changes)

    def __str__(self) -> str:
        work = f"work of a call of {self.since}" if self.since else "work of an earlier call"
        place = f", to go on from {self.place}" if self.place else ""
        return (
            f"{self.path} holds {work} that has not come to its end{place}, but it cannot be gone "
            f"on with here: {'; '.join(self.changes)}. Undo that to have it finished, or give "
            "another imagename. To give that work up and start afresh, remove the directory, or "
            "set ptclean.resume in Dask's configuration to false (in the environment: "
            "DASK_PTCLEAN__RESUME=false)"
        )


class DiskError(PtcleanError):
    """A file system does not hold what a run writes, or does not let it write.

    Parameters
    ----------
    reason : str
        What is wrong, where, with figures.
    advice : str
        What the user can do about it.
    failure : str, default ''
        What failed because of it.
    """

    def __init__(self, reason: str, advice: str, failure: str = "") -> None:
        super().__init__(reason, advice, failure)
        self.reason = reason
        self.advice = advice
        self.failure = failure

    def __str__(self) -> str:
        text = f"{self.reason}.\nNext: {self.advice}."
        if self.failure:
            text += f"\nWhat failed because of it: {self.failure}"
        return text


def _first_of(paths: Sequence[str]) -> str:
    return paths[0] + (f" and {len(paths) - 1} more files" if len(paths) > 1 else "")


class DataGoneError(PtcleanError):
    """Measurement sets could no longer be read while they were being imaged.

    Parameters
    ----------
    paths : sequence of str
        Files that are not there, or cannot be read.
    reason : str
        What the system says of the first.
    """

    def __init__(self, paths: Sequence[str], reason: str) -> None:
        super().__init__(paths, reason)
        self.paths = paths
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"vis: the data can no longer be read ({_first_of(self.paths)}: {self.reason}); images "
            "of that name are as they were before.\nNext: bring them back as they were, and call "
            "again."
        )


class DataChangedError(PtcleanError):
    """Measurement sets were changed while they were being imaged.

    Parameters
    ----------
    paths : sequence of str
        Files that were changed, made or removed.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__(paths)
        self.paths = paths

    def __str__(self) -> str:
        return (
            f"vis: the data were changed during the run ({_first_of(self.paths)}), so that the "
            "images would be of neither the old nor the new data; they are not kept, and images "
            "of that name are as they were before.\nNext: call again when nothing else writes to "
            "the data."
        )
