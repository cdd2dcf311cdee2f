# SPDX-License-Identifier: GPL-3.0-or-later
"""Cubes of several Stokes planes, and all deconvolvers of cubes, are tclean's.

So are beams, limits of the primary beam and stopping rules in the forms that are seldom used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casatasks import tclean

from ptclean import DaskClusterManager, ptclean
from ptclean.imaging.control import join_execution, separate_planes
from same_images import assert_same_as_tclean, assert_same_images, assert_same_return, pixels

#: Four channels of `line_ms`, or of `fullpol_ms`, cleaned in some major cycles. Nearest, since the
#: last digit of CASA's frequencies depends on which times a process has converted frequencies at
#: before: that of the tests has simulated several sets of the same hour, the workers have not. With
#: linear interpolation and narrow channels that is 1e-9 of the peak.
CUBE: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 64,
    "cell": "0.12arcsec",
    "start": 2,
    "nchan": 4,
    "weighting": "briggs",
    "interpolation": "nearest",
    "niter": 120,
    "nmajor": 3,
    "threshold": "20mJy",
}

#: Number of planes, and how many of them are blank.
OTHER: dict[str, tuple[int, int]] = {
    "IQ": (2, 0),
    "UV": (2, 0),
    "QU": (2, 2),
    "IV": (2, 2),
    "RRLL": (2, 2),
    "V": (1, 0),
    "LL": (1, 1),
    "YY": (1, 0),
    "pseudoI": (1, 0),
}

Reference = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def reference(
    fullpol_ms: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Reference]:
    """Images and returned dictionary of serial tclean, made once for each call."""
    made: dict[str, Reference] = {}

    def get(stokes: str, fullsummary: bool) -> Reference:
        key = f"{stokes}-{fullsummary}"
        if key not in made:
            name = str(tmp_path_factory.mktemp("tclean") / "cube")
            arguments = CUBE | {"stokes": stokes, "fullsummary": fullsummary}
            made[key] = (name, tclean(fullpol_ms, imagename=name, **arguments))
        return made[key]

    return get


@pytest.mark.parametrize(
    ("stokes", "fullsummary", "chanchunks"),
    [
        ("XXYY", False, 1),
        ("XXYY", False, 3),
        ("XXYY", False, 4),
        ("IQUV", True, 1),
        ("IQUV", True, 3),
        ("IQUV", False, 2),
    ],
)
def test_several_planes(
    stokes: str,
    chanchunks: int,
    fullsummary: bool,
    fullpol_ms: str,
    reference: Callable[..., Reference],
    cluster: DaskClusterManager,
    log: Callable[[], str],
    tmp_path: Path,
) -> None:
    imagename, expected = reference(stokes, fullsummary)
    found = ptclean(
        fullpol_ms,
        imagename=str(tmp_path / "cube"),
        stokes=stokes,
        fullsummary=fullsummary,
        nworkers=2,
        chanchunks=chanchunks,
        **CUBE,
    )
    assert "runs tclean serially" not in log()
    assert_same_images(imagename, tmp_path / "cube")
    assert_same_return(expected, found)
    assert expected["nmajordone"] > 2
    planes = len(stokes) if stokes == "IQUV" else 2
    assert pixels(tmp_path / "cube.model").shape[2] == planes
    # CASA 6.7.0 counts all planes as channels, 6.7.6 does not.
    assert len(expected["summaryminor"][0]) in ((4,) if fullsummary else (4, 4 * planes))


@pytest.mark.parametrize("stokes", OTHER)
def test_stokes(stokes: str, fullpol_ms: str, cluster: DaskClusterManager, tmp_path: Path) -> None:
    """CASA leaves planes blank that it has no rule for, and so does ptclean."""
    arguments = CUBE | {"stokes": stokes, "niter": 20}
    assert_same_as_tclean(fullpol_ms, tmp_path, chanchunks=2, **arguments)
    planes, blank = OTHER[stokes]
    weights = pixels(tmp_path / "ptclean.sumwt")
    assert weights.shape[2] == planes
    assert (weights == 0).all(axis=(0, 1, 3)).sum() == blank


CASES: dict[str, dict[str, Any]] = {
    "clark": {},
    "clarkstokes": {"fullsummary": True},
    "multiscale": {"scales": [0, 3, 6], "smallscalebias": 0.6},
    "common beam": {"restoringbeam": "common", "pbcor": True},
    "two values": {"restoringbeam": ["0.6arcsec", "0.5arcsec"]},
    "region": {"mask": "circle[[32pix,32pix],9pix]", "niter": 60},
    "primary beam": {"usemask": "pb", "pbmask": 0.7, "niter": 60},
    "not restored": {"restoration": False, "niter": 40},
    "dirty": {"niter": 0, "pbcor": True},
}


@pytest.mark.parametrize("case", CASES)
def test_two_planes(case: str, line_ms: str, cluster: DaskClusterManager, tmp_path: Path) -> None:
    arguments = CUBE | {"stokes": "XXYY", "start": 4} | CASES[case]
    if case in ("clark", "clarkstokes", "multiscale"):
        arguments["deconvolver"] = case
    assert_same_as_tclean(line_ms, tmp_path, chanchunks=2, **arguments)
    if arguments["niter"]:
        assert pixels(tmp_path / "ptclean.model").any()


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("clark", {"deconvolver": "clark"}),
        ("clarkstokes", {"deconvolver": "clarkstokes"}),
        ("not restored", {"restoration": False}),
        ("one plane", {"deconvolver": "clarkstokes", "stokes": "I"}),
    ],
)
def test_chunks_of_one_channel(
    case: str,
    changes: dict[str, Any],
    line_ms: str,
    cluster: DaskClusterManager,
    tmp_path: Path,
) -> None:
    """For these CASA deconvolves in other ways than for cubes."""
    arguments = CUBE | {"stokes": "XXYY", "start": 6, "nchan": 3, "niter": 60} | changes
    assert_same_as_tclean(line_ms, tmp_path, chanchunks=1, **arguments)


SERIAL: dict[str, tuple[dict[str, Any], str]] = {
    "noise": ({"threshold": "", "nsigma": 4.0, "stokes": "XXYY", "nchan": 3}, "nsigma=4.0"),
    # What these hold goes on from plane to plane.
    "asp": ({"deconvolver": "asp", "fusedthreshold": 0.1}, "deconvolver='asp'"),
    "mem": ({"deconvolver": "mem", "niter": 20}, "deconvolver='mem'"),
    # tclean warns, makes no images, and returns None.
    "mtmfs": ({"deconvolver": "mtmfs"}, "deconvolver='mtmfs'"),
}


@pytest.mark.parametrize("case", SERIAL)
def test_what_depends_on_the_planes_before_is_tcleans(
    case: str, line_ms: str, log: Callable[[], str], tmp_path: Path
) -> None:
    changes, reason = SERIAL[case]
    arguments = CUBE | {"start": 6, "nchan": 2, "restoration": False} | changes
    expected = tclean(line_ms, imagename=str(tmp_path / "tclean"), **arguments)
    found = ptclean(
        line_ms, imagename=str(tmp_path / "ptclean"), nworkers=2, chanchunks=2, **arguments
    )
    (line,) = [line for line in log().splitlines() if "ptclean runs tclean serially" in line]
    assert reason in line
    assert_same_return(expected, found)
    if case == "mtmfs":
        assert expected is None
        assert not list(tmp_path.glob("*.psf*"))
    else:
        assert_same_images(tmp_path / "tclean", tmp_path / "ptclean")


def test_stokes_that_tclean_refuses(fullpol_ms: str, tmp_path: Path) -> None:
    messages = []
    for task in (tclean, ptclean):
        with pytest.raises(AssertionError) as refusal:
            task(fullpol_ms, imagename=str(tmp_path / "cube"), **CUBE | {"stokes": "IQU"})
        messages.append(str(refusal.value))
    assert messages[0] == messages[1]
    assert not list(tmp_path.iterdir())


REGION = "circle[[32pix,32pix],9pix]"

FORMS: dict[str, dict[str, Any]] = {
    "beam of two values": {"restoringbeam": ["0.9arcsec", "0.7arcsec"], "pbcor": True},
    "common beam, in a list": {"restoringbeam": ["common"], "pbcor": True},
    "beam of four values, which is none": {"restoringbeam": ["9mas", "8mas", "0deg", "1mas"]},
    "iterations of a cycle": {"cycleniter": 7, "niter": 40, "nmajor": -1},
    "fractions": {"minpsffraction": 0.6, "maxpsffraction": 0.6, "gain": 0.2, "nmajor": 2},
    "no major cycle": {"nmajor": 0},
    "negative limit": {"pblimit": -0.2, "pbcor": True},
    "no limit": {"pblimit": 0.0, "pbcor": True},
    "high limit": {"pblimit": 0.9, "pbcor": True, "mask": REGION, "pbmask": 0.95},
    "threshold, a number": {"threshold": 0.05, "niter": 200, "nmajor": 2},
    "threshold without a unit": {"threshold": "0.05", "niter": 200, "nmajor": 2},
    "threshold above all": {"threshold": "100Jy"},
}


@pytest.mark.parametrize("case", FORMS)
def test_seldom_used_forms(
    case: str, line_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    arguments = CUBE | {"start": 4, "nmajor": 1, "fullsummary": True} | FORMS[case]
    size = 1 if "four" in case or "mask" in case else 2
    assert_same_as_tclean(line_ms, tmp_path, chanchunks=size, **arguments)


@pytest.mark.parametrize("beam", ["0.9", ["0.7arcsec", "0.8arcsec"]])
def test_beam_that_tclean_refuses(
    beam: str | list[str], line_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    """It is refused as by tclean, before there are images."""
    messages = []
    for task, own in ((tclean, {}), (ptclean, {"nworkers": 2})):
        arguments = CUBE | {"restoringbeam": beam, "imagename": str(tmp_path / "cube")} | own
        with pytest.raises(RuntimeError, match="Cannot construct a restoringbeam") as refusal:
            task(line_ms, **arguments)
        messages.append(str(refusal.value))
    assert messages[0] == messages[1]
    assert not list(tmp_path.iterdir())


# The records of a minor cycle


def test_clark_takes_all_planes_at_once() -> None:
    assert [separate_planes(4, name) for name in ("clark", "clarkstokes", "hogbom")] == [1, 4, 4]


def executed(nchan: int, planes: int, rows: int) -> dict[str, Any]:
    """Return a record as a deconvolver gives it that has `nchan` channels, in one block."""
    summary = np.zeros((rows, nchan * planes))
    channel, plane = np.divmod(np.arange(nchan * planes), planes)
    summary[0] = 1
    summary[5] = channel if rows > 6 else channel + nchan * plane
    if rows > 6:
        summary[6] = plane
    return {
        "iterdone": nchan * planes,
        "maxcycleiterdone": 1,
        "peakresidual": 0.1,
        "updatedmodelflag": True,
        "summaryminor": summary,
    }


@pytest.mark.parametrize("rows", [6, 7, 17])
@pytest.mark.parametrize("sizes", [(1,) * 7, (3, 4), (2, 2, 3), (7,)])
def test_planes_are_numbered_as_in_one_block(sizes: tuple[int, ...], rows: int) -> None:
    firsts = [sum(sizes[:index]) for index in range(len(sizes))]
    joined = join_execution([executed(size, 4, rows) for size in sizes], firsts, block=7, planes=4)[
        "summaryminor"
    ]
    whole = executed(7, 4, rows)["summaryminor"]
    if rows > 8:
        whole[8] = np.arange(28)
    assert np.array_equal(joined, whole)


def test_planes_are_numbered_within_each_block() -> None:
    """CASA adds a block's first channel to the numbers within it; numbers occur twice."""
    joined = join_execution([executed(5, 2, 6)], [0], block=3, planes=2)["summaryminor"]
    assert joined[5].tolist() == [0, 3, 1, 4, 2, 5, 3, 5, 4, 6]
