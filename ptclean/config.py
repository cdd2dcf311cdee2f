# SPDX-License-Identifier: GPL-3.0-or-later
"""The part ``ptclean`` of Dask's configuration.

Importing this module adds the defaults of ``ptclean.yaml`` to Dask's configuration, below
everything that the user has set. It does not copy that file to ``~/.config/dask``, as other Dask
projects do: importing a CASA task should write nothing into a home directory, and a copy would
keep old defaults alive after an upgrade.

A mistake in the configuration is an error: a setting of a wrong type when it is used, and all of
them, misspelt ones included, when a run is planned.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, NamedTuple

import dask.config
import yaml
from dask.utils import parse_timedelta

from .errors import ParameterError

_defaults = yaml.safe_load(files(__package__).joinpath("ptclean.yaml").read_text("utf-8"))
dask.config.update_defaults(_defaults)


class Kind(NamedTuple):
    """What a setting may be.

    Attributes
    ----------
    text : str
        In words.
    holds : callable
        Tells whether a value is of the kind.
    """

    text: str
    holds: Callable[[Any], bool]


def _is_time(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        return 0 <= float(parse_timedelta(value)) < math.inf
    except (ValueError, KeyError, IndexError):
        return False


def _is_count(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _is_folder(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value != "")


#: Kinds of the settings whose defaults do not show them, or not in words.
_KINDS = {
    "log-directory": Kind("the name of a folder, or null", _is_folder),
    "local-directory": Kind("the name of a folder, or null", _is_folder),
    "allowed-failures": Kind("a number of times, such as 2", _is_count),
    "small-cube-seconds": Kind("a number of seconds, such as 10", _is_number),
    "iteration-control": Kind("cube or chunk", lambda value: value in ("cube", "chunk")),
    # YAML takes a bare off for false.
    "progress": Kind(
        "auto, bar, lines or off", lambda value: value in ("auto", "bar", "lines", "off", False)
    ),
    "report": Kind(
        "true, false, the name of a folder or file, or null",
        lambda value: isinstance(value, bool) or _is_folder(value),
    ),
    "continuum-parts": Kind(
        "a number of parts, such as 8, or null",
        lambda value: value is None or _is_count(value, least=1),
    ),
}

_WHERE = (
    "Set it in ~/.config/dask/ptclean.yaml, in the environment (DASK_PTCLEAN__START_TIMEOUT=5m, "
    "for one), or by dask.config.set"
)


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

    Raises
    ------
    ParameterError
        If the configured value is of a wrong type.

    Examples
    --------
    >>> setting('allowed-failures')
    2
    >>> setting('allowed-failures', 0)
    0
    """
    if value is not None:
        return value
    configured = dask.config.get(f"ptclean.{key}")
    _check(key, configured)
    return configured


def kind(key: str) -> Kind:
    """Return what a setting may be: where its default does not show that, by a table."""
    if key in _KINDS:
        return _KINDS[key]
    default = _defaults["ptclean"][key]
    if isinstance(default, bool):
        return Kind("true or false", lambda value: isinstance(value, bool))
    if isinstance(default, int):
        return Kind(f"a whole number, such as {default}", _is_count)
    if _is_time(default):
        return Kind(f"a time, such as {default}", _is_time)
    if isinstance(default, str):
        return Kind(f"a text, such as {default}", lambda value: isinstance(value, str))
    raise TypeError(f"the default of ptclean.{key}, {default!r}, does not show what it may be")


def check_settings() -> None:
    """Check all that Dask's configuration says of ptclean.

    Raises
    ------
    ParameterError
        For a value of a wrong type, and for a key that ptclean does not know, which is mostly one
        that is misspelt. It names the key, the value and the way out.
    """
    settings = dask.config.get("ptclean")
    if not isinstance(settings, Mapping):
        raise ParameterError("ptclean", settings, f"has keys in Dask's configuration. {_WHERE}")
    for name, value in settings.items():
        _check(_canonical(name), value)
    for name, value in dask.config.config.items():
        # DASK_PTCLEAN_START_TIMEOUT, where Dask wants two underscores.
        if (key := _canonical(name)).startswith("ptclean-"):
            raise _unknown(key, key.removeprefix("ptclean-"), value)


def _check(key: str, value: Any) -> None:
    if key not in _defaults["ptclean"]:
        raise _unknown(f"ptclean.{key}", key, value)
    expected = kind(key)
    if not expected.holds(value):
        raise ParameterError(f"ptclean.{key}", value, f"is {expected.text}. {_WHERE}")


def _unknown(name: str, key: str, value: Any) -> ParameterError:
    near = difflib.get_close_matches(key, _defaults["ptclean"], n=1, cutoff=0.0)[0]
    return ParameterError(name, value, f"is unknown; did you mean ptclean.{near}? {_WHERE}")


def variable(key: str) -> str:
    """Return the environment variable of a setting, by Dask's rule.

    Examples
    --------
    >>> variable('start-timeout')
    'DASK_PTCLEAN__START_TIMEOUT'
    """
    return f"DASK_PTCLEAN__{key.replace('-', '_').upper()}"


def _canonical(name: Any) -> str:
    # Dask takes hyphens and underscores for the same; variables of the environment have no hyphens.
    return str(name).replace("_", "-")
