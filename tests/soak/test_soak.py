# SPDX-License-Identifier: GPL-3.0-or-later
"""Many workers and drivers are killed, at random moments; nothing comes of it (``make soak``).

``PTCLEAN_SOAK_KILLS`` says how many of each, ``PTCLEAN_SOAK_SEED`` where the moments begin.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from casatasks import tclean

from killing import Driver, killed_workers, wait_until_gone
from ptclean import DaskClusterManager, ptclean
from same_images import assert_same_images, assert_same_return

pytestmark = [pytest.mark.soak, pytest.mark.timeout(6 * 3600)]

KILLS = int(os.environ.get("PTCLEAN_SOAK_KILLS", "20"))
SEED = int(os.environ.get("PTCLEAN_SOAK_SEED", "1"))

CUBE: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 64,
    "cell": "0.11arcsec",
    "start": 4,
    "nchan": 6,
    "weighting": "briggs",
    "niter": 400,
    "cycleniter": 80,
    "threshold": "20mJy",
    "pbcor": True,
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"restoringbeam": "common"},
    "automask": {
        "usemask": "auto-multithresh",
        "sidelobethreshold": 2.0,
        "noisethreshold": 4.25,
        "lownoisethreshold": 1.5,
        "minbeamfrac": 0.3,
    },
    "goes on": {"calcres": False, "calcpsf": False, "weighting": "natural", "niter": 300},
    "multiscale": {"deconvolver": "multiscale", "scales": [0, 4], "niter": 200},
    "continuum": {"specmode": "mfs", "deconvolver": "mtmfs", "start": "", "nchan": -1},
}

#: What is there as soon as workers are at it.
BEGUN = "attempt-*/*-*"


@pytest.fixture(scope="module")
def references(
    line_ms: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path, Any]]:
    """Images to begin from, images of an undisturbed run, and what it returned."""
    made = {}
    for case, arguments in CASES.items():
        folder = tmp_path_factory.mktemp("tclean")
        if case == "goes on":
            tclean(line_ms, imagename=str(folder / "first"), **CUBE | {"niter": 60})
        copy_images(folder / "first", folder / "cube")
        call = {"vis": line_ms, "imagename": str(folder / "cube"), **CUBE, **arguments}
        # In a continuum image the last digits are ptclean's own.
        is_cube = call["specmode"] == "cube"
        returned = tclean(**call) if is_cube else ptclean(**call, nworkers=2)
        made[case] = (folder / "first", folder / "cube", returned)
    return made


def copy_images(source: Path, target: Path) -> None:
    for path in source.parent.glob(f"{source.name}.*"):
        shutil.copytree(path, target.parent / (target.name + path.name[len(source.name) :]))


def calls(folder: Path, vis: str, references: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield calls of all cases in turn, each with images of its own."""
    for number, case in enumerate(itertools.cycle(CASES)):
        name = folder / f"{number}" / "cube"
        name.parent.mkdir()
        copy_images(references[case][0], name)
        own = {"nworkers": 2, "chanchunks": (1, 2, 6)[number % 3]}
        yield case, {"vis": vis, "imagename": str(name), **CUBE, **CASES[case], **own}


def assert_undisturbed(reference: Any, call: dict[str, Any], found: Any) -> None:
    name = Path(call["imagename"])
    assert_same_images(reference[1], name)
    if found is not None:
        assert_same_return(reference[2], found)
    assert not list(name.parent.glob("cube.ptclean*"))
    shutil.rmtree(name.parent)


def test_killed_drivers(line_ms: str, references: Any, tmp_path: Path) -> None:
    choose = random.Random(SEED)
    kills = 0
    usual = 0.0
    for case, call in calls(tmp_path, line_ms, references):
        work = Path(f"{call['imagename']}.ptclean")
        for attempt in itertools.count():
            with Driver(tmp_path / "driver", **call) as driver:
                started = time.monotonic()
                while not list(work.glob(BEGUN)) and driver.process.poll() is None:
                    time.sleep(0.02)
                if usual and attempt < 3:
                    time.sleep(choose.uniform(0, 0.8 * usual / (attempt + 1)))
                    if driver.process.poll() is None:
                        driver.kill()
                        kills += 1
                        wait_until_gone(driver.workers)
                        print(f"{kills}: {case}, {time.monotonic() - started:.1f} s", flush=True)
                        if work.exists():
                            continue
                        # The call was over, and nothing but the end of its process to come: the
                        # same call would be another one, which goes on from these images.
                        found = None
                        break
                status, errors = driver.wait()
                assert status == 0, errors
                usual = max(usual, time.monotonic() - started)
                found = driver.returned()
                break
        assert_undisturbed(references[case], call, found)
        if kills >= KILLS:
            return


def test_killed_workers(line_ms: str, references: Any, tmp_path: Path) -> None:
    choose = random.Random(SEED)
    kills = 0
    with DaskClusterManager(nworkers=2):
        for case, call in calls(tmp_path, line_ms, references):
            work = Path(f"{call['imagename']}.ptclean")
            at_once = choose.choice([1, 1, 2])
            with killed_workers(
                lambda work=work: list(work.glob(BEGUN)),
                lambda workers, n=at_once: choose.sample(workers, min(n, len(workers))),
                lambda number: choose.uniform(0, 6),
                most=2,
            ) as killed:
                found = ptclean(**call)
            kills += len(killed)
            print(f"{kills}: {case}", flush=True)
            assert_undisturbed(references[case], call, found)
            if kills >= KILLS:
                return
