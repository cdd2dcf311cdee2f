# SPDX-License-Identifier: GPL-3.0-or-later
"""Beams of the planes of a cube, as CASA keeps them in an image's ``imageinfo``.

CASA fits a beam to each plane of the PSF. Where that fails, for planes without data among others,
it takes the beam of the largest area *of the cube* (``SIImageStore::makeImageBeamSet``): in a
chunk it can only take the largest of the chunk, or none at all. So chunks say which of their planes
failed, and are given the cube's.

With ``restoringbeam='common'`` CASA restores one plane otherwise than the others
(:class:`CommonBeam`).

Plain functions on plain data.

Notes
-----
casacore (``ImageBeamSet::toRecord``) writes the beam of channel c and Stokes plane s under
``*<c + nChannels s>`` of ``perplanebeams``, and a single beam for all planes as ``restoringbeam``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..records import Record

#: Keys of ``imageinfo`` that hold beams.
KEYS = ("perplanebeams", "restoringbeam")

#: What CASA writes, in arcsec, where no beam of the image could be fitted.
_NO_BEAM = 1e-6


@dataclass(frozen=True)
class CommonBeam:
    """The smallest beam to which all beams of an image can be convolved, as CASA finds it.

    Where none of the image's own beams will do, CASA constructs one from the largest, and puts it
    into the place of that by the way: ``CasaImageBeamSet::getCommonBeam`` works on a set of beams
    that shares its memory with the one that it was given. So ``SIImageStore::restore`` finds that
    plane to have the common beam already, and does not convolve its residual.

    Attributes
    ----------
    beam : dict
        An entry of ``imageinfo``.
    replaces : int or None
        Plane whose beam it takes the place of; None if the beam is that of a plane.
    """

    beam: Record
    replaces: int | None

    @classmethod
    def found(cls, beam: Record, planes: Sequence[Record]) -> CommonBeam:
        """Tell from what CASA found, with its angle in degrees, and the beams of all planes.

        CASA writes the angle of a beam that it constructed in radians.
        """
        top = largest(planes) or planes[0]
        axes = ("major", "minor", "positionangle")
        if all(beam[axis]["value"] == top[axis]["value"] for axis in axes):
            return cls(beam, None)
        angle = {"value": math.radians(beam["positionangle"]["value"]), "unit": "rad"}
        return cls({**beam, "positionangle": angle}, planes.index(top))


def as_text(beam: Record) -> list[str]:
    """Write a beam as tclean's `restoringbeam`, to the last digit."""
    axes = (beam[axis] for axis in ("major", "minor", "positionangle"))
    return [f"{axis['value']!r}{axis['unit']}" for axis in axes]


def is_single(restoringbeam: str | Sequence[str]) -> bool:
    """Tell whether tclean's `restoringbeam` is one beam for all planes, given or common.

    Lists of more than three values are none (``SynthesisParamsDeconv::fromRecord``).
    """
    values = [restoringbeam] if isinstance(restoringbeam, str) else list(restoringbeam)
    return 1 <= len(values) <= 3 and values != [""]


def area(beam: Record) -> float:
    """Product of the axes of a beam, in arcsec squared."""
    return float(beam["major"]["value"]) * float(beam["minor"]["value"])


def is_missing(beam: Record) -> bool:
    """Tell whether a beam is what CASA writes where it has none."""
    return float(beam["major"]["value"]) < 2 * _NO_BEAM


def plane_beams(imageinfo: Record, nchan: int) -> list[Record]:
    """Beams of all planes, channel by channel within Stokes plane by Stokes plane.

    Parameters
    ----------
    imageinfo : dict
        An image's record.
    nchan : int
        Its number of channels.

    Returns
    -------
    list of dict
        Empty if the image has no beams.
    """
    planes = imageinfo.get("perplanebeams")
    if planes:
        return [planes[f"*{i}"] for i in range(int(planes["nChannels"]) * int(planes["nStokes"]))]
    if "restoringbeam" in imageinfo:
        return [imageinfo["restoringbeam"]] * nchan
    return []


def largest(beams: Iterable[Record | None]) -> Record | None:
    """Beam of the largest area, the first of equal ones; None if there is none."""
    found = None
    for beam in beams:
        if beam and not is_missing(beam) and (found is None or area(beam) > area(found)):
            found = beam
    return found


def suspects(beams: Sequence[Record]) -> list[int]:
    """Planes whose beam may have been taken from another plane, because its own fit failed.

    Those that have no beam, and those that share the largest; one of the latter has fitted it.
    """
    top = largest(beams)
    missing = [i for i, beam in enumerate(beams) if is_missing(beam)]
    sharing = [i for i, beam in enumerate(beams) if beam == top]
    return sorted(missing + (sharing if len(sharing) > 1 else []))


def with_beam(imageinfo: Record, planes: Collection[int], beam: Record) -> Record:
    """Return an ``imageinfo`` record with another beam for some planes."""
    per_plane = imageinfo.get("perplanebeams")
    if per_plane:
        changed: dict[str, Any] = {f"*{plane}": beam for plane in planes}
        return {**imageinfo, "perplanebeams": {**per_plane, **changed}}
    return {**imageinfo, "restoringbeam": beam} if planes else imageinfo


def join(infos: Sequence[Record], channels: Sequence[int], *, single: bool = False) -> Record:
    """Join the beams of images that follow each other in frequency.

    Parameters
    ----------
    infos : sequence of dict
        Their ``imageinfo`` records: a beam for each plane, one beam, or none.
    channels : sequence of int
        Their numbers of channels.
    single : bool
        Whether all planes have been given one beam. An image of one plane does not tell.

    Returns
    -------
    dict
        The beam entry of the joined image's ``imageinfo``; empty if there are no beams.
    """
    if not any(key in info for info in infos for key in KEYS):
        return {}
    if len(infos) == 1 or (single and "restoringbeam" in infos[0]):
        return {key: infos[0][key] for key in KEYS if key in infos[0]}
    beams = [plane_beams(info, n) for info, n in zip(infos, channels, strict=True)]
    npol = max(len(planes) // n for planes, n in zip(beams, channels, strict=True))
    joined: Record = {"nChannels": sum(channels), "nStokes": npol}
    plane = 0
    for pol in range(npol):
        for planes, n in zip(beams, channels, strict=True):
            for beam in planes[pol * n : (pol + 1) * n]:
                joined[f"*{plane}"] = beam
                plane += 1
    return {"perplanebeams": joined}
