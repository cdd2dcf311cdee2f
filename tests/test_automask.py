# SPDX-License-Identifier: GPL-3.0-or-later
"""``usemask='auto-multithresh'`` in chunks: tclean's masks, and with them all else of tclean's."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casatasks import tclean

from compare_images import list_products
from killing import killed_workers
from ptclean import DaskClusterManager, plan, ptclean
from ptclean.imaging.automask import (
    full_blocks,
    speaks_of_a_chunk,
    stay_empty,
    without_stand_in,
)
from ptclean.imaging.history import Entry, History
from ptclean.steps import Step
from ptclean.workers.splitter import CubeSplitter
from same_images import assert_same_images, assert_same_return, pieces, pixels

#: ALMA's parameters for its shorter baselines; a cube of six channels, one without emission.
CUBE: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 64,
    "cell": "0.11arcsec",
    "start": 3,
    "nchan": 6,
    "weighting": "briggs",
    "pbcor": True,
    "niter": 100_000,
    "threshold": "20mJy",
    "usemask": "auto-multithresh",
    "sidelobethreshold": 2.0,
    "noisethreshold": 4.25,
    "lownoisethreshold": 1.5,
    "minbeamfrac": 0.3,
}

#: The first one in chunks of several sizes, the others of two channels.
CASES: dict[str, dict[str, Any]] = {
    "ALMA": {},
    "negative": {"negativethreshold": 3.0, "fastnoise": False, "niter": 400, "cycleniter": 60},
    "defaults": {
        "sidelobethreshold": 1.0,
        "noisethreshold": 5.0,
        "minbeamfrac": 0.0,
        "fullsummary": True,
        "nmajor": 4,
    },
    "clark": {"deconvolver": "clark", "pbmask": 0.4, "fastnoise": False},
    "multiscale": {"deconvolver": "multiscale", "scales": [0, 3], "restoringbeam": "common"},
    "growth": {
        "dogrowprune": False,
        "growiterations": 2,
        "smoothfactor": 1.5,
        "cutthreshold": 0.05,
        "verbose": True,
    },
    # tclean makes no use of a mask that it is given as well.
    "masks that stop": {
        "minpercentchange": 20.0,
        "growiterations": 0,
        "mask": "circle[[20pix,20pix],9pix]",
    },
}


@pytest.fixture(scope="module")
def ms(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four sources with lines in the middle half of 16 channels, and no continuum."""
    from simulated import simulate

    path = tmp_path_factory.mktemp("line") / "line.ms"
    simulate(path, continuum=0.0, day=-1, hour=-1.2)
    return str(path)


Reference = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, ms: str) -> Callable[[str], Reference]:
    """Images and returned dictionary of serial tclean, made once for each case."""
    made: dict[str, Reference] = {}

    def get(case: str) -> Reference:
        if case not in made:
            name = str(tmp_path_factory.mktemp("tclean") / "cube")
            made[case] = (name, tclean(ms, imagename=name, **(CUBE | CASES[case])))
            assert pieces(name) == 1, "CASA has cut the reference: it is not to be trusted"
        return made[case]

    return get


def channels_masked(imagename: str | Path) -> list[int]:
    """Pixels in the mask of each channel."""
    return [int(n) for n in pixels(f"{imagename}.mask").sum((0, 1, 2))]


def image_in_chunks(ms: str, folder: Path, chanchunks: int, **arguments: Any) -> dict[str, Any]:
    own = {"nworkers": 2, "chanchunks": chanchunks}
    name = str(folder / "ptclean")
    made = plan(ms, imagename=name, **own, **arguments)
    assert made.serial is None, f"not in chunks: {made.serial}"
    found: dict[str, Any] = ptclean(ms, imagename=name, **own, **arguments)
    return found


@pytest.mark.parametrize(
    ("case", "chanchunks"),
    [("ALMA", 1), ("ALMA", 4), ("ALMA", 6), *((case, 2) for case in CASES if case != "ALMA")],
)
def test_same_cube(
    case: str,
    chanchunks: int,
    ms: str,
    reference: Callable[[str], Reference],
    cluster: DaskClusterManager,
    tmp_path: Path,
    log: Callable[[], str],
) -> None:
    imagename, expected = reference(case)
    found = image_in_chunks(ms, tmp_path, chanchunks, **(CUBE | CASES[case]))
    assert_same_images(imagename, tmp_path / "ptclean")
    assert_same_return(expected, found)
    assert set(list_products(imagename)) == set(list_products(tmp_path / "ptclean"))
    assert expected["nmajordone"] > 4
    assert "No regions found" not in log(), "that of a chunk"
    # Some channels have a mask and some have none, and the parameters matter.
    masked = channels_masked(imagename)
    assert len(set(masked)) >= 4
    if case == "ALMA":
        assert 0 in masked
    else:
        usual = reference("ALMA")
        assert masked != channels_masked(usual[0]) or expected["iterdone"] != usual[1]["iterdone"]


#: Ends of the clean that are not the usual one, and what tclean returns.
ENDS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "nothing found": ({"noisethreshold": 1000.0}, {"iterdone": 0, "stopcode": 7}),
    # tclean then leaves the masks of before and after the minor cycle. The latter are not compared:
    # CASA reads noise statistics beyond their end for them (``autoMaskByMultiThreshold`` takes the
    # index of a vector for statistics that have become a matrix), and finds now this, now that.
    "no iteration": ({"minpsffraction": 1.5, "maxpsffraction": 2.0}, {"iterdone": 0}),
    # The first plane's mask tells CASA where to look for the noise of all.
    "masked all over": (
        {
            "noisethreshold": 0.0,
            "sidelobethreshold": 0.0,
            "lownoisethreshold": 0.0,
            "minbeamfrac": 0.0,
            "pblimit": -0.2,
            "pbcor": False,
            "fastnoise": False,
            "niter": 60,
            "cycleniter": 10,
        },
        {"stopcode": 1},
    ),
    # Masks have grown once, in channels without an iteration as well.
    "two cycles": ({"nmajor": 2, "lownoisethreshold": 1.0}, {"stopcode": 9}),
    "blank channels": (
        {"start": "", "width": "0.6MHz", "nchan": 8, "niter": 200, "fastnoise": False},
        {"stopcode": 1},
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_same_end(
    end: str, ms: str, cluster: DaskClusterManager, tmp_path: Path, log: Callable[[], str]
) -> None:
    arguments, returned = ENDS[end]
    expected = tclean(ms, imagename=str(tmp_path / "tclean"), **(CUBE | arguments))
    warned = log().count("No regions found by automasking")
    chanchunks = 1 if end == "two cycles" else 2
    found = image_in_chunks(ms, tmp_path, chanchunks, **(CUBE | arguments))
    assert log().count("No regions found by automasking") == 2 * warned
    if end == "no iteration":
        assert (tmp_path / "ptclean.prev.mask").is_dir()
        for name in ("tclean", "ptclean"):
            shutil.rmtree(tmp_path / f"{name}.mask")
    assert_same_images(tmp_path / "tclean", tmp_path / "ptclean")
    assert_same_return(expected, found)
    assert {key: found[key] for key in returned} == returned
    if end == "masked all over":
        assert channels_masked(tmp_path / "ptclean")[0] == 64 * 64
    if end == "blank channels":
        assert 0 in pixels(tmp_path / "ptclean.sumwt"), "no plane was blank"


def test_killed_workers_change_nothing(
    ms: str, reference: Callable[[str], Reference], tmp_path: Path
) -> None:
    """What only a deconvolver knew is found again by going through the cycles."""
    choose = random.Random(1)
    imagename, expected = reference("negative")
    with killed_workers(
        # Not before the first masks, which are the beginning of what has to be found again.
        lambda: list(tmp_path.glob("ptclean.ptclean/attempt-*/chunk-*/history")),
        lambda workers: choose.sample(workers, min(1, len(workers))),
        # One at a time: the first is replaced before the second dies.
        lambda number: 8.0 if number else choose.uniform(1.0, 2.0),
        most=2,
    ) as killed:
        found = image_in_chunks(ms, tmp_path, 2, **(CUBE | CASES["negative"]))
    assert killed, "the run was over before a worker was killed"
    assert_same_images(imagename, tmp_path / "ptclean")
    assert_same_return(expected, found)


SERIAL: dict[str, dict[str, Any]] = {
    "nsigma=4.0": {"nsigma": 4.0, "threshold": "", "deconvolver": "clark", "niter": 100},
    "usemask='auto-multithresh' for one channel": {"start": 7, "nchan": 1, "niter": 30},
}


@pytest.mark.parametrize("reason", SERIAL)
def test_what_the_engine_cannot_do_is_tcleans(
    reason: str, ms: str, tmp_path: Path, log: Callable[[], str]
) -> None:
    arguments = CUBE | SERIAL[reason]
    expected = tclean(ms, imagename=str(tmp_path / "tclean"), **arguments)
    found = ptclean(ms, imagename=str(tmp_path / "ptclean"), nworkers=2, **arguments)
    assert_same_images(tmp_path / "tclean", tmp_path / "ptclean")
    assert_same_return(expected, found)
    (line,) = [line for line in log().splitlines() if "ptclean runs tclean serially" in line]
    assert reason in line


def test_mask_of_an_earlier_run_is_tcleans_to_judge(ms: str, tmp_path: Path) -> None:
    """tclean takes a .prev.mask that it finds for one of its own."""
    name = str(tmp_path / "cube")
    os.mkdir(f"{name}.prev.mask")
    Path(f"{name}.prev.mask/table.dat").touch()
    assert "prev.mask exists" in (plan(ms, imagename=name, nworkers=2, **CUBE).serial or "")


# Parts of it, without CASA


@pytest.mark.parametrize(
    ("message", "of_a_chunk"),
    [
        ("No regions found by automasking", True),
        ("1 of 4 channels used the sidelobe threshold to mask, but no emission was found.", True),
        ("2 of 4 channels had all regions removed by pruning. Try decreasing minbeamfrac", True),
        ("Faint regions may not be included. Consider decreasing cutthreshold.", False),
        ("Restoring with an empty model image.", False),
    ],
)
def test_warnings_about_chunks(message: str, of_a_chunk: bool) -> None:
    assert speaks_of_a_chunk(message) is of_a_chunk


@pytest.mark.parametrize("stops", [-1.0, 5.0], ids="minpercentchange={}".format)
def test_masks_that_stay_empty_are_left(
    stops: float,
    ms: str,
    cluster: DaskClusterManager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two channels are apart from the line, and two are beside it: residuals alone change there."""
    arguments = CUBE | {"start": 8, "nchan": 8, "minpercentchange": stops}
    expected = tclean(ms, imagename=str(tmp_path / "tclean"), **arguments)
    steps: list[Step] = []
    run = CubeSplitter.run
    monkeypatch.setattr(CubeSplitter, "run", lambda self, new: run(self, steps.extend(new) or new))
    found = image_in_chunks(ms, tmp_path, 2, **arguments)
    assert_same_images(tmp_path / "tclean", tmp_path / "ptclean")
    assert_same_return(expected, found)
    assert [bool(n) for n in channels_masked(tmp_path / "tclean")] == [True] * 4 + [False] * 4
    within, _, beside, apart = ([s.name for s in steps if s.job.index == i] for i in range(4))
    cycles = within.count("minor")
    assert cycles >= 4
    assert (apart.count("mask"), apart.count("major")) == (1, 0)
    assert beside.count("major") >= 1
    # CASA's deconvolver must know of all cycles where it may stop making masks.
    assert (apart.count("minor") == cycles) is (stops >= 0)


@pytest.mark.parametrize(
    ("before", "after", "iterated", "stay"),
    [(0, 0, True, True), (0, 0, False, False), (0, 9, True, False), (9, 0, True, False)],
)
def test_masks_that_stay_empty(before: float, after: float, iterated: bool, stay: bool) -> None:
    masking = {"iterated": iterated, "full": False}
    assert stay_empty({"masksum": before}, {"masksum": after}, masking) is stay


def test_stand_in_leaves_the_summary() -> None:
    summary = np.zeros((6, 3))
    summary[0] = [0, 5, 7]
    summary[5] = [0, 1, 2]
    record = without_stand_in({"iterdone": 12, "summaryminor": summary})
    assert record["iterdone"] == 12
    assert record["summaryminor"][0].tolist() == [5, 7]
    assert record["summaryminor"][5].tolist() == [0, 1]


def test_first_plane_of_each_block() -> None:
    assert full_blocks([0, 3, 10, 13], [False, True, True, False], 10) == {0: False, 1: True}


def test_history_holds_the_steps_before(tmp_path: Path) -> None:
    history = History(str(tmp_path / "history"))
    assert history.before(9) == []
    model = [(np.array([3]), np.array([0.5]))]
    history.add(2, Entry("minor", {"controls": {"cycleniter": 1}}))
    history.add(3, Entry("major", {"masking": {}}, model))
    history.add(3, Entry("mask", {"masking": {}}))
    history.add(11, Entry("minor", {}))
    assert [entry.name for entry in history.before(11)] == ["minor", "mask"]
