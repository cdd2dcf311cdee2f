# SPDX-License-Identifier: GPL-3.0-or-later
"""The part ``ptclean`` of Dask's configuration.

Importing this module adds the defaults of ``ptclean.yaml`` to Dask's configuration, below
everything that the user has set. It does not copy that file to ``~/.config/dask``, as other Dask
projects do: importing a CASA task should write nothing into a home directory, and a copy would
keep old defaults alive after an upgrade.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import dask.config
import yaml

_defaults = yaml.safe_load(files(__package__).joinpath("ptclean.yaml").read_text("utf-8"))
dask.config.update_defaults(_defaults)


def setting(key: str, value: Any = None) -> Any:
    """Return a keyword argument, or what the configuration says in its place.

    Parameters
    ----------
    key : str
        A key of ``ptclean.yaml``, such as ``'start-timeout'``.
    value : Any, default None
        What the caller was given; None means that it was left open.

    Returns
    -------
    Any
        `value`, or if that is None the configured value.

    Examples
    --------
    >>> setting('allowed-failures')
    2
    >>> setting('allowed-failures', 0)
    0
    """
    return dask.config.get(f"ptclean.{key}") if value is None else value
