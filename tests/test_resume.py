# SPDX-License-Identifier: GPL-3.0-or-later
"""A call whose process ends before its time is gone on with by the same call, to tclean's images.

Killing at random, and often, is in ``soak/test_soak.py``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import pytest
from casatasks import tclean
from distributed import Client, LocalCluster

from killing import Driver, wait_until_gone, worker_processes
from ptclean import plan, ptclean
from ptclean.errors import ImageInUseError, LeftoverError
from ptclean.imaging import at_work
from ptclean.keeping.journal import Journal
from same_images import assert_same_images, assert_same_return
from simulated import simulate

CUBE: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 64,
    "cell": "0.15arcsec",
    "start": 4,
    "nchan": 6,
    "weighting": "briggs",
    "niter": 300,
    "threshold": "20mJy",
    "restoringbeam": "common",
}
OWN = {"nworkers": 2, "chanchunks": 2}

AUTOMASK: dict[str, Any] = {
    "cell": "0.11arcsec",
    "usemask": "auto-multithresh",
    "sidelobethreshold": 2.0,
    "noisethreshold": 4.25,
    "lownoisethreshold": 1.5,
    "minbeamfrac": 0.3,
}

Reference = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def reference(line_ms: str, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    name = str(tmp_path_factory.mktemp("tclean") / "cube")
    return name, tclean(line_ms, imagename=name, **CUBE)


def steps_done(work: Path) -> list[str]:
    """Names of the steps in a journal."""
    lines = (work / "journal.jsonl").read_text().splitlines()
    return [entry["step"][2] for entry in map(json.loads, lines) if "step" in entry]


def assert_finished(reference: Reference, imagename: Path, found: Any) -> None:
    assert_same_images(reference[0], imagename)
    assert_same_return(reference[1], found)
    assert not list(imagename.parent.glob(f"{imagename.name}.ptclean*"))


# After the last 'begin' the beams of the cube are not yet known; chunks of two channels are three.
@pytest.mark.parametrize(
    ("where", "count"),
    [("begin", 3), ("minor", 2), ("finish", 2), ("install", 3)],
)
def test_killed_driver_changes_nothing(
    where: str,
    count: int,
    line_ms: str,
    reference: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = {"vis": line_ms, "imagename": str(tmp_path / "cube"), **CUBE, **OWN}
    with Driver(tmp_path / "driver", where, count, **call) as driver:
        status, errors = driver.wait()
    assert status == -signal.SIGKILL, errors
    assert len(driver.workers) >= 2
    wait_until_gone(driver.workers)
    before = steps_done(tmp_path / "cube.ptclean")
    assert before.count(where) == count or where.startswith("install")
    made: list[str] = []
    add = Journal.add
    monkeypatch.setattr(
        Journal, "add", lambda self, step, value: (made.append(step.name), add(self, step, value))
    )
    # Neither matters to the images; the chunks stay those of the first call.
    found = ptclean(**call | {"nworkers": 1, "chanchunks": 3})
    assert_finished(reference, tmp_path / "cube", found)
    minors = reference[1]["nmajordone"] - 1
    assert (before + made).count("minor") == 3 * minors, "a cycle was made twice"


@pytest.mark.parametrize("where", ["minor", "finish"])
def test_killed_driver_whose_workers_stay(
    where: str, line_ms: str, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of a cluster of the user's go on with what they are at, and hold locks on it."""
    call = {"vis": line_ms, "imagename": str(tmp_path / "cube"), **CUBE, **OWN, "chanchunks": 1}
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0
    ) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        with Driver(tmp_path / "driver", where, 9 if where == "minor" else 2, **call) as driver:
            status, errors = driver.wait()
        assert status == -signal.SIGKILL, errors
        assert not driver.workers
        found = ptclean(**call)
        with Client(cluster, set_as_default=False) as client:
            assert set(client.run(chunks_at_hand).values()) == {0}
    assert_finished(reference, tmp_path / "cube", found)


def chunks_at_hand() -> int:
    """Chunks whose tools are open in a worker."""
    return len(at_work._at_work)


def test_driver_killed_time_and_again_with_automasking(line_ms: str, tmp_path: Path) -> None:
    cube = CUBE | AUTOMASK
    expected = tclean(line_ms, imagename=str(tmp_path / "tclean"), **cube)
    call = {"vis": line_ms, "imagename": str(tmp_path / "cube"), **cube, **OWN}
    for where, count in (("start_masks", 2), ("take over", 1), ("minor", 5)):
        with Driver(tmp_path / "driver", where, count, **call) as driver:
            status, errors = driver.wait()
        assert status == -signal.SIGKILL, errors
        wait_until_gone(driver.workers)
    found = ptclean(**call)
    assert expected["nmajordone"] > 3
    assert_finished((str(tmp_path / "tclean"), expected), tmp_path / "cube", found)


@pytest.mark.parametrize(
    ("number", "where"),
    [(signal.SIGTERM, "install"), (signal.SIGINT, "major")],
)
def test_stopped_driver_changes_nothing(
    number: int, where: str, line_ms: str, reference: Reference, tmp_path: Path
) -> None:
    call = {"vis": line_ms, "imagename": str(tmp_path / "cube"), **CUBE, **OWN}
    with Driver(tmp_path / "driver", where, 2, number, **call) as driver:
        status, errors = driver.wait()
    # As shells and subprocess report what died of the signal.
    assert status == (143 if number == signal.SIGTERM else -signal.SIGINT), errors
    assert driver.workers
    wait_until_gone(driver.workers, seconds=0)
    assert "the same call again goes on from" in errors
    assert not (tmp_path / "cube.ptclean" / "owner.json").exists()
    present = list(tmp_path.glob("cube.*"))
    assert len(present) == (8 if where == "install" else 1), present
    assert_finished(reference, tmp_path / "cube", ptclean(**call))


def test_work_of_another_call_is_refused(
    line_ms: str, tmp_path: Path, log: Callable[[], str]
) -> None:
    vis = tmp_path / "line.ms"
    shutil.copytree(line_ms, vis)
    mask = tmp_path / "region.crtf"
    mask.write_text("#CRTFv0\ncircle[[32pix,32pix],40pix]\n")
    call = {"vis": str(vis), "imagename": str(tmp_path / "cube"), "mask": str(mask), **CUBE, **OWN}
    work = tmp_path / "cube.ptclean"
    with Driver(tmp_path / "driver", "minor", 3, **call) as driver:
        driver.wait()
    wait_until_gone(driver.workers)
    before = sorted(p.name for p in work.iterdir())

    for changes, what in (
        ({"niter": 301}, r"niter=301, and was 300"),
        ({"deconvolver": "asp"}, r"deconvolver='asp', and was 'hogbom'"),
    ):
        with pytest.raises(LeftoverError, match=what) as refusal:
            ptclean(**call | changes)
        assert str(work) in str(refusal.value)
        assert "go on from cycle 2" in str(refusal.value)
        assert "DASK_PTCLEAN__RESUME=false" in str(refusal.value)
    for path in (vis / "table.dat", mask):
        times = path.stat()
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
        changed = vis if path.parent == vis else mask
        with pytest.raises(LeftoverError, match=f"{re.escape(str(changed))} has changed"):
            ptclean(**call)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    owner = json.loads((work / "owner.json").read_text())
    (work / "owner.json").write_text(json.dumps(owner | {"host": "node17"}))
    with pytest.raises(ImageInUseError, match=r"node17.*remove owner\.json"):
        ptclean(**call)
    # The number of its process has been given again.
    (work / "owner.json").write_text(json.dumps(owner | {"pid": os.getpid()}))

    assert sorted(p.name for p in work.iterdir()) == before
    assert "from cycle 2" in str(plan(**call))
    with dask.config.set({"ptclean.resume": False}):
        assert "resumes" not in str(plan(**call))
        found = ptclean(**call)
    assert "which a run that has ended left, is removed" in log()
    expected = tclean(str(vis), imagename=str(tmp_path / "tclean"), mask=str(mask), **CUBE)
    assert_finished((str(tmp_path / "tclean"), expected), tmp_path / "cube", found)


#: Cubes that begin from something, and the arguments of the call before.
BEGINNINGS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "earlier images": ({"niter": 200, "pbcor": True}, {"niter": 60}),
    "other weights": (
        {"niter": 200, "weighting": "natural", "calcres": False, "calcpsf": False},
        {"niter": 60},
    ),
    "a model": ({"niter": 100, "startmodel": "model"}, {"niter": 60}),
    "blank planes": ({"start": "", "width": "0.6MHz", "nchan": 8}, None),
}


def make_beginning(name: str, vis: str, folder: Path) -> dict[str, Any]:
    """Make what a cube begins from, for tclean and for ptclean; returns its arguments."""
    arguments, first = BEGINNINGS[name]
    cube = CUBE | arguments
    if first is not None:
        if "startmodel" in cube:
            tclean(vis, imagename=str(folder / "first"), **CUBE | first)
            cube["startmodel"] = str(folder / "first.model")
        else:
            tclean(vis, imagename=str(folder / "tclean"), **CUBE | first)
            for path in folder.glob("tclean.*"):
                shutil.copytree(path, folder / f"cube{path.suffix}")
    return cube


def die_at(places: dict[tuple[str, int], int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Kill workers as soon as steps of a name have been made a number of times; returns victims."""
    counts: dict[str, int] = {}
    killed: list[int] = []
    add = Journal.add

    def adding(journal: Journal, step: Any, value: Any) -> None:
        add(journal, step, value)
        counts[step.name] = counts.get(step.name, 0) + 1
        for victim in worker_processes()[: places.get((step.name, counts[step.name]), 0)]:
            victim.kill()
            killed.append(victim.pid)

    monkeypatch.setattr(Journal, "add", adding)
    return killed


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_killed_workers_change_nothing(
    beginning: str, line_ms: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cubes that do not begin from nothing."""
    cube = make_beginning(beginning, line_ms, tmp_path)
    expected = tclean(line_ms, imagename=str(tmp_path / "tclean"), **cube)
    call = {"vis": line_ms, "imagename": str(tmp_path / "cube"), **cube, **OWN}
    assert plan(**call).serial is None
    killed = die_at({("begin", 2): 1, ("minor", 2): 2, ("major", 2): 2}, monkeypatch)
    found = ptclean(**call)
    assert len(killed) >= 4
    assert_finished((str(tmp_path / "tclean"), expected), tmp_path / "cube", found)


def test_killed_driver_of_a_cube_that_goes_on(line_ms: str, tmp_path: Path) -> None:
    cube = make_beginning("other weights", line_ms, tmp_path)
    expected = tclean(line_ms, imagename=str(tmp_path / "tclean"), **cube)
    call = {"vis": line_ms, "imagename": str(tmp_path / "cube"), **cube, **OWN}
    with Driver(tmp_path / "driver", "major", 2, **call) as driver:
        assert driver.wait()[0] == -signal.SIGKILL
    wait_until_gone(driver.workers)
    with Driver(tmp_path / "driver", "install", 2, **call) as driver:
        assert driver.wait()[0] == -signal.SIGKILL
    wait_until_gone(driver.workers)
    found = ptclean(**call)
    assert_finished((str(tmp_path / "tclean"), expected), tmp_path / "cube", found)


def test_mosaic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vis = str(tmp_path / "mosaic.ms")
    simulate(vis, pointings=4, nchan=12, nant=10, nint=2, width=5e6, day=-2, hour=3.6)
    cube = {
        "datacolumn": "data",
        "specmode": "cube",
        "gridder": "mosaic",
        "imsize": 64,
        "cell": "0.2arcsec",
        "start": "267.5225GHz",
        "width": "5.003MHz",
        "nchan": 9,
        "weighting": "briggs",
        "niter": 100,
        "pbcor": True,
    }
    expected = tclean(vis, imagename=str(tmp_path / "tclean"), **cube)
    call = {"vis": vis, "imagename": str(tmp_path / "cube"), "nworkers": 2, **cube}
    call["chanchunks"] = 3
    assert plan(**call).serial is None
    with Driver(tmp_path / "driver", "minor", 2, **call) as driver:
        assert driver.wait()[0] == -signal.SIGKILL
    wait_until_gone(driver.workers)
    killed = die_at({("minor", 2): 2, ("major", 2): 1}, monkeypatch)
    found = ptclean(**call)
    assert killed
    assert_finished((str(tmp_path / "tclean"), expected), tmp_path / "cube", found)
