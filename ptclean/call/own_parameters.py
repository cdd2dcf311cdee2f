# SPDX-License-Identifier: GPL-3.0-or-later
"""The parameters that ptclean adds to tclean's, and what values of them make no sense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ParameterError

#: ptclean's own parameters, at the end of its signature.
OWN_PARAMETERS = ("nworkers", "chanchunks", "memory_limit")


def check_own_parameters(own: Mapping[str, Any]) -> None:
    """Check `nworkers` and `chanchunks`; `memory_limit` is checked where it is read.

    Raises
    ------
    ParameterError
    """
    if own["nworkers"] < 0:
        raise ParameterError(
            "nworkers",
            own["nworkers"],
            "is the number of tasks at once; use nworkers=0 for as many as cores and memory allow",
        )
    if own["chanchunks"] == 0 or own["chanchunks"] < -1:
        raise ParameterError(
            "chanchunks",
            own["chanchunks"],
            "is the number of channels in a chunk; use chanchunks=-1 to have it chosen, or 1 for "
            "one channel per task",
        )
