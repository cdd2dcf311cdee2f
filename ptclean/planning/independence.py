# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether each chunk of a cube can be cleaned by itself, where that is asked for.

Asked for by ``ptclean.iteration-control: chunk`` in Dask's configuration; done by
:mod:`ptclean.imaging.independent`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def reason_for_one_control(tclean: Mapping[str, Any], npol: int, *, begins: bool) -> str | None:
    """Say why chunks cannot be cleaned each by itself.

    Parameters
    ----------
    tclean : mapping
        tclean's parameters.
    npol : int
        Stokes planes of the cube.
    begins : bool
        Whether the clean begins with nothing: no earlier images, no model.

    Returns
    -------
    str or None
        A clause; None if they can.
    """
    if not begins:
        return "the clean goes on from earlier images or a model"
    if npol > 1:
        return "cycles of several Stokes planes are counted over the cube"
    if tclean["restoringbeam"] in ("common", ["common"]):
        return "restoringbeam='common' is the cube's"
    if tclean["weighting"] == "briggsbwtaper":
        return "weighting='briggsbwtaper' tapers by the bandwidth of the cube"
    if tclean["savemodel"] != "none":
        return f"savemodel={tclean['savemodel']!r} goes by the cycles of the cube"
    return None


def say_independence(*, is_alone: bool, reason: str | None) -> tuple[str, ...]:
    """Return what is to be said of it, as warnings.

    Parameters
    ----------
    is_alone : bool
        Whether it is asked for, and there are several chunks.
    reason : str or None
        Of `reason_for_one_control`.
    """
    if not is_alone:
        return ()
    if reason:
        return (f"ptclean.iteration-control: chunk is of no effect, since {reason}",)
    return (
        "each chunk is cleaned by itself (ptclean.iteration-control in Dask's configuration is "
        "'chunk'): the images are not tclean's, and depend on chanchunks; niter and nmajor hold "
        "for each chunk",
    )
