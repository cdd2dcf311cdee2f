# SPDX-License-Identifier: GPL-3.0-or-later
"""Continuum images in parts of the rows: tclean's within the rounding of single precision, and the
same in every bit for any number of workers.
"""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import casatasks
import dask.config
import numpy as np
import psutil
import pytest
from casatasks import tclean
from casatools import image, table

from compare_images import compare_image_sets
from killing import killed_workers
from ptclean import DaskClusterManager, plan, ptclean
from ptclean.errors import ChunkError
from ptclean.planning.continuum_plan import make_continuum_plan
from ptclean.planning.continuum_scope import reason_for_serial
from ptclean.planning.partition import (
    FEWEST_PARTS,
    MOST_INTERLEAVED,
    MOST_PARTS,
    choose_parts,
    cut_rows,
    has_simultaneous_fields,
    have_all_times,
)
from ptclean.planning.sizing import Machine
from same_images import MFS, assert_same_images, assert_same_return, pixels

#: Largest difference from tclean's image, in units of its peak; the residual's is that of the
#: image. The order in which visibilities are added alone makes 1e-7 of it.
ROUNDING = 1e-6

#: The same for what divides by the spread of frequencies, or by an image.
SPECTRAL = 1e-4

#: Largest difference of a beam, as a part of it: CASA fits it to the pixels above a level.
BEAM = 1e-5

MOSAIC = MFS | {
    "gridder": "mosaic",
    "phasecenter": 0,
    "imsize": 160,
    "cell": "0.25arcsec",
    "niter": 50,
}


@pytest.fixture
def in_one_part() -> Iterator[None]:
    with dask.config.set({"ptclean.continuum-parts": 1}):
        yield


def change_column(vis: str, path: Path, column: str, change: Callable[[Any], Any]) -> str:
    """Copy a measurement set with one column changed."""
    shutil.copytree(vis, path)
    tb = table()
    tb.open(str(path), nomodify=False)
    tb.putcol(column, change(tb.getcol(column)))
    tb.close()
    return str(path)


def image_with_both(
    vis: Any, folder: Path, *, nworkers: int = 2, **arguments: Any
) -> tuple[Any, Any]:
    """Image with tclean and, not serially, with ptclean; returns what they return."""
    made = plan(vis=vis, imagename=str(folder / "ptclean"), nworkers=nworkers, **arguments)
    assert made.serial is None, f"not in parts: {made.serial}"
    expected = tclean(vis=vis, imagename=str(folder / "tclean"), **arguments)
    found = ptclean(vis=vis, imagename=str(folder / "ptclean"), nworkers=nworkers, **arguments)
    return expected, found


def assert_close_to_tclean(vis: Any, folder: Path, **arguments: Any) -> dict[str, Any]:
    """Image with both, and compare everything; returns what tclean returned."""
    expected, found = image_with_both(vis, folder, **arguments)
    differences = compare_image_sets(folder / "tclean", folder / "ptclean")
    assert products(folder / "tclean") == products(folder / "ptclean")
    main = ".image" if ".image" in differences else ".image.tt0"
    peak = largest(folder / f"tclean{main}")
    for product, difference in differences.items():
        where = f"{product}: {difference}"
        assert difference.coordinates, where
        assert difference.units, where
        assert difference.miscinfo, where
        assert difference.masks, where
        ours, tcleans = (pixels(f"{folder / name}{product}") for name in ("ptclean", "tclean"))
        own = peak if product.startswith(".residual") else np.abs(tcleans).max()
        is_spectral = product.startswith((".alpha", ".beta")) or ".tt1" in product
        bound = SPECTRAL if is_spectral else ROUNDING * (10 if product.startswith(".sumwt") else 1)
        if product.endswith("pbcor"):
            # Divided by a primary beam of down to `pblimit`, 0.2.
            bound *= 5
        assert np.abs(ours - tcleans).max() <= bound * own, where
    assert beam(folder / f"ptclean{main}") == pytest.approx(
        beam(folder / f"tclean{main}"), rel=BEAM
    )
    assert_close_return(expected, found)
    return expected


def products(prefix: Path) -> set[str]:
    """All that a run has left under a name, also what is no image."""
    return {p.name.removeprefix(prefix.name) for p in prefix.parent.glob(f"{prefix.name}.*")}


def largest(path: Path) -> float:
    return float(np.abs(pixels(path)).max())


def beam(path: Path) -> list[float]:
    ia = image()
    ia.open(str(path))
    found = ia.restoringbeam(polarization=0, channel=0)
    ia.close()
    found = found.get("beam", found)
    return [found[axis]["value"] for axis in ("major", "minor", "positionangle")]


def assert_close_return(expected: Any, found: Any, where: str = "returned") -> None:
    if isinstance(expected, dict):
        assert set(expected) == set(found), where
        for key in expected:
            assert_close_return(expected[key], found[key], f"{where}[{key!r}]")
    elif isinstance(expected, str) or expected is None:
        assert expected == found, where
    else:
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-7), f"{where}: {expected}, {found}"


CLEANS: dict[str, dict[str, Any]] = {
    "hogbom": {},
    "clark, natural": {"deconvolver": "clark", "weighting": "natural", "cycleniter": 40},
    "multiscale, uniform, tapered": {
        "deconvolver": "multiscale",
        "scales": [0, 4],
        "weighting": "uniform",
        "uvtaper": ["0.3arcsec"],
    },
    "superuniform, nsigma": {"weighting": "superuniform", "npixels": 3, "nsigma": 3.0},
    "briggsabs, mask, beam": {
        "specmode": "cont",
        "weighting": "briggsabs",
        "noise": "0.05Jy",
        "mask": ["circle[[40pix,40pix],15pix]", "box[[10pix,10pix],[20pix,20pix]]"],
        "restoringbeam": "0.5arcsec",
    },
    "pb mask, nmajor, radial": {
        "usemask": "pb",
        "pbmask": 0.95,
        "nmajor": 2,
        "weighting": "radial",
        "fullsummary": True,
    },
    "automasking": {
        "usemask": "auto-multithresh",
        "sidelobethreshold": 1.25,
        "noisethreshold": 3.0,
    },
    "selection": {"uvrange": ">100m", "antenna": "!0", "timerange": ">18:42:00"},
    "dirty": {"niter": 0, "robust": -1.0, "outframe": "BARY"},
    "mtmfs": {"deconvolver": "mtmfs", "nterms": 2, "scales": [0, 4], "reffreq": "255GHz"},
}


@pytest.mark.parametrize("name", CLEANS)
def test_is_tcleans_within_rounding(
    name: str, wide_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    returned = assert_close_to_tclean(wide_ms, tmp_path, **(MFS | CLEANS[name]))
    if name != "dirty":
        assert returned["nmajordone"] > 2
        mask = pixels(tmp_path / "tclean.mask")
        assert mask.any()
        assert name not in ("automasking", "pb mask, nmajor, radial") or not mask.all()


@pytest.mark.parametrize(
    ("stokes", "deconvolver"), [("IQUV", "hogbom"), ("IV", "mtmfs"), ("XX", "clark")]
)
def test_stokes(
    stokes: str, deconvolver: str, fullpol_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    """One Taylor term, since the band is too narrow for a slope to mean anything."""
    arguments = {"stokes": stokes, "deconvolver": deconvolver, "fullsummary": True, "nterms": 1}
    assert_close_to_tclean(fullpol_ms, tmp_path, **(MFS | arguments))


@pytest.mark.parametrize(
    "changes",
    [{"mosweight": True}, {"mosweight": False, "normtype": "flatsky"}, {"gridder": "standard"}],
)
def test_several_pointings(
    changes: dict[str, Any], mosaic_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    """Each part has other pointings than the others, and the primary beam has all."""
    assert_close_to_tclean(mosaic_ms, tmp_path, **(MOSAIC | changes))


def test_real_data_with_w_projection(
    shared_data: Callable[[str], str], cluster: DaskClusterManager, tmp_path: Path
) -> None:
    vis = shared_data("refim_point_wterm_vlad")
    changes = {"imsize": 200, "cell": "15arcsec", "gridder": "wproject", "wprojplanes": 16}
    assert_close_to_tclean(vis, tmp_path, **(MFS | changes | {"threshold": "", "niter": 50}))


def test_list_of_real_data(
    shared_data: Callable[[str], str], cluster: DaskClusterManager, tmp_path: Path
) -> None:
    vis = [shared_data(f"askap_vela_{name}") for name in "ab"]
    changes = {"imsize": 100, "cell": "4arcsec", "weighting": "uniform", "threshold": ""}
    assert_close_to_tclean(vis, tmp_path, **(MFS | changes))


def test_start_model(wide_ms: str, cluster: DaskClusterManager, tmp_path: Path) -> None:
    tclean(wide_ms, imagename=str(tmp_path / "start"), **(MFS | {"niter": 40}))
    start = str(tmp_path / "start.model")
    without = tclean(wide_ms, imagename=str(tmp_path / "without"), **MFS)
    returned = assert_close_to_tclean(wide_ms, tmp_path, startmodel=start, **MFS)
    assert returned["summaryminor"] != without["summaryminor"]


def test_parts_without_a_valid_row(
    line_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    def flag(flags: Any) -> Any:
        flags[:, :, : flags.shape[2] * 6 // 10] = True
        return flags

    vis = change_column(line_ms, tmp_path / "flagged.ms", "FLAG", flag)
    assert_close_to_tclean(vis, tmp_path, **MFS)


def test_in_one_part_it_is_tcleans(
    wide_ms: str, cluster: DaskClusterManager, in_one_part: None, tmp_path: Path
) -> None:
    arguments = MFS | {"usemask": "auto-multithresh", "sidelobethreshold": 1.25}
    expected, found = image_with_both(wide_ms, tmp_path, **arguments)
    assert expected["nmajordone"] > 2
    assert_same_images(tmp_path / "tclean", tmp_path / "ptclean")
    assert_same_return(expected, found)


def test_in_one_part_taylor_terms_are_tcleans(
    wide_ms: str, cluster: DaskClusterManager, in_one_part: None, tmp_path: Path
) -> None:
    expected, found = image_with_both(wide_ms, tmp_path, deconvolver="mtmfs", **MFS)
    assert_same_images(tmp_path / "tclean", tmp_path / "ptclean")
    assert_same_return(expected, found)


def victim(workers: list[psutil.Process], has_whole: bool) -> list[psutil.Process]:
    """Choose the one of two workers that deconvolves, or the other."""
    with_whole = [
        process
        for process in workers
        if any("/whole/" in file.path for file in process.open_files())
    ]
    if len(workers) != 2 or len(with_whole) != 1:
        return []
    return [process for process in workers if (process in with_whole) == has_whole]


@pytest.fixture(scope="module")
def with_one_worker(wide_ms: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("one") / "image"
    returned = ptclean(wide_ms, imagename=str(path), nworkers=1, **MFS)
    return path, returned


@pytest.mark.parametrize("nworkers", [2, 3])
def test_any_number_of_workers_makes_the_same_image(
    nworkers: int, wide_ms: str, with_one_worker: tuple[Path, Any], tmp_path: Path
) -> None:
    path, expected = with_one_worker
    found = ptclean(wide_ms, imagename=str(tmp_path / "image"), nworkers=nworkers, **MFS)
    assert_same_images(path, tmp_path / "image")
    assert_same_return(expected, found)


@pytest.mark.parametrize("has_whole", [False, True])
def test_killed_worker_changes_nothing(
    has_whole: bool,
    wide_ms: str,
    with_one_worker: tuple[Path, Any],
    tmp_path: Path,
    log: Callable[[], str],
) -> None:
    with killed_workers(
        lambda: list(tmp_path.glob("image.ptclean/attempt-*/whole/whole.residual")),
        lambda workers: victim(workers, has_whole),
        lambda number: 0.02,
        most=1,
    ) as killed:
        found = ptclean(wide_ms, imagename=str(tmp_path / "image"), nworkers=2, **MFS)
    assert killed, "the run was over before a worker was killed"
    assert ("The worker that deconvolved the image died: it " in log()) == has_whole
    path, expected = with_one_worker
    assert_same_images(path, tmp_path / "image")
    assert_same_return(expected, found)


def test_failure_leaves_earlier_images_alone(
    line_ms: str, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    vis = tmp_path / "broken.ms"
    shutil.copytree(line_ms, vis)
    arguments = MFS | {"niter": 0, "imagename": str(tmp_path / "image"), "restoration": False}
    ptclean(str(vis), nworkers=2, **arguments)
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("copy", "*.ms"))
    tb = table()
    tb.open(str(vis))
    (number,) = [m["SEQNR"] for m in tb.getdminfo().values() if "FLAG" in m["COLUMNS"]]
    tb.close()
    for file in vis.glob(f"table.f{number}_TSM*"):
        os.truncate(file, 100)
    with pytest.raises(ChunkError, match=r"part \d of the data \(475 rows\) failed"):
        ptclean(str(vis), nworkers=2, **arguments)
    assert_same_images(tmp_path / "copy" / "image", tmp_path / "image")
    assert not list(tmp_path.glob("image.ptclean*"))


def test_says_what_it_does(
    wide_ms: str, cluster: DaskClusterManager, tmp_path: Path, log: Callable[[], str]
) -> None:
    arguments = MFS | {"imagename": str(tmp_path / "image"), "deconvolver": "mtmfs", "niter": 20}
    made = plan(wide_ms, nworkers=9, chanchunks=3, **arguments)
    assert "continuum, 80 x 80 pixels, 1 Stokes, 2 Taylor terms" in str(made)
    assert "4 of 475 rows, for any number of workers; chanchunks has no meaning here" in str(made)
    assert made.nworkers == FEWEST_PARTS
    assert made.as_dict()["parts"][0]["rows"] == (("ms0", 0, 475, 1),)
    ptclean(wide_ms, nworkers=2, chanchunks=3, **arguments)
    assert "Minor cycle 1: 20 iterations" in log()
    ia = image()
    ia.open(str(tmp_path / "image.image.tt0"))
    history = [str(line) for line in ia.history(list=False)]
    ia.close()
    assert any("taskname=ptclean" in line for line in history)


def test_small_images_are_left_to_tclean(wide_ms: str, tmp_path: Path) -> None:
    made = plan(wide_ms, imagename=str(tmp_path / "image"), **MFS)
    assert made.serial is not None
    assert "the image is small" in made.serial


SERIAL: dict[str, dict[str, Any]] = {
    "facets=2": {"gridder": "wproject", "facets": 2, "pbcor": False},
    "wprojplanes=-1": {"gridder": "wproject", "wprojplanes": -1},
}


@pytest.mark.parametrize("reason", SERIAL)
def test_what_is_left_to_tclean(
    reason: str, line_ms: str, tmp_path: Path, log: Callable[[], str]
) -> None:
    arguments = MFS | {"niter": 20} | SERIAL[reason]
    vis = str(tmp_path / "line.ms")
    shutil.copytree(line_ms, vis)
    tclean(vis, imagename=str(tmp_path / "tclean"), **arguments)
    ptclean(vis, imagename=str(tmp_path / "ptclean"), nworkers=2, **arguments)
    assert_same_images(tmp_path / "tclean", tmp_path / "ptclean")
    (line,) = [line for line in log().splitlines() if "ptclean runs tclean serially" in line]
    assert reason in line


def later(times: Any) -> Any:
    """Move half of the rows by 7 hours, in which the Doppler shift grows by a channel or two."""
    times[len(times) // 2 :] += 0.3 * 86400
    return times


def test_channel_selections(line_ms: str, cluster: DaskClusterManager, tmp_path: Path) -> None:
    """CASA widens them by the Doppler shift among all rows; so do the parts."""
    vis = change_column(line_ms, tmp_path / "later.ms", "TIME", later)
    arguments = MFS | {"weighting": "natural", "spw": "0:4~8;11~12"}
    assert_close_to_tclean(vis, tmp_path, **arguments)
    tclean(vis, imagename=str(tmp_path / "early"), timerange="<23:00:00", **arguments)
    both, early = (pixels(tmp_path / f"{name}.sumwt").sum() for name in ("tclean", "early"))
    assert both > 2.1 * early, "nothing was widened: the test shows nothing"


def test_channel_selections_without_all_times_in_each_part_are_left_to_tclean(
    line_ms: str, tmp_path: Path
) -> None:
    vis = change_column(line_ms, tmp_path / "drift.ms", "TIME", lambda t: t + np.arange(len(t)))
    for spw, left in (("0:4~8", True), ("0", False)):
        made = plan(vis, imagename=str(tmp_path / "image"), nworkers=2, spw=spw, **MFS)
        assert bool(made.serial) == left
        assert not left or f"spw='{spw}' selects channels" in str(made)


def test_fields_at_the_same_time_are_left_to_tclean(mosaic_ms: str, tmp_path: Path) -> None:
    def same(times: Any) -> Any:
        times[:] = times[0]
        return times

    vis = change_column(mosaic_ms, tmp_path / "same.ms", "TIME", same)
    for extra, left in (({}, True), ({"field": "1"}, False)):
        made = plan(vis, imagename=str(tmp_path / "image"), nworkers=2, **MFS, **extra)
        assert bool(made.serial) == left
        assert not left or "observed at the same time" in str(made)


def go_on_with_both(vis: str, folder: Path, first: Any, **arguments: Any) -> tuple[Any, Any]:
    """Clean twice under one name, with each of the tasks, from the same first images."""
    first = MFS | {"niter": 30} | arguments | first
    tclean(vis, imagename=str(folder / "tclean"), **first)
    for image_path in folder.glob("tclean.*"):
        shutil.copytree(image_path, folder / image_path.name.replace("tclean", "ptclean"))
    return image_with_both(vis, folder, **(MFS | arguments))


@pytest.mark.parametrize(
    ("first", "changes"),
    [
        ({"mask": "circle[[40pix,40pix],15pix]"}, {}),
        ({}, {"usemask": "auto-multithresh", "sidelobethreshold": 1.25}),
        ({}, {"deconvolver": "mtmfs"}),
    ],
)
def test_goes_on_as_tclean(
    first: dict[str, Any],
    changes: dict[str, Any],
    wide_ms: str,
    cluster: DaskClusterManager,
    in_one_part: None,
    tmp_path: Path,
) -> None:
    expected, found = go_on_with_both(wide_ms, tmp_path, first, **changes)
    assert_same_images(tmp_path / "tclean", tmp_path / "ptclean")
    assert_same_return(expected, found)
    assert products(tmp_path / "tclean") == products(tmp_path / "ptclean")


def test_goes_on_in_parts(wide_ms: str, cluster: DaskClusterManager, tmp_path: Path) -> None:
    expected, found = go_on_with_both(wide_ms, tmp_path, {}, weighting="natural")
    assert_close_return(expected, found)
    peak = largest(tmp_path / "tclean.image")
    for product in ("image", "residual", "model"):
        ours, tcleans = (pixels(tmp_path / f"{name}.{product}") for name in ("ptclean", "tclean"))
        assert np.abs(ours - tcleans).max() < ROUNDING * peak
    arguments = MFS | {"imagename": str(tmp_path / "tclean"), "nworkers": 2}
    assert "goes on   from the mask, model that exist" in str(plan(wide_ms, **arguments))
    assert plan(wide_ms, deconvolver="mtmfs", **arguments).existing == ("mask",)


# What follows needs no CASA.

DEFAULTS = {p.name: p.default for p in inspect.signature(casatasks.tclean).parameters.values()}
CALL = DEFAULTS | {"vis": "a.ms", "imagename": "/images/a"}


def test_tcleans_defaults_are_taken():
    assert reason_for_serial(CALL, DEFAULTS) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("specmode", "mvc"),
        ("gridder", "awproject"),
        ("deconvolver", "mem"),
        ("weighting", "briggsbwtaper"),
        ("usemask", "auto-thresh"),
        ("interactive", True),
        ("restart", False),
        ("calcpsf", False),
        ("calcres", False),
        ("outlierfile", "outliers.txt"),
        ("vptable", "vp.tab"),
        ("phasecenter", "MARS"),
        ("nmajor", -2),
        ("niter", -1),
    ],
)
def test_what_is_not_known_is_tcleans(name: str, value: Any):
    reason = reason_for_serial(CALL | {name: value}, DEFAULTS)
    assert reason is not None
    assert reason.startswith(f"{name}={value!r}")


def test_parameters_unheard_of_must_have_their_defaults():
    assert reason_for_serial(CALL | {"new": 1}, DEFAULTS | {"new": 1}) is None
    assert reason_for_serial(CALL | {"new": 2}, DEFAULTS | {"new": 1}) == "new=2"


@pytest.mark.parametrize("product", ["weight.tt0", "gridwt"])
def test_images_that_are_taken_up_are_tcleans(product: str):
    reason = reason_for_serial(CALL, DEFAULTS, ["psf", "model", product])
    assert reason == f"/images/a.{product} exists and tclean takes it up"


@pytest.mark.parametrize("name", ["mask", "startmodel"])
def test_what_does_not_go_with_a_model_that_exists_is_tcleans(name: str):
    call = CALL | {name: "/images/other.image"}
    assert reason_for_serial(call, DEFAULTS, ["psf"]) is None
    reason = reason_for_serial(call, DEFAULTS, ["psf", "model.tt0"])
    assert reason is not None
    assert reason.startswith(f"{name}='/images/other.image'")


@pytest.mark.parametrize("rows", [{"ms0": 100}, {"ms0": 10, "ms1": 3}, {"ms0": 0, "ms1": 7}])
@pytest.mark.parametrize("parts", [1, 3, 4, 8])
@pytest.mark.parametrize("interleaved", [False, True])
def test_parts_cover_all_rows_once(rows: dict[str, int], parts: int, interleaved: bool):
    made = cut_rows(rows, parts, interleaved=interleaved)
    for key, number in rows.items():
        taken = [
            row for part in made for k, *share in part.rows if k == key for row in range(*share)
        ]
        assert (sorted(taken) if interleaved else taken) == list(range(number))
    first = next(key for key, number in rows.items() if number)
    assert all(part.rows[0][0] == first for part in made)
    assert max(p.nrows for p in made) - min(p.nrows for p in made) <= len(rows)


def test_there_are_no_more_parts_than_rows():
    assert len(cut_rows({"ms0": 2, "ms1": 50}, 8)) == 2
    assert cut_rows({"ms0": 0}, 8) == ()
    with pytest.raises(ValueError, match="0 parts"):
        cut_rows({"ms0": 5}, 0)


def test_selection_of_a_part():
    """CASA counts rows from 1; no row is lost where there are more than were counted."""
    whole = {"ms0": {"msname": "a.ms", "taql": "", "field": "1"}}
    texts = [part.selection(whole)["ms0"] for part in cut_rows({"ms0": 9}, 3)]
    assert [each["taql"] for each in texts] == [
        "ROWNUMBER() <= 3",
        "ROWNUMBER() > 3 && ROWNUMBER() <= 6",
        "ROWNUMBER() > 6",
    ]
    assert all(each["field"] == "1" for each in texts)
    assert cut_rows({"ms0": 9}, 1)[0].selection(whole) == whole
    texts = [p.selection(whole)["ms0"]["taql"] for p in cut_rows({"ms0": 9}, 3, interleaved=True)]
    assert texts == [f"ROWNUMBER() % 3 == {remainder}" for remainder in (1, 2, 0)]


def test_number_of_parts_follows_from_data_and_image():
    assert choose_parts(30_000, 6400) == FEWEST_PARTS
    assert choose_parts(25e6, 1_000_000) == 8
    assert choose_parts(1e10, 1_000_000) == MOST_PARTS
    assert choose_parts(1e10, 1_000_000, interleaved=True) == MOST_INTERLEAVED


def test_interleaved_parts_have_all_times_where_rows_of_a_time_are_enough():
    times = np.repeat([1.0, 2.0, 3.0], 4)
    zeros = np.zeros(12, int)
    assert have_all_times(times, zeros, zeros, 4)
    assert not have_all_times(times, zeros, zeros, 5)
    assert not have_all_times(times, np.arange(12) % 2, zeros, 4)
    assert not have_all_times(times, zeros, np.arange(12) // 6, 4)
    assert have_all_times(times[[0, 4, 8, 1, 5, 9, 2, 6, 10]], zeros[:9], zeros[:9], 2)
    assert not have_all_times(times[[0, 4, 8, 1, 5, 9, 2, 6, 10]], zeros[:9], zeros[:9], 3)


def test_fields_at_the_same_time_are_found_across_pieces():
    times, fields = np.array([1.0, 1.0, 2.0]), np.array([0, 0, 1])
    assert not has_simultaneous_fields([(times, fields), (times, fields)])
    assert has_simultaneous_fields([(times, fields), (times[:1], fields[2:])])
    assert not has_simultaneous_fields([])


def test_memory_limits_workers_and_not_the_image(wide_ms: str, tmp_path: Path) -> None:
    call = CALL | {"vis": wide_ms, "imagename": str(tmp_path / "image"), "datacolumn": "data"}
    call |= {"imsize": 2048, "cell": "0.01arcsec", "deconvolver": "mtmfs", "niter": 10}
    call |= {"nworkers": 4, "chanchunks": -1, "memory_limit": "0"}
    free = make_continuum_plan(call, Machine(4, 64 * 2**30), DEFAULTS)
    limited = make_continuum_plan(call, Machine(4, 4 * 2**30), DEFAULTS)
    assert (free.nworkers, free.warnings) == (4, ())
    assert limited.nworkers < 4
    assert "The images are the same" in str(limited)
    assert limited.parts == free.parts
    with pytest.raises(MemoryError, match=r"memory_limit=0\.50GiB: an image of 2048 x 2048"):
        make_continuum_plan(call, Machine(4, 64 * 2**30, 2**29), DEFAULTS)
