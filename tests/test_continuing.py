# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that find images of an earlier one under their name, or start from a model image.

Each chain of calls is made by tclean and by ptclean, and compared after each call. Some chains are
of both tasks in turn.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casatasks import tclean
from casatools import image
from test_run import break_column

from ptclean import DaskClusterManager, plan, ptclean
from ptclean.errors import ChunkError
from ptclean.planning.continuing import Beginning, reason_in_earlier_images
from same_images import assert_same_images, assert_same_return, pixels

CUBE: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 64,
    "cell": "0.15arcsec",
    "start": 4,
    "nchan": 6,
    "weighting": "briggs",
    "niter": 100,
    "threshold": "20mJy",
    "pbcor": True,
}

NEITHER = {"calcres": False, "calcpsf": False}

#: A first call and a second one, of which the second goes on from the first.
CHAINS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clean on": ({}, {"niter": 150}),
    "clean on from residual and PSF": ({}, {"niter": 150, **NEITHER}),
    "restore": ({"restoration": False}, {"niter": 0, **NEITHER}),
}

#: Chains whose subject has nothing to do with how the cube is cut.
MORE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clean on from the residual": ({}, {"niter": 150, "calcres": False}),
    "clean on with the PSF": ({}, {"niter": 150, "calcpsf": False}),
    "residual of a model": ({}, {"niter": 0, "weighting": "natural", "calcpsf": False}),
    "other weights": ({}, {"niter": 150, "weighting": "natural", **NEITHER}),
    "mask on disk": ({"mask": "circle[[32pix,32pix],9pix]"}, {"niter": 150}),
    "other kind of mask": ({"usemask": "pb", "pbmask": 0.6}, {"niter": 150}),
    "no primary beam limit": ({"pblimit": 0.4}, {"pblimit": -0.2, "niter": 150}),
}


def call(task: Callable[..., Any], vis: str, name: Path, arguments: dict[str, Any]) -> Any:
    """Image with either task, with ptclean in chunks."""
    if task is tclean:
        return tclean(vis, imagename=str(name), **arguments)
    own = {"nworkers": 2, "chanchunks": 2} | arguments
    made = plan(vis, imagename=str(name), **own)
    assert made.serial is None, f"not in chunks: {made.serial}"
    return ptclean(vis, imagename=str(name), **own)


def history(path: Path) -> list[str]:
    ia = image()
    ia.open(str(path))
    try:
        return [str(line) for line in ia.history(list=False)]
    finally:
        ia.done()


@pytest.fixture(scope="module")
def first_runs(
    tmp_path_factory: pytest.TempPathFactory, line_ms: str
) -> Callable[[str], tuple[Path, Path, Any]]:
    """Images of a chain's first call and of both calls by tclean, and what the second returned."""
    made: dict[str, tuple[Path, Path, Any]] = {}

    def get(name: str) -> tuple[Path, Path, Any]:
        if name not in made:
            folder = tmp_path_factory.mktemp("tclean")
            first, second = (CHAINS | MORE)[name]
            call(tclean, line_ms, folder / "first", CUBE | first)
            copy_images(folder / "first", folder / "both")
            made[name] = (
                folder / "first",
                folder / "both",
                call(tclean, line_ms, folder / "both", CUBE | second),
            )
        return made[name]

    return get


def copy_images(source: Path, target: Path) -> None:
    for path in source.parent.glob(f"{source.name}.*"):
        shutil.copytree(path, target.parent / (target.name + path.name[len(source.name) :]))


@pytest.mark.parametrize(
    ("chain", "chanchunks"),
    [(name, size) for name in CHAINS for size in (1, 2, 6)] + [(name, 2) for name in MORE],
)
def test_goes_on_from_tcleans_images(
    chain: str,
    chanchunks: int,
    line_ms: str,
    first_runs: Callable[[str], tuple[Path, Path, Any]],
    cluster: DaskClusterManager,
    tmp_path: Path,
) -> None:
    first, both, expected = first_runs(chain)
    copy_images(first, tmp_path / "cube")
    before = len(history(tmp_path / "cube.psf"))
    second = (CHAINS | MORE)[chain][1]
    found = call(ptclean, line_ms, tmp_path / "cube", CUBE | second | {"chanchunks": chanchunks})
    assert_same_images(both, tmp_path / "cube")
    assert_same_return(expected, found)
    assert len(history(tmp_path / "cube.psf")) > before, "earlier history is lost"


def test_tclean_goes_on_from_ptcleans_images(
    line_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    returned = []
    for name, task in (("tclean", tclean), ("ptclean", ptclean)):
        call(task, line_ms, tmp_path / name, CUBE)
        returned.append(call(tclean, line_ms, tmp_path / name, CUBE | {"niter": 150}))
    assert_same_images(tmp_path / "tclean", tmp_path / "ptclean")
    assert_same_return(*returned)


@pytest.mark.parametrize("niter", [0, 50])
def test_startmodel_on_another_grid(
    niter: int, line_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    other = CUBE | {"cell": "0.2arcsec", "imsize": 72, "start": 2, "nchan": 9}
    tclean(line_ms, imagename=str(tmp_path / "other"), **other)
    arguments = CUBE | {"startmodel": str(tmp_path / "other.model"), "niter": niter}
    expected = call(tclean, line_ms, tmp_path / "tclean", arguments)
    found = call(ptclean, line_ms, tmp_path / "ptclean", arguments)
    assert_same_images(tmp_path / "tclean", tmp_path / "ptclean")
    assert_same_return(expected, found)
    assert np.any(pixels(tmp_path / "ptclean.model") != 0)


def test_failure_leaves_model_and_mask_alone(
    line_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    vis = tmp_path / "broken.ms"
    shutil.copytree(line_ms, vis)
    call(ptclean, str(vis), tmp_path / "cube", CUBE)
    copy_images(tmp_path / "cube", tmp_path / "copy")
    break_column(vis, "FLAG")
    with pytest.raises(ChunkError):
        call(ptclean, str(vis), tmp_path / "cube", CUBE | {"niter": 150})
    assert_same_images(tmp_path / "copy", tmp_path / "cube")
    for product in ("model", "mask", "psf"):
        assert history(tmp_path / f"copy.{product}") == history(tmp_path / f"cube.{product}")
    assert not list(tmp_path.glob("cube.ptclean*"))


def test_two_threads_at_the_same_time(
    line_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    cases = {"a": CUBE, "b": CUBE | {"niter": 60, "weighting": "natural"}}
    found: dict[str, Any] = {}

    def run(name: str) -> None:
        found[name] = ptclean(
            line_ms, imagename=str(tmp_path / name), nworkers=1, chanchunks=3, **cases[name]
        )

    threads = [threading.Thread(target=run, args=(name,)) for name in cases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, arguments in cases.items():
        expected = tclean(line_ms, imagename=str(tmp_path / f"tclean-{name}"), **arguments)
        assert_same_images(tmp_path / f"tclean-{name}", tmp_path / name)
        assert_same_return(expected, found[name])


PARAMETERS: dict[str, Any] = {
    "imagename": "/images/line",
    "restart": True,
    "startmodel": "",
    "calcpsf": True,
    "calcres": True,
    "usemask": "user",
    "mask": "",
    "restoration": True,
    "niter": 100,
}
ALL = ("psf", "pb", "sumwt", "residual", "model", "mask", "image")


@pytest.mark.parametrize(
    ("changes", "existing", "reason"),
    [
        ({}, ALL, None),
        ({"restart": False}, (), None),
        ({"restart": False}, ALL, "restart=False"),
        ({"startmodel": "a.model"}, ("psf",), None),
        ({"startmodel": ["a.model", "b.model"]}, (), "startmodel="),
        ({"startmodel": "a.model"}, ALL, "startmodel='a.model', and /images/line.model exists"),
        ({"mask": "a.mask"}, ALL, "mask='a.mask', and /images/line.mask exists"),
        ({"usemask": "auto-multithresh"}, ALL, "usemask='auto-multithresh'"),
        (NEITHER, ALL, None),
        ({"calcpsf": False}, (), "calcpsf=False, and there is no /images/line.psf"),
        ({"calcres": False}, (), "calcres=False, and there is no /images/line.residual"),
        (NEITHER | {"niter": 0, "restoration": False}, ALL, "niter=0"),
    ],
)
def test_reason_in_earlier_images(
    changes: dict[str, Any], existing: tuple[str, ...], reason: str | None
) -> None:
    found = reason_in_earlier_images(PARAMETERS | changes, existing)
    assert found is None if reason is None else str(found).startswith(reason)


def test_products_that_nobody_writes_to() -> None:
    restoring = Beginning("/images/line", ALL, makes_psf=False, makes_residual=False)
    left = restoring.leaves(cleans=False, restores=True, corrects=False)
    assert left == set(ALL) - {"image"}
    assert not Beginning("/images/line", ALL).leaves(cleans=True, restores=True, corrects=True)


@pytest.mark.parametrize(
    ("name", "value"), [("outlierfile", "outliers.txt"), ("interactive", True)]
)
def test_other_calls_that_are_tcleans(name: str, value: Any, line_ms: str, tmp_path: Path) -> None:
    made = plan(line_ms, imagename=str(tmp_path / "cube"), nworkers=2, **CUBE | {name: value})
    assert str(made.serial).startswith(f"{name}=")


def test_names_with_numbers_make_tclean_choose_another(line_ms: str, tmp_path: Path) -> None:
    arguments = CUBE | {"imagename": str(tmp_path / "cube"), "nworkers": 2, "restart": False}
    assert plan(line_ms, **arguments).serial is None
    (tmp_path / "cube_3.image").mkdir()
    assert str(plan(line_ms, **arguments).serial).startswith("restart=False, and there are images")
