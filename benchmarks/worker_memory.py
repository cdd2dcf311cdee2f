# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the memory of a worker, and compare it with what the plan says.

Each line is one call of ptclean with one worker and one chunk, on simulated data: the peak of the
worker's resident memory over all steps, in MiB, beside ``Plan.worker_memory``. ::

    PYTHONPATH=examples python benchmarks/worker_memory.py --imsize 256 1024 --channels 1 6

With ``--tasks``, each line is the resident memory of a worker after so many tasks of one clean,
where what CASA's tools do not give back would show. ::

    PYTHONPATH=examples python benchmarks/worker_memory.py --case standard --tasks 5 20 100
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from ptclean import DaskClusterManager, plan, ptclean
from ptclean.reporting.events import Task
from ptclean.reporting.run_record import RunRecorder
from ptclean.steps import Outcome
from simulate_ms import simulate

_MIB = 2**20

#: What is imaged, by the name in the table.
CASES: dict[str, dict[str, Any]] = {
    "standard": {},
    "standard, dirty": {"niter": 0},
    "automask": {"usemask": "auto-multithresh"},
    "multiscale": {"deconvolver": "multiscale", "scales": [0, 5, 15]},
    "wproject": {"gridder": "wproject", "wprojplanes": 32},
    "mosaic": {
        "gridder": "mosaic",
        "start": "267.5225GHz",
        "width": "5.003MHz",
        "cell": "0.2arcsec",
    },
    "mfs": {"specmode": "mfs"},
    "mfs, mosaic": {"specmode": "mfs", "gridder": "mosaic"},
    "mtmfs": {"specmode": "mfs", "deconvolver": "mtmfs", "nterms": 2},
}


def measure(vis: str, case: str, imsize: int, channels: int, *, limit: str = "0") -> dict[str, Any]:
    """Image once with a fresh worker.

    Parameters
    ----------
    vis : str
        Measurement set.
    case : str
        One of `CASES`.
    imsize, channels : int
        Size of the image; `channels` is of no effect on continuum images.
    limit : str
        ptclean's `memory_limit`.

    Returns
    -------
    dict
        ``measured`` and ``planned``, in bytes; ``step``, the outcome's number at the peak.
    """
    outcomes: list[tuple[Outcome, int]] = []
    planned = _run(_arguments(vis, case, imsize, channels, limit), outcomes)
    peaks = [outcome.peak_memory for outcome, _ in outcomes]
    return {"measured": max(peaks), "planned": planned, "step": peaks.index(max(peaks))}


def resident_after(
    vis: str, case: str, imsize: int, channels: int, tasks: Sequence[int]
) -> list[int]:
    """Bytes of resident memory of a worker after so many tasks of a clean, each time."""
    arguments = _arguments(vis, case, imsize, channels, "0")
    # A minor and a major cycle for each few components of a channel.
    arguments |= {"niter": 4 * channels * max(tasks), "cycleniter": 4}
    outcomes: list[tuple[Outcome, int]] = []
    _run(arguments, outcomes)
    if len(outcomes) < max(tasks):
        raise ValueError(f"the clean ended after {len(outcomes)} tasks")
    return [outcomes[number - 1][1] for number in tasks]


def _arguments(vis: str, case: str, imsize: int, channels: int, limit: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "vis": vis,
        "specmode": "cube",
        "datacolumn": "data",
        "imsize": imsize,
        "cell": "0.1arcsec",
        "nchan": channels,
        "start": 3,
        "niter": 200,
        "cycleniter": 100,
        "weighting": "briggs",
        "pbcor": True,
        "pblimit": 0.1,
        "nworkers": 1,
        "chanchunks": channels,
        "memory_limit": limit,
        **CASES[case],
    }
    if arguments["specmode"] == "mfs":
        for name in ("nchan", "start", "chanchunks"):
            arguments.pop(name)
    return arguments


def _run(arguments: dict[str, Any], outcomes: list[tuple[Outcome, int]]) -> int:
    """Image with a fresh worker.

    Parameters
    ----------
    arguments : dict
        ptclean's.
    outcomes : list
        Is given each task's outcome, and the worker's resident memory after it, in bytes.

    Returns
    -------
    int
        Bytes that the plan says a worker takes.
    """
    record = RunRecorder.task_done

    def note(recorder: RunRecorder, task: Task, outcome: Outcome) -> None:
        pages = int(Path(f"/proc/{outcome.pid}/statm").read_text().split()[1])
        outcomes.append((outcome, pages * os.sysconf("SC_PAGE_SIZE")))
        record(recorder, task, outcome)

    with tempfile.TemporaryDirectory() as folder:
        arguments = {**arguments, "imagename": os.path.join(folder, "image")}
        planned = plan(**arguments)
        if planned.serial:
            raise ValueError(planned.serial)
        with (
            mock.patch.object(RunRecorder, "task_done", note),
            DaskClusterManager(1, arguments["memory_limit"], casa_memory=planned.casa_memory),
        ):
            ptclean(**arguments)
    return planned.worker_memory


def _lines(imsizes: list[int], channels: list[int], cases: list[str]) -> Iterator[str]:
    yield f"{'case':<16} {'imsize':>6} {'channels':>8} {'measured':>9} {'planned':>9} {'ratio':>6}"
    with tempfile.TemporaryDirectory() as folder:
        vis = {name: str(Path(folder) / f"{name}.ms") for name in ("line", "mosaic")}
        simulate(vis["line"])
        simulate(vis["mosaic"], pointings=4, nchan=12, nant=10, nint=4, width=5e6)
        for case in cases:
            for imsize in imsizes:
                for number in channels[:1] if case.startswith(("mfs", "mtmfs")) else channels:
                    ms = vis["mosaic" if "mosaic" in case else "line"]
                    try:
                        found = measure(ms, case, imsize, number)
                    except ValueError as error:
                        yield f"{case:<16} {imsize:6} {number:8} {error}"
                        continue
                    yield (
                        f"{case:<16} {imsize:6} {number:8} {found['measured'] / _MIB:9.0f} "
                        f"{found['planned'] / _MIB:9.0f} "
                        f"{found['measured'] / found['planned']:6.2f}"
                    )


def _lines_of_tasks(
    imsizes: list[int], channels: list[int], cases: list[str], tasks: list[int]
) -> Iterator[str]:
    yield f"{'case':<16} {'imsize':>6} {'channels':>8} " + " ".join(f"{n:>9}" for n in tasks)
    with tempfile.TemporaryDirectory() as folder:
        vis = str(Path(folder) / "line.ms")
        simulate(vis)
        for case, imsize, number in itertools.product(cases, imsizes, channels):
            found = resident_after(vis, case, imsize, number, tasks)
            after = " ".join(f"{each / _MIB:9.0f}" for each in found)
            yield f"{case:<16} {imsize:6} {number:8} {after}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--imsize", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--channels", type=int, nargs="+", default=[1, 6])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--tasks", type=int, nargs="+", help="resident memory after so many")
    options = parser.parse_args()
    if options.tasks:
        lines = _lines_of_tasks(options.imsize, options.channels, options.case, options.tasks)
    else:
        lines = _lines(options.imsize, options.channels, options.case)
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
