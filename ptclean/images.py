# SPDX-License-Identifier: GPL-3.0-or-later
"""Cut CASA images into channels, and put them together again.

Covers pixels, pixel masks, coordinates, units, beams of each channel and the other keywords of
an image, none of which may differ between a cube that was made in one piece and one that was
assembled. Memory is that of a slab of channels (`SLAB_BYTES`), however long the cube.

Does not cover: which images there are, and when (:mod:`ptclean.chunk_imager`,
:mod:`ptclean.products`).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from casatools import image, regionmanager

from .casa_io import open_image, open_table
from .records import Record

#: Most bytes of pixels held while an image is copied.
SLAB_BYTES = 2**28

_BEAMS = ("perplanebeams", "restoringbeam")


def cut(source: str, target: str, channels: slice) -> None:
    """Copy a range of channels of an image into a new image.

    Parameters
    ----------
    source, target : str
        Images; `target` must not exist.
    channels : slice
        Channels to copy.
    """
    with open_image(source) as im:
        shape = im.shape()
        masked = bool(im.maskhandler("default")[0])
        box = regionmanager().box(
            [0, 0, 0, channels.start], [n - 1 for n in shape[:3]] + [channels.stop - 1]
        )
        im.subimage(outfile=target, region=box, dropdeg=False).done()
    if masked:
        with open_image(target) as im:
            # A mask that is true everywhere is dropped by subimage, but automasking and the
            # deconvolvers look for it.
            if not im.maskhandler("default")[0]:
                im.calcmask("T", name="mask0")


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


def empty_model(template: str, target: str) -> None:
    """Make a model image of zeros with the coordinates of `template`."""
    with open_image(template) as im:
        model = im.newimagefromimage(infile=template, outfile=target)
        model.set(0.0)
        model.setbrightnessunit("Jy/pixel")
        model.done()


def assemble(
    target: str,
    parts: Sequence[str],
    coordinates: Record,
    *,
    blank: Collection[int] = (),
    chnchnks: int | None = 1,
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
    blank : collection of int
        Planes without data, see `fill_beams`.
    chnchnks : int or None
        Pieces into which CASA cut the parts, as their ``miscinfo`` says; anything else means that
        CASA cut one after all, and the image is not to be trusted.

    Raises
    ------
    RuntimeError
        If a part was cut by CASA.
    """
    shapes = [_shape(part) for part in parts]
    shape = [*shapes[0][:3], sum(int(s[3]) for s in shapes)]
    keywords = [_keywords(part) for part in parts]
    for part, words in zip(parts, keywords, strict=True):
        found = words.get("miscinfo", {}).get("chnchnks", chnchnks)
        if chnchnks is not None and found != chnchnks:
            raise RuntimeError(f"CASA cut {part} into {found} pieces for lack of memory")
    im = image()
    im.fromshape(target, shape, csys=coordinates)
    if any("Image_defaultmask" in words for words in keywords):
        im.calcmask("T", name="mask0")
    im.close()
    with open_image(target) as out:
        first = 0
        for part, part_shape, words in zip(parts, shapes, keywords, strict=True):
            with open_image(part) as im:
                masked = "Image_defaultmask" in words
                for start, stop in _slabs(part_shape, slice(0, int(part_shape[3]))):
                    _put(out, im, start, stop, first, masked=masked)
            first += int(part_shape[3])
    imageinfo = {k: v for k, v in keywords[0]["imageinfo"].items() if k not in _BEAMS}
    beams = join_beams([w["imageinfo"] for w in keywords], [int(s[3]) for s in shapes])
    imageinfo |= fill_beams(beams, blank)
    with open_table(target, write=True) as tb:
        tb.putkeyword("imageinfo", imageinfo)
        for name in ("units", "miscinfo"):
            # subimage adds empty units where there were none.
            if keywords[0].get(name):
                tb.putkeyword(name, keywords[0][name])


def _put(out: Any, im: Any, start: int, stop: int, first: int, *, masked: bool) -> None:
    blc = [0, 0, 0, first + start]
    out.putchunk(_chunk(im, start, stop), blc=blc)
    if masked:
        mask = _chunk(im, start, stop, getmask=True)
        if not mask.all():
            region = regionmanager().box(blc, [n - 1 for n in out.shape()[:3]] + [first + stop - 1])
            out.putregion(pixelmask=mask, usemask=False, region=region)


def join_beams(infos: Sequence[Record], channels: Sequence[int]) -> Record:
    """Join the beams of images that follow each other in frequency.

    Parameters
    ----------
    infos : sequence of dict
        Their ``imageinfo`` records: a beam for each channel and Stokes plane, one beam, or none.
    channels : sequence of int
        Their numbers of channels.

    Returns
    -------
    dict
        The beam entry of the joined image's ``imageinfo``; empty if there are no beams.

    Notes
    -----
    casacore (``ImageBeamSet::toRecord``) writes the beam of channel c and Stokes plane s under
    ``*<c + nChannels s>``, and a single beam for the whole image as ``restoringbeam``.
    """
    if not any(key in info for info in infos for key in _BEAMS):
        return {}
    if len(infos) == 1:
        return {key: infos[0][key] for key in _BEAMS if key in infos[0]}
    nchan = sum(channels)
    npol = max(int(info.get("perplanebeams", {}).get("nStokes", 1)) for info in infos)
    beams: Record = {"nChannels": nchan, "nStokes": npol}
    for pol in range(npol):
        channel = 0
        for info, n in zip(infos, channels, strict=True):
            planes = info.get("perplanebeams")
            for c in range(n):
                beams[f"*{channel + pol * nchan}"] = (
                    planes[f"*{c + pol * n}"] if planes else info["restoringbeam"]
                )
                channel += 1
    return {"perplanebeams": beams}


def fill_beams(beams: Record, blank: Collection[int]) -> Record:
    """Give planes without data the beam that they get in a cube made in one piece.

    Parameters
    ----------
    beams : dict
        Outcome of `join_beams`.
    blank : collection of int
        Planes without data, counted as channel + number of channels x Stokes plane.

    Returns
    -------
    dict
        The same with these beams replaced by that of the largest area, of those with data
        (``SIImageStore::makeImageBeamSet``); in a chunk CASA could choose from the chunk's alone.
    """
    planes = beams.get("perplanebeams")
    if not planes or not blank:
        return beams
    fitted = [key for key in planes if key.startswith("*") and int(key[1:]) not in blank]
    if not fitted:
        return beams
    largest = max(
        sorted(fitted, key=lambda key: int(key[1:])),
        key=lambda key: planes[key]["major"]["value"] * planes[key]["minor"]["value"],
    )
    filled = {f"*{plane}": planes[largest] for plane in blank}
    return {"perplanebeams": {**planes, **filled}}


def blank_planes(sumwt: Sequence[str]) -> set[int]:
    """Find planes without data from the sums of weights.

    Parameters
    ----------
    sumwt : sequence of str
        The ``.sumwt`` images of consecutive chunks.

    Returns
    -------
    set of int
        Planes, counted as channel + number of channels x Stokes plane.
    """
    weights = np.concatenate([_all_pixels(path)[0, 0] for path in sumwt], axis=1)
    pols, channels = np.nonzero(weights == 0)
    return {int(c + weights.shape[1] * p) for p, c in zip(pols, channels, strict=True)}


def set_history(path: str, origin: str, lines: Sequence[str]) -> None:
    """Append lines to an image's history."""
    with open_image(path) as im:
        im.sethistory(origin=origin, history=list(lines))


def image_products(prefix: str) -> Iterator[str]:
    """Yield the extensions of the images on disk whose names are `prefix` and an extension."""
    folder, name = os.path.split(prefix)
    for entry in sorted(os.listdir(folder or ".")):
        if entry.startswith(f"{name}.") and os.path.isfile(
            os.path.join(folder, entry, "table.dat")
        ):
            yield entry[len(name) + 1 :]


def _slabs(shape: Iterable[int], channels: slice) -> Iterator[tuple[int, int]]:
    nx, ny, npol = (int(n) for n in list(shape)[:3])
    step = max(1, SLAB_BYTES // (4 * nx * ny * npol))
    for start in range(channels.start, channels.stop, step):
        yield start, min(start + step, channels.stop)


def _chunk(im: Any, start: int, stop: int, *, getmask: bool = False) -> Any:
    shape = [int(n) for n in im.shape()]
    return im.getchunk([0, 0, 0, start], [n - 1 for n in shape[:3]] + [stop - 1], getmask=getmask)


def _all_pixels(path: str) -> Any:
    with open_image(path) as im:
        return im.getchunk()


def _shape(path: str) -> list[int]:
    with open_image(path) as im:
        return [int(n) for n in im.shape()]


def _keywords(path: str) -> Record:
    with open_table(path) as tb:
        return {k: v for k, v in tb.getkeywords().items() if k != "logtable"}
