# SPDX-License-Identifier: GPL-3.0-or-later
"""The part ``ptclean`` of Dask's configuration.

Importing this module adds the defaults of ``ptclean.yaml`` to Dask's configuration, below
everything that the user has set. It does not copy that file to ``~/.config/dask``, as other Dask
projects do: importing a CASA task should write nothing into a home directory, and a copy would
keep old defaults alive after an upgrade.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import dask.config
import yaml
from dask.utils import parse_timedelta

from .errors import ParameterError

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


def check_settings() -> None:
    """Check what the user has set under ``ptclean:`` in Dask's configuration.

    A key that ptclean does not know is most likely a known one, written otherwise, and would have
    no effect.

    Raises
    ------
    ParameterError
    """
    settings = dask.config.get("ptclean")
    if not isinstance(settings, Mapping):
        raise ParameterError("ptclean", settings, f"has keys in Dask's configuration: {_WHERE}")
    known = _defaults["ptclean"]
    for written, value in settings.items():
        key = str(written).replace("_", "-")
        if key not in known:
            alike = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ParameterError(
                f"ptclean.{written}", value, f"is unknown; did you mean ptclean.{alike}? {_WHERE}"
            )
        holds, meaning = _MEANINGS.get(key, (lambda _: True, ""))
        if not holds(value):
            raise ParameterError(f"ptclean.{key}", value, f"is {meaning}. {_WHERE}")


_WHERE = (
    "Set it in ~/.config/dask/ptclean.yaml, in the environment (DASK_PTCLEAN__START_TIMEOUT=5m, "
    "for one), or by dask.config.set"
)


def _is_count(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_time(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        return 0 <= parse_timedelta(value) < math.inf
    except (KeyError, ValueError):
        return False


def _is_path(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value != "")


#: What a value has to be, by key, and how to say it.
_MEANINGS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "log-directory": (_is_path, "the name of a folder, or null"),
    "local-directory": (_is_path, "the name of a folder, or null"),
    "start-timeout": (_is_time, "a time, such as 2m"),
    "stop-timeout": (_is_time, "a time, such as 3s"),
    "comm-timeout": (_is_time, "a time, such as 1h"),
    "allowed-failures": (_is_count, "a number of times, such as 2"),
    "small-cube-seconds": (
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value,
        "a number of seconds, such as 10",
    ),
    "continuum-parts": (
        lambda value: value is None or _is_count(value, 1),
        "a number of parts, such as 8, or null",
    ),
    "last-digits-in-chunks": (lambda value: isinstance(value, bool), "true or false"),
}
