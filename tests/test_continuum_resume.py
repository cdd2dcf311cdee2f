# SPDX-License-Identifier: GPL-3.0-or-later
"""A continuum image whose run ends before its time is gone on with, to the same image in every bit.

Its driver is killed, or stopped while the workers of the module stay, with all that they hold open.
A worker that dies is in ``test_continuum``.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from killing import Driver, wait_until_gone
from ptclean import plan, ptclean
from ptclean.errors import LeftoverError
from ptclean.keeping.journal import Journal
from ptclean.products.casa_io import open_table
from ptclean.reporting.story import Story
from ptclean.workers.cluster import DaskClusterManager
from same_images import MFS, assert_same_images, assert_same_return

CALL: dict[str, Any] = {**MFS, "cycleniter": 30, "nworkers": 2}

CASES: dict[str, dict[str, Any]] = {
    "hogbom": {},
    "nsigma, mask": {"nsigma": 2.0, "mask": "circle[[40pix,40pix],25pix]"},
    "pb mask, clark, natural": {
        "usemask": "pb",
        "pbmask": 0.95,
        "deconvolver": "clark",
        "weighting": "natural",
    },
    "mtmfs": {"deconvolver": "mtmfs", "nterms": 2, "scales": [0, 4]},
    "mosaic": {"gridder": "mosaic", "phasecenter": 0, "imsize": 160, "cell": "0.25arcsec"},
    "mosaic, mtmfs": {
        "gridder": "mosaic",
        "phasecenter": 0,
        "imsize": 160,
        "cell": "0.25arcsec",
        "deconvolver": "mtmfs",
        "nterms": 2,
    },
}

#: Steps after which the run ends, time and again. There are four parts.
ENDS = [
    ("gather", 1),
    ("minor", 1),
    ("major", 2),
    ("scatter_model", 1),
    ("minor", 1),
    ("finish", 1),
]


#: Steps that workers are at while the driver is stopped, in this order, and what they write then.
AT_WORK = [
    ("scatter_model", ["part-*/part.model*"]),
    ("major", ["part-*/part.[!m]*"]),
    ("gather", ["whole/whole.residual*", "whole/whole.mask"]),
    ("minor", ["whole/whole.residual*", "whole/whole.model*"]),
    ("scatter_model", ["part-*/part.model*"]),
    ("finish", ["whole/whole.residual*", "whole/whole.image*"]),
]


class Stopped(KeyboardInterrupt):
    """As if the user had."""


@contextlib.contextmanager
def steps_made(name: str = "", count: int = 1, *, is_told: bool = True) -> Iterator[list[str]]:
    """Note the steps that are made, and stop when one has been made a number of times.

    The driver is told that it has, or stops while workers are at it.
    """
    made: list[str] = []
    add = Journal.add

    def adding(journal: Journal, step: Any, value: Any) -> None:
        is_last = step.name == name and made.count(name) == count - 1
        if is_told or not is_last:
            add(journal, step, value)
            made.append(step.name)
        if is_last:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "add", adding)
        if not name:
            yield made
            return
        with pytest.raises(Stopped):
            yield made


def assert_same(expected: Any, found: Any, folder: Path) -> None:
    assert_same_images(folder / "whole", folder / "image")
    assert_same_return(expected, found)
    assert not list(folder.glob("image.ptclean*"))


@pytest.mark.parametrize("case", CASES)
def test_no_step_is_made_twice(
    case: str, wide_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    arguments = CALL | CASES[case]
    with steps_made() as all_steps:
        expected = ptclean(wide_ms, imagename=str(tmp_path / "whole"), **arguments)
    call = {"vis": wide_ms, "imagename": str(tmp_path / "image"), **arguments}
    made: list[str] = []
    for name, count in ENDS:
        with steps_made(name, count) as steps:
            ptclean(**call)
        made += steps
    with steps_made() as steps:
        # It does not matter to the image.
        found = ptclean(**call | {"nworkers": 1})
    assert sorted(made + steps) == sorted(all_steps)
    assert_same(expected, found, tmp_path)


@pytest.mark.parametrize("case", ["nsigma, mask", "mosaic, mtmfs"])
def test_nothing_is_taken_over_that_is_being_written(
    case: str, wide_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    """As it is where a worker of the former driver has not come to the end of its step."""
    arguments = CALL | CASES[case]
    expected = ptclean(wide_ms, imagename=str(tmp_path / "whole"), **arguments)
    call = {"vis": wide_ms, "imagename": str(tmp_path / "image"), **arguments}
    broken = set()
    for name, written in AT_WORK:
        with steps_made(name, is_told=False):
            ptclean(**call)
        (attempt,) = tmp_path.glob("image.ptclean/attempt-*")
        for image in (path for pattern in written for path in attempt.glob(pattern)):
            (image / "table.dat").unlink()
            broken.add(image.name.split(".")[1])
    assert broken >= {"model", "residual", "image", "mask"}
    assert_same(expected, ptclean(**call), tmp_path)


def test_automasks_begin_anew(
    wide_ms: str, cluster: DaskClusterManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the deconvolver knows of them is in its worker alone."""
    arguments = CALL | {"usemask": "auto-multithresh", "sidelobethreshold": 1.25}
    expected = ptclean(wide_ms, imagename=str(tmp_path / "whole"), **arguments)
    call = {"vis": wide_ms, "imagename": str(tmp_path / "image"), **arguments}

    def stop(*args: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Story, "cycle_done", stop)
        with pytest.raises(Stopped):
            ptclean(**call)
    assert not list(tmp_path.glob("image*"))
    assert_same(expected, ptclean(**call), tmp_path)


@pytest.mark.parametrize(("where", "count"), [("make_psf", 2), ("major", 7), ("install", 3)])
def test_killed_driver_changes_nothing(
    where: str, count: int, wide_ms: str, tmp_path: Path
) -> None:
    expected = ptclean(wide_ms, imagename=str(tmp_path / "whole"), **CALL)
    call = {"vis": wide_ms, "imagename": str(tmp_path / "image"), **CALL}
    with Driver(tmp_path / "driver", where, count, **call) as driver:
        status, errors = driver.wait()
    assert status == -signal.SIGKILL, errors
    wait_until_gone(driver.workers)
    place = {"make_psf": "its beginning", "major": "cycle 2", "install": "putting the images"}
    assert place[where] in plan(**call).resumes
    with pytest.raises(LeftoverError, match=r"niter=99, and was 100"):
        ptclean(**call | {"niter": 99})
    assert_same(expected, ptclean(**call), tmp_path)


def test_model_column(wide_ms: str, tmp_path: Path, cluster: DaskClusterManager) -> None:
    """The model of a cycle that was complete before the run was stopped is written after it."""
    columns = []
    for name, stops in (("whole", ()), ("image", (("minor", 2), ("gather", 1)))):
        vis = str(tmp_path / f"{name}.ms")
        shutil.copytree(wide_ms, vis)
        call = {"vis": vis, "imagename": str(tmp_path / name), **CALL, "savemodel": "modelcolumn"}
        for stop in stops:
            with steps_made(*stop):
                ptclean(**call)
        ptclean(**call)
        with open_table(vis) as tb:
            columns.append(tb.getcol("MODEL_DATA"))
    assert np.any(columns[0])
    assert np.array_equal(*columns)
