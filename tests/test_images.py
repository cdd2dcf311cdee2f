# SPDX-License-Identifier: GPL-3.0-or-later
"""An image cut into channels and put together again is the image that it was."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from casatools import coordsys, image, table

from ptclean.products import beams, images

NX, NY, NCHAN = 5, 4, 7


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["in one slab", "channel by channel"])
def _slabs(request, monkeypatch):
    if request.param == "channel by channel":
        monkeypatch.setattr(images, "SLAB_BYTES", 1)


def beam(major, minor=1.0):
    return {
        "major": {"unit": "arcsec", "value": major},
        "minor": {"unit": "arcsec", "value": minor},
        "positionangle": {"unit": "deg", "value": 10.0},
    }


def make(name, *, nchan=NCHAN, npol=1, mask=None, kind="none", keywords=True, seed=1):
    """Write an image with pixels, coordinates and keywords of its own."""
    rng = np.random.default_rng(seed)
    cs = coordsys()
    cs.newcoordsys(direction=True, stokes=["I", "Q"][:npol], spectral=True)
    cs.setincrement(12345.678, "spectral")
    cs.setreferencevalue(1.234567891e9, "spectral")
    cs.setrestfrequency(1.42e9)
    im = image()
    im.fromshape(name, [NX, NY, npol, nchan], csys=cs.torecord())
    cs.done()
    pixels = rng.normal(size=(NX, NY, npol, nchan)).astype("f4")
    pixels[0, 0, 0, 0] = np.nan
    im.putchunk(pixels)
    im.close()
    tb = table()
    tb.open(name, nomodify=False)
    tb.putkeyword("imageinfo", {"imagetype": "Intensity", "objectname": "pointing0"})
    tb.close()
    im.open(name)
    if mask is not None:
        im.calcmask("T", name="mask0")
        im.putregion(pixelmask=np.broadcast_to(mask, pixels.shape), usemask=False)
    if keywords:
        im.setbrightnessunit("Jy/beam")
        im.setmiscinfo({"INSTRUME": "ALMA", "chnchnks": 1, "memreq": 0.1})
    if kind == "single":
        im.setrestoringbeam(beam=beam(3.0))
    elif kind == "planes":
        for channel in range(nchan):
            for pol in range(npol):
                one = beam(3.0 + channel / 7 + 5 * pol)
                im.setrestoringbeam(beam=one, channel=channel, polarization=pol)
    im.done()


def content(name):
    """Return all that an image holds."""
    im, tb = image(), table()
    im.open(name)
    tb.open(name)
    keywords = tb.getkeywords()
    found = {
        "pixels": tb.getcell("map", 0),
        "mask": im.getchunk(getmask=True),
        "masks": im.maskhandler("get"),
        "default mask": im.maskhandler("default"),
        "coordinates": keywords["coords"],
        "imageinfo": keywords["imageinfo"],
        "units": keywords.get("units"),
        "miscinfo": keywords.get("miscinfo"),
    }
    tb.close()
    im.done()
    return found


def history(name):
    tb = table()
    tb.open(f"{name}/logtable")
    try:
        return list(tb.getcol("MESSAGE")) if tb.nrows() else []
    finally:
        tb.close()


def coordinates(name):
    im = image()
    im.open(name)
    cs = im.coordsys()
    try:
        return cs.torecord()
    finally:
        cs.done()
        im.done()


def beam_of_each_plane(name, nchan, npol):
    im = image()
    im.open(name)
    try:
        return [
            im.restoringbeam(channel=c, polarization=p) for p in range(npol) for c in range(nchan)
        ]
    finally:
        im.done()


def rebuilt(name, *starts):
    """Cut an image where the starts say, and assemble it again; returns the new one's name."""
    edges = [0, *starts, NCHAN]
    parts = [f"part{start}" for start in edges[:-1]]
    for part, start, stop in zip(parts, edges[:-1], edges[1:], strict=True):
        images.cut(name, part, slice(start, stop))
    images.assemble("again", parts, coordinates(name))
    return "again"


def holes():
    mask = np.random.default_rng(3).random((NX, NY, 1, NCHAN)) > 0.3
    mask[..., 2] = False
    mask[..., 4] = True
    return mask


MASKS = {"none": None, "all true": np.True_, "holes": holes(), "all false": np.False_}
CUTS = {"one piece": (), "pieces": (3, 4), "channels": (1, 2, 3, 4, 5, 6)}


@pytest.mark.parametrize("starts", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.usefixtures("_slabs")
def test_pixels_masks_coordinates_and_keywords_come_back(mask, starts):
    make("whole", mask=mask)
    np.testing.assert_equal(content(rebuilt("whole", *starts)), content("whole"))


@pytest.mark.parametrize("starts", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("npol", [1, 2])
@pytest.mark.parametrize("kind", ["none", "planes"])
def test_beams_come_back(kind, npol, starts):
    make("whole", npol=npol, kind=kind)
    np.testing.assert_equal(content(rebuilt("whole", *starts)), content("whole"))


@pytest.mark.parametrize("starts", CUTS.values(), ids=CUTS)
def test_single_beam_comes_back_for_each_plane(starts):
    make("whole", npol=2, kind="single")
    again = rebuilt("whole", *starts)
    planes = beam_of_each_plane("whole", NCHAN, 2)
    assert beam_of_each_plane(again, NCHAN, 2) == planes
    assert planes[0]["major"] == {"unit": "arcsec", "value": 3.0}


def test_image_without_units_and_miscinfo_gets_none():
    make("whole", keywords=False)
    found = content(rebuilt("whole", 3))
    assert not found["units"]
    assert not found["miscinfo"]


def test_bits_of_the_pixels_come_back():
    make("whole")
    assert content(rebuilt("whole", 2))["pixels"].tobytes() == content("whole")["pixels"].tobytes()


def test_parts_of_which_some_have_a_mask_give_an_image_with_one():
    make("one", nchan=3, mask=holes()[..., :3])
    make("two", nchan=4)
    make("like", nchan=7)
    images.assemble("both", ["one", "two"], coordinates("like"))
    mask = content("both")["mask"]
    assert np.array_equal(mask[..., :3], holes()[..., :3])
    assert mask[..., 3:].all()


def test_assemble_does_not_overwrite():
    make("whole")
    with pytest.raises(RuntimeError):
        images.assemble("whole", ["whole"], coordinates("whole"))


def test_coordinates_are_written_to_the_last_bit_if_asked_for():
    """The image tool changes an angle in its last bit, CASA's imager does not."""
    make("whole")
    record = coordinates("whole")
    record["direction0"]["crval"] = np.array([2.5654544175763116, 0.23174094126831455])
    record["direction0"]["units"] = np.array(["rad", "rad"])
    images.assemble("again", ["whole"], record, exact=True)
    np.testing.assert_equal(content("again")["coordinates"], record)


def test_history_of_an_assembled_image_is_empty():
    """That of the parts, and of the tools with which it is made, is of no concern to anybody."""
    make("whole", mask=holes())
    images.set_history("whole", "somebody", ["of the whole"])
    rebuilt("whole", 2)
    assert history("again") == []


def test_history_of_an_earlier_image_is_kept():
    make("whole", mask=holes())
    made = history("whole")
    images.set_history("whole", "somebody", ["of the whole"])
    images.cut("whole", "part", slice(0, NCHAN))
    images.assemble("again", ["part"], coordinates("whole"), earlier="whole")
    assert history("again") == [*made, "of the whole"]


# Empty images


def room(path):
    """Bytes that an image's files take on disk."""
    return sum(file.stat().st_blocks for file in Path(path).rglob("*") if file.is_file()) * 512


def files(path):
    """Digests of an image's files, but for those of locks and of the history."""
    found = [file for file in Path(path).rglob("*") if file.is_file() and file.name != "table.lock"]
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in found
        if file.parent.name != "logtable"
    }


@pytest.mark.parametrize("shape", [(512, 512, 1, 40), (100, 90, 2, 7), (97, 101, 1, 64)])
def test_empty_image_is_what_casa_makes_and_takes_no_room(shape):
    make("whole", npol=shape[2])
    record = coordinates("whole")
    images.make_empty("empty", shape, record, exact=False)
    im = image()
    im.fromshape("filled", list(shape), csys=record)
    im.done()
    assert files("empty") == files("filled")
    assert room("filled") - room("empty") >= 4 * np.prod(shape)


@pytest.mark.parametrize("mask", [None, holes()], ids=["no mask", "mask"])
def test_beginning_with_an_empty_image_changes_nothing(mask):
    make("whole", mask=mask, kind="planes")
    images.cut("whole", "one", slice(0, 2))
    images.cut("whole", "two", slice(2, NCHAN))
    record = coordinates("whole")
    images.make_empty("empty", (NX, NY, 1, NCHAN), record, exact=False)
    images.assemble("anew", ["one", "two"], record)
    images.assemble("with", ["one", "two"], record, empty="empty")
    assert files("with") == files("anew")


def test_empty_image_of_another_shape_is_not_used():
    make("whole")
    images.make_empty("empty", (NX, NY, 1, NCHAN + 1), coordinates("whole"))
    images.cut("whole", "part", slice(0, NCHAN))
    images.assemble("again", ["part"], coordinates("whole"), empty="empty")
    assert content("again")["pixels"].shape == (NX, NY, 1, NCHAN)


# Cutting


def test_cut_has_its_channels_where_they_were():
    make("whole", mask=holes(), npol=2, kind="planes")
    images.cut("whole", "piece", slice(2, 5))
    whole, piece = content("whole"), content("piece")
    assert np.array_equal(piece["pixels"], whole["pixels"][..., 2:5])
    assert np.array_equal(piece["mask"], whole["mask"][..., 2:5])
    spectral = [found["coordinates"]["spectral2"]["wcs"] for found in (whole, piece)]
    assert spectral[1] == spectral[0] | {"crpix": spectral[0]["crpix"] - 2}
    expected = beam_of_each_plane("whole", NCHAN, 2)
    assert beam_of_each_plane("piece", 3, 2) == expected[2:5] + expected[9:12]


def test_cut_may_take_one_stokes_plane():
    make("whole", mask=np.True_, npol=2, kind="planes")
    images.cut("whole", "piece", slice(2, 5), pol=1)
    piece = content("piece")
    assert np.array_equal(piece["pixels"], content("whole")["pixels"][:, :, 1:, 2:5])
    assert piece["default mask"] == ["mask0"]
    assert beam_of_each_plane("piece", 3, 1) == beam_of_each_plane("whole", NCHAN, 2)[9:12]


@pytest.mark.parametrize("mask", [np.True_, holes()], ids=["all true", "holes"])
def test_cut_keeps_a_mask_also_where_nothing_is_masked(mask):
    """CASA's automasking and deconvolvers look for it."""
    make("whole", mask=mask)
    images.cut("whole", "piece", slice(4, 5))
    found = content("piece")
    assert found["masks"] == found["default mask"] == ["mask0"]
    assert found["mask"].all()


def test_cut_of_an_image_without_a_mask_has_none():
    make("whole")
    images.cut("whole", "piece", slice(4, 5))
    assert content("piece")["default mask"] == [""]


# Copying


@pytest.mark.usefixtures("_slabs")
@pytest.mark.parametrize(
    ("channels", "first"), [(slice(1, 5), 2), (slice(0, 7), 0), (slice(6, 7), 0)]
)
def test_channels_are_copied_to_their_place_and_no_others(channels, first):
    make("source", mask=np.False_)
    make("target", mask=holes(), kind="planes", seed=2)
    before = content("target")
    images.copy_channels("source", channels, "target", first)
    count = channels.stop - channels.start
    expected = before["pixels"].copy()
    expected[..., first : first + count] = content("source")["pixels"][..., channels]
    np.testing.assert_equal(content("target"), before | {"pixels": expected})


HOLD = """
import sys
from casatools import image
im = image()
im.open(sys.argv[1])
im.lock(writelock=True)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.timeout(60)
def test_channels_are_copied_from_an_image_that_another_process_has_locked():
    make("source")
    make("target", seed=2)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, "source"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert "locked\n" in iter(holder.stdout.readline, "")
        images.copy_channels("source", slice(0, NCHAN), "target")
        assert holder.poll() is None
        holder.kill()
    np.testing.assert_equal(content("target")["pixels"], content("source")["pixels"])


def test_empty_model_has_the_coordinates_of_its_template():
    make("residual", npol=2)
    images.empty_model("residual", "model")
    model, residual = content("model"), content("residual")
    assert model["pixels"].shape == residual["pixels"].shape
    assert not model["pixels"].any()
    assert model["units"] == "Jy/pixel"
    np.testing.assert_equal(model["coordinates"], residual["coordinates"])


def test_history_is_appended():
    make("whole")
    images.set_history("whole", "ptclean", ["first"])
    images.set_history("whole", "ptclean", ["second", "third"])
    assert history("whole")[-3:] == ["first", "second", "third"]


def test_beams_are_changed_and_nothing_else():
    make("whole", mask=holes(), kind="planes")
    before = content("whole")
    info = images.image_info("whole")
    changed = beams.with_beam(info, {0, 6}, beam(9.0))
    images.set_image_info("whole", changed)
    np.testing.assert_equal(content("whole"), before | {"imageinfo": changed})
    per_plane = beam_of_each_plane("whole", NCHAN, 1)
    assert [plane["major"]["value"] == 9.0 for plane in per_plane] == [True, *[False] * 5, True]


# Beams of planes without data


def planes(*chosen):
    keys = {f"*{plane}": one for plane, one in enumerate(chosen)}
    return {"perplanebeams": {"nChannels": len(chosen), "nStokes": 1, **keys}}


NO_BEAM = beam(1e-6, 1e-6)


def test_largest_area_counts_not_the_longest_axis():
    assert beams.largest([beam(5.0, 1.0), None, beam(4.0, 3.0), NO_BEAM]) == beam(4.0, 3.0)


def test_first_of_equal_areas_counts():
    assert beams.largest([beam(1.0), beam(2.0, 3.0), beam(3.0, 2.0)]) == beam(2.0, 3.0)


@pytest.mark.parametrize("chosen", [[], [None], [NO_BEAM, NO_BEAM]])
def test_there_may_be_no_largest(chosen):
    assert beams.largest(chosen) is None


@pytest.mark.parametrize(
    ("chosen", "suspects"),
    [
        ([beam(2.0), beam(3.0), beam(1.0)], []),
        ([beam(3.0), beam(2.0), beam(3.0)], [0, 2]),
        ([beam(2.0), NO_BEAM, beam(3.0)], [1]),
        ([NO_BEAM, NO_BEAM], [0, 1]),
        ([beam(2.0)], []),
        ([], []),
    ],
)
def test_planes_with_the_largest_beam_of_another_are_suspect(chosen, suspects):
    assert beams.suspects(chosen) == suspects


def test_beam_of_a_single_plane_is_replaced():
    info = {"objectname": "x", "restoringbeam": NO_BEAM}
    assert beams.with_beam(info, [0], beam(3.0)) == {"objectname": "x", "restoringbeam": beam(3.0)}
    assert beams.with_beam(info, [], beam(3.0)) == info


def test_joining_counts_planes_by_stokes_then_channel():
    both = {"perplanebeams": {"nChannels": 1, "nStokes": 2, "*0": beam(1.0), "*1": beam(4.0)}}
    long = {"perplanebeams": {"nChannels": 2, "nStokes": 2}}
    long["perplanebeams"] |= {f"*{n}": beam(n + 10.0) for n in range(4)}
    joined = beams.join([both, long], [1, 2])["perplanebeams"]
    assert (joined["nChannels"], joined["nStokes"]) == (3, 2)
    majors = [joined[f"*{n}"]["major"]["value"] for n in range(6)]
    assert majors == [1.0, 10.0, 11.0, 4.0, 12.0, 13.0]


def test_images_without_beams_are_joined_without():
    assert beams.join([{"objectname": "x"}, {}], [1, 2]) == {}


# Images on disk


def touch(folder, *names):
    for name in names:
        (folder / name).mkdir()
        (folder / name / "table.dat").touch()


def test_products_are_the_images_of_exactly_this_name(tmp_path):
    touch(tmp_path, "a.b.image", "a.b.image.pbcor", "a.b.psf", "a.bc.image", "a.image", "xa.b.pb")
    touch(tmp_path, "a.b")
    (tmp_path / "a.b.ptclean").mkdir()
    (tmp_path / "a.b.txt").touch()
    expected = ["image", "image.pbcor", "psf"]
    assert list(images.image_products("a.b")) == expected
    assert list(images.image_products(str(tmp_path / "a.b"))) == expected


def test_name_that_goes_on_after_a_dot_is_another_image_set(tmp_path):
    touch(tmp_path, "line.psf", "line.v2.psf", "line.v2.image.pbcor")
    assert list(images.image_products("line")) == ["psf"]


def test_name_is_not_a_pattern(tmp_path):
    touch(tmp_path, "a[1]*.psf", "a1x.psf")
    assert list(images.image_products("a[1]*")) == ["psf"]
