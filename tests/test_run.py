# SPDX-License-Identifier: GPL-3.0-or-later
"""The task as a user meets it: what it leaves on disk, what it returns, what it says, what it does
when something goes wrong. That the images are tclean's is in ``test_equality.py``.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from casatasks import tclean
from casatools import image, table
from distributed import Client

from compare_images import compare_image_sets
from killing import killed_workers
from ptclean import DaskClusterManager, ptclean
from ptclean.errors import ChunkError
from ptclean.imaging.chunk_job import ChunkJob, CubeJob
from ptclean.imaging.model_copies import ModelCopies
from ptclean.planning.chunks import Chunk
from ptclean.records import ImagingRecords
from same_images import assert_same_images

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
}


@pytest.fixture(scope="module")
def reference(line_ms: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    name = str(tmp_path_factory.mktemp("tclean") / "cube")
    tclean(line_ms, imagename=name, **CUBE)
    return name


def history(path: Path) -> list[str]:
    ia = image()
    ia.open(str(path))
    try:
        return [str(line) for line in ia.history(list=False)]
    finally:
        ia.close()


def break_column(vis: Path, column: str) -> None:
    """Cut off the file that holds a column, as a full disk does."""
    tb = table()
    tb.open(str(vis))
    managers = tb.getdminfo().values()
    tb.close()
    (number,) = [m["SEQNR"] for m in managers if column in m["COLUMNS"]]
    for file in vis.glob(f"table.f{number}_TSM*"):
        os.truncate(file, 100)


def test_own_workers_start_and_end(line_ms: str, reference: str, tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    ptclean(line_ms, imagename=str(tmp_path / "cube"), nworkers=2, **CUBE)
    assert_same_images(reference, tmp_path / "cube")
    left = set(psutil.Process().children(recursive=True)) - before
    assert not psutil.wait_procs(list(left), timeout=30)[1]


def test_history_records_the_call(
    line_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    ptclean(line_ms, imagename=str(tmp_path / "cube"), nworkers=2, chanchunks=3, **CUBE)
    for product in ("psf", "residual", "image", "mask"):
        lines = history(tmp_path / f"cube.{product}")
        assert any("taskname=ptclean" in line for line in lines)
        assert any("chanchunks" in line and "= 3" in line for line in lines)
        assert any("niter" in line and "= 300" in line for line in lines)


def test_log_tells_the_story(
    line_ms: str, cluster: DaskClusterManager, tmp_path: Path, log: Callable[[], str]
) -> None:
    ptclean(line_ms, imagename=str(tmp_path / "cube"), nworkers=2, chanchunks=2, **CUBE)
    text = log()
    assert "Begin Task: ptclean" in text
    assert "3 of 2 channels, 2 guard channels on either side" in text
    assert "Minor cycle 1:" in text
    assert "End Task: ptclean" in text


def test_names_with_spaces_and_folders(
    line_ms: str,
    reference: str,
    cluster: DaskClusterManager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Relative paths are the caller's, and the folder is made as tclean makes it."""
    os.symlink(line_ms, tmp_path / "my line.ms")
    monkeypatch.chdir(tmp_path)
    ptclean("my line.ms", imagename="new folder/my cube", nworkers=2, chanchunks=4, **CUBE)
    assert_same_images(reference, tmp_path / "new folder" / "my cube")


def test_earlier_images_are_replaced(
    line_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    """As by tclean, which takes the summed weights of the first images for those of the second."""
    arguments = CUBE | {"niter": 0, "restoration": False}
    for weighting in ("natural", "briggs"):
        arguments["weighting"] = weighting
        tclean(line_ms, imagename=str(tmp_path / "tclean"), **arguments)
        ptclean(line_ms, imagename=str(tmp_path / "cube"), nworkers=2, chanchunks=3, **arguments)
    assert_same_images(tmp_path / "tclean", tmp_path / "cube")


def test_failure_leaves_earlier_images_alone(
    line_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    vis = tmp_path / "broken.ms"
    shutil.copytree(line_ms, vis)
    arguments = CUBE | {"niter": 0, "restoration": False, "imagename": str(tmp_path / "cube")}
    ptclean(str(vis), nworkers=2, chanchunks=3, **arguments)
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("copy", "*.ms"))
    break_column(vis, "FLAG")
    with pytest.raises(ChunkError, match=r"chunk [01] \(channels (0~2|3~5)\) failed"):
        ptclean(str(vis), nworkers=2, chanchunks=3, **arguments)
    assert_same_images(tmp_path / "copy" / "cube", tmp_path / "cube")
    assert not list(tmp_path.glob("cube.ptclean*"))


@pytest.mark.parametrize("at_once", [1, 2])
def test_killed_workers_change_nothing(
    at_once: int, line_ms: str, reference: str, tmp_path: Path
) -> None:
    """Chunks of a worker that dies, in whichever step, are taken up by another.

    Where all die at once there is none at first, and those that come are not the ones that tasks
    were meant for.
    """
    choose = random.Random(5921)
    with killed_workers(
        lambda: list(tmp_path.glob("cube.ptclean/attempt-*/chunk-*")),
        lambda workers: choose.sample(workers, min(at_once, len(workers))),
        lambda number: choose.uniform(0.8, 1.4),
        most=3,
    ) as killed:
        ptclean(line_ms, imagename=str(tmp_path / "cube"), nworkers=2, chanchunks=1, **CUBE)
    assert killed, "the run was over before a worker was killed"
    assert_same_images(reference, tmp_path / "cube")


def test_model_is_saved_once_where_a_minor_cycle_is_begun_again(tmp_path: Path) -> None:
    """A worker may die when it has saved the model and before the minor cycle is complete."""
    cube = CubeJob(
        run="run",
        records=ImagingRecords({}, {}, {}, {}, {}, {"nsigma": 0.0}, {}),
        coordinates={},
        channels=1,
        directory=str(tmp_path),
        cleans=True,
        restores=False,
        corrects=False,
    )
    job = ChunkJob(cube, Chunk(0, 0, 1, 0, 1), ())
    model = Path(f"{job.core()}.model")
    for content in ("before the cycle", "in the middle of it"):
        model.mkdir(parents=True, exist_ok=True)
        (model / "pixels").write_text(content)
        ModelCopies(job).save(0)
    saved = Path(job.folder()) / "model-0"
    assert (saved / "pixels").read_text() == "before the cycle"


def test_users_cluster_is_used_and_left_alone(line_ms: str, reference: str, tmp_path: Path) -> None:
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        before = client.scheduler_info()["workers"].keys()
        ptclean(line_ms, imagename=str(tmp_path / "cube"), chanchunks=2, **CUBE)
        assert client.status == "running"
        assert client.scheduler_info()["workers"].keys() == before
    assert_same_images(reference, tmp_path / "cube")


def test_cube_does_not_depend_on_casas_memory(line_ms: str, tmp_path: Path) -> None:
    """With 1 MB for CASA tclean's cube is another; ptclean's is not."""
    rc = tmp_path / "casarc"
    rc.write_text("system.resources.memory: 1\n")
    arguments = CUBE | {"imsize": 128}
    tclean(line_ms, imagename=str(tmp_path / "reference"), **arguments)
    script = tmp_path / "both.py"
    script.write_text(
        textwrap.dedent(
            f"""
            from casatasks import tclean
            from ptclean import ptclean
            arguments = {arguments!r}
            tclean({line_ms!r}, imagename={str(tmp_path / "tclean")!r}, **arguments)
            ptclean({line_ms!r}, imagename={str(tmp_path / "ptclean")!r}, nworkers=2, **arguments)
            """
        )
    )
    subprocess.run(
        [sys.executable, str(script)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "CASARCFILES": str(rc), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=300,
    )
    differences = compare_image_sets(tmp_path / "reference", tmp_path / "tclean")
    assert not differences[".residual"].pixels, "tclean was not cut: the test shows nothing"
    assert_same_images(tmp_path / "reference", tmp_path / "ptclean")


SERIAL: dict[str, dict[str, Any]] = {
    "deconvolver='asp'": {"deconvolver": "asp"},
    "nsigma=6.0": {"nsigma": 6.0},
}


@pytest.mark.parametrize("reason", SERIAL)
def test_what_the_engine_cannot_do_is_tcleans(
    reason: str, line_ms: str, tmp_path: Path, log: Callable[[], str]
) -> None:
    arguments = CUBE | SERIAL[reason]
    expected = tclean(line_ms, imagename=str(tmp_path / "tclean"), **arguments)
    found = ptclean(line_ms, imagename=str(tmp_path / "ptclean"), nworkers=2, **arguments)
    assert_same_images(tmp_path / "tclean", tmp_path / "ptclean")
    assert found["iterdone"] == expected["iterdone"]
    (line,) = [line for line in log().splitlines() if "ptclean runs tclean serially" in line]
    assert reason in line
    assert any("ran tclean serially" in line for line in history(tmp_path / "ptclean.psf"))


def test_cleaning_goes_on_as_tcleans(line_ms: str, tmp_path: Path, log: Callable[[], str]) -> None:
    """A second call goes on from the first one's model, as tclean's does."""
    for name, task in (("tclean", tclean), ("ptclean", ptclean)):
        extra = {"nworkers": 2} if name == "ptclean" else {}
        for niter in (100, 200):
            task(line_ms, imagename=str(tmp_path / name), **(CUBE | {"niter": niter}), **extra)
    assert "ptclean runs tclean serially" not in log()
    assert_same_images(tmp_path / "tclean", tmp_path / "ptclean")


def test_images_of_another_shape_are_refused_as_by_tclean(
    line_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    arguments = CUBE | {"niter": 0, "restoration": False, "imagename": str(tmp_path / "cube")}
    ptclean(line_ms, nworkers=2, **arguments)
    arguments["nchan"] = 4
    messages = []
    for task in (tclean, ptclean):
        with pytest.raises(RuntimeError, match="shape mismatch") as refusal:
            task(line_ms, **arguments)
        messages.append(str(refusal.value))
    assert messages[0] == messages[1]


def test_small_cube_needs_no_cluster(
    line_ms: str, reference: str, tmp_path: Path, log: Callable[[], str]
) -> None:
    ptclean(line_ms, imagename=str(tmp_path / "cube"), **CUBE)
    assert "the cube is small" in log()
    assert_same_images(reference, tmp_path / "cube")
