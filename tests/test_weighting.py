# SPDX-License-Identifier: GPL-3.0-or-later
"""Each scheme of weighting gives tclean's cube, however the cube is cut."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casatasks import tclean

from ptclean import DaskClusterManager, plan, ptclean
from ptclean.imaging import at_work
from ptclean.imaging.imager import ParallelCubeImager
from same_images import (
    assert_same_as_tclean,
    assert_same_images,
    assert_same_return,
    pixels,
)
from simulated import simulate

#: A cube of six channels that are a tenth of the frequency in all, made in a second.
CUBE: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 64,
    "cell": "0.3arcsec",
    "start": 1,
    "nchan": 6,
    "niter": 60,
    "threshold": "50mJy",
}

TAPERED: dict[str, dict[str, Any]] = {
    "robust -2": {"robust": -2.0, "niter": 0, "restoration": False},
    "robust 0.5": {"robust": 0.5},
    "robust 2, taper": {"robust": 2.0, "niter": 0, "uvtaper": ["2arcsec", "1arcsec", "20deg"]},
}

Reference = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def wide_ms(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight channels from 100 to 112 GHz, so that their fractional bandwidth matters."""
    path = tmp_path_factory.mktemp("wide") / "wide.ms"
    simulate(path, nchan=8, nant=12, nint=4, freq=100e9, width=1.5e9, day=1, hour=1.2)
    return str(path)


@pytest.fixture(scope="module")
def tapered(wide_ms: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """Images and returned dictionary of serial tclean with a taper, made once for each case."""
    made: dict[str, Reference] = {}

    def get(case: str) -> Reference:
        if case not in made:
            name = str(tmp_path_factory.mktemp("tclean") / "cube")
            arguments = CUBE | TAPERED[case] | {"weighting": "briggsbwtaper"}
            made[case] = (name, tclean(wide_ms, imagename=name, **arguments))
        return made[case]

    return get


@pytest.mark.parametrize("chanchunks", [1, 2, 6])
@pytest.mark.parametrize("case", TAPERED)
def test_taper_with_the_bandwidth_of_the_cube(
    case: str,
    chanchunks: int,
    wide_ms: str,
    tapered: Callable[[str], Reference],
    cluster: DaskClusterManager,
    log: Callable[[], str],
    tmp_path: Path,
) -> None:
    imagename, expected = tapered(case)
    arguments = CUBE | TAPERED[case] | {"weighting": "briggsbwtaper", "chanchunks": chanchunks}
    found = ptclean(wide_ms, imagename=str(tmp_path / "cube"), nworkers=2, **arguments)
    assert_same_images(imagename, tmp_path / "cube")
    assert_same_return(expected, found)
    assert "runs tclean serially" not in log()
    assert "cannot be divided" not in log(), "what CASA is made to fail with is for nobody to see"


def test_taper_is_another_for_each_bandwidth(
    wide_ms: str, tapered: Callable[[str], Reference], tmp_path: Path
) -> None:
    """Else the tests above would show nothing."""
    arguments = CUBE | {"niter": 0, "restoration": False, "weighting": "briggsbwtaper"}
    for name, changes in {
        "part": {"nchan": 3, "robust": -2.0},
        "untapered": {"weighting": "briggs", "robust": -2.0},
    }.items():
        tclean(wide_ms, imagename=str(tmp_path / name), **arguments | changes)
        whole = pixels(f"{tapered('robust -2')[0]}.psf")[..., :3]
        assert np.abs(pixels(tmp_path / f"{name}.psf")[..., :3] - whole).max() > 1e-3


def test_taper_survives_lost_tools(
    wide_ms: str,
    tapered: Callable[[str], Reference],
    cluster: DaskClusterManager,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Workers that have lost all that they held of the run take it up from disk."""
    imagename, expected = tapered("robust 0.5")
    phase = ParallelCubeImager._phase

    def forgetful(self: ParallelCubeImager, *args: Any) -> Any:
        cluster.client.run(at_work.forget, self.jobs[0].run)
        return phase(self, *args)

    monkeypatch.setattr(ParallelCubeImager, "_phase", forgetful)
    arguments = CUBE | TAPERED["robust 0.5"] | {"weighting": "briggsbwtaper", "chanchunks": 3}
    found = ptclean(wide_ms, imagename=str(tmp_path / "cube"), nworkers=2, **arguments)
    assert_same_images(imagename, tmp_path / "cube")
    assert_same_return(expected, found)


OTHER: dict[str, dict[str, Any]] = {
    "natural": {"uvtaper": ["2arcsec"]},
    "natural, one density": {"weighting": "natural", "perchanweightdensity": False},
    "uniform": {"uvtaper": ["5klambda"]},
    "radial": {"uvtaper": ["2arcsec", "1arcsec", "20deg"]},
    "radial, one density": {"weighting": "radial", "perchanweightdensity": False},
    "briggs": {"robust": -1.0, "npixels": 5},
    "briggsabs": {"robust": 0.0, "noise": "0.1Jy"},
}


@pytest.mark.parametrize("case", OTHER)
def test_channel_by_channel(
    case: str, wide_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    arguments = CUBE | {"weighting": case, "niter": 0} | OTHER[case]
    assert_same_as_tclean(wide_ms, tmp_path, chanchunks=1, **arguments)
    assert not (tmp_path / "ptclean.gridwt").exists()


DENSITY: dict[str, dict[str, Any]] = {
    "briggs": {"perchanweightdensity": False, "niter": 60, "chanchunks": 1},
    "briggs, cleaned": {"weighting": "briggs", "perchanweightdensity": False, "niter": 60},
    "briggs, in one": {"weighting": "briggs", "perchanweightdensity": False, "chanchunks": 6},
    "briggsabs": {"perchanweightdensity": False, "robust": 1.0, "noise": "0.05Jy"},
    "uniform": {"perchanweightdensity": False},
    "pixels": {"perchanweightdensity": False, "weighting": "briggs", "npixels": 40},
    "taper": {"perchanweightdensity": False, "weighting": "briggs", "uvtaper": ["2arcsec"]},
    "superuniform": {"perchanweightdensity": True, "niter": 60},
    "superuniform, one density": {"weighting": "superuniform", "perchanweightdensity": False},
    "superuniform, pixels": {"weighting": "superuniform", "npixels": 5, "uvtaper": ["2arcsec"]},
}


@pytest.mark.parametrize("case", DENSITY)
def test_density_of_all_data(
    case: str, wide_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    """The density of the weights is a product of its own."""
    arguments = CUBE | {"weighting": case, "niter": 0, "chanchunks": 2} | DENSITY[case]
    assert_same_as_tclean(wide_ms, tmp_path, **arguments)
    assert pixels(tmp_path / "ptclean.gridwt").any()


def test_density_is_renewed(wide_ms: str, cluster: DaskClusterManager, tmp_path: Path) -> None:
    """A density that an earlier call has left is replaced, also one of another shape."""
    arguments = CUBE | {"niter": 0, "restoration": False, "perchanweightdensity": False}
    ptclean(
        wide_ms,
        imagename=str(tmp_path / "ptclean"),
        chanchunks=2,
        **arguments | {"weighting": "uniform", "npixels": 40},
    )
    shape = pixels(tmp_path / "ptclean.gridwt").shape
    for product in ("psf", "pb", "residual", "sumwt"):
        shutil.rmtree(tmp_path / f"ptclean.{product}")
    assert_same_as_tclean(wide_ms, tmp_path, **arguments | {"weighting": "briggs"})
    assert pixels(tmp_path / "ptclean.gridwt").shape != shape


#: What tclean refuses, or does nothing for, and what it warns of: its own to say.
TCLEANS: dict[str, tuple[str, dict[str, Any]]] = {
    "pixels": ("npixels=5", {"npixels": 5}),
    "one density": ("perchanweightdensity=False", {"perchanweightdensity": False}),
}


@pytest.mark.parametrize("case", TCLEANS)
def test_taper_that_is_tcleans(
    case: str, wide_ms: str, log: Callable[[], str], tmp_path: Path
) -> None:
    reason, changes = TCLEANS[case]
    arguments = CUBE | {"weighting": "briggsbwtaper", "niter": 0, "vis": wide_ms} | changes
    made = plan(imagename=str(tmp_path / "ptclean"), nworkers=2, **arguments)
    assert made.serial is not None
    assert reason in made.serial
    expected = tclean(imagename=str(tmp_path / "tclean"), **arguments)
    found = ptclean(imagename=str(tmp_path / "ptclean"), nworkers=2, **arguments)
    if expected is not None:
        assert_same_images(tmp_path / "tclean", tmp_path / "ptclean")
    assert_same_return(expected, found)
    assert f"runs tclean serially: {reason}" in log()
