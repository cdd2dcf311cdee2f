# SPDX-License-Identifier: GPL-3.0-or-later
"""Channels copied from file to file are what CASA reads and writes.

The sizes make CASA choose tiles of many forms: a plane in one or in hundreds, channels together or
alone, padded at the ends or not, those of the parts and of the whole alike or not.
"""

import os
import shutil

import numpy as np
import pytest
from casatools import image, table

from ptclean.products import images, tiles

PLANES = [(512, 256, 1), (100, 90, 4), (97, 101, 1), (64, 72, 2), (1000, 8, 1), (8, 300, 1)]
PARTS = [(5, 5, 7, 3), (16, 32, 1), (1, 1, 1, 1), (40,)]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make(name, shape, *, masked=True, seed=1):
    rng = np.random.default_rng(seed)
    im = image()
    im.fromshape(name, list(shape))
    im.putchunk(rng.normal(size=shape))
    if masked:
        im.calcmask("T", name="mask0")
        im.putregion(pixelmask=rng.random(shape) > 0.3, usemask=False)
    im.done()
    images.set_image_info(name, {"imagetype": "Intensity", "objectname": ""})


def blank(name):
    im = image()
    im.open(name)
    im.set(0.0)
    im.done()


def chunk(name, *, getmask):
    im = image()
    im.open(name)
    try:
        return im.getchunk(getmask=getmask)
    finally:
        im.done()


@pytest.mark.parametrize("block", [1, 2**16, 2**23], ids="block of {} bytes".format)
@pytest.mark.parametrize("channels", PARTS, ids=str)
@pytest.mark.parametrize("plane", PLANES, ids=str)
def test_assembled_image_is_what_casa_would_write(plane, channels, block, monkeypatch):
    monkeypatch.setattr(tiles, "BLOCK_BYTES", block)
    parts = [f"part{i}" for i in range(len(channels))]
    for i, (part, nchan) in enumerate(zip(parts, channels, strict=True)):
        make(part, (*plane, nchan), masked=i != 1, seed=i)
    _, coordinates = images.shape_and_coordinates(parts[0])
    images.assemble("whole", parts, coordinates)
    for getmask in (False, True):
        joined = np.concatenate([chunk(part, getmask=getmask) for part in parts], axis=3)
        assert np.array_equal(chunk("whole", getmask=getmask), joined)
    # Pixels were not left to CASA; nor were masks, where their tiles end with a byte.
    assert all(tiles.tiles(each, tiles.PIXELS) for each in [*parts, "whole"])
    if plane == (512, 256, 1):
        assert tiles.tiles("whole/mask0", tiles.MASK)


def test_zeros_are_not_written():
    """Most planes of a model have nothing else."""
    parts = ["line", "blank", "other line"]
    for part in parts:
        make(part, (256, 128, 1, 32), masked=False)
    blank("blank")
    _, coordinates = images.shape_and_coordinates("line")
    images.make_empty("empty", (256, 128, 1, 96), coordinates, exact=False)
    images.assemble("whole", parts, coordinates, empty="empty")
    joined = np.concatenate([chunk(part, getmask=False) for part in parts], axis=3)
    assert np.array_equal(chunk("whole", getmask=False), joined)
    found = tiles.tiles("whole", tiles.PIXELS)
    assert found is not None
    assert os.stat(found.path).st_blocks * 512 < 0.7 * found.nbytes
    assert os.stat(found.path).st_size == found.nbytes


def test_zeros_take_the_place_of_what_an_earlier_image_has():
    for name, seed in (("whole", 1), ("part", 2)):
        make(name, (512, 256, 1, 4), masked=False, seed=seed)
    blank("part")
    _, coordinates = images.shape_and_coordinates("whole")
    images.assemble("again", ["part"], coordinates, earlier="whole")
    assert not chunk("again", getmask=False).any()


def test_tiles_of_sizes_that_are_used():
    """If CASA's files are others one day, cubes are assembled all the same, but slowly."""
    make("cube", (512, 512, 1, 16))
    found = tiles.tiles("cube", tiles.PIXELS)
    assert found is not None
    assert (found.shape, found.bits, found.is_big_endian) == ((512, 512, 1, 16), 32, False)
    mask = tiles.tiles("cube/mask0", tiles.MASK)
    assert mask is not None
    assert (mask.shape, mask.bits) == ((64, 512, 1, 16), 1)


@pytest.mark.parametrize("change", ["shorter", "longer", "gone"])
def test_other_files_are_left_to_casa(change):
    make("cube", (64, 64, 1, 4))
    found = tiles.tiles("cube", tiles.PIXELS)
    assert found is not None
    if change == "gone":
        os.remove(found.path)
    else:
        os.truncate(found.path, os.path.getsize(found.path) + (1 if change == "longer" else -1))
    assert tiles.tiles("cube", tiles.PIXELS) is None


def test_image_of_another_byte_order_is_left_to_casa():
    make("ours", (64, 64, 1, 4), masked=False)
    tb = table()
    tb.open("ours")
    tb.copy("theirs", deep=True, valuecopy=True, endian="big").done()
    tb.done()
    ours, theirs = (tiles.tiles(name, tiles.PIXELS) for name in ("ours", "theirs"))
    assert ours is not None
    assert theirs is not None
    assert not tiles.are_alike(ours, theirs)
    _, coordinates = images.shape_and_coordinates("ours")
    images.assemble("both", ["theirs", "ours"], coordinates)
    joined = np.concatenate([chunk(name, getmask=False) for name in ("theirs", "ours")], axis=3)
    assert np.array_equal(chunk("both", getmask=False), joined)


def test_mask_that_is_not_in_bytes_is_left_to_casa():
    for name, seed in (("one", 1), ("two", 2)):
        make(name, (50, 40, 1, 3), seed=seed)
    assert tiles.tiles("one/mask0", tiles.MASK) is None
    _, coordinates = images.shape_and_coordinates("one")
    images.assemble("both", ["one", "two"], coordinates)
    joined = np.concatenate([chunk(name, getmask=True) for name in ("one", "two")], axis=3)
    assert np.array_equal(chunk("both", getmask=True), joined)


def test_disk_that_is_full_is_an_error():
    """Not a signal, as it would be if the file were mapped into memory."""
    make("one", (64, 64, 1, 4), masked=False)
    shutil.copytree("one", "two")
    source, target = (tiles.tiles(name, tiles.PIXELS) for name in ("one", "two"))
    assert source is not None
    assert target is not None
    full = tiles.Tiles("/dev/full", target.shape, target.tile, target.bits, target.is_big_endian)
    with pytest.raises(OSError, match="No space left"):
        tiles.join([(source, 4)], full)
