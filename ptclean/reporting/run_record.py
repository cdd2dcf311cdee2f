# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run was and how it went, as plain data: taken down while it runs, kept with its images.

It is kept in a file inside one of the images, which are directories: it is copied, moved and
removed with the image, and whoever lists or globs the names of images never meets it. CASA's tools
leave a file that they do not know alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from numbers import Real
from typing import Any

import numpy as np

from .. import __version__
from ..errors import ParameterError
from ..planning.plan import Plan
from ..products import images
from ..records import Record
from ..steps import Outcome
from .events import Cycle, Listener, Loss, Phase, Task

FILE = "ptclean.json"

#: Of the data; a reader refuses what is newer than itself.
FORMAT = 1

_PACKAGES = ("casatools", "casatasks", "dask", "distributed", "numpy")
_MB = 2**20


class RunRecorder(Listener):
    """Takes down what happens.

    Parameters
    ----------
    plan : Plan
    parameters, defaults : mapping
        Of the call, and of the task.
    started : float
        When the call began, in s of the system's clock.
    clock : callable
        The system's clock.
    """

    def __init__(
        self,
        plan: Plan,
        parameters: Mapping[str, Any],
        defaults: Mapping[str, Any],
        started: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._started = started
        self._clock = clock
        chunks = [(chunk.start, chunk.stop - 1) for chunk in plan.chunks]
        parts = getattr(plan, "parts", ())
        self.data: Record = {
            "format": FORMAT,
            "imagename": plan.imagename,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
            "serial": plan.serial,
            "continuum": bool(parts),
            "plan": str(plan),
            "nworkers": plan.nworkers,
            "shape": plan.shape,
            "planned_memory": plan.worker_memory // _MB,
            "warnings": list(plan.warnings),
            "chunks": [f"{first}~{last}" for first, last in chunks],
            "pieces": len(chunks) or len(parts),
            "call": {name: repr(value) for name, value in parameters.items()},
            "changed": [
                name for name, value in parameters.items() if _differs(value, defaults, name)
            ],
            "versions": versions(),
            "host": platform.node(),
            "phases": [],
            "steps": [],
            "workers": [],
            "logs": {},
            "tasks": {name: [] for name in ("step", "chunk", "worker", "end", "seconds", "memory")},
            "cycles": [],
            "losses": [],
        }

    def phase_started(self, phase: Phase) -> None:
        self.data["phases"].append(
            {
                "title": str(phase),
                "start": self._since_start(),
                "tasks": len(phase.tasks),
                "total": phase.total,
                "unit": phase.unit,
            }
        )

    def task_done(self, task: Task, outcome: Outcome) -> None:
        values = {
            "step": _number(self.data["steps"], task.step),
            "chunk": task.index,
            "worker": _number(self.data["workers"], outcome.worker),
            "end": self._since_start(),
            "seconds": round(outcome.seconds, 3),
            "memory": outcome.peak_memory // _MB,
        }
        for name, value in values.items():
            self.data["tasks"][name].append(value)

    def phase_ended(self, phase: Phase, seconds: float) -> None:
        self.data["phases"][-1]["seconds"] = round(seconds, 3)

    def cycle_done(self, cycle: Cycle) -> None:
        self.data["cycles"].append(
            asdict(cycle)
            | {
                "end": self._since_start(),
                "cyclethreshold": _short(cycle.cyclethreshold),
                "threshold": _short(cycle.threshold),
                "peak": _short(cycle.peak),
                "channel_peaks": [_short(value) for value in cycle.channel_peaks],
                "gridded": ranges(cycle.gridded),
            }
        )

    def worker_lost(self, loss: Loss) -> None:
        self.data["losses"].append(
            {
                "worker": loss.worker,
                "tasks": list(loss.tasks),
                "when": round(loss.when - self._started, 3),
            }
        )

    def used_workers(self, worker_logs: Mapping[str, str | os.PathLike[str]]) -> None:
        """Take down where the workers' logs are."""
        self.data["logs"] = {name: str(path) for name, path in worker_logs.items()}

    def end(self, result: Record | None) -> None:
        """Take down what the task returns."""
        self.data["seconds"] = self._since_start()
        for name in ("iterdone", "nmajordone", "stopcode", "stopDescription", "threshold"):
            value = (result or {}).get(name)
            if isinstance(value, (Real, str)):
                self.data[name] = _plain(value)
        if self.data["serial"] and result:
            # tclean's dictionary has other forms where it does other things than to clean.
            with contextlib.suppress(AttributeError, IndexError, KeyError, TypeError, ValueError):
                self.data["cycles"] = cycles_of_tclean(result)

    def _since_start(self) -> float:
        return round(self._clock() - self._started, 3)


def versions() -> dict[str, str]:
    """Return the versions of ptclean, of what it stands on, and of Python."""
    found = {"ptclean": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            # Part of a CASA that has no list of its packages.
            found[package] = "unknown"
    found["system"] = platform.platform()
    return found


def cycles_of_tclean(result: Record) -> list[Record]:
    """Read what tclean's returned dictionary says of each cycle.

    Parameters
    ----------
    result : dict
        With ``summaryminor`` as ``{field: {channel: {stokes: {name: [value of each cycle]}}}}``.

    Returns
    -------
    list of dict
        As those that a `RunRecorder` takes down, of the first field.
    """
    channels: Record = next(iter((result.get("summaryminor") or {}).values()), {})
    planes = [plane for stokes in channels.values() for plane in stokes.values()]
    number = max((len(plane.get("iterDone", ())) for plane in planes), default=0)
    cycles = []
    for i in range(number):
        iterations, peaks, thresholds = [], [], [0.0]
        for stokes in channels.values():
            known = [plane for plane in stokes.values() if len(plane.get("iterDone", ())) > i]
            iterations.append(sum(int(plane["iterDone"][i]) for plane in known))
            peaks.append(_short(max((float(plane["peakRes"][i]) for plane in known), default=0.0)))
            thresholds += [float(plane["cycleThresh"][i]) for plane in known]
        cycles.append(
            {
                "number": i + 1,
                "iterations": sum(iterations),
                "cyclethreshold": _short(max(thresholds)),
                "threshold": _short(float(result.get("threshold", 0.0))),
                "peak": max(peaks),
                "channel_iterations": iterations,
                "channel_peaks": peaks,
                "gridded": "",
                "total": 0,
                "stopcode": 0,
            }
        )
    return cycles


def ranges(numbers: Iterable[int]) -> str:
    """Write numbers as CASA writes channels: ``0~3,5``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}~{b}" for a, b in parts)


def from_ranges(text: str) -> list[int]:
    """Return the numbers that `ranges` has written."""
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("~")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def keep(data: Record, imagename: str) -> str | None:
    """Keep the data of a run with its images.

    Parameters
    ----------
    data : dict
    imagename : str
        Absolute prefix of the images' names.

    Returns
    -------
    str or None
        The file; None if there are no images.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    if not os.path.isdir(os.path.dirname(imagename)):
        return None
    # Summed weights are made by every run, and seldom looked at.
    products = sorted(
        images.image_products(imagename), key=lambda name: (not name.startswith("sumwt"), name)
    )
    if not products:
        return None
    path = os.path.join(f"{imagename}.{products[0]}", FILE)
    with open(f"{path}.new", "w") as f:
        json.dump(data, f, separators=(",", ":"), default=_plain)
    os.replace(f"{path}.new", path)
    return path


def load(imagename: str) -> Record:
    """Read what is kept with images of the last run that made them.

    Parameters
    ----------
    imagename : str
        Prefix of the images' names.

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
        If nothing is kept.
    ParameterError
        If it was written by a later version.
    """
    prefix = os.path.abspath(os.path.expanduser(imagename))
    found = []
    if os.path.isdir(os.path.dirname(prefix)):
        for product in images.image_products(prefix):
            path = os.path.join(f"{prefix}.{product}", FILE)
            if os.path.isfile(path):
                with open(path) as f:
                    found.append(json.load(f))
    if not found:
        raise FileNotFoundError(
            f"imagename={imagename!r}: no images {prefix}.* say how they were made; give the "
            "imagename of a run of ptclean that is complete (images made by an earlier version, "
            "or copied by CASA's tools, have no report)"
        )
    data: Record = max(found, key=lambda each: str(each.get("started")))
    if data.get("format") != FORMAT:
        raise ParameterError(
            "imagename",
            imagename,
            "has a report that was written by another version of ptclean "
            f"({data.get('versions', {}).get('ptclean')}); read it with that version",
        )
    return data


def _differs(value: Any, defaults: Mapping[str, Any], name: str) -> bool:
    return name not in defaults or repr(value) != repr(defaults[name])


def _number(names: list[str], name: str) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)


def _plain(value: Any) -> Any:
    """Return what numpy has made a number as Python's own, and anything odd as text."""
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (Real, str)) else repr(value)


def _short(value: float) -> float:
    """Five digits are enough to look at."""
    return float(f"{value:.5g}")
