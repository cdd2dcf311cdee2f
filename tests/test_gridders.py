# SPDX-License-Identifier: GPL-3.0-or-later
"""Gridders other than the standard one: the same cube as tclean's, in chunks or serially.

Planning (at which frequencies CASA makes primary beams) is tested without CASA, the cubes with it.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casatasks import tclean
from casatools import table

from ptclean import DaskClusterManager, plan, ptclean
from ptclean.planning.mosaic import (
    beam_frequency,
    common_beam_frequency,
    decoy_frequency,
    decoys,
    has_one_screen,
    screen_size,
)
from ptclean.planning.standin import StandIn, is_plain, make_standin
from ptclean.planning.windows import SpectralWindow, frame_factor
from same_images import (
    assert_same_as_tclean,
    assert_same_images,
    assert_same_return,
    pieces,
    pixels,
)
from simulated import simulate

MOSAIC: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "gridder": "mosaic",
    "imsize": 64,
    "cell": "0.2arcsec",
    # Not exactly the data's channels, as the default axis is at the first integration: there the
    # last bit of tclean's own image depends on what the process has done before.
    "start": "267.5225GHz",
    "width": "5.003MHz",
    "nchan": 10,
    "weighting": "briggs",
    "niter": 100,
    "pbcor": True,
}

#: A window of which the highest channel is at 100 GHz, so that beams are 0.5 GHz apart.
TOP = 100e9
STEP = 0.5e9


def window(low: float, high: float, shift: tuple[float, float] = (1.0, 1.0)) -> SpectralWindow:
    return SpectralWindow("ms0", 0, TOP, low, high, 1e6, 100, 100, shift)


@pytest.mark.parametrize(
    ("low", "high", "beam"),
    [
        # No step in the image, one, two, three.
        (TOP - 0.4 * STEP, TOP - 0.1 * STEP, TOP - STEP),
        (TOP - 1.2 * STEP, TOP - 0.1 * STEP, TOP - 2 * STEP),
        (TOP - 1.2 * STEP, TOP + 0.1 * STEP, TOP - STEP),
        (TOP - 2.2 * STEP, TOP + 0.1 * STEP, None),
        # Wholly above the highest channel, as a cube in another frame can be.
        (TOP + 0.1 * STEP, TOP + 0.2 * STEP, TOP),
    ],
)
def test_beam_of_an_image(low: float, high: float, beam: float | None) -> None:
    found = beam_frequency(TOP, low, high)
    assert found == (beam if beam is None else pytest.approx(beam, rel=1e-12))


@pytest.mark.parametrize(
    ("low", "high", "shift", "beam"),
    [
        (TOP - 0.4 * STEP, TOP - 0.1 * STEP, (1.0, 1.0), TOP - STEP),
        # A part of the cube is above the highest channel: another beam for it alone.
        (TOP - 0.4 * STEP, TOP + 0.1 * STEP, (1.00005, 1.00006), TOP - STEP),
        # The beam is within the cube: below it chunks would have another.
        (TOP - 1.2 * STEP, TOP + 0.1 * STEP, (1.0, 1.0), None),
        # A channel more would mean another beam.
        (TOP - STEP + 1e6, TOP - 0.1 * STEP, (1.0, 1.0), None),
    ],
)
def test_common_beam_of_a_cube(
    low: float, high: float, shift: tuple[float, float], beam: float | None
) -> None:
    found = common_beam_frequency(window(TOP - 1.5 * STEP, TOP, shift), low, high, 1e6)
    assert found == (beam if beam is None else pytest.approx(beam, rel=1e-12))


@pytest.mark.parametrize("above", [0.1, 0.9, 1.7, 3.0])
def test_decoy_gives_each_chunk_the_beam_to_the_last_bit(above: float) -> None:
    beam = TOP - STEP + 1234.56789
    high = beam + above * STEP
    frequency = decoy_frequency(beam, TOP, high)
    assert frequency is not None
    assert frequency > TOP
    edges = np.linspace(beam + 1e6, high, 12)
    for low, top in itertools.combinations(edges, 2):
        assert beam_frequency(frequency, low, top) == beam


def test_decoys_are_for_windows_that_the_cube_reaches() -> None:
    near, far = (
        window(TOP - 0.6 * STEP, TOP),
        SpectralWindow("ms0", 3, 2 * TOP, 1.9e11, 2e11, 1e6, 9, 9),
    )
    found = decoys([near, far], TOP - 0.5 * STEP, TOP - 0.2 * STEP, 1e6)
    assert found is not None
    assert [each.window for each in found] == [0]
    wide = window(TOP - 3 * STEP, TOP)
    assert decoys([wide], TOP - 2.5 * STEP, TOP - 0.2 * STEP, 1e6) is None


def test_screens() -> None:
    arcsec = np.pi / 180 / 3600
    # As many pixels as the image has, where the pattern is wider.
    assert screen_size(200, arcsec, 100e9, 300 * arcsec) == 208
    assert screen_size(1000, arcsec, 100e9, 155 * arcsec) == 320
    assert has_one_screen(100, 100, (arcsec, arcsec), 90e9, 110e9)
    assert not has_one_screen(1000, 1000, (arcsec, arcsec), 90e9, 110e9)


def test_frames() -> None:
    """As CASA's measures have it for ALMA, where the Earth's rotation adds up to 1e-6."""
    ra, dec = np.radians([146.9891667, 13.2787500])
    assert frame_factor(59410 + 18.5 / 24, ra, dec, "LSRK") == pytest.approx(1.00007447, abs=2e-6)
    assert frame_factor(59410 + 18.5 / 24, ra, dec, "GEO") == 1


def test_standin_leaves_the_measurement_set_alone(mosaic_ms: str, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in Path(mosaic_ms).rglob("*") if p.name != "table.lock"}
    assert is_plain(mosaic_ms)
    standin = StandIn("ms0", mosaic_ms, "0:0~11", ((0, 300e9),))
    make_standin(standin, str(tmp_path))
    frequencies = []
    for name in (mosaic_ms, standin.name(str(tmp_path))):
        tb = table()
        tb.open(f"{name}/SPECTRAL_WINDOW")
        frequencies.append(tb.getcell("CHAN_FREQ", 0))
        assert tb.getcell("NUM_CHAN", 0) == len(frequencies[-1])
        tb.close()
        tb.open(name)
        assert tb.getcell("DATA", 0).shape == (2, 12)
        tb.close()
    assert list(frequencies[1]) == [*frequencies[0], 300e9]
    assert all(p.stat().st_mtime_ns == time for p, time in before.items())


@pytest.fixture(scope="module")
def shifted_ms(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three pointings, 40 channels, most of which are in LSRK above the highest of the data.

    Of 30 channels and more CASA selects the data anew for each chunk.
    """
    path = tmp_path_factory.mktemp("shifted") / "shifted.ms"
    simulate(path, pointings=3, nchan=40, nant=8, nint=2, freq=100e9, width=0.25e6, hour=-3.6)
    return str(path)


@pytest.fixture(scope="module")
def reference(
    shifted_ms: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    name = str(tmp_path_factory.mktemp("tclean") / "shifted")
    axis = {"start": "100.0076GHz", "width": "0.2503MHz", "nchan": 36}
    arguments = MOSAIC | axis | {"cell": "0.5arcsec"}
    returned = tclean(shifted_ms, imagename=name, **arguments)
    assert pieces(name) == 1
    return name, arguments, returned


@pytest.mark.parametrize("chanchunks", [9, 36])
def test_mosaic_above_the_highest_channel(
    chanchunks: int,
    shifted_ms: str,
    reference: tuple[str, dict[str, Any], dict[str, Any]],
    cluster: DaskClusterManager,
    tmp_path: Path,
) -> None:
    """Without a decoy chunks above the data's highest frequency are off by 0.5 %."""
    imagename, arguments, expected = reference
    own = {"nworkers": 2, "chanchunks": chanchunks, "imagename": str(tmp_path / "cube")}
    assert plan(shifted_ms, **own, **arguments).serial is None
    found = ptclean(shifted_ms, **own, **arguments)
    assert_same_images(imagename, tmp_path / "cube")
    assert_same_return(expected, found)
    assert ".weight" in {f".{p.name.split('.', 1)[1]}" for p in tmp_path.iterdir()}
    assert expected["iterdone"] > 0


@pytest.fixture(scope="module")
def broad_ms(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four pointings, 12 channels of 5 MHz, four of which are above the highest of the data."""
    path = tmp_path_factory.mktemp("broad") / "broad.ms"
    simulate(path, pointings=4, nchan=12, nant=10, nint=2, width=5e6, hour=3.6)
    return str(path)


@pytest.mark.parametrize("chanchunks", [1, 5])
def test_mosaic(
    chanchunks: int, broad_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    assert_same_as_tclean(broad_ms, tmp_path, chanchunks=chanchunks, **MOSAIC)
    assert pixels(tmp_path / "ptclean.model").any()


CASES: dict[str, dict[str, Any]] = {
    "dirty": {"niter": 0, "pbcor": False, "restoration": False},
    "no weight density for each field": {"mosweight": False},
    "flat sky": {"normtype": "flatsky", "pblimit": 0.4},
    "no limit": {"pblimit": -0.1, "weighting": "natural"},
    "two fields": {"field": "1,2", "phasecenter": "J2000 09h47m57.4 13d16m43.5", "nchan": 7},
    "nearest": {"interpolation": "nearest", "nchan": 7},
    "wide channels": {"width": "10.01MHz", "nchan": 5},
    "pointing table": {"usepointing": True},
}


@pytest.mark.parametrize("case", CASES)
def test_mosaic_in_other_calls(
    case: str, broad_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    arguments = MOSAIC | CASES[case]
    assert_same_as_tclean(broad_ms, tmp_path, chanchunks=3, **arguments)


def test_mosaic_without_links_is_tcleans(
    broad_ms: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Callable[[], str]
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "symlink", refuse)
    ptclean(
        broad_ms,
        imagename=str(tmp_path / "cube"),
        nworkers=2,
        **MOSAIC | {"niter": 0, "pbcor": False, "restoration": False},
    )
    assert "ptclean runs tclean serially: mosaics in chunks are imaged through links" in log()
    assert (tmp_path / "cube.residual").is_dir()


W_PROJECTION: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "gridder": "wproject",
    "imsize": 80,
    "cell": "0.15arcsec",
    "start": 3,
    "nchan": 7,
    "weighting": "briggs",
    "niter": 200,
    "pbcor": True,
}


@pytest.mark.parametrize(
    ("gridder", "planes", "chanchunks"),
    [("wproject", -1, 1), ("wproject", 5, 7), ("wproject", 1, 3), ("widefield", -1, 3)],
)
def test_w_projection(
    gridder: str,
    planes: int,
    chanchunks: int,
    line_ms: str,
    cluster: DaskClusterManager,
    tmp_path: Path,
) -> None:
    """CASA chooses the planes from all selected data, before it looks at the image's channels."""
    arguments = W_PROJECTION | {"gridder": gridder, "wprojplanes": planes}
    assert_same_as_tclean(line_ms, tmp_path, chanchunks=chanchunks, **arguments)
    assert pixels(tmp_path / "ptclean.model").any()


def test_heterogeneous_array(broad_ms: str, cluster: DaskClusterManager, tmp_path: Path) -> None:
    """Dishes of 12 m and of 7 m: a beam for each kind, and for each pair of kinds."""
    vis = tmp_path / "both.ms"
    shutil.copytree(broad_ms, vis)
    tb = table()
    tb.open(str(vis / "ANTENNA"), nomodify=False)
    diameters = tb.getcol("DISH_DIAMETER")
    diameters[: len(diameters) // 2] = 7.0
    tb.putcol("DISH_DIAMETER", diameters)
    tb.close()
    arguments = MOSAIC | {"niter": 30}
    assert_same_as_tclean(str(vis), tmp_path, chanchunks=3, **arguments)
    weight = pixels(tmp_path / "ptclean.weight")
    tclean(broad_ms, imagename=str(tmp_path / "one"), **(arguments | {"niter": 0}))
    assert not np.array_equal(weight, pixels(tmp_path / "one.weight"))


def test_real_mosaic(
    shared_data: Callable[[str], str], cluster: DaskClusterManager, tmp_path: Path
) -> None:
    """Antennae North, 23 pointings, one field of each; data in LSRK."""
    arguments = MOSAIC | {
        "imsize": 100,
        "cell": "0.6arcsec",
        "phasecenter": "J2000 12h01m51.9s -18d51m49.9s",
        "start": "",
        "width": "",
        "nchan": -1,
        "niter": 60,
        "mosweight": False,
    }
    assert_same_as_tclean(shared_data("antennae_north_co32"), tmp_path, chanchunks=3, **arguments)


SERIAL: dict[str, dict[str, Any]] = {
    "gridder='awproject'": {"gridder": "awproject"},
    "gridder='awp2'": {"gridder": "awp2"},
    "facets=2": {"gridder": "wproject", "facets": 2},
    "vptable='vp.tab'": {"vptable": "vp.tab"},
    "psfphasecenter=": {"psfphasecenter": "J2000 09h47m57.4 13d16m43.5"},
    "conjbeams=True": {"conjbeams": True},
    "fewer than 3 channels": {"nchan": 2},
    "converted to GALACTO": {"outframe": "GALACTO", "interpolation": "nearest"},
}


@pytest.mark.parametrize("reason", SERIAL)
def test_plan_names_what_is_not_done_in_chunks(reason: str, broad_ms: str, tmp_path: Path) -> None:
    arguments = MOSAIC | {"nworkers": 2, "imagename": str(tmp_path / "cube")} | SERIAL[reason]
    assert reason in str(plan(broad_ms, **arguments).serial)


@pytest.mark.parametrize("case", ["wide band", "psf elsewhere"])
def test_mosaics_that_are_left_to_tclean(
    case: str, broad_ms: str, tmp_path: Path, log: Callable[[], str]
) -> None:
    arguments = MOSAIC | {"niter": 20}
    if case == "wide band":
        vis, reason = str(tmp_path / "wide.ms"), "gridder='mosaic' from 267."
        simulate(vis, pointings=3, nchan=5, nant=8, nint=1, width=0.9e9, day=1, hour=-1.2)
        arguments |= {"start": "", "width": "", "nchan": -1}
    else:
        vis, reason = broad_ms, "psfphasecenter="
        arguments |= {"nchan": 3, "psfphasecenter": "J2000 09h47m57.5 13d16m43.5"}
    expected = tclean(vis, imagename=str(tmp_path / "tclean"), **arguments)
    found = ptclean(vis, imagename=str(tmp_path / "ptclean"), nworkers=2, chanchunks=2, **arguments)
    assert_same_images(tmp_path / "tclean", tmp_path / "ptclean")
    assert_same_return(expected, found)
    (line,) = [line for line in log().splitlines() if "ptclean runs tclean serially" in line]
    assert reason in line


def test_facets_are_refused_as_by_tclean(line_ms: str, tmp_path: Path) -> None:
    """tclean does not make a cube with facets."""
    messages = []
    for name, task in (("tclean", tclean), ("ptclean", ptclean)):
        arguments = W_PROJECTION | {"facets": 2, "imagename": str(tmp_path / name)}
        with pytest.raises(RuntimeError) as refusal:
            task(line_ms, **arguments)
        messages.append(str(refusal.value))
    assert messages[0] == messages[1]
