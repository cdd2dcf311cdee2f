# SPDX-License-Identifier: GPL-3.0-or-later
"""Assertions that ptclean did what tclean does, for the tests that image with both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from casatasks import tclean
from casatools import table

from compare_images import compare_image_sets, format_table
from ptclean import plan, ptclean

#: A cube of seven channels and four sources, made of `line_ms` in two seconds.
COMMON: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 80,
    "cell": "0.1arcsec",
    "start": 3,
    "nchan": 7,
    "weighting": "briggs",
    "pbcor": True,
    "niter": 100_000,
    "threshold": "20mJy",
}

#: A continuum image of `wide_ms`.
MFS: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "mfs",
    "imsize": 80,
    "cell": "0.1arcsec",
    "weighting": "briggs",
    "pbcor": True,
    "niter": 100,
    "threshold": "2mJy",
}


def assert_same_as_tclean(
    vis: Any, folder: Path, *, nworkers: int = 2, chanchunks: int = 3, **arguments: Any
) -> dict[str, Any]:
    """Image with tclean and with ptclean, in chunks and not serially, and compare everything.

    Parameters
    ----------
    vis : str or list of str
    folder : Path
        Where ``tclean.*`` and ``ptclean.*`` are made.
    nworkers, chanchunks : int
    **arguments
        For both tasks.

    Returns
    -------
    dict
        What both returned.
    """
    own = {"nworkers": nworkers, "chanchunks": chanchunks}
    made = plan(vis=vis, imagename=str(folder / "ptclean"), **own, **arguments)
    assert made.serial is None, f"not in chunks: {made.serial}"
    expected = tclean(vis=vis, imagename=str(folder / "tclean"), **arguments)
    assert pieces(folder / "tclean") == 1, "CASA has cut the reference: it is not to be trusted"
    found = ptclean(vis=vis, imagename=str(folder / "ptclean"), **own, **arguments)
    assert_same_images(folder / "tclean", folder / "ptclean")
    assert_same_return(expected, found)
    return expected


def assert_same_images(expected: str | Path, found: str | Path) -> None:
    """Assert that both image sets have the same products, equal in everything."""
    differences = compare_image_sets(expected, found)
    assert differences, f"there are no images {expected}.*"
    assert all(d.identical for d in differences.values()), format_table(differences)


def assert_same_return(expected: Any, found: Any, where: str = "returned") -> None:
    """Assert that two dictionaries, nested and with arrays, are equal."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), f"{where}: {expected} and {found}"
        assert set(expected) == set(found), where
        for key in expected:
            assert_same_return(expected[key], found[key], f"{where}[{key!r}]")
    else:
        assert np.array_equal(expected, found), f"{where}: {expected} and {found}"


def pieces(imagename: str | Path) -> int:
    """Pieces into which CASA has cut a cube (its summed weights are made by every run)."""
    tb = table()
    tb.open(f"{imagename}.sumwt")
    try:
        return int(tb.getkeyword("miscinfo")["chnchnks"])
    finally:
        tb.close()


def pixels(path: str | Path) -> Any:
    """Read an image's pixels, without its mask."""
    tb = table()
    tb.open(str(path))
    try:
        return tb.getcell("map", 0)
    finally:
        tb.close()
