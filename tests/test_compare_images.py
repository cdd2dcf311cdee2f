# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casatools import image

from compare_images import (
    compare_image_sets,
    compare_images,
    difference,
    equal,
    format_table,
    list_products,
    open_image,
)

SHAPE = (4, 4, 1, 3)
BEAM = {
    "major": {"value": 3.0, "unit": "arcsec"},
    "minor": {"value": 2.0, "unit": "arcsec"},
    "pa": {"value": 10.0, "unit": "deg"},
}


def make_image(path: Path) -> None:
    pixels = np.arange(np.prod(SHAPE), dtype=float).reshape(SHAPE)
    pixels[0, 0] = np.nan
    ia = image()
    ia.fromarray(str(path), pixels=pixels)
    ia.setbrightnessunit("Jy/beam")
    ia.setrestoringbeam(**BEAM)
    ia.setmiscinfo({"INSTRUME": "ALMA", "memavail": 3.5})
    ia.calcmask(f'"{path}" < 40', name="mask0")
    ia.done()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal images."""
    first, second = tmp_path / "a.image", tmp_path / "b.image"
    make_image(first)
    shutil.copytree(first, second)
    return first, second


def change_pixel(ia: Any) -> None:
    ia.putchunk(np.full((1, 1, 1, 1), 21.5), blc=[1, 3, 0, 0])


def swap_nan(ia: Any) -> None:
    ia.putchunk(np.full((1, 1, 1, 1), 0.0), blc=[0, 0, 0, 1])


def change_mask(ia: Any) -> None:
    ia.calcmask(f'"{ia.name()}" < 41', name="mask0")


def change_beam(ia: Any) -> None:
    ia.setrestoringbeam(major="3.0000001arcsec", minor="2arcsec", pa="10deg")


def change_coordinates(ia: Any) -> None:
    cs = ia.coordsys()
    cs.setreferencevalue(1.5e9, "spectral")
    ia.setcoordsys(cs.torecord())
    cs.done()


def change_unit(ia: Any) -> None:
    ia.setbrightnessunit("K")


def change_miscinfo(ia: Any) -> None:
    ia.setmiscinfo({"INSTRUME": "VLA", "memavail": 3.5})


def test_equal_images(pair):
    result = compare_images(*pair)
    assert result.identical
    assert result.largest == 0
    assert result.shapes == (SHAPE, SHAPE)


@pytest.mark.parametrize(
    ("change", "part", "largest"),
    [
        (change_pixel, "pixels", 0.5),
        (swap_nan, "pixels", np.inf),
        (change_mask, "masks", 0),
        (change_beam, "beams", 0),
        (change_coordinates, "coordinates", 0),
        (change_unit, "units", 0),
        (change_miscinfo, "miscinfo", 0),
    ],
)
def test_each_difference_is_found(pair, change: Callable[[Any], None], part, largest):
    with open_image(pair[1]) as ia:
        change(ia)
    result = compare_images(*pair)
    parts = ("pixels", "masks", "beams", "coordinates", "units", "miscinfo")
    assert {p for p in parts if not getattr(result, p)} == {part}
    assert result.largest == pytest.approx(largest)
    assert not result.identical


def test_one_bit_is_a_difference(pair):
    with open_image(pair[1]) as ia:
        value = ia.getchunk([1, 1, 0, 2], [1, 1, 0, 2])
        ia.putchunk(np.nextafter(value.astype(np.float32), np.float32(100)), blc=[1, 1, 0, 2])
    result = compare_images(*pair)
    assert not result.pixels
    assert 0 < result.largest < 1e-5


def test_no_mask_is_not_a_mask_that_is_true_everywhere(tmp_path):
    for name in ("a.image", "b.image"):
        ia = image()
        ia.fromarray(str(tmp_path / name), pixels=np.ones(SHAPE))
        if name == "b.image":
            ia.calcmask("T", name="mask0")
        ia.done()
    result = compare_images(tmp_path / "a.image", tmp_path / "b.image")
    assert result.pixels
    assert not result.masks


def test_what_the_machine_sets_in_miscinfo_does_not_count(pair):
    with open_image(pair[1]) as ia:
        ia.setmiscinfo({"INSTRUME": "ALMA", "memavail": 1.0, "chnchnks": 2})
    assert compare_images(*pair).identical


def test_other_shape(tmp_path):
    for name, nchan in (("a.image", 3), ("b.image", 2)):
        ia = image()
        ia.fromshape(str(tmp_path / name), [4, 4, 1, nchan])
        ia.done()
    result = compare_images(tmp_path / "a.image", tmp_path / "b.image")
    assert result.shapes == ((4, 4, 1, 3), (4, 4, 1, 2))
    assert np.isnan(result.largest)
    assert not result.identical


def test_image_sets(tmp_path):
    for product in ("psf", "image", "image.pbcor"):
        make_image(tmp_path / f"a.{product}")
        shutil.copytree(tmp_path / f"a.{product}", tmp_path / f"b.{product}")
    shutil.rmtree(tmp_path / "b.psf")
    (tmp_path / "a.workdirectory").mkdir()
    result = compare_image_sets(tmp_path / "a", tmp_path / "b")
    assert list(result) == [".image", ".image.pbcor", ".psf"]
    assert result[".image"].identical
    assert result[".image.pbcor"].identical
    assert result[".psf"].missing == str(tmp_path / "b.psf")
    assert not result[".psf"].identical
    text = format_table(result)
    assert "b.psf" in text
    assert text.count("equal") == 12
    assert list_products(tmp_path / "b") == [".image", ".image.pbcor"]


def test_name_without_images(tmp_path):
    make_image(tmp_path / "a.image")
    with pytest.raises(FileNotFoundError, match="nothing"):
        compare_image_sets(tmp_path / "a", tmp_path / "nothing")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1.0, 2.0], [1.0, 4.5], 2.5),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.nan, 1.0], [0.0, 1.0], np.inf),
        ([np.inf, 1.0], [np.inf, 1.5], 0.5),
        ([0.0], [-0.0], 0.0),
        ([], [], 0.0),
    ],
)
def test_difference(first, second, expected):
    assert difference(np.array(first), np.array(second)) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"a": {"b": np.array([1.0, np.nan])}}, {"a": {"b": np.array([1.0, np.nan])}}, True),
        ({"a": {"b": np.array([1.0])}}, {"a": {"b": np.array([2.0])}}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": "x"}, {"a": "y"}, False),
        ({"a": {}}, {"a": 1}, False),
        (np.array(["x", "y"]), np.array(["x", "y"]), True),
    ],
)
def test_equal(first, second, expected):
    assert equal(first, second) is expected
