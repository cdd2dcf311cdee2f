# SPDX-License-Identifier: GPL-3.0-or-later
"""Chunks that are cleaned each by itself: not tclean's cube, but near it, also at their edges."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from casatasks import tclean

from killing import Driver, killed_workers, wait_until_gone
from ptclean import DaskClusterManager, plan, ptclean
from ptclean.imaging.independent import join_summaries
from ptclean.planning import cube_plan
from ptclean.planning.chunks import Chunk, Guards
from ptclean.planning.independence import reason_for_one_control
from same_images import COMMON, assert_same_images, pixels

THRESHOLD = 0.02
CUBE: dict[str, Any] = {**COMMON, "threshold": f"{THRESHOLD}Jy", "cyclefactor": 3.0}
OWN = {"nworkers": 2, "chanchunks": 3}

Reference = tuple[Path, dict[str, Any]]


@pytest.fixture(autouse=True)
def chunks_by_themselves() -> Iterator[None]:
    with dask.config.set({"ptclean.iteration-control": "chunk"}):
        yield


@pytest.fixture(scope="module")
def reference(line_ms: str, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    name = tmp_path_factory.mktemp("tclean") / "cube"
    return name, tclean(line_ms, imagename=str(name), **CUBE)


@pytest.fixture(scope="module")
def undisturbed(
    line_ms: str, cluster: DaskClusterManager, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    name = tmp_path_factory.mktemp("undisturbed") / "cube"
    with dask.config.set({"ptclean.iteration-control": "chunk"}):
        return name, ptclean(line_ms, imagename=str(name), **CUBE, **OWN)


def largest_difference(expected: Path, found: Path) -> float:
    return float(np.nanmax(abs(pixels(f"{found}.image") - pixels(f"{expected}.image"))))


def test_near_tcleans_cube(reference: Reference, undisturbed: Reference) -> None:
    expected, (name, returned) = reference[0], undisturbed
    for product in ("psf", "pb", "sumwt"):
        theirs, ours = pixels(f"{expected}.{product}"), pixels(f"{name}.{product}")
        assert np.array_equal(theirs, ours), product
    assert largest_difference(expected, name) < THRESHOLD / 10
    assert np.nanmax(abs(pixels(f"{name}.residual"))) < 1.1 * THRESHOLD
    assert returned["stopcode"] == 2


def test_it_is_the_overlap_that_makes_edges_right(
    line_ms: str,
    cluster: DaskClusterManager,
    reference: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cube_plan, "_guards", lambda *args, **kwargs: Guards(0))
    ptclean(line_ms, imagename=str(tmp_path / "cube"), **CUBE, **OWN)
    assert largest_difference(reference[0], tmp_path / "cube") > THRESHOLD / 10


def test_returned(reference: Reference, undisturbed: Reference) -> None:
    expected, returned = reference[1], undisturbed[1]
    assert returned.keys() == expected.keys()
    channels = returned["summaryminor"][0]
    assert channels.keys() == expected["summaryminor"][0].keys()
    iterations = [sum(channels[c][0]["iterDone"]) for c in channels]
    assert sum(iterations) == returned["iterdone"] > 0
    assert abs(returned["iterdone"] - expected["iterdone"]) < 0.3 * expected["iterdone"]


def test_cube_does_not_depend_on_workers(
    line_ms: str, undisturbed: Reference, tmp_path: Path
) -> None:
    with DaskClusterManager(nworkers=1):
        ptclean(line_ms, imagename=str(tmp_path / "cube"), **CUBE, **OWN | {"nworkers": 1})
    assert_same_images(undisturbed[0], tmp_path / "cube")


def test_one_chunk_is_tcleans(
    line_ms: str, reference: Reference, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    ptclean(line_ms, imagename=str(tmp_path / "cube"), **CUBE, **OWN | {"chanchunks": 100})
    assert_same_images(reference[0], tmp_path / "cube")


MASKS: dict[str, dict[str, Any]] = {
    "region": {"mask": "circle[[40pix,40pix],20pix]"},
    "channels of a region": {"mask": "circle[[40pix,40pix],20pix], range=[5chan,9chan]"},
    "masks by CASA": {
        "usemask": "auto-multithresh",
        "noisethreshold": 3.0,
        "sidelobethreshold": 0.5,
    },
    "multiscale": {"deconvolver": "multiscale", "scales": [0, 4]},
    "one weight density": {"perchanweightdensity": False},
}


@pytest.mark.parametrize("case", MASKS)
def test_other_calls(case: str, line_ms: str, cluster: DaskClusterManager, tmp_path: Path) -> None:
    arguments = CUBE | MASKS[case] | {"threshold": "40mJy", "niter": 2000}
    tclean(line_ms, imagename=str(tmp_path / "tclean"), **arguments)
    ptclean(line_ms, imagename=str(tmp_path / "cube"), **arguments, **OWN)
    names = {p.name.partition(".")[2] for p in tmp_path.glob("cube.*")}
    assert names == {p.name.partition(".")[2] for p in tmp_path.glob("tclean.*")}
    difference = pixels(tmp_path / "cube.image") - pixels(tmp_path / "tclean.image")
    assert np.nanmax(abs(difference)) < 2 * 0.04
    if "mask" in arguments:
        assert np.array_equal(pixels(tmp_path / "cube.mask"), pixels(tmp_path / "tclean.mask"))


def test_killed_workers_change_nothing(
    line_ms: str, undisturbed: Reference, tmp_path: Path
) -> None:
    choose = random.Random(7)
    with killed_workers(
        lambda: list(tmp_path.glob("cube.ptclean/attempt-*/chunk-*/alone/journal.jsonl")),
        lambda workers: choose.sample(workers, 1),
        lambda number: choose.uniform(0.2, 1.5),
        most=3,
    ) as killed:
        ptclean(line_ms, imagename=str(tmp_path / "cube"), **CUBE, **OWN)
    assert killed, "the run was over before a worker was killed"
    assert_same_images(undisturbed[0], tmp_path / "cube")


def test_killed_driver_changes_nothing(
    line_ms: str, undisturbed: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_PTCLEAN__ITERATION_CONTROL", "chunk")
    call = {"vis": line_ms, "imagename": str(tmp_path / "cube"), **CUBE, **OWN}
    with Driver(tmp_path / "driver", "clean", 2, **call) as driver:
        status, errors = driver.wait()
    assert status == -signal.SIGKILL, errors
    wait_until_gone(driver.workers)
    made = plan(**call)
    assert "with 2 done" in made.resumes
    found = ptclean(**call)
    assert_same_images(undisturbed[0], tmp_path / "cube")
    assert found["iterdone"] == undisturbed[1]["iterdone"]
    assert not list(tmp_path.glob("cube.ptclean*"))


# Where there is one control all the same.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"restoringbeam": "common"}, "restoringbeam='common'"),
        ({"weighting": "briggsbwtaper"}, "bandwidth"),
        ({"savemodel": "modelcolumn"}, "savemodel='modelcolumn'"),
        ({}, None),
    ],
)
def test_reasons(changes: dict[str, Any], said: str | None) -> None:
    tclean_ = {"restoringbeam": [], "weighting": "briggs", "savemodel": "none"} | changes
    reason = reason_for_one_control(tclean_, 1, begins=True)
    assert reason is None if said is None else said in str(reason)
    assert "Stokes" in str(reason_for_one_control(tclean_, 4, begins=True))
    assert "earlier" in str(reason_for_one_control(tclean_, 1, begins=False))


def test_one_control_is_tcleans_cube(
    line_ms: str,
    cluster: DaskClusterManager,
    tmp_path: Path,
    log: Callable[[], str],
) -> None:
    arguments = CUBE | {"restoringbeam": "common", "niter": 100}
    tclean(line_ms, imagename=str(tmp_path / "tclean"), **arguments)
    ptclean(line_ms, imagename=str(tmp_path / "cube"), **arguments, **OWN)
    assert "iteration-control: chunk is of no effect" in log()
    assert_same_images(tmp_path / "tclean", tmp_path / "cube")


def test_the_plan_says_so(line_ms: str, tmp_path: Path) -> None:
    made = plan(line_ms, imagename=str(tmp_path / "cube"), **CUBE, **OWN)
    assert made.independent
    assert "the images are not tclean's, and depend on chanchunks" in str(made)
    with dask.config.set({"ptclean.iteration-control": "cube"}):
        made = plan(line_ms, imagename=str(tmp_path / "cube"), **CUBE, **OWN)
    assert not made.independent


# Plain data.


def summary(channels: list[int], *, stopcode: int = 2, cycles: int = 3) -> dict[str, Any]:
    rows = np.zeros((6, len(channels)))
    rows[0] = 10
    rows[5] = channels
    return {
        "summaryminor": rows,
        "iterdone": 10 * len(channels),
        "nmajordone": cycles,
        "stopcode": stopcode,
        "threshold": 0.1,
    }


def test_summaries_are_joined_by_core_channels() -> None:
    chunks = [Chunk(0, 0, 2, 0, 3), Chunk(1, 2, 4, 1, 4)]
    first, second = summary([0, 1, 2, 0, 1, 2]), summary([0, 1, 2], stopcode=1, cycles=5)
    joined = join_summaries([first, second], chunks)
    assert joined["summaryminor"][5].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    # A chunk that stopped earlier is idle from then on.
    assert joined["summaryminor"][0].tolist() == [10, 10, 10, 10, 10, 10, 0, 0]
    third = summary([]) | {"nmajordone": 0}
    with_faint = join_summaries([first, second, third], [*chunks, Chunk(2, 4, 5, 3, 5)])
    assert with_faint["summaryminor"][0].tolist() == [10, 10, 10, 10, 0, 10, 10, 0, 0, 0]
    assert with_faint["summaryminor"][5].tolist() == [*range(5), *range(5)]
    assert joined["iterdone"] == 60
    assert joined["nmajordone"] == 5
    assert joined["stopcode"] == 1
    assert joined["threshold"] == 0.1
