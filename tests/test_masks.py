# SPDX-License-Identifier: GPL-3.0-or-later
"""Clean masks in every form that tclean takes, resolved against the whole cube, are tclean's own.

What a mask comes to is CASA's to say, odd cases included: a text that it cannot read is an empty
mask, and so is an image without a Stokes axis. Each case states in which channels there is anything
to be cleaned, so that none can pass for want of a mask.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casatasks import tclean
from casatools import image, regionmanager

from ptclean import DaskClusterManager, plan, ptclean
from ptclean.planning import cleanmask
from ptclean.planning.axis import CubeAxes
from ptclean.planning.cleanmask import CleanMask, is_same_in_all_channels, used_masks
from ptclean.planning.cube_plan import make_plan
from ptclean.planning.sizing import Machine
from same_images import assert_same_as_tclean, assert_same_images, assert_same_return, pixels

#: Six channels with lines in them.
CUBE: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 64,
    "cell": "0.1arcsec",
    "start": 5,
    "nchan": 6,
    "weighting": "natural",
    "niter": 150,
    "threshold": "30mJy",
}
NPIX, NCHAN = CUBE["imsize"], CUBE["nchan"]
ALL = range(NCHAN)

CIRCLE = "circle[[32pix,32pix],10pix]"
BOX = "box[[8pix,30pix],[24pix,50pix]]"

CRTF = """#CRTFv0 CASA Region Text Format version 0
# two regions, the second without the middle of the image
global coord=J2000, frame=LSRK, veltype=radio
circle[[09h47m57.4s, 13d16m43.5s], 1.2arcsec], range=[1chan,2chan]
box[[8pix,30pix],[24pix,50pix]], range=[{low:.9f}GHz,{high:.9f}GHz]
-circle[[16pix,40pix],3pix], range=[1chan,3chan]
"""

Reference = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, line_ms: str) -> Path:
    """Files of masks."""
    made = tmp_path_factory.mktemp("masks")
    dirty = CUBE | {"niter": 0, "restoration": False}
    tclean(line_ms, imagename=str(made / "grid"), **dirty)
    other = {"imsize": 50, "cell": "0.15arcsec", "outframe": "BARY", "start": 6, "nchan": 3}
    tclean(line_ms, imagename=str(made / "other"), **dirty | other)
    grid = made / "grid.residual"
    shape = (NPIX, NPIX, 1, NCHAN)
    choose = np.random.default_rng(5921)
    pattern = (choose.random(shape) > 0.5).astype(float)
    values = choose.normal(size=shape)
    values[20:30, 20:30] = np.nan
    holes = choose.random(shape) > 0.5
    part = np.zeros(shape)
    part[20:50, 20:50, :, 1:5] = 1.0
    write_image(made / "pattern.im", grid, pattern)
    write_image(made / "values.im", grid, values)
    write_image(made / "holes.im", grid, np.ones(shape), holes)
    write_image(made / "empty.im", grid, np.zeros(shape))
    write_image(made / "part [1] of.im", grid, part)
    found = pixels(made / "other.residual") > 0.05
    write_image(made / "other.im", made / "other.residual", found)
    box = regionmanager().box
    cut_image(made / "plane.im", made / "pattern.im", box([0, 0, 0, 2], [63, 63, 0, 2]))
    cut_image(made / "flat.im", made / "plane.im", {}, dropdeg=True)
    cut_image(made / "nostokes.im", made / "pattern.im", {}, dropdeg=True)
    cut_image(made / "small.im", made / "plane.im", box([5, 8, 0, 0], [50, 44, 0, 0]))
    cut_image(made / "fewer.im", made / "pattern.im", box([5, 8, 0, 3], [50, 44, 0, 4]))
    low, high = frequencies(grid)[[2, 4]] / 1e9
    (made / "lines.crtf").write_text(CRTF.format(low=low, high=high))
    (made / "sky.crtf").write_text(f"#CRTFv0\n{BOX}\n")
    for name in os.listdir(made):
        if name.startswith(("grid.", "other.")) and name not in ("grid.residual", "other.im"):
            shutil.rmtree(made / name)
    return made


def write_image(path: Path, template: Path, values: Any, inside: Any = None) -> None:
    ia = image()
    ia.open(str(template))
    coordinates = ia.coordsys().torecord()
    ia.done()
    ia.fromshape(str(path), list(values.shape), csys=coordinates)
    ia.putchunk(np.asfortranarray(values, dtype=float))
    if inside is not None:
        ia.calcmask("T", name="mask0")
        ia.putregion(pixelmask=inside, usemask=False)
    ia.done()


def cut_image(path: Path, source: Path, region: dict[str, Any], *, dropdeg: bool = False) -> None:
    ia = image()
    ia.open(str(source))
    ia.subimage(outfile=str(path), region=region, dropdeg=dropdeg).done()
    ia.done()


def frequencies(path: Path) -> Any:
    ia = image()
    ia.open(str(path))
    axis = ia.coordsys()
    found = [axis.toworld([0, 0, 0, c], "n")["numeric"][3] for c in range(ia.shape()[3])]
    ia.done()
    return np.array(found)


def within(folder: Path, mask: Any) -> Any:
    """Put the folder into the names of a mask's files."""
    if isinstance(mask, list):
        return [within(folder, each) for each in mask]
    return mask.replace("{}", str(folder))


#: Masks that are not the same in all channels, or that a chunk would resolve otherwise.
CUT: dict[str, tuple[Any, Any]] = {
    "channels in a text": (f"{CIRCLE}, range=[1chan,3chan]", [1, 2, 3]),
    "file of regions": ("{}/lines.crtf", [1, 2, 3, 4]),
    "one plane": ("{}/plane.im", ALL),
    "fewer channels": ("{}/fewer.im", [3, 4]),
    "list": (["{}/other.im", "{}/flat.im", "{}/lines.crtf", BOX], ALL),
}

#: One chunk size will do.
OTHER: dict[str, tuple[Any, Any]] = {
    "frequencies in a text": (f"{CIRCLE}, range=[267.5213GHz,267.5219GHz], corr=[I]", [1, 2, 3]),
    "velocities in a text": (f"{CIRCLE}, range=[0km/s,0.7km/s], restfreq=267.522GHz", [1, 2, 3]),
    "another frame and cell": ("{}/other.im", "some"),
    "plane without other axes": ("{}/flat.im", ALL),
    "pattern": ("{}/pattern.im/", ALL),
    "values that are not 0 or 1": ("{}/values.im", ALL),
    "pixel mask": ("{}/holes.im", ALL),
    "spaces and brackets": ("{}/part [1] of.im", [1, 2, 3, 4]),
    "regions of all channels": (["{}/sky.crtf", CIRCLE, ""], ALL),
    "empty": ("{}/empty.im", []),
    "cube without a Stokes axis": ("{}/nostokes.im", []),
    "outside": ("circle[[32pix,32pix],10pix], range=[20chan,30chan]", []),
    "part of an image": ("{}/pattern.im[0:5]", []),
    "not a region": ("circle[[32pix", []),
    "empty at first": (["", CIRCLE], ALL),
}


@pytest.fixture(scope="module")
def reference(
    tmp_path_factory: pytest.TempPathFactory, line_ms: str, folder: Path
) -> Callable[[str], Reference]:
    """Images and returned dictionary of serial tclean, made once for each case."""
    made: dict[str, Reference] = {}

    def get(case: str) -> Reference:
        if case not in made:
            name = tmp_path_factory.mktemp("tclean") / "cube"
            mask, channels = (CUT | OTHER)[case]
            arguments = CUBE | {"mask": within(folder, mask)}
            made[case] = (name, tclean(line_ms, imagename=str(name), **arguments))
            assert_masked(name, channels, made[case][1])
        return made[case]

    return get


def assert_masked(name: Path, channels: Any, returned: dict[str, Any]) -> None:
    """Check that a mask is what a case is about, and that it has been cleaned in."""
    mask = pixels(f"{name}.mask")
    masked = [int(c) for c in np.flatnonzero(mask.any(axis=(0, 1, 2)))]
    if channels == "some":
        assert 0 < len(masked) < NCHAN
    else:
        assert masked == list(channels)
    assert (returned["iterdone"] > 20) == bool(masked)
    assert (returned["stopcode"] == 7) == (not masked)
    model = pixels(f"{name}.model")
    assert not model[mask == 0].any()


@pytest.mark.parametrize("chanchunks", [1, 3, 6])
@pytest.mark.parametrize("case", CUT)
def test_mask_is_that_of_the_whole_cube(
    case: str,
    chanchunks: int,
    line_ms: str,
    folder: Path,
    reference: Callable[[str], Reference],
    cluster: DaskClusterManager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Paths are relative to the user's directory; workers run elsewhere, and must not lose them."""
    monkeypatch.chdir(folder)
    arguments = CUBE | {"mask": within(Path(), CUT[case][0])}
    assert_same_as_reference(reference(case), line_ms, tmp_path, arguments, chanchunks)


@pytest.mark.parametrize("case", OTHER)
def test_mask_in_every_form(
    case: str,
    line_ms: str,
    folder: Path,
    reference: Callable[[str], Reference],
    cluster: DaskClusterManager,
    tmp_path: Path,
) -> None:
    arguments = CUBE | {"mask": within(folder, OTHER[case][0])}
    assert_same_as_reference(reference(case), line_ms, tmp_path, arguments, 2)


def assert_same_as_reference(
    expected: Reference, vis: str, tmp_path: Path, arguments: dict[str, Any], chanchunks: int
) -> None:
    own = {"imagename": str(tmp_path / "cube"), "nworkers": 2, "chanchunks": chanchunks}
    assert plan(vis, **own, **arguments).serial is None
    found = ptclean(vis, **own, **arguments)
    assert_same_images(expected[0], tmp_path / "cube")
    assert_same_return(expected[1], found)
    assert not list(tmp_path.glob("cube.ptclean*"))


@pytest.mark.parametrize("name", ["my lines.crtf", "~/lines.crtf", "$HOME/lines.crtf"])
def test_name_of_a_file_is_read_as_tclean_reads_it(
    name: str,
    line_ms: str,
    folder: Path,
    reference: Callable[[str], Reference],
    cluster: DaskClusterManager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    shutil.copy(folder / "lines.crtf", "my lines.crtf")
    tclean(line_ms, imagename="tclean", **CUBE | {"mask": name, "niter": 1, "restoration": False})
    expected = reference("file of regions")
    assert np.array_equal(pixels("tclean.mask"), pixels(f"{expected[0]}.mask"))
    assert_same_as_reference(expected, line_ms, tmp_path, CUBE | {"mask": name}, 3)


COMBINED: dict[str, dict[str, Any]] = {
    "within the primary beam": {"mask": "{}/lines.crtf", "pbmask": 0.985},
    "image within the primary beam": {"mask": "{}/pattern.im", "pbmask": 0.985},
    "no mask, and so no limit": {"pbmask": 0.985},
    "primary beam": {"usemask": "pb", "pbmask": 0.985, "mask": f"{CIRCLE}, range=[0chan,1chan]"},
    "primary beam without a limit": {"usemask": "pb", "mask": "{}/nosuch.im"},
    "full summary": {"mask": "{}/lines.crtf", "fullsummary": True},
    "common beam": {"mask": "{}/lines.crtf", "restoringbeam": "common", "pbcor": True},
    "common beam, region": {"mask": BOX, "restoringbeam": "common"},
    "blank planes": {"mask": "{}/lines.crtf", "start": "", "width": "0.5MHz", "nchan": 10},
    "oblong image": {"mask": "{}/other.im", "imsize": [54, 60]},
    "one channel": {"mask": "{}/plane.im", "start": 7, "nchan": 1},
    "nothing cleaned": {"mask": "{}/nosuch.im", "niter": 0},
}


@pytest.mark.parametrize("case", COMBINED)
def test_mask_with_other_parameters(
    case: str, line_ms: str, folder: Path, cluster: DaskClusterManager, tmp_path: Path
) -> None:
    arguments = CUBE | COMBINED[case]
    if "mask" in arguments:
        arguments["mask"] = within(folder, arguments["mask"])
    returned = assert_same_as_tclean(line_ms, tmp_path, chanchunks=2, **arguments)
    assert returned.get("iterdone", 0) > 20 or arguments["niter"] == 0
    assert (tmp_path / "ptclean.mask").is_dir() == (arguments["niter"] > 0)


@pytest.mark.parametrize(
    "wrong",
    [{"mask": "{}/small.im"}, {"pbmask": 1.0}, {"mask": CIRCLE, "pbmask": -0.1}],
    ids=str,
)
def test_what_tclean_refuses_is_refused_in_its_words_before_anything_starts(
    wrong: dict[str, Any], line_ms: str, folder: Path, tmp_path: Path
) -> None:
    """An image of one plane is not brought on to a grid of another size."""
    arguments = CUBE | wrong | {"imagename": str(tmp_path / "cube")}
    if "mask" in wrong:
        arguments["mask"] = within(folder, wrong["mask"])
    refusals = []
    for task, own in ((ptclean, {"nworkers": 2}), (tclean, {})):
        with pytest.raises(RuntimeError) as caught:
            task(line_ms, **arguments, **own)
        refusals.append(str(caught.value))
        if task is ptclean:
            assert os.listdir(tmp_path) == []
    assert refusals[0] == refusals[1]


def test_what_casa_says_of_a_mask_is_in_the_users_log(
    line_ms: str, cluster: DaskClusterManager, tmp_path: Path, log: Callable[[], str]
) -> None:
    arguments = CUBE | {"mask": ["part.im[2:5]", CIRCLE], "niter": 10}
    ptclean(line_ms, imagename=str(tmp_path / "cube"), nworkers=2, **arguments)
    assert "part is not a supported annotation type" in log()


# Plans


def test_plan_says_on_how_many_channels_a_mask_is_resolved(line_ms: str, folder: Path) -> None:
    def made(mask: Any) -> CleanMask | None:
        arguments = CUBE | {"mask": within(folder, mask)}
        return plan(line_ms, imagename="cube", nworkers=2, **arguments).mask

    assert made("") is None
    assert made("{}/pattern.im") == CleanMask((f"{folder}/pattern.im",), NCHAN, NCHAN, on_grid=True)
    assert made(["{}/flat.im", CIRCLE]) == CleanMask((f"{folder}/flat.im", CIRCLE), 2, NCHAN)
    assert made([CIRCLE, "{}/lines.crtf"]) == CleanMask(
        (CIRCLE, f"{folder}/lines.crtf"), NCHAN, NCHAN
    )


def test_plan_warns_of_a_mask_that_takes_more_memory_than_there_is(line_ms: str) -> None:
    defaults = {p.name: p.default for p in inspect.signature(ptclean).parameters.values()}
    arguments = {"vis": line_ms, "imagename": "cube", "imsize": 4000, "nchan": 11, "chanchunks": 1}

    def warnings(mask: str) -> list[str]:
        machine = Machine(workers=1, memory=8 * 2**30)
        made = make_plan(defaults | CUBE | arguments | {"mask": mask}, machine, defaults)
        return [line for line in made.warnings if "mask" in line]

    assert warnings(CIRCLE) == []
    (warning,) = warnings(f"{CIRCLE}, range=[1chan,2chan]")
    assert "about 8 GiB" in warning


def test_image_whose_channels_are_in_another_frame_is_not_on_the_grid(
    line_ms: str, folder: Path
) -> None:
    made = plan(line_ms, imagename="cube", nworkers=2, **CUBE)
    axes = CubeAxes(made.coordinates, made.shape, made.start, made.width, made.frame, linear=True)
    parameters = CUBE | {"mask": f"{folder}/pattern.im", "usemask": "user"}
    assert cleanmask.clean_mask(parameters, axes).on_grid
    spectral = {**made.coordinates["spectral2"]}
    spectral["conversion"] = {**spectral["conversion"], "system": "BARY"}
    axes = dataclasses.replace(axes, coordinates={**made.coordinates, "spectral2": spectral})
    assert not cleanmask.clean_mask(parameters, axes).on_grid


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"mask": ""}, ()),
        ({"mask": []}, ()),
        ({"mask": [""]}, ()),
        ({"mask": ["", "a.im"]}, ()),
        ({"mask": ["a.im", "", CIRCLE]}, ("a.im", CIRCLE)),
        ({"mask": "a.im"}, ("a.im",)),
        ({"mask": "a.im", "usemask": "pb"}, ()),
        ({"mask": "a.im", "usemask": "auto-multithresh"}, ()),
        ({"mask": "a.im", "niter": 0}, ()),
    ],
)
def test_masks_of_which_tclean_makes_use(
    parameters: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert used_masks({"usemask": "user", "niter": 1} | parameters) == expected


def test_masks_that_are_the_same_in_all_channels(folder: Path) -> None:
    (folder / "long.crtf").write_bytes(b"\xff#CRTFv0\nglobal frame=LSRK , Range = [1chan,2chan]\n")
    assert is_same_in_all_channels(CIRCLE)
    assert is_same_in_all_channels(f"{CIRCLE}, corr=[I]")
    assert not is_same_in_all_channels(f"{CIRCLE} range=[1chan,2chan]")
    assert is_same_in_all_channels(f"{folder}/sky.crtf")
    assert not is_same_in_all_channels(f"{folder}/lines.crtf")
    assert not is_same_in_all_channels(f"{folder}/long.crtf")
    assert is_same_in_all_channels(f"{folder}/plane.im")
    assert is_same_in_all_channels(f"{folder}/flat.im")
    assert not is_same_in_all_channels(f"{folder}/nostokes.im")
    assert not is_same_in_all_channels(str(folder))
