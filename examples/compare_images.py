# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare the images that two runs of tclean or ptclean made, exactly.

Covered: pixels (``==``, and NaN equals NaN), pixel masks, beams, coordinates,
brightness units and the miscellaneous information of each product.

Not covered: the images' histories, which hold the names and times of the runs, and tables that
are no images.

``python compare_images.py NAME NAME`` prints a table and exits with 1 if anything differs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from casatools import image, table

MISCINFO_OF_THE_MACHINE = frozenset({"chnchnks", "memavail", "memreq", "mpiprocs"})


@dataclass(frozen=True)
class Difference:
    """How one product of two image sets differs.

    Attributes
    ----------
    product : str
        What follows the image name, such as ``.image.pbcor``.
    missing : str
        Name of the image that does not exist; empty where both do.
    shapes : tuple
        Shapes of the two images; the pixels are only compared where they are equal.
    largest : float
        Largest absolute difference of two pixels, in the image's unit. Infinite where only one
        of the two is NaN, NaN where the pixels cannot be compared.
    pixels, masks, beams, coordinates, units : bool
        Whether they are equal.
    miscinfo_keys : tuple of str
        The keys of the miscellaneous information that differ.
    """

    product: str
    missing: str = ""
    shapes: tuple[tuple[int, ...], ...] = ()
    largest: float = float("nan")
    pixels: bool = False
    masks: bool = False
    beams: bool = False
    coordinates: bool = False
    units: bool = False
    miscinfo_keys: tuple[str, ...] = field(default=())

    @property
    def miscinfo(self) -> bool:
        """Whether the miscellaneous information is equal, but for what the machine sets in it."""
        return not self.missing and not self.miscinfo_keys

    @property
    def identical(self) -> bool:
        """Whether everything is equal."""
        parts = (self.pixels, self.masks, self.beams, self.coordinates, self.units, self.miscinfo)
        return not self.missing and all(parts)


def compare_image_sets(first: str | Path, second: str | Path) -> dict[str, Difference]:
    """Compare all products of two runs.

    Parameters
    ----------
    first, second : str or Path
        What was given as ``imagename``.

    Returns
    -------
    dict of str to Difference
        By product, in alphabetical order. A product that only one run has is there too.

    Raises
    ------
    FileNotFoundError
        If there are no images of one name.
    """
    products = [list_products(first), list_products(second)]
    for name, found in zip((first, second), products, strict=True):
        if not found:
            raise FileNotFoundError(f"there are no images {name}.*")
    return {
        product: compare_images(f"{first}{product}", f"{second}{product}", product=product)
        for product in sorted(set().union(*products))
    }


def list_products(imagename: str | Path) -> list[str]:
    """List the products of a run, such as ``.psf``: all images whose name begins so."""
    path = Path(imagename)
    prefix = path.name + "."
    return sorted(
        item.name[len(path.name) :]
        for item in path.parent.iterdir()
        if item.name.startswith(prefix) and is_image(item)
    )


def is_image(path: Path) -> bool:
    """Tell whether `path` is a CASA image, by the type that its table states."""
    info = path / "table.info"
    return info.is_file() and info.read_text().startswith("Type = Image")


def compare_images(
    first: str | Path, second: str | Path, *, product: str | None = None
) -> Difference:
    """Compare two images, one channel at a time.

    Parameters
    ----------
    first, second : str or Path
        The images.
    product : str, optional
        What the result calls them; the first one's name otherwise.

    Returns
    -------
    Difference
    """
    product = product or Path(first).name
    for name in (first, second):
        if not Path(name).is_dir():
            return Difference(product, missing=str(name))
    with open_image(first) as a, open_image(second) as b:
        shapes = (tuple(map(int, a.shape())), tuple(map(int, b.shape())))
        largest, pixels, masks = float("nan"), False, False
        if shapes[0] == shapes[1]:
            largest, pixels, masks = _compare_planes(a, b)
            masks = masks and _mask_names(first) == _mask_names(second)
        return Difference(
            product,
            shapes=shapes,
            largest=largest,
            pixels=pixels,
            masks=masks,
            beams=equal(a.restoringbeam(), b.restoringbeam()),
            coordinates=equal(_coordinates(a), _coordinates(b)),
            units=a.brightnessunit() == b.brightnessunit(),
            miscinfo_keys=_different_keys(a.miscinfo(), b.miscinfo()),
        )


@contextmanager
def open_image(path: str | Path) -> Iterator[Any]:
    """Open a CASA image, and close it whatever happens."""
    ia = image()
    ia.open(str(path))
    try:
        yield ia
    finally:
        ia.done()


def equal(first: object, second: object) -> bool:
    """Compare records of CASA's tools: nested dictionaries with arrays; NaN equals NaN."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    a, b = np.asarray(first), np.asarray(second)
    numeric = all(np.issubdtype(x.dtype, np.inexact) for x in (a, b))
    return np.array_equal(a, b, equal_nan=numeric)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Largest absolute difference; where only one of two is NaN it is infinite."""
    # Where both are infinite the difference is NaN; these pixels are equal, and so left out.
    unequal = (first != second) & ~(np.isnan(first) & np.isnan(second))
    if not unequal.any():
        return 0.0
    values = np.abs(np.subtract(first[unequal], second[unequal], dtype=np.float64))
    return float(np.where(np.isnan(values), np.inf, values).max())


def format_table(differences: Mapping[str, Difference]) -> str:
    """Make a table for a person to read, one line for each product."""
    header = ("product", "largest", "pixels", "masks", "beams", "coordinates", "units", "info")
    rows: list[tuple[str, ...]] = [header]
    for product, d in differences.items():
        if d.missing:
            rows.append((product, f"no image {d.missing}", *[""] * 6))
            continue
        flags = (d.pixels, d.masks, d.beams, d.coordinates, d.units, d.miscinfo)
        rows.append((product, f"{d.largest:g}", *("equal" if ok else "DIFFER" for ok in flags)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(line.rstrip() for line in lines)


def _compare_planes(a: Any, b: Any) -> tuple[float, bool, bool]:
    """Compare pixels and masks of two open images of one shape, plane by plane."""
    shape = a.shape()
    largest, pixels, masks = 0.0, True, True
    for channel in range(shape[-1]):
        low = [0] * (len(shape) - 1) + [channel]
        high = [int(n) - 1 for n in shape[:-1]] + [channel]
        first, second = (ia.getchunk(low, high) for ia in (a, b))
        largest = max(largest, difference(first, second))
        pixels = pixels and np.array_equal(first, second, equal_nan=True)
        first, second = (ia.getchunk(low, high, getmask=True) for ia in (a, b))
        masks = masks and np.array_equal(first, second)
    return largest, pixels, masks


def _mask_names(path: str | Path) -> tuple[str, ...]:
    """Read the names of an image's masks and which of them is in use."""
    tb = table()
    tb.open(str(path))
    try:
        keywords = tb.getkeywords()
    finally:
        tb.close()
    default = str(keywords.get("Image_defaultmask", ""))
    return (default, *sorted(keywords.get("masks", {})))


def _coordinates(ia: Any) -> dict[str, Any]:
    cs = ia.coordsys()
    try:
        return dict(cs.torecord())
    finally:
        cs.done()


def _different_keys(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys of the miscellaneous information that differ, but for those that the machine sets."""
    keys = (first.keys() | second.keys()) - MISCINFO_OF_THE_MACHINE
    return tuple(
        sorted(
            key
            for key in keys
            if key not in first or key not in second or not equal(first[key], second[key])
        )
    )


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: python compare_images.py IMAGENAME IMAGENAME", file=sys.stderr)
        return 2
    differences = compare_image_sets(sys.argv[1], sys.argv[2])
    print(format_table(differences))
    return 0 if all(d.identical for d in differences.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
