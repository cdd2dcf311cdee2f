# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes no sense whatever the data are, and is refused before anything starts.

tclean refuses some of it late, when images have been made already, or in words that do not name the
parameter; with some of it CASA's process ends. What tclean refuses well is left to the code that
says so, CASA's own: see :func:`ptclean.call.parameters.check_deconvolution` and its like.

Plain functions that look at files, and need neither CASA's tools nor a cluster.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from ..errors import ParameterError
from .cleanmask import is_missing, used_masks
from .continuum_scope import CONTINUUM
from .memory import padded

#: Pixels that CASA's gridding convolution takes; the padded image must have more
#: (``FTMachine::initMaps``).
_GRIDDING_SUPPORT = 6

#: Deconvolvers that make use of `scales`.
_WITH_SCALES = ("multiscale", "mtmfs")


def check_parameters(tclean: dict[str, Any]) -> None:
    """Check what tclean itself would stumble over late, or in words that do not name the cause.

    Parameters
    ----------
    tclean : dict
        tclean's parameters, validated.

    Raises
    ------
    ParameterError
    """
    is_cube = tclean["specmode"].startswith("cube")
    if is_cube and (tclean["nchan"] == 0 or tclean["nchan"] < -1):
        raise ParameterError(
            "nchan",
            tclean["nchan"],
            "is the number of channels of the cube; use nchan=-1 for all that the data have",
        )
    _check_imagename(tclean["imagename"])
    if tclean["deconvolver"] == "mtmfs" and tclean["nterms"] < 1:
        raise ParameterError(
            "nterms",
            tclean["nterms"],
            "is the number of Taylor terms; use nterms=2 for the spectral index, or 1 for none",
        )
    if tclean["deconvolver"] in _WITH_SCALES and any(not each >= 0 for each in tclean["scales"]):
        raise ParameterError(
            "scales",
            tclean["scales"],
            "are sizes in pixels; use 0 for points and positive numbers, such as scales=[0, 5, 15]",
        )
    if tclean["specmode"] in CONTINUUM and tclean["calcpsf"] and tclean["psfcutoff"] >= 1:
        # No pixel is left to fit the beam to, and CASA ends the process.
        raise ParameterError(
            "psfcutoff",
            tclean["psfcutoff"],
            "is a part of the peak of the PSF, below 1; use psfcutoff=0.35",
        )
    for mask in used_masks(tclean):
        if is_missing(mask):
            raise ParameterError(
                "mask",
                mask,
                "is neither an image or region file that exists nor a region such as "
                "'circle[[64pix,64pix],10pix]'",
            )


def _check_imagename(imagename: Any) -> None:
    if not imagename:
        raise ParameterError("imagename", imagename, "names the images; it is needed")
    if not isinstance(imagename, str):
        raise ParameterError("imagename", imagename, "is one name, a string; give one name a call")
    if "\0" in imagename:
        raise ParameterError("imagename", imagename, "is a name of files, without null characters")


def check_folder(imagename: str) -> None:
    """Check that images can be put where they are to be, as tclean checks it.

    tclean makes the last folder of the name, but not those above it
    (``ImagerParameters.handleImageNames``).

    Parameters
    ----------
    imagename : str
        As the user gave it.

    Raises
    ------
    FileNotFoundError, FileExistsError, NotADirectoryError
        In tclean's words.
    """
    folder = imagename[: imagename.rfind("/") + 1]
    if not folder or os.path.exists(folder):
        return
    above = os.path.dirname(folder.rstrip("/")) or "."
    if os.path.lexists(folder.rstrip("/")):
        error = errno.EEXIST
    elif not os.path.exists(above):
        error = errno.ENOENT
    elif not os.path.isdir(above):
        error = errno.ENOTDIR
    else:
        return
    refusal = OSError(error, os.strerror(error), folder)
    refusal.add_note(
        f"imagename={imagename!r} names images in a folder that cannot be made: make {folder!r} "
        "first, or use another imagename"
    )
    raise refusal


def check_size(imsize: Any, nx: int, ny: int) -> None:
    """Check that images are large enough to be gridded.

    Parameters
    ----------
    imsize : int or list of int
        tclean's parameter.
    nx, ny : int
        What it says.

    Raises
    ------
    ParameterError
    """
    if padded(min(nx, ny)) <= _GRIDDING_SUPPORT:
        raise ParameterError(
            "imsize",
            imsize,
            f"is smaller than CASA can grid, which convolves with {_GRIDDING_SUPPORT} pixels; use "
            f"at least imsize={_GRIDDING_SUPPORT}",
        )


def check_products(tclean: dict[str, Any]) -> None:
    """Check that what has the name of an image that tclean opens or makes is an image.

    tclean comes to it after it has made others. What it does not open may be anything.

    Parameters
    ----------
    tclean : dict
        tclean's parameters, with an absolute `imagename`.

    Raises
    ------
    ParameterError
    """
    if not tclean["restart"]:
        # Images of another name are made, if this one is taken.
        return
    cleans = tclean["niter"] > 0
    opened = {
        "psf": tclean["calcpsf"],
        "pb": tclean["calcpsf"],
        "sumwt": tclean["calcpsf"] or tclean["calcres"],
        "residual": tclean["calcres"] or cleans,
        "model": cleans,
        "mask": cleans,
        "image": tclean["restoration"],
    }
    for product, is_opened in opened.items():
        term = ".tt0" if tclean["deconvolver"] == "mtmfs" and product != "mask" else ""
        path = f"{tclean['imagename']}.{product}{term}"
        if is_opened and os.path.lexists(path) and not is_image(path):
            raise ParameterError(
                "imagename",
                tclean["imagename"],
                f"names the images, and {path} exists, but is none; move it away, or use another "
                "imagename",
            )


def is_image(path: str) -> bool:
    """Tell whether a path is a table, as CASA's images are."""
    return os.path.isfile(os.path.join(path, "table.dat"))
