# SPDX-License-Identifier: GPL-3.0-or-later
"""Which calls the parallel engine can take, and which run tclean as it is.

The engine takes what has been shown to give tclean's own cube, bit for bit (``tests/``), and
nothing else: a list of what is known, not of what is excluded. Everything else is tclean's, in the
user's process, after one line in the log that names the parameter.

Plain functions on plain data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

#: Values with which the engine is known to give tclean's cube.
_KNOWN: dict[str, Collection[Any]] = {
    "specmode": ("cube",),
    "gridder": ("standard", "mosaic"),
    "deconvolver": ("hogbom", "clark", "multiscale"),
    "usemask": ("user", "pb"),
    "weighting": ("natural", "uniform", "briggs", "briggsabs"),
    "interpolation": ("nearest", "linear"),
    "stokes": ("I", "XX", "YY", "RR", "LL", "Q", "U", "V", "pseudoI"),
    "savemodel": ("none",),
    "interactive": (False,),
    "perchanweightdensity": (True,),
    "restart": (True,),
    "calcres": (True,),
    "calcpsf": (True,),
    "usepointing": (False,),
}

#: Parameters that must not be set.
_UNSET = (
    "mask",
    "startmodel",
    "outlierfile",
    "psfphasecenter",
    "vptable",
    "restoringbeam",
)

_EMPTY: tuple[Any, ...] = ("", [], [""], None)


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
    # A planet's name or TRACKFIELD moves the image with time.
    _Rule("phasecenter", lambda p: _is_direction(p["phasecenter"])),
)

#: Products that tclean, with restart=True, goes on from instead of making them anew.
_CONTINUED = ("model", "mask")


def _is_direction(phasecenter: Any) -> bool:
    """Tell whether a phase centre is a field number, nothing, or coordinates in a frame."""
    if isinstance(phasecenter, int) or not phasecenter.strip():
        return True
    return phasecenter.strip().isdigit() or len(phasecenter.split()) == 3


def reason_for_serial(parameters: dict[str, Any], existing: Collection[str] = ()) -> str | None:
    """Say why a call is tclean's, if it is.

    Parameters
    ----------
    parameters : dict
        tclean's parameters, validated.
    existing : collection of str
        Extensions of the images that exist under ``imagename``.

    Returns
    -------
    str or None
        A phrase that names the parameter and its value, or None where the engine can take it.

    Examples
    --------
    >>> reason_for_serial({"specmode": "mfs"})
    "specmode='mfs'"
    """
    for name, known in _KNOWN.items():
        if parameters[name] not in known:
            return f"{name}={parameters[name]!r}"
    for name in _UNSET:
        if parameters[name] not in _EMPTY:
            return f"{name}={parameters[name]!r}"
    for rule in _RULES:
        if not rule.holds(parameters):
            return f"{rule.parameter}={parameters[rule.parameter]!r}"
    for product in _CONTINUED:
        if product in existing:
            return f"{parameters['imagename']}.{product} exists and restart=True goes on from it"
    return None
