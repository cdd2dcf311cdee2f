# SPDX-License-Identifier: GPL-3.0-or-later
"""Common beams of cubes whose planes differ in resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casatasks import flagdata, tclean

from ptclean.products.beams import CommonBeam, as_text
from ptclean.products.images import image_info
from same_images import COMMON, assert_same_as_tclean, pixels
from simulated import simulate

pytestmark = pytest.mark.usefixtures("cluster")

UNEVEN: dict[str, Any] = COMMON | {
    "imsize": 64,
    "cell": "0.03arcsec",
    "niter": 60,
    "restoringbeam": "common",
}

MASKS = {"usemask": "auto-multithresh", "noisethreshold": 3.0, "sidelobethreshold": 0.5}


@pytest.fixture(scope="module")
def uneven_ms(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twelve channels, in four of which antennas are missing, different ones in each."""
    path = tmp_path_factory.mktemp("uneven") / "uneven.ms"
    simulate(path, nant=10, nint=4, nchan=12, day=2, hour=2.4)
    for channel, antennas in ((4, "0,1,2"), (5, "4,5,6"), (7, "7,8,9"), (8, "2,3,8,9")):
        flagdata(str(path), spw=f"0:{channel}", antenna=antennas, flagbackup=False)
    return str(path)


CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "single channels": (1, {}),
    "two planes": (3, {"stokes": "IQ", "niter": 30}),
    "one chunk": (7, {"pbcor": False}),
    "dirty": (3, {"niter": 0}),
    "masks by CASA": (
        3,
        {"usemask": "auto-multithresh", "noisethreshold": 3.0, "sidelobethreshold": 0.5},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_common_beam_that_is_none_of_the_planes(case: str, uneven_ms: str, tmp_path: Path) -> None:
    """CASA does not convolve the residual of the largest beam's plane: a fifth of the peak."""
    chanchunks, changes = CASES[case]
    arguments = UNEVEN | changes
    returned = assert_same_as_tclean(uneven_ms, tmp_path, chanchunks=chanchunks, **arguments)
    if arguments["niter"]:
        assert returned["iterdone"] > 0


def test_the_plane_would_be_convolved_if_the_beam_was_given(uneven_ms: str, tmp_path: Path) -> None:
    """Otherwise the tests above would not see which plane it is."""
    tclean(uneven_ms, imagename=str(tmp_path / "common"), **UNEVEN | {"niter": 0})
    found = common_beam_of(tmp_path / "common.image")
    arguments = UNEVEN | {"niter": 0, "restoringbeam": found}
    tclean(uneven_ms, imagename=str(tmp_path / "given"), **arguments)
    common, given = (pixels(tmp_path / f"{name}.image") for name in ("common", "given"))
    assert [c for c in range(7) if not np.array_equal(common[..., c], given[..., c])] == [2]


def common_beam_of(path: Path) -> list[str]:
    return as_text(image_info(str(path))["restoringbeam"])


def test_planes_without_a_fit(tmp_path: Path) -> None:
    """Six of ten planes have no beam of their own; the first of them is not convolved."""
    vis = str(tmp_path / "mosaic.ms")
    simulate(vis, pointings=4, nchan=12, nant=10, nint=2, width=5e6, day=-1, hour=3.6)
    arguments: dict[str, Any] = {
        "datacolumn": "data",
        "specmode": "cube",
        "gridder": "mosaic",
        "imsize": 64,
        "cell": "0.2arcsec",
        "start": "267.5225GHz",
        "width": "5.003MHz",
        "nchan": 10,
        "weighting": "briggs",
        "niter": 50,
        "restoringbeam": "common",
    }
    assert_same_as_tclean(vis, tmp_path, chanchunks=3, **arguments)


# Without CASA


def beam(major: float, minor: float, angle: float) -> dict[str, Any]:
    return {
        "major": {"value": major, "unit": "arcsec"},
        "minor": {"value": minor, "unit": "arcsec"},
        "positionangle": {"value": angle, "unit": "deg"},
    }


def test_constructed_beam_replaces_the_first_of_the_largest() -> None:
    planes = [beam(2.0, 1.0, 10.0), beam(3.0, 2.0, 20.0), beam(3.0, 2.0, 20.0)]
    common = CommonBeam.found(beam(4.0, 3.0, 90.0), planes)
    assert common.replaces == 1
    assert common.beam["positionangle"] == {"value": np.pi / 2, "unit": "rad"}
    assert as_text(common.beam) == ["4.0arcsec", "3.0arcsec", "1.5707963267948966rad"]
    # Along the axes of the largest, and still not that.
    assert CommonBeam.found(beam(4.0, 2.0, 20.0), planes).replaces == 1


def test_beam_of_a_plane_replaces_none() -> None:
    planes = [beam(2.0, 1.0, 10.0), beam(3.0, 2.0, 20.0)]
    assert CommonBeam.found(planes[1], planes) == CommonBeam(planes[1], None)
