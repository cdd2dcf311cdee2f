# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run was asked to do, from what, and how it does it, on disk: ``manifest.json``.

With it another driver finds out whether a call is the same as the one whose work it finds, and goes
on with the same plan. What has been done is in the journal (:mod:`ptclean.keeping.journal`).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import Any

import casatools

from .. import __version__
from ..errors import PtcleanError
from ..planning.plan import Plan
from .durable import write_json
from .encoding import decode, encode
from .fingerprint import digests

#: Changes whenever a work directory of before cannot be gone on with.
FORMAT = 1

_NAME = "manifest.json"


class ManifestError(PtcleanError):
    """A manifest cannot be made use of.

    Parameters
    ----------
    reason : str
        Why, as a clause.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Manifest:
    """What a run was asked to do.

    Attributes
    ----------
    since : str
        When it was first begun.
    versions : dict of str
        Of the programs that the images may depend on.
    parameters : dict
        tclean's, with absolute paths.
    inputs : dict of str
        Fingerprints of measurement sets, images, region files and measures data, by path.
    plan : Plan
    """

    since: str
    versions: dict[str, str]
    parameters: dict[str, Any]
    inputs: dict[str, str]
    plan: Plan

    def write(self, directory: str) -> None:
        """Write it into a work directory."""
        content = {"format": FORMAT} | {
            name: encode(getattr(self, name)) for name in self.__dataclass_fields__
        }
        write_json(os.path.join(directory, _NAME), content)

    def changes(self, parameters: dict[str, Any], *, with_inputs: bool = True) -> list[str]:
        """Say in what a call differs from the one that this is of, and what has changed since.

        Parameters
        ----------
        parameters : dict
            tclean's, with absolute paths.
        with_inputs : bool
            Whether the inputs are still wanted.

        Returns
        -------
        list of str
            A clause for each difference; empty if the images would be the same.
        """
        found = []
        for name in sorted(parameters.keys() | self.parameters.keys()):
            now, then = parameters.get(name), self.parameters.get(name)
            if encode(now) != encode(then):
                found.append(f"{name}={now!r}, and was {then!r}")
        for program, version in versions().items():
            if version != self.versions.get(program):
                found.append(f"{program} is {version}, and was {self.versions.get(program)}")
        if with_inputs:
            for path, now in digests(self.inputs).items():
                if now != self.inputs[path]:
                    found.append(f"{path} {'has changed' if now else 'is gone'}")
        return found


def make_manifest(plan: Plan) -> Manifest:
    """Make the manifest of a run that is to begin."""
    return Manifest(
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        versions=versions(),
        parameters=plan.parameters,
        inputs=digests(_inputs(plan)),
        plan=plan,
    )


def read_manifest(directory: str) -> Manifest | None:
    """Read the manifest in a work directory; None if there is none.

    Raises
    ------
    ManifestError
        If it is of another format, or cannot be read.
    """
    try:
        with open(os.path.join(directory, _NAME)) as f:
            content = json.load(f)
        kind = content.pop("format")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ManifestError(f"its manifest cannot be read ({error})") from error
    if kind != FORMAT:
        raise ManifestError(f"it was made by another version of ptclean (format {kind})")
    try:
        return Manifest(**{name: decode(value) for name, value in content.items()})
    except (ValueError, TypeError) as error:
        raise ManifestError(f"its manifest cannot be read ({error})") from error


def versions() -> dict[str, str]:
    """Versions of the programs that the images may depend on."""
    return {"ptclean": __version__, "casatools": casatools.version_string()}


def _inputs(plan: Plan) -> list[str]:
    """Paths of all that the images are made from."""
    parameters = plan.parameters
    vis = parameters["vis"]
    paths = list(vis) if isinstance(vis, list) else [vis]
    paths += [mask for mask in (plan.mask.masks if plan.mask else ()) if os.path.exists(mask)]
    for name in ("startmodel", "vptable"):
        value = parameters[name]
        paths += [each for each in (value if isinstance(value, list) else [value]) if each]
    paths += [f"{plan.imagename}.{product}" for product in plan.existing]
    geodetic = casatools.ctsys.resolve("geodetic")
    return list(dict.fromkeys([*paths, geodetic]))
