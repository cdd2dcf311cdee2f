# SPDX-License-Identifier: GPL-3.0-or-later
"""Which calls the parallel engine can take, and which run tclean as it is.

The engine takes what has been shown to give tclean's own cube, bit for bit (``tests/``), and
nothing else: a list of what is known, not of what is excluded. Everything else is tclean's, in the
user's process, after one line in the log that names the parameter.

Plain functions on plain data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .continuing import NOTHING, reason_in_earlier_images

#: Value of `usemask` with which CASA makes the masks.
AUTOMASK = "auto-multithresh"

#: Values with which the engine is known to give tclean's cube.
_KNOWN: dict[str, Collection[Any]] = {
    "specmode": ("cube", "cubedata", "cubesource"),
    "gridder": ("standard", "mosaic", "wproject", "widefield"),
    "deconvolver": ("hogbom", "clark", "clarkstokes", "multiscale"),
    "usemask": ("user", "pb", AUTOMASK),
    "weighting": (
        "natural",
        "uniform",
        "superuniform",
        "radial",
        "briggs",
        "briggsabs",
        "briggsbwtaper",
    ),
    "interpolation": ("nearest", "linear", "cubic"),
    "savemodel": ("none", "modelcolumn", "virtual"),
    "interactive": (False,),
    "restart": (True, False),
    "calcres": (True, False),
    "calcpsf": (True, False),
    "usepointing": (False, True),
    "normtype": ("flatnoise", "flatsky"),
    "conjbeams": (False,),
}

#: Parameters that must not be set.
_UNSET = (
    "outlierfile",
    "psfphasecenter",
    "vptable",
    "reffreq",
)

#: Phase centres that move, but for tables (``FTMachine::setMovingSource``).
_MOVING = frozenset(
    "TRACKFIELD MERCURY VENUS MARS JUPITER SATURN URANUS NEPTUNE PLUTO SUN MOON".split()
)


@dataclass(frozen=True)
class _Rule:
    """A condition on more than one parameter, and what to say where it does not hold."""

    parameter: str
    holds: Callable[[dict[str, Any]], bool]


_RULES = (
    _Rule("facets", lambda p: p["facets"] == 1),
    # tclean itself refuses or warns; let it.
    _Rule("nmajor", lambda p: p["nmajor"] >= -1),
    _Rule("niter", lambda p: p["niter"] >= 0),
    # tclean warns of these with briggsbwtaper, and does nothing for the first.
    _Rule("npixels", lambda p: p["npixels"] == 0 or p["weighting"] != "briggsbwtaper"),
    _Rule(
        "perchanweightdensity",
        lambda p: p["perchanweightdensity"] or p["weighting"] != "briggsbwtaper",
    ),
    # An ephemeris may be a table of the user's.
    _Rule("phasecenter", lambda p: is_direction(p["phasecenter"])),
)

#: Parameters of which any value is known to be handed on to CASA as tclean hands it on.
_HANDED_ON = frozenset(
    """
    vis selectdata field spw timerange uvrange antenna scan observation intent datacolumn
    imagename imsize cell stokes projection startmodel nchan start width outframe veltype restfreq
    wprojplanes mosweight aterm psterm wbawp cfcache computepastep rotatepastep
    pointingoffsetsigdev pblimit scales nterms smallscalebias fusedthreshold largestscale
    restoration pbcor robust noise npixels uvtaper mask gain threshold nsigma cycleniter cyclefactor
    minpsffraction maxpsffraction fullsummary pbmask restoringbeam sidelobethreshold noisethreshold
    lownoisethreshold negativethreshold smoothfactor minbeamfrac cutthreshold growiterations
    dogrowprune minpercentchange verbose fastnoise psfcutoff parallel
    """.split()
)

#: Products that automasking goes on from: it takes a ``.prev.mask`` for one of its own, which it
#: makes in each minor cycle and goes back to at the end.
_CONTINUED_MASKS = ("prev.mask", "mask", "model")


def is_direction(phasecenter: Any) -> bool:
    """Tell whether a phase centre is a field number, nothing, coordinates in a frame, or moves.

    What moves is a planet, or a field with an ephemeris; an ephemeris of another kind is a table.
    """
    if isinstance(phasecenter, int) or not phasecenter.strip():
        return True
    text = phasecenter.strip()
    return text.isdigit() or len(text.split()) == 3 or is_moving(text)


def is_moving(phasecenter: Any) -> bool:
    """Tell whether a phase centre moves with a planet or with the field."""
    return isinstance(phasecenter, str) and phasecenter.strip().upper() in _MOVING


def is_predicted(parameters: Mapping[str, Any]) -> bool:
    """Tell whether tclean, with `savemodel`, predicts the final model apart from major cycles.

    It does where an interactive user, automasking or `nsigma` may end the clean
    (``ImagerParameters.checkAndFixIterationPars``).
    """
    return parameters["niter"] > 0 and bool(
        parameters["interactive"] or parameters["usemask"] == AUTOMASK or parameters["nsigma"] > 0
    )


def reason_in_savemodel(parameters: dict[str, Any]) -> str | None:
    """Say why a call is tclean's, if it is, for the model that it is to write to the data."""
    savemodel = parameters["savemodel"]
    if savemodel == "none":
        return None
    if parameters["niter"] == 0 and not parameters["calcres"]:
        return f"savemodel={savemodel!r} of a model that there is, which leaves nothing to share"
    if parameters["gridder"] == "mosaic" and is_predicted(parameters):
        # It divides the model image by the weights, and multiplies it again, before it restores.
        return (
            f"savemodel={savemodel!r} of a mosaic with usemask={AUTOMASK!r} or nsigma, with which "
            "tclean changes the model in its last digits"
        )
    return None


def reason_in_unknown_value(
    parameters: Mapping[str, Any], known: Mapping[str, Collection[Any]], unset: Collection[str]
) -> str | None:
    """Name the first parameter with a value that an engine does not know, if there is one."""
    for name, values in known.items():
        if parameters[name] not in values:
            return f"{name}={parameters[name]!r}"
    for name in unset:
        if parameters[name] not in NOTHING:
            return f"{name}={parameters[name]!r}"
    return None


def reason_in_new_parameter(
    parameters: Mapping[str, Any], defaults: Mapping[str, Any], heard_of: Collection[str]
) -> str | None:
    """Name the first parameter that an engine has never heard of and that is not its default."""
    for name in parameters:
        if name not in heard_of and parameters[name] != defaults[name]:
            return f"{name}={parameters[name]!r}"
    return None


def reason_for_serial(
    parameters: dict[str, Any],
    defaults: Mapping[str, Any],
    existing: Collection[str] = (),
) -> str | None:
    """Say why a call is tclean's, if it is.

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

    Examples
    --------
    >>> reason_for_serial(defaults | {"specmode": "mfs"}, defaults)  # doctest: +SKIP
    "specmode='mfs'"
    """
    if reason := reason_in_unknown_value(parameters, _KNOWN, _UNSET):
        return reason
    for rule in _RULES:
        if not rule.holds(parameters):
            return f"{rule.parameter}={parameters[rule.parameter]!r}"
    if parameters["nsigma"] > 0 and parameters["niter"] > 0:
        # The noise is that of channels without their masks, or within them, as the first channel's
        # mask says; stand-ins for that say it of the masks alone.
        noise = f"nsigma={parameters['nsigma']!r}"
        if parameters["usemask"] == AUTOMASK:
            return f"{noise} with usemask={AUTOMASK!r}"
        if "mask" in existing and not parameters["fastnoise"]:
            return f"{noise} with fastnoise=False, and {parameters['imagename']}.mask exists"
    if reason := reason_in_savemodel(parameters):
        return reason
    heard_of = _HANDED_ON.union(_KNOWN, _UNSET, (rule.parameter for rule in _RULES))
    if reason := reason_in_new_parameter(parameters, defaults, heard_of):
        return reason
    if parameters["usemask"] == AUTOMASK:
        for product in _CONTINUED_MASKS:
            if product in existing:
                return (
                    f"{parameters['imagename']}.{product} exists, from which "
                    f"usemask={AUTOMASK!r} goes on"
                )
        if parameters["niter"] > 0:
            for name, plain in (("calcpsf", True), ("calcres", True), ("startmodel", "")):
                if parameters[name] not in (plain, [], [""]):
                    return f"{name}={parameters[name]!r} with usemask={AUTOMASK!r}"
    return reason_in_earlier_images(parameters, existing)
