# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan says what will be done, from the data themselves, and does nothing."""

import inspect
import json
import os

import casatasks
import dask
import psutil
import pytest
from casatools import coordsys, image

from ptclean import Plan, plan, ptclean
from ptclean.planning.memory import ImageSize, casa_requirement

SMALL = {"specmode": "cube", "imsize": 32, "cell": "0.2arcsec"}
PARALLEL = SMALL | {"nworkers": 2}


@pytest.fixture
def images_folder(tmp_path, monkeypatch):
    """Work in an empty directory, in which a plan must leave nothing, nor any process."""
    folder = tmp_path / "images"
    folder.mkdir()
    monkeypatch.chdir(folder)
    before = set(psutil.Process().children(recursive=True))
    yield folder
    assert os.listdir(folder) == []
    assert set(psutil.Process().children(recursive=True)) <= before


def frequencies(record, nchan):
    """World frequency of each channel, and their frame, by CASA's coordinate system."""
    cs = coordsys()
    cs.fromrecord(record)
    try:
        found = [cs.toworld([0, 0, 0, c], "n")["numeric"][3] for c in range(nchan)]
        return found, cs.referencecode("spectral")[0]
    finally:
        cs.done()


def made_by_tclean(vis, **arguments):
    """Frequencies and frame of tclean's dirty cube."""
    casatasks.tclean(vis, imagename="dirty", restoration=False, calcpsf=False, **arguments)
    im = image()
    im.open("dirty.residual")
    cs = im.coordsys()
    nchan = int(im.shape()[3])
    try:
        return frequencies(cs.torecord(), nchan)
    finally:
        cs.done()
        im.done()


# The plan itself


def test_signature_is_that_of_the_task():
    assert inspect.signature(plan) == inspect.signature(ptclean)


def test_plan_leaves_no_trace(line_ms, images_folder):
    made = plan(line_ms, imagename="line", **PARALLEL)
    assert isinstance(made, Plan)
    assert made.imagename == str(images_folder / "line")


def test_plan_of_a_clean(line_ms, images_folder):
    made = plan(line_ms, imagename="line", **PARALLEL, niter=100, chanchunks=6)
    assert made.serial is None
    assert (made.shape, made.guards.sides, made.nworkers) == ((32, 32, 1, 16), 2, 2)
    assert [(c.start, c.stop, c.gridded_start, c.gridded_stop) for c in made.chunks] == [
        (0, 6, 0, 9),
        (6, 12, 4, 15),
        (12, 16, 10, 16),
    ]
    assert made.rows == 190 * 10
    # Two correlations, 16 channels, 8 bytes; each chunk reads all.
    assert made.read_bytes == 3 * made.rows * 2 * 16 * 8
    requirement = casa_requirement(ImageSize(32, 32), 11)
    assert made.casa_memory * 2**20 > requirement
    assert made.warnings == ()


def test_dirty_cube_needs_no_guards(line_ms, images_folder):
    made = plan(line_ms, imagename="line", **PARALLEL)
    assert made.guards.sides == 0
    assert str(made).count("; 1 pass\n") == 1
    assert made.written_bytes_a_cycle == 0
    assert all(chunk.channels == chunk.gridded_channels for chunk in made.chunks)


def test_plan_prints_as_a_table(line_ms, images_folder):
    lines = str(plan(line_ms, imagename="line", **PARALLEL, niter=10, chanchunks=8)).splitlines()
    rows = dict(line.split(maxsplit=1) for line in lines)
    assert list(rows) == (
        ["image", "cube", "axis", "engine", "chunks", "memory", "reads", "writes", "space"]
    )
    assert rows["reads"].endswith("over all chunks; 1 pass, and one for each major cycle")
    assert rows["writes"].endswith("GiB in each cycle")
    assert rows["cube"] == "32 x 32 pixels, 1 Stokes, 16 channels"
    assert rows["engine"] == "2 workers"
    assert rows["chunks"] == "2 of 8 channels, 2 guard channels on either side"
    assert rows["axis"].endswith("LSRK")
    assert len({line.index(line.split()[1]) for line in lines}) == 1


def test_plan_is_plain_data(line_ms, images_folder):
    made = plan(line_ms, imagename="line", **PARALLEL, niter=10, memory_limit="2GiB")
    plain = json.loads(json.dumps(made.as_dict()))
    assert plain["memory_limit"] == 2**31
    assert plain["chunks"][0]["start"] == 0
    assert plain["shape"] == [32, 32, 1, 16]
    assert not {"parameters", "records", "coordinates"} & set(plain)


def test_serial_plan_says_why_and_plans_nothing_else(line_ms, images_folder):
    made = plan(line_ms, imagename="line", specmode="cube", gridder="awproject", nworkers=2)
    assert made.serial == "gridder='awproject'"
    assert (made.chunks, made.shape) == ((), None)
    assert "tclean, serially: gridder='awproject'" in str(made)
    assert json.dumps(made.as_dict())


def test_earlier_model_that_is_no_image_is_tcleans(line_ms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "line.model").mkdir()
    (tmp_path / "line.model" / "table.dat").touch()
    assert f"{tmp_path}/line.model exists" in plan(line_ms, imagename="line", **PARALLEL).serial
    assert plan(line_ms, imagename="lin", **PARALLEL).serial is None


# Small cubes


def test_small_cube_is_made_serially(line_ms, images_folder):
    made = plan(line_ms, imagename="line", **SMALL)
    assert made.serial.startswith("the cube is small (about ")
    assert "nworkers or chanchunks" in made.serial


@pytest.mark.parametrize("asked", [{"nworkers": 1}, {"chanchunks": 4}])
def test_small_cube_is_made_by_workers_that_are_asked_for(line_ms, images_folder, asked):
    assert plan(line_ms, imagename="line", **SMALL, **asked).serial is None


def test_what_is_small_can_be_configured(line_ms, images_folder):
    with dask.config.set({"ptclean.small-cube-seconds": 0}):
        assert plan(line_ms, imagename="line", **SMALL).serial is None


def test_large_cube_is_not_small(line_ms, images_folder):
    assert plan(line_ms, imagename="line", **SMALL | {"imsize": 2000, "nchan": 10}).serial is None


# The axis


AXES = {
    "all channels": {},
    "channel": {"start": 3, "nchan": 4},
    "channel as text": {"start": "3", "nchan": 4},
    "two channels wide": {"start": 1, "nchan": 5, "width": 2},
    "frequency": {"start": "267.5215GHz", "nchan": 4},
    "wider": {"start": "267.5205GHz", "width": "600kHz", "nchan": 4},
    "descending": {"start": "267.523GHz", "width": "-250kHz", "nchan": 4},
    "descending channels": {"start": 10, "width": -1, "nchan": 4},
    "velocity": {"start": "-23.5km/s", "nchan": 5, "restfreq": "267.5GHz"},
    "velocity and width": {
        "start": "-23.5km/s",
        "width": "0.3km/s",
        "nchan": 5,
        "restfreq": "267.5GHz",
    },
    "BARY": {"outframe": "BARY", "start": 2, "nchan": 5},
    "TOPO": {"outframe": "TOPO", "start": 2, "nchan": 5},
    "TOPO frequency": {"outframe": "TOPO", "start": "267.501GHz", "nchan": 5},
    "selected channels": {"spw": "0:4~9"},
}


@pytest.mark.parametrize("axis", AXES.values(), ids=AXES)
def test_axis_is_that_of_tcleans_cube(line_ms, tmp_path, monkeypatch, axis):
    monkeypatch.chdir(tmp_path)
    with dask.config.set({"ptclean.last-digits-in-chunks": True}):
        made = plan(line_ms, imagename="line", **PARALLEL, **axis)
    planned, frame = frequencies(made.coordinates, made.shape[3])
    assert (planned, frame) == made_by_tclean(line_ms, **SMALL, **axis)
    assert frame == made.frame
    assert sum(chunk.channels for chunk in made.chunks) == len(planned)
    linear = [made.start + channel * made.width for channel in range(len(planned))]
    assert linear == pytest.approx(planned, rel=1e-12)


def test_axis_of_descending_data_is_that_of_tcleans_cube(tmp_path, monkeypatch):
    from simulated import simulate

    monkeypatch.chdir(tmp_path)
    simulate("down.ms", nchan=6, nant=4, nint=2, width=-244.1e3, hour=-2.4)
    made = plan("down.ms", imagename="line", **PARALLEL)
    planned = frequencies(made.coordinates, made.shape[3])
    assert planned == made_by_tclean("down.ms", **SMALL)
    assert len(planned[0]) == 6


@pytest.mark.parametrize(
    ("imsize", "stokes", "shape"),
    [(32, "I", (32, 32, 1)), ([32], "I", (32, 32, 1)), ([20, 36], "XX", (20, 36, 1))],
)
def test_shape_of_the_images(line_ms, images_folder, imsize, stokes, shape):
    made = plan(line_ms, imagename="line", **PARALLEL | {"imsize": imsize, "stokes": stokes})
    assert made.shape == (*shape, 16)


# Wrong parameters


@pytest.mark.parametrize("function", [plan, ptclean])
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"nchan": 0}, ValueError),
        ({"nchan": -2}, ValueError),
        ({"mask": "nosuch.mask"}, ValueError),
        ({"mask": ["circle[[16pix,16pix],5pix]", "nosuch.mask"]}, ValueError),
        ({"chanchunks": 0}, ValueError),
        ({"chanchunks": -2}, ValueError),
        ({"nworkers": -3}, ValueError),
        ({"memory_limit": "lots"}, ValueError),
        ({"memory_limit": "-1GiB"}, ValueError),
        ({"memory_limit": "1MiB"}, ValueError),
        ({"imagename": ""}, ValueError),
        ({"outframe": "MOON"}, RuntimeError),
        ({"vis": "nosuch.ms"}, AssertionError),
        ({"interpolation": "spline"}, AssertionError),
    ],
    ids=str,
)
def test_wrong_value_is_refused_by_name_before_anything_starts(
    line_ms, images_folder, function, wrong, error
):
    arguments = {"vis": line_ms, "imagename": "line", **PARALLEL, "niter": 10} | wrong
    with pytest.raises(error) as caught:
        function(**arguments)
    ((name, value),) = wrong.items()
    text = str(caught.value)
    assert name in text or name == "outframe"  # CASA says "Invalid Frequency Frame MOON"
    value = value[-1] if isinstance(value, list) else value
    assert str(value) in text


@pytest.mark.parametrize("function", [plan, ptclean])
@pytest.mark.parametrize(
    "wrong",
    [{"nworkers": "three"}, {"chanchunks": 2.5}, {"memory_limit": 16.0}, {"niter": "many"}],
    ids=str,
)
def test_wrong_type_is_refused_by_name_before_anything_starts(
    line_ms, images_folder, function, wrong
):
    arguments = {"vis": line_ms, "imagename": "line", **PARALLEL} | wrong
    with pytest.raises(AssertionError, match=next(iter(wrong))):
        function(**arguments)


@pytest.mark.parametrize("function", [plan, ptclean])
def test_unknown_parameter_is_refused(line_ms, images_folder, function):
    with pytest.raises(TypeError, match="nworker"):
        function(line_ms, nworker=2)


@pytest.mark.parametrize(
    "wrong",
    [{"spw": "7"}, {"field": "nosuch"}, {"cell": "xx"}, {"imsize": 0}, {"width": "100kHz"}],
    ids=str,
)
def test_what_tclean_refuses_is_refused_in_its_words(line_ms, tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)

    def refusal(function, **arguments):
        with pytest.raises(RuntimeError) as caught:
            function(line_ms, imagename="line", **SMALL | wrong, **arguments)
        return str(caught.value).split("SEVERE")[-1]

    assert refusal(plan, nworkers=2) == refusal(casatasks.tclean)


def test_limit_that_holds_no_channel_is_refused_before_anything_starts(line_ms, images_folder):
    with pytest.raises(MemoryError, match=r"memory_limit=1\.00GiB.*4000 x 4000"):
        ptclean(line_ms, imagename="line", **PARALLEL | {"imsize": 4000, "memory_limit": "1GiB"})


def test_mask_that_exists_is_found_from_the_users_directory(line_ms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.crtf").touch()
    made = plan(line_ms, imagename="line", **PARALLEL, niter=10, mask="here.crtf")
    assert made.mask.masks == (f"{tmp_path}/here.crtf",)
