# SPDX-License-Identifier: GPL-3.0-or-later
"""Cut CASA images into channels, and put them together again.

Covers pixels, pixel masks, coordinates, units, beams of each channel and the other keywords of
an image, none of which may differ between a cube that was made in one piece and one that was
assembled. Memory is that of a slab of channels (`SLAB_BYTES`), however long the cube.

Does not cover: which images there are, and when (:mod:`ptclean.imaging.chunk_imager`,
:mod:`ptclean.imaging.assembly`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from casatools import image, regionmanager

from ..records import Record
from . import beams, tiles
from .casa_io import open_image, open_table

#: Most bytes of pixels held while an image is copied.
SLAB_BYTES = 2**26

#: Extension of the image of the weights' density, where one holds for all channels. It has the
#: coordinates of the first channel, and pixels of the (u, v) plane.
WEIGHT_DENSITY = "gridwt"

#: Table of an image's history.
_HISTORY = "logtable"

#: First part of the extensions of tclean's images.
_PRODUCTS = frozenset(
    "alpha beta gridwt image mask model pb prev psf residual sumwt weight".split()
)


def cut(source: str, target: str, channels: slice, *, pol: int | None = None) -> None:
    """Copy a range of channels of an image into a new image.

    Parameters
    ----------
    source, target : str
        Images; `target` must not exist.
    channels : slice
        Channels to copy.
    pol : int, optional
        Stokes plane to copy; all, if not given.
    """
    with open_image(source) as im:
        nx, ny, npol, _ = (int(n) for n in im.shape())
        masked = bool(im.maskhandler("default")[0])
        first, last = (0, npol - 1) if pol is None else (pol, pol)
        box = regionmanager().box(
            [0, 0, first, channels.start], [nx - 1, ny - 1, last, channels.stop - 1]
        )
        im.subimage(outfile=target, region=box, dropdeg=False).done()
    if masked:
        with open_image(target) as im:
            # A mask that is true everywhere is dropped by subimage, but automasking and the
            # deconvolvers look for it.
            if not im.maskhandler("default")[0]:
                im.calcmask("T", name="mask0")


def cut_clean_mask(source: str, target: str, template: str, channels: slice) -> None:
    """Copy a range of channels of a clean mask into a new image of zeros and ones.

    Parameters
    ----------
    source : str
        Mask on the grid of a cube: 1 where it is positive and not masked itself, as
        ``SDMaskHandler`` takes it. If it has one channel, that is the mask of all.
    target : str
        Image to make, with the grid of `template`; must not exist.
    template : str
        Image of these channels.
    channels : slice
        Channels to copy.
    """
    shape, coordinates = shape_and_coordinates(template)
    make_empty(target, shape, coordinates)
    with open_image(source) as im, open_image(target) as out:
        is_single = int(im.shape()[3]) == 1
        for start, stop in _slabs(shape, channels):
            first, last = (0, 1) if is_single else (start, stop)
            inside = (_chunk(im, first, last) > 0) & _chunk(im, first, last, getmask=True)
            pixels = np.repeat(inside.astype(float), (stop - start) // (last - first), axis=3)
            out.putchunk(pixels, blc=[0, 0, 0, start - channels.start])


def copy_channels(source: str, channels: slice, target: str, first: int = 0) -> None:
    """Copy pixels of a range of channels of one image to the channels from `first` on of another.

    Pixel masks stay as they are. `source` is read without a lock: another process may hold one
    for as long as its tools live, idle.
    """
    with open_table(source, lock="usernoread") as tb, open_image(target) as out:
        shape = [int(n) for n in out.shape()]
        for start, stop in _slabs(shape, channels):
            pixels = tb.getcellslice(
                "map", 0, [0, 0, 0, start], [n - 1 for n in shape[:3]] + [stop - 1]
            )
            out.putchunk(pixels, blc=[0, 0, 0, first + start - channels.start])


def make_empty(
    target: str, shape: Sequence[int], coordinates: Record, *, exact: bool = True
) -> None:
    """Make an image of zeros, which takes no room on disk.

    Parameters
    ----------
    target : str
        Image to make; must not exist.
    shape : sequence of int
    coordinates : dict
        Coordinate record.
    exact : bool
        Whether to write the record as it is (`assemble`).
    """
    _new(target, shape, {} if exact else coordinates)
    if exact:
        with open_table(target, write=True) as tb:
            tb.putkeyword("coords", coordinates)
    # CASA has written them all.
    array = tiles.tiles(target, tiles.PIXELS)
    if array:
        tiles.empty_out(array)


def _new(target: str, shape: Sequence[int], coordinates: Record) -> None:
    im = image()
    im.fromshape(target, list(shape), csys=coordinates)
    im.close()


def _copy_empty(source: str, target: str) -> None:
    """Copy an image that `make_empty` has made; the copy takes no room either."""
    array = tiles.tiles(source, tiles.PIXELS)

    def copy(path: str, new: str) -> None:
        if array and path == array.path:
            tiles.write_zeros(array, new)
        else:
            shutil.copy2(path, new)

    shutil.copytree(source, target, copy_function=copy)


def empty_model(template: str, target: str) -> None:
    """Make a model image of zeros with the coordinates of `template`."""
    with open_image(template) as im:
        model = im.newimagefromimage(infile=template, outfile=target)
        model.set(0.0)
        model.setbrightnessunit("Jy/pixel")
        model.done()


def plane(tb: Any, channel: int, stokes: int) -> Any:
    """Read a plane of an image that is open as a table, in double precision, with axes x and y."""
    nx, ny, *_ = _shape_of_pixels(tb)
    pixels = tb.getcellslice("map", 0, [0, 0, stokes, channel], [nx - 1, ny - 1, stokes, channel])
    return pixels[:, :, 0, 0]


def channels_with_values(path: str, channels: slice) -> list[bool]:
    """Tell of each of a range of channels whether any pixel is not zero; reads without a lock."""
    with open_table(path, lock="usernoread") as tb:
        last = [n - 1 for n in _shape_of_pixels(tb)[:3]]
        return [
            bool(tb.getcellslice("map", 0, [0, 0, 0, channel], [*last, channel]).any())
            for channel in range(channels.start, channels.stop)
        ]


def _shape_of_pixels(tb: Any) -> list[int]:
    # Such as '[512, 512, 1, 16]'.
    return [int(n) for n in tb.getcolshapestring("map")[0].strip("[]").split(",")]


def channel_peaks(path: str) -> list[float]:
    """Largest absolute value of each channel of an image."""
    with open_image(path) as im:
        nchan = int(im.shape()[3])
        return [float(abs(_chunk(im, i, i + 1)).max()) for i in range(nchan)]


def new_model(target: str, shape: Sequence[int], coordinates: Record) -> None:
    """Make a model image of zeros."""
    make_empty(target, shape, coordinates)
    with open_image(target) as im:
        im.setbrightnessunit("Jy/pixel")


def assemble(
    target: str,
    parts: Sequence[str],
    coordinates: Record,
    *,
    exact: bool = False,
    single_beam: bool = False,
    known: Record | None = None,
    earlier: str | None = None,
    empty: str = "",
) -> None:
    """Join images along the spectral axis.

    Parameters
    ----------
    target : str
        Image to make; must not exist.
    parts : sequence of str
        Images in the order of their channels. They share everything but channels, beams and
        masks; the first one's keywords become the new image's.
    coordinates : dict
        Coordinate record of the whole cube.
    exact : bool
        Whether to write the record as it is. Written by the image tool, an angle may change in
        its last bit; so it does in images that CASA makes from other images, and not in those
        that its imager makes.
    single_beam : bool
        Whether the images are restored with one beam.
    known : dict, optional
        Units, and entries of ``miscinfo``, that the image has where its parts have none.
    earlier : str, optional
        Image to begin with: it is copied, and everything that CASA leaves as it is when it writes
        into an existing image is kept: coordinates, miscinfo, history.
    empty : str, optional
        Image that `make_empty` has made with these coordinates, with the shape of most images of
        the cube. To copy it takes less time than CASA takes to write zeros.
    """
    opened = [_Arrays(part) for part in parts]
    shapes = [each.shape for each in opened]
    shape = [*shapes[0][:3], sum(s[3] for s in shapes)]
    keywords = [each.keywords for each in opened]
    if earlier is not None:
        shutil.copytree(earlier, target)
    elif empty and _shape(empty) == shape:
        _copy_empty(empty, target)
    else:
        _new(target, shape, coordinates)
    lines = _lines_of_history(target) if earlier else 0
    with open_image(target) as out:
        _prepare_mask(out, masked=any("Image_defaultmask" in words for words in keywords))
    _put(opened, _Arrays(target), is_zero=earlier is None)
    # The image tool tells there of files of the work directory.
    _cut_history(target, lines)
    kept = image_info(earlier) if earlier else keywords[0]["imageinfo"]
    imageinfo = {k: v for k, v in kept.items() if k not in beams.KEYS}
    imageinfo |= beams.join(
        [w["imageinfo"] for w in keywords], [s[3] for s in shapes], single=single_beam
    )
    known = known or {}
    units = keywords[0].get("units") or known.get("units")
    miscinfo = known.get("miscinfo", {}) | keywords[0].get("miscinfo", {})
    with open_table(target, write=True) as tb:
        tb.putkeyword("imageinfo", imageinfo)
        if exact and earlier is None:
            tb.putkeyword("coords", coordinates)
        # subimage adds empty units where there were none.
        for name, value in (("units", units), ("miscinfo", miscinfo)):
            if value and (name == "units" or earlier is None):
                tb.putkeyword(name, value)


def _prepare_mask(im: Any, *, masked: bool) -> None:
    """Give an image a pixel mask that is true everywhere, or none."""
    if masked:
        im.calcmask("T", name="mask0", asdefault=True)
    elif im.maskhandler("default")[0]:
        im.maskhandler("set", [""])


class _Arrays:
    """What an image has, and the files of its pixels and of its default mask, where known."""

    def __init__(self, path: str) -> None:
        self.path = path
        with open_table(path) as tb:
            self.shape = _shape_of_pixels(tb)
            self.keywords = _keywords_of(tb)
            self.pixels = tiles.tiles_of(tb, path, tiles.PIXELS)
        self.nchan = self.shape[3]
        mask = self.keywords.get("Image_defaultmask", "")
        self.is_masked = bool(mask)
        self.mask = tiles.tiles(os.path.join(path, mask), tiles.MASK) if mask else None


def _put(parts: Sequence[_Arrays], whole: _Arrays, *, is_zero: bool) -> None:
    """Give an image the pixels of others, and their masks, which are true where there is none.

    `is_zero` tells of the image's pixels whether they are all zero.
    """
    if whole.pixels and all(_are_alike(part.pixels, whole.pixels) for part in parts):
        tiles.join([(part.pixels, part.nchan) for part in parts], whole.pixels, is_zero=is_zero)
    else:
        _put_with_casa(parts, whole, _put_pixels)
    if not whole.is_masked:
        return
    if whole.mask and all(_are_alike(part.mask, whole.mask) for part in parts if part.is_masked):
        tiles.join([(part.mask, part.nchan) for part in parts], whole.mask)
    else:
        _put_with_casa(parts, whole, _put_mask)


def _are_alike(source: tiles.Tiles | None, target: tiles.Tiles) -> bool:
    return source is not None and tiles.are_alike(source, target)


def _put_with_casa(
    parts: Sequence[_Arrays], whole: _Arrays, put: Callable[[Any, Any, int, int, int], None]
) -> None:
    first = 0
    with open_image(whole.path) as out:
        for part in parts:
            with open_image(part.path) as im:
                for start, stop in _slabs(part.shape, slice(0, part.nchan)):
                    put(im, out, start, stop, first + start)
            first += part.nchan


def _put_pixels(im: Any, out: Any, start: int, stop: int, first: int) -> None:
    out.putchunk(_chunk(im, start, stop), blc=[0, 0, 0, first])


def _put_mask(im: Any, out: Any, start: int, stop: int, first: int) -> None:
    mask = _chunk(im, start, stop, getmask=True)
    if not mask.all():
        region = regionmanager().box(
            [0, 0, 0, first], [n - 1 for n in out.shape()[:3]] + [first + stop - start - 1]
        )
        out.putregion(pixelmask=mask, usemask=False, region=region)


def image_info(path: str) -> Record:
    """Read an image's ``imageinfo`` record: object, type and beams."""
    info: Record = _keywords(path)["imageinfo"]
    return info


def misc_info(path: str) -> Record:
    """Read an image's ``miscinfo`` record."""
    info: Record = _keywords(path).get("miscinfo", {})
    return info


def set_image_info(path: str, info: Record) -> None:
    """Write an image's ``imageinfo`` record."""
    with open_table(path, write=True) as tb:
        tb.putkeyword("imageinfo", info)


def shape_and_coordinates(path: str) -> tuple[tuple[int, ...], Record]:
    """Read an image's shape and coordinate record."""
    with open_table(path) as tb:
        return tuple(_shape_of_pixels(tb)), _keywords_of(tb)["coords"]


def common_beam(parts: Sequence[str], scratch: str) -> beams.CommonBeam:
    """Find the smallest beam to which all beams of consecutive images can be convolved.

    Parameters
    ----------
    parts : sequence of str
        Images with beams.
    scratch : str
        Name for an image of a few pixels, which is left behind.

    Returns
    -------
    CommonBeam
        Its plane is one of the joined image.
    """
    shapes = [_shape(part) for part in parts]
    nchan = sum(shape[3] for shape in shapes)
    infos = [image_info(part) for part in parts]
    info = {**infos[0], **beams.join(infos, [shape[3] for shape in shapes])}
    _new(scratch, [1, 1, shapes[0][2], nchan], {})
    set_image_info(scratch, info)
    with open_image(scratch) as im:
        found = im.commonbeam()
    beam = {
        "major": found["major"],
        "minor": found["minor"],
        "positionangle": {"value": found["pa"]["value"], "unit": "deg"},
    }
    return beams.CommonBeam.found(beam, beams.plane_beams(info, nchan))


def set_history(path: str, origin: str, lines: Sequence[str]) -> None:
    """Append lines to an image's history."""
    with open_image(path) as im:
        im.sethistory(origin=origin, history=list(lines))


def _lines_of_history(path: str) -> int:
    with open_table(os.path.join(path, _HISTORY)) as tb:
        return int(tb.nrows())


def _cut_history(path: str, kept: int) -> None:
    """Remove all lines of an image's history after so many."""
    with open_table(os.path.join(path, _HISTORY), write=True) as tb:
        tb.removerows(list(range(kept, int(tb.nrows()))))


def image_products(prefix: str) -> Iterator[str]:
    """Yield the extensions of the images of one image set on disk, such as ``image.pbcor``.

    Other image sets, whose names begin with `prefix` and a dot as well, are not among them.
    """
    folder, name = os.path.split(prefix)
    for entry in sorted(os.listdir(folder or ".")):
        extension = entry.removeprefix(f"{name}.")
        if extension == entry or extension.split(".")[0] not in _PRODUCTS:
            continue
        if os.path.isfile(os.path.join(folder, entry, "table.dat")):
            yield extension


def _slabs(shape: Iterable[int], channels: slice) -> Iterator[tuple[int, int]]:
    nx, ny, npol = (int(n) for n in list(shape)[:3])
    step = max(1, SLAB_BYTES // (4 * nx * ny * npol))
    for start in range(channels.start, channels.stop, step):
        yield start, min(start + step, channels.stop)


def _chunk(im: Any, start: int, stop: int, *, getmask: bool = False) -> Any:
    shape = [int(n) for n in im.shape()]
    return im.getchunk([0, 0, 0, start], [n - 1 for n in shape[:3]] + [stop - 1], getmask=getmask)


def _shape(path: str) -> list[int]:
    with open_table(path) as tb:
        return _shape_of_pixels(tb)


def _keywords(path: str) -> Record:
    with open_table(path) as tb:
        return _keywords_of(tb)


def _keywords_of(tb: Any) -> Record:
    return {k: v for k, v in tb.getkeywords().items() if k != _HISTORY}
