# SPDX-License-Identifier: GPL-3.0-or-later
"""What is tested by itself elsewhere, together: gridders and masks, weights and earlier images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from casatasks import tclean

from ptclean import DaskClusterManager
from same_images import COMMON, assert_same_as_tclean, pixels
from simulated import simulate

LINE: dict[str, Any] = COMMON | {"niter": 200}

PLANES: dict[str, Any] = LINE | {"start": "", "nchan": -1, "imsize": 64, "cell": "0.15arcsec"}

MOSAIC: dict[str, Any] = LINE | {
    "gridder": "mosaic",
    "imsize": 64,
    "cell": "0.2arcsec",
    "start": "267.5225GHz",
    "width": "5.003MHz",
    "nchan": 9,
    "niter": 100,
    "threshold": "",
}

AUTOMASK: dict[str, Any] = {
    "usemask": "auto-multithresh",
    "sidelobethreshold": 1.0,
    "noisethreshold": 3.0,
    "lownoisethreshold": 1.5,
    "minbeamfrac": 0.1,
    "niter": 300,
}

RANGES = "circle[[32pix,32pix],12pix], range=[2chan,6chan]"

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mosaic, automask": ("mosaic", MOSAIC | AUTOMASK),
    "mosaic, taper with the bandwidth, ranges": (
        "mosaic",
        MOSAIC | {"weighting": "briggsbwtaper", "mask": RANGES},
    ),
    "w projection, automask": ("line", LINE | AUTOMASK | {"gridder": "wproject", "wprojplanes": 4}),
    "cubedata, automask, taper with the bandwidth": (
        "line",
        LINE | AUTOMASK | {"specmode": "cubedata", "weighting": "briggsbwtaper"},
    ),
    "cubic, automask": ("line", LINE | AUTOMASK | {"interpolation": "cubic"}),
    "four planes, ranges": ("planes", PLANES | {"stokes": "IQUV", "mask": RANGES}),
}

ON: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mosaic": ("mosaic", MOSAIC | {"niter": 30}, {"calcpsf": False, "calcres": False}),
    "w projection": ("line", LINE | {"gridder": "wproject", "wprojplanes": 4, "niter": 50}, {}),
    "four planes": ("planes", PLANES | {"stokes": "IQUV", "niter": 50}, {}),
    "cubedata": ("line", LINE | {"specmode": "cubedata", "niter": 50}, {}),
    "taper with the bandwidth": (
        "line",
        LINE | {"weighting": "briggsbwtaper", "niter": 50},
        {"calcpsf": False},
    ),
    "one density": ("line", LINE | {"perchanweightdensity": False, "niter": 50}, {}),
}


@pytest.fixture(scope="module")
def data(
    line_ms: str, fullpol_ms: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], str]:
    mosaic = str(tmp_path_factory.mktemp("together") / "mosaic.ms")
    simulate(mosaic, pointings=4, nchan=12, nant=10, nint=2, width=5e6, day=2)
    return {"line": line_ms, "planes": fullpol_ms, "mosaic": mosaic}.__getitem__


@pytest.mark.parametrize("case", CASES)
def test_together(
    case: str, data: Callable[[str], str], cluster: DaskClusterManager, tmp_path: Path
) -> None:
    name, arguments = CASES[case]
    returned = assert_same_as_tclean(data(name), tmp_path, chanchunks=2, **arguments)
    assert returned["nmajordone"] > 1
    assert 0 < pixels(tmp_path / "ptclean.mask").mean() < 1


@pytest.mark.parametrize("case", ON)
def test_going_on(
    case: str, data: Callable[[str], str], cluster: DaskClusterManager, tmp_path: Path
) -> None:
    name, first, second = ON[case]
    tclean(data(name), imagename=str(tmp_path / "tclean"), **first)
    for product in list(tmp_path.glob("tclean.*")):
        shutil.copytree(product, tmp_path / product.name.replace("tclean", "ptclean"))
    arguments = first | {"niter": first["niter"] + 40} | second
    returned = assert_same_as_tclean(data(name), tmp_path, chanchunks=2, **arguments)
    assert returned["iterdone"] > 0
