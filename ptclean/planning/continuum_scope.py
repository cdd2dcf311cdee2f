# SPDX-License-Identifier: GPL-3.0-or-later
"""Which continuum images the parallel engine can make, and which are left to tclean as it is.

As :mod:`ptclean.planning.scope` for cubes: the engine takes what has been shown to give tclean's
image within rounding (``tests/test_continuum.py``), and nothing else. Masks and beams need no rules
here, since tclean's own tools see to them, on the image as a whole.

Plain functions on plain data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .continuing import NOTHING
from .scope import (
    is_direction,
    is_moving,
    reason_in_new_parameter,
    reason_in_savemodel,
    reason_in_unknown_value,
)

#: tclean's names for an image of all channels at once; `cont` is an old one.
CONTINUUM = ("mfs", "cont")

#: Values with which the engine is known to give tclean's image.
_KNOWN: dict[str, Collection[Any]] = {
    "specmode": CONTINUUM,
    "gridder": ("standard", "mosaic", "wproject"),
    "deconvolver": ("hogbom", "clark", "multiscale", "mtmfs"),
    "usemask": ("user", "pb", "auto-multithresh"),
    "weighting": ("natural", "uniform", "superuniform", "radial", "briggs", "briggsabs"),
    "stokes": ("I", "Q", "U", "V", "IV", "IQUV", "XX", "YY", "RR", "LL", "pseudoI"),
    "savemodel": ("none", "modelcolumn", "virtual"),
    "interactive": (False,),
    "restart": (True,),
    "calcres": (True,),
    "calcpsf": (True,),
    "usepointing": (False,),
    "normtype": ("flatnoise", "flatsky"),
    "conjbeams": (False,),
    "facets": (1,),
}

#: Parameters that must not be set.
_UNSET = ("outlierfile", "psfphasecenter", "vptable")

#: Parameters with conditions of their own, in `_reason_in_values`.
_RULED = ("nmajor", "niter", "phasecenter", "wprojplanes")

#: Parameters of which any value is handed on to CASA as tclean hands it on, or of no effect there.
_HANDED_ON = frozenset(
    """
    vis selectdata field spw timerange uvrange antenna scan observation intent datacolumn
    imagename imsize cell projection nchan start width outframe veltype restfreq interpolation
    perchanweightdensity mosweight aterm psterm wbawp cfcache computepastep rotatepastep
    pointingoffsetsigdev pblimit scales nterms smallscalebias fusedthreshold largestscale reffreq
    restoration pbcor robust noise npixels uvtaper gain threshold nsigma cycleniter cyclefactor
    minpsffraction maxpsffraction fullsummary mask startmodel pbmask restoringbeam sidelobethreshold
    noisethreshold lownoisethreshold negativethreshold smoothfactor minbeamfrac cutthreshold
    growiterations dogrowprune minpercentchange verbose fastnoise psfcutoff parallel
    """.split()
)

#: Products that tclean takes up where they exist, though the call at hand would not make them.
_TAKEN_UP = ("weight", "gridwt")


def reason_for_serial(
    parameters: dict[str, Any],
    defaults: Mapping[str, Any],
    existing: Collection[str] = (),
) -> str | None:
    """Say why a continuum image is tclean's, if it is.

    Parameters
    ----------
    parameters : dict
        tclean's parameters, validated.
    defaults : mapping
        tclean's defaults: a parameter that this module has never heard of must have its own.
    existing : collection of str
        Extensions of the images that exist under ``imagename``.

    Returns
    -------
    str or None
        A phrase that names the parameter and its value, or None where the engine can take it.
    """
    if reason := reason_in_unknown_value(parameters, _KNOWN, _UNSET):
        return reason
    if reason := reason_in_savemodel(parameters) or _reason_in_values(parameters):
        return reason
    heard_of = _HANDED_ON.union(_KNOWN, _UNSET, _RULED)
    if reason := reason_in_new_parameter(parameters, defaults, heard_of):
        return reason
    for product in sorted(existing):
        if product.split(".")[0] in _TAKEN_UP and parameters["gridder"] != "mosaic":
            return f"{parameters['imagename']}.{product} exists and tclean takes it up"
    # tclean refuses, or chooses between them.
    if any(is_continued(product) for product in existing):
        for name in ("mask", "startmodel"):
            if parameters[name] not in NOTHING:
                return f"{name}={parameters[name]!r}, while there are images to go on from"
    return None


def is_continued(product: str) -> bool:
    """Tell whether tclean, with restart=True, goes on from a product instead of making it anew."""
    return product == "mask" or product.split(".")[0] == "model"


def _reason_in_values(parameters: dict[str, Any]) -> str | None:
    # tclean itself refuses or warns; let it.
    for name, least in (("nmajor", -1), ("niter", 0)):
        if parameters[name] < least:
            return f"{name}={parameters[name]!r}"
    if not is_direction(parameters["phasecenter"]) or is_moving(parameters["phasecenter"]):
        return f"phasecenter={parameters['phasecenter']!r}"
    if parameters["gridder"] == "wproject" and parameters["wprojplanes"] < 1:
        return (
            f"wprojplanes={parameters['wprojplanes']!r}, which CASA chooses from the rows that it "
            "grids"
        )
    return None
