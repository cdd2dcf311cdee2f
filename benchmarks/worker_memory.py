# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the memory of a worker, and compare it with what the plan says.

Each line is one call of ptclean with one worker and one chunk, on simulated data: the peak of the
worker's resident memory over all steps, in MiB, beside ``Plan.worker_memory``. ::

    PYTHONPATH=examples python benchmarks/worker_memory.py --imsize 256 1024 --channels 1 6
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptclean import DaskClusterManager, plan, ptclean
from ptclean import logs as forwarding
from ptclean.workers.worker import Outcome
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
    peaks: list[int] = []
    forward = forwarding.forward_warnings

    def note(outcome: Outcome) -> None:
        peaks.append(outcome.peak_memory)
        forward(outcome)

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
    with tempfile.TemporaryDirectory() as folder:
        arguments["imagename"] = os.path.join(folder, "image")
        planned = plan(**arguments)
        if planned.serial:
            raise ValueError(f"{case}: {planned.serial}")
        forwarding.forward_warnings = note
        try:
            with DaskClusterManager(1, limit, casa_memory=planned.casa_memory):
                ptclean(**arguments)
        finally:
            forwarding.forward_warnings = forward
    return {
        "measured": max(peaks),
        "planned": planned.worker_memory,
        "step": peaks.index(max(peaks)),
    }


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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--imsize", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--channels", type=int, nargs="+", default=[1, 6])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    for line in _lines(options.imsize, options.channels, options.case):
        print(line, flush=True)


if __name__ == "__main__":
    main()
