# SPDX-License-Identifier: GPL-3.0-or-later
"""ptclean's cube is tclean's, bit for bit: real CASA images real visibilities, both ways.

Each case is imaged once by serial tclean, then by ptclean in chunks of several sizes on one and on
two workers. Pixels, masks, beams, coordinates, units and the returned dictionary must be equal;
where CASA itself is not reproducible, a bound is stated with its cause.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casatasks import tclean
from casatools import image

from ptclean import DaskClusterManager, plan, ptclean
from same_images import COMMON, assert_same_images, assert_same_return, pieces, pixels
from simulated import simulate

CASES: dict[str, dict[str, Any]] = {
    "dirty": {"niter": 0},
    "dirty, not restored": {"niter": 0, "restoration": False},
    "hogbom": {},
    "clark": {"deconvolver": "clark", "niter": 400},
    "multiscale": {"deconvolver": "multiscale", "scales": [0, 3], "niter": 400},
    "niter": {"niter": 300},
    "nmajor": {"nmajor": 2},
    "cycleniter": {"niter": 400, "cycleniter": 20},
    "cyclefactor": {"niter": 400, "cyclefactor": 2.5},
    "pb mask": {"usemask": "pb", "pbmask": 0.6},
}

#: Cases whose subject has nothing to do with how the cube is cut: one chunk size will do.
MORE: dict[str, dict[str, Any]] = {
    "fullsummary": {"niter": 300, "fullsummary": True},
    "natural": {"niter": 300, "weighting": "natural"},
    "uniform": {"niter": 300, "weighting": "uniform"},
    "taper": {"niter": 300, "uvtaper": ["0.6arcsec"]},
    "nearest": {"niter": 300, "interpolation": "nearest"},
    "no primary beam limit": {"niter": 300, "pblimit": -0.2, "pbcor": False},
    "XX": {"niter": 300, "stokes": "XX"},
    "all channels": {"niter": 300, "start": "", "nchan": -1},
    "wide channels": {"niter": 300, "start": "", "width": 2, "nchan": 5},
    "velocity": {"niter": 300, "start": "", "width": "0.4km/s", "nchan": 6},
    "barycentric": {"niter": 300, "outframe": "BARY", "interpolation": "nearest"},
    "phase centre": {"niter": 300, "phasecenter": "J2000 09h47m57.38s 13d16m43.0s"},
    "oblong image": {"niter": 300, "imsize": [72, 90]},
    "briggsabs": {"niter": 300, "weighting": "briggsabs", "robust": 1.0, "noise": "0.05Jy"},
    "radial": {"niter": 300, "weighting": "radial"},
    "weighting with a field of view": {"niter": 300, "npixels": 5},
    "flat sky": {"niter": 300, "normtype": "flatsky"},
    "common beam": {"niter": 300, "restoringbeam": "common"},
    "common beam, dirty": {"niter": 0, "restoringbeam": "common"},
    "round beam": {"niter": 300, "restoringbeam": "0.6arcsec"},
    "given beam": {"niter": 300, "restoringbeam": ["0.6arcsec", "0.5arcsec", "30deg"]},
    "region": {"niter": 300, "mask": "circle[[40pix,40pix],12pix]"},
    "regions in the primary beam": {
        "niter": 300,
        "mask": ["circle[[40pix,40pix],9pix]", "box[[10pix,12pix],[24pix,20pix]]"],
        "pbmask": 0.9,
    },
    "beam fit": {"niter": 300, "psfcutoff": 0.6},
    "selection": {"niter": 300, "start": "", "nchan": -1, "spw": "0:3~12", "uvrange": "<300m"},
    "gain": {"niter": 300, "gain": 0.25, "minpsffraction": 0.2, "maxpsffraction": 0.5},
}


Reference = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, line_ms: str) -> Callable[[str], Reference]:
    """Images and returned dictionary of serial tclean, made once for each case."""
    made: dict[str, Reference] = {}

    def get(case: str) -> Reference:
        if case not in made:
            name = str(tmp_path_factory.mktemp("tclean") / "cube")
            arguments = COMMON | (CASES | MORE)[case]
            made[case] = (name, tclean(line_ms, imagename=name, **arguments))
            assert pieces(name) == 1, "CASA has cut the reference: it is not to be trusted"
        return made[case]

    return get


@pytest.mark.parametrize(("chanchunks", "nworkers"), [(1, 2), (2, 1), (5, 2), (7, 1)])
@pytest.mark.parametrize("case", CASES)
def test_same_cube(
    case: str,
    chanchunks: int,
    nworkers: int,
    line_ms: str,
    reference: Callable[[str], Reference],
    cluster: DaskClusterManager,
    tmp_path: Path,
) -> None:
    imagename, expected = reference(case)
    arguments = COMMON | CASES[case] | {"nworkers": nworkers, "chanchunks": chanchunks}
    found = ptclean(line_ms, imagename=str(tmp_path / "cube"), **arguments)
    assert_same_images(imagename, str(tmp_path / "cube"))
    assert_same_return(expected, found)
    products = {p.split(".", 1)[1] for p in os.listdir(Path(imagename).parent)}
    assert {p.name for p in tmp_path.iterdir()} == {f"cube.{p}" for p in products}


@pytest.mark.parametrize("case", MORE)
def test_same_cube_in_other_calls(
    case: str,
    line_ms: str,
    reference: Callable[[str], Reference],
    cluster: DaskClusterManager,
    tmp_path: Path,
) -> None:
    imagename, expected = reference(case)
    arguments = COMMON | MORE[case] | {"nworkers": 2, "chanchunks": 3}
    assert plan(line_ms, imagename=str(tmp_path / "cube"), **arguments).serial is None
    found = ptclean(line_ms, imagename=str(tmp_path / "cube"), **arguments)
    assert_same_images(imagename, str(tmp_path / "cube"))
    assert_same_return(expected, found)


def test_channels_without_data(line_ms: str, cluster: DaskClusterManager, tmp_path: Path) -> None:
    """Blank planes get their beam from the whole cube, also where a chunk is all blank."""
    arguments = COMMON | {"niter": 200, "start": "", "width": "0.5MHz", "nchan": 10}
    expected = tclean(line_ms, imagename=str(tmp_path / "tclean"), **arguments)
    found = ptclean(
        line_ms, imagename=str(tmp_path / "ptclean"), nworkers=2, chanchunks=2, **arguments
    )
    assert_same_images(str(tmp_path / "tclean"), str(tmp_path / "ptclean"))
    assert_same_return(expected, found)
    assert 0 in pixels(tmp_path / "ptclean.sumwt"), "no plane was blank"


@pytest.mark.parametrize("masked", [slice(0, 7), slice(2, 4)])
@pytest.mark.parametrize("chanchunks", [1, 3])
def test_mask_image(
    chanchunks: int,
    masked: slice,
    line_ms: str,
    reference: Callable[[str], Reference],
    cluster: DaskClusterManager,
    tmp_path: Path,
) -> None:
    """A mask on the cube's grid is cut with it; a chunk may get a mask that is empty."""
    ia = image()
    ia.open(reference("hogbom")[0] + ".residual")
    made = ia.newimagefromimage(infile=ia.name(), outfile=str(tmp_path / "my.mask"))
    values = np.zeros(made.shape())
    values[25:60, 25:60, :, masked] = 1
    made.putchunk(values)
    made.done()
    ia.done()
    arguments = COMMON | {"niter": 400, "mask": str(tmp_path / "my.mask"), "fullsummary": True}
    expected = tclean(line_ms, imagename=str(tmp_path / "tclean"), **arguments)
    found = ptclean(
        line_ms,
        imagename=str(tmp_path / "ptclean"),
        nworkers=2,
        chanchunks=chanchunks,
        **arguments,
    )
    assert_same_images(str(tmp_path / "tclean"), str(tmp_path / "ptclean"))
    assert_same_return(expected, found)


def test_list_of_measurement_sets(
    line_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    second = tmp_path / "second.ms"
    simulate(second, seed=2, nint=3, day=1)
    arguments = COMMON | {"niter": 200, "vis": [line_ms, str(second)], "spw": ["0:2~12", "0"]}
    expected = tclean(imagename=str(tmp_path / "tclean"), **arguments)
    found = ptclean(imagename=str(tmp_path / "ptclean"), nworkers=2, chanchunks=3, **arguments)
    assert_same_images(str(tmp_path / "tclean"), str(tmp_path / "ptclean"))
    assert_same_return(expected, found)


@pytest.mark.parametrize("chanchunks", [1, 12])
def test_ngc5921(
    chanchunks: int,
    ngc5921_ms: str,
    ngc5921_reference: Reference,
    cluster: DaskClusterManager,
    tmp_path: Path,
) -> None:
    """Real data, whose channels run down in frequency."""
    imagename, expected = ngc5921_reference
    own = {"nworkers": 2, "chanchunks": chanchunks, "imagename": str(tmp_path / "cube")}
    assert plan(ngc5921_ms, **own, **NGC5921).serial is None
    found = ptclean(
        ngc5921_ms,
        imagename=str(tmp_path / "cube"),
        nworkers=2,
        chanchunks=chanchunks,
        **NGC5921,
    )
    assert_same_images(imagename, str(tmp_path / "cube"))
    assert_same_return(expected, found)


NGC5921: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "start": 5,
    "nchan": 46,
    "outframe": "LSRK",
    "restfreq": "1420.405751786MHz",
    "imsize": 64,
    "cell": "30arcsec",
    "weighting": "briggs",
    "niter": 500,
    "threshold": "8mJy",
    "pbcor": True,
}


@pytest.fixture(scope="module")
def ngc5921_reference(ngc5921_ms: str, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    name = str(tmp_path_factory.mktemp("tclean") / "ngc5921")
    return name, tclean(ngc5921_ms, imagename=name, **NGC5921)


SHARED: dict[str, dict[str, Any]] = {
    # Flags, 64 channels, several spectral windows.
    "day2_tdem0003_j1008": {"imsize": 64, "cell": "3arcsec", "niter": 100},
    # One field of a mosaic, imaged by itself.
    "antennae_north_co32": {"imsize": 100, "cell": "0.3arcsec", "niter": 200, "field": "0"},
}


@pytest.mark.parametrize("name", SHARED)
def test_shared_data(
    name: str, shared_data: Callable[[str], str], cluster: DaskClusterManager, tmp_path: Path
) -> None:
    vis = shared_data(name)
    arguments = {"datacolumn": "data", "specmode": "cube", "weighting": "briggs"} | SHARED[name]
    expected = tclean(vis, imagename=str(tmp_path / "tclean"), **arguments)
    found = ptclean(vis, imagename=str(tmp_path / "ptclean"), nworkers=2, chanchunks=5, **arguments)
    assert_same_images(str(tmp_path / "tclean"), str(tmp_path / "ptclean"))
    assert_same_return(expected, found)
