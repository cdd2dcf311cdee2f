# SPDX-License-Identifier: GPL-3.0-or-later
"""Major cycles of the channels that a model reaches: the cube is tclean's all the same.

The data have lines in a quarter of the channels and nothing in the others; of some channels
antennas are flagged, without which CASA weighs a residual in the same way with and without a PSF.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casatasks import flagdata

from killing import killed_workers
from ptclean import plan, ptclean
from ptclean.imaging.at_work import forget
from ptclean.imaging.chunk_imager import ChunkImager, step
from ptclean.imaging.chunk_job import ChunkJob, CubeJob
from ptclean.imaging.window import Window
from ptclean.planning.chunks import Chunk, neighbours
from ptclean.records import Record
from ptclean.workers.borrowed import addresses_of
from ptclean.workers.cluster import DaskClusterManager
from ptclean.workers.worker import run
from same_images import COMMON, assert_same_as_tclean, assert_same_images, pixels
from simulated import simulate

pytestmark = pytest.mark.usefixtures("cluster")

NCHAN = 24

LINES: dict[str, Any] = {
    **COMMON,
    "start": "",
    "nchan": NCHAN,
    "imsize": 64,
    "pbcor": False,
    "threshold": "40mJy",
}

CASES: dict[str, dict[str, Any]] = {
    "hogbom": {},
    "natural": {"weighting": "natural"},
    "bandwidth": {"weighting": "briggsbwtaper", "perchanweightdensity": True},
    "all channels' weights": {"perchanweightdensity": False},
    "multiscale": {"deconvolver": "multiscale", "scales": [0, 4]},
    "clark": {"deconvolver": "clark"},
    "masks by CASA": {
        "usemask": "auto-multithresh",
        "noisethreshold": 3.0,
        "sidelobethreshold": 0.5,
    },
    "region": {"mask": "circle[[32pix,32pix],14pix]"},
    "data's own channels": {"specmode": "cubedata"},
    "cubic": {"interpolation": "cubic"},
    "wproject": {"gridder": "wproject", "wprojplanes": 2},
    "few iterations": {"niter": 40, "cycleniter": 9, "threshold": ""},
    "common beam": {"restoringbeam": "common"},
    "one channel": {"start": 11, "nchan": 1},
}


@pytest.fixture(scope="module")
def lines_ms(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("lines") / "lines.ms"
    simulate(path, nchan=NCHAN, nant=12, nint=4, continuum=0.0, line_fraction=0.25, day=4)
    for channel, antennas in ((2, "0,1,2"), (11, "4"), (12, "2")):
        flagdata(str(path), spw=f"0:{channel}", antenna=antennas, flagbackup=False)
    return str(path)


SIZES = [(case, 5) for case in CASES]
SIZES += [(case, size) for case in ("hogbom", "masks by CASA", "cubic") for size in (1, NCHAN)]


@pytest.mark.parametrize(("case", "chanchunks"), SIZES)
def test_same_cube(case: str, chanchunks: int, lines_ms: str, tmp_path: Path) -> None:
    arguments = LINES | CASES[case]
    if chanchunks == 1:
        # As many as it takes for some to be of no line.
        arguments |= {"start": 7, "nchan": 8}
    returned = assert_same_as_tclean(lines_ms, tmp_path, chanchunks=chanchunks, **arguments)
    assert returned["iterdone"] > 0
    with_model = pixels(tmp_path / "ptclean.model").any(axis=(0, 1, 2))
    assert 0 < with_model.sum() < arguments["nchan"] or case == "one channel"


def test_killed_workers_change_nothing(lines_ms: str, tmp_path: Path) -> None:
    ptclean(lines_ms, imagename=str(tmp_path / "whole"), nworkers=2, chanchunks=NCHAN, **LINES)
    choose = random.Random(42)
    with killed_workers(
        lambda: list(tmp_path.glob("cube.ptclean/attempt-*/chunk-*/window.residual")),
        lambda workers: choose.sample(workers, 1),
        lambda number: choose.uniform(0.2, 0.9),
        most=3,
    ) as killed:
        ptclean(lines_ms, imagename=str(tmp_path / "cube"), nworkers=2, chanchunks=6, **LINES)
    assert killed, "the run was over before a worker was killed"
    assert_same_images(tmp_path / "whole", tmp_path / "cube")


# One chunk, in this process


@pytest.fixture
def job(lines_ms: str, tmp_path: Path) -> ChunkJob:
    """The second of two chunks, the lines in the middle of the cube in its first channels."""
    arguments = LINES | {"imagename": str(tmp_path / "cube"), "nworkers": 1, "chanchunks": 12}
    made = plan(lines_ms, **arguments)
    assert made.records is not None
    assert made.data_guards is not None
    cube = CubeJob(
        run=str(tmp_path),
        records=made.records,
        coordinates=made.coordinates,
        channels=NCHAN,
        directory=str(tmp_path),
        cleans=True,
        restores=False,
        corrects=False,
        guards=made.guards,
        data_guards=made.data_guards,
    )
    return ChunkJob(cube, made.chunks[1], tuple(neighbours(made.chunks, made.chunks[1])))


def controls(threshold: float) -> Record:
    return {
        "cycleniter": 1000,
        "cyclethreshold": threshold,
        "loopgain": 0.1,
        "nsigma": 0.0,
        "thresholdreached": False,
    }


class Both:
    """A chunk with a window, and the same without; their neighbour has no model."""

    def __init__(self, job: ChunkJob, folder: Path) -> None:
        self.jobs = []
        for name, data_guards in (("window", job.cube.data_guards), ("whole", None)):
            place = folder / name
            place.mkdir()
            cube = replace(job.cube, directory=str(place), data_guards=data_guards)
            self.jobs.append(replace(job, cube=cube))
        self.imagers = [ChunkImager(each) for each in self.jobs]
        for each, imager in zip(self.jobs, self.imagers, strict=True):
            imager.begin(lastcycle=False)
            # A model of the neighbour, of as many channels.
            for other in job.neighbours:
                neighbour = ChunkImager(replace(each, chunk=other, neighbours=(each.chunk,)))
                neighbour.begin(lastcycle=False)
                neighbour.minor(controls(1e3))
                neighbour.close()

    def close(self) -> None:
        for imager in self.imagers:
            imager.close()

    def minor(self, threshold: float) -> None:
        done = {imager.minor(controls(threshold))["iterdone"] for imager in self.imagers}
        assert len(done) == 1

    def major(self, threshold: float) -> None:
        for imager in self.imagers:
            imager.major(lastcycle=False, threshold=threshold)

    @property
    def window(self) -> Chunk | None:
        return Window(self.jobs[0]).channels

    def assert_same_residuals(self) -> None:
        first, second = (pixels(f"{job.core()}.residual") for job in self.jobs)
        assert np.array_equal(first, second)


@pytest.fixture
def both(job: ChunkJob, tmp_path: Path) -> Iterator[Both]:
    made = Both(job, tmp_path)
    yield made
    made.close()


def test_without_a_model_there_is_no_window(both: Both) -> None:
    both.minor(1e3)
    both.major(0.02)
    assert both.window is None
    both.assert_same_residuals()


def test_window_takes_in_what_will_be_cleaned(both: Both) -> None:
    both.minor(0.1)
    both.major(0.02)
    window = both.window
    assert window is not None
    job = both.jobs[0]
    peaks = abs(pixels(f"{job.core()}.residual")).max(axis=(0, 1, 2))
    assert window.start == job.chunk.start
    assert job.chunk.start + np.flatnonzero(peaks > 0.02).max(initial=0) < window.stop
    assert window.channels < job.chunk.channels
    both.assert_same_residuals()
    both.minor(0.02)
    both.major(0.02)
    assert both.window == window
    both.assert_same_residuals()


def test_window_without_threshold_is_the_chunk(both: Both) -> None:
    both.minor(0.1)
    both.major(0.0)
    window = both.window
    assert window is not None
    assert (window.start, window.stop) == (both.jobs[0].chunk.start, both.jobs[0].chunk.stop)
    both.assert_same_residuals()


def test_window_grows(both: Both) -> None:
    """It is told of a threshold that nothing is above, so that it has to."""
    sizes = []
    for threshold in (0.2, 0.02, 0.003):
        both.minor(threshold)
        both.major(1e3)
        window = both.window
        assert window is not None
        sizes.append(window.channels)
        both.assert_same_residuals()
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize("next_step", ["minor", "major", "finish"])
def test_another_worker_takes_it_up(next_step: str, both: Both) -> None:
    both.minor(0.1)
    both.major(0.02)
    steps = 3  # begin, minor, major
    if next_step != "minor":
        both.minor(0.05)
        steps = 4
    both.close()
    both.imagers = [ChunkImager(job) for job in both.jobs]
    for imager in both.imagers:
        imager.recover(steps, next_step)
    if next_step == "minor":
        both.minor(0.05)
    if next_step != "finish":
        both.major(0.02)
    both.assert_same_residuals()


def test_worker_that_is_alive_holds_up_nobody(
    lines_ms: str, job: ChunkJob, cluster: DaskClusterManager
) -> None:
    """Tools have locks on the images of a chunk of one channel for as long as they live."""
    single = replace(job, chunk=job.cube.guards.around(12, 13, NCHAN, 0), neighbours=())
    first, second = sorted(addresses_of(cluster.client).values())

    def on(worker: str, steps: int, name: str, **arguments: Any) -> Any:
        future = cluster.client.submit(run, step, single, steps, name, arguments, workers=[worker])
        return future.result(timeout=100).value

    on(first, 0, "begin", lastcycle=False)
    for steps, threshold in ((1, 0.1), (3, 0.07)):
        on(first, steps, "minor", controls=controls(threshold))
        on(first, steps + 1, "major", lastcycle=False, threshold=0.02)
    try:
        record = on(second, 5, "minor", controls=controls(0.05))
        assert record["iterdone"] > 0
        place = Path(single.cube.directory)
        taken_up = set(place.glob("chunk-*/*scratch*/IMAGING_WEIGHT_*"))
        assert taken_up
        # What the other one closes is not this one's.
        cluster.client.run(forget, single.run, workers=[first])
        assert set(place.glob("chunk-*/*scratch*/IMAGING_WEIGHT_*")) == taken_up
        on(second, 6, "major", lastcycle=False, threshold=0.02)
    finally:
        cluster.client.run(forget, single.run)
