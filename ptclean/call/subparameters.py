# SPDX-License-Identifier: GPL-3.0-or-later
"""Which parameters CASA's shell shows, and the defaults it gives to those that are not set.

A task's XML names, for some values of some parameters, the subparameters that go with them and the
defaults that these then get. CASA's Python tasks (``casatasks``) know nothing of that; its shell
goes by it, so that defaults depend on where a task is called: with ``usemask='pb'`` the shell's
tclean takes ``pbmask=0.2``, that of casatasks 0.0.

Pure functions of a description and of values. What is done with them is in
:mod:`ptclean.call.shell`, and how they are shown in :mod:`ptclean.call.shell_text`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from .description import Parameter, TaskDescription


def parents(description: TaskDescription) -> frozenset[str]:
    """Return the names of the parameters on whose values others depend."""
    return frozenset(rule.parameter for rule in description.constraints)


def is_shown(description: TaskDescription, parameter: Parameter, values: Mapping[str, Any]) -> bool:
    """Tell whether a parameter has a part to play, given what is set.

    Parameters
    ----------
    description : TaskDescription
    parameter : Parameter
        One of the description's.
    values : mapping of str to object
        What is set, under parameters' names; anything else in it is ignored.

    Returns
    -------
    bool
        Always true of a parameter that is no subparameter.
    """
    return not parameter.subparam or _ruled(description, parameter.name, values) is not None


def default(description: TaskDescription, parameter: Parameter, values: Mapping[str, Any]) -> Any:
    """Return the default that CASA's shell gives to a parameter, given what is set.

    Parameters
    ----------
    description, parameter, values
        As for `is_shown`.

    Returns
    -------
    object
        That of the first rule which holds, else that of casatasks. A copy.
    """
    ruled = _ruled(description, parameter.name, values)
    return deepcopy(parameter.default if ruled is None else ruled)


def value(description: TaskDescription, parameter: Parameter, values: Mapping[str, Any]) -> Any:
    """Return the value of a parameter: that which is set, else the shell's default.

    Parameters
    ----------
    description, parameter, values
        As for `is_shown`.

    Returns
    -------
    object
    """
    if parameter.name in values:
        return values[parameter.name]
    return default(description, parameter, values)


def all_values(description: TaskDescription, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every parameter, in the order of the signature.

    Parameters
    ----------
    description, values
        As for `is_shown`.

    Returns
    -------
    dict of str to object
    """
    return {each.name: value(description, each, values) for each in description.parameters}


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal; arrays, which compare by element, are equal to nothing."""
    try:
        return bool(one == other)
    except ValueError:
        return False


def _ruled(description: TaskDescription, name: str, values: Mapping[str, Any]) -> Any:
    """Return the default of the first rule that holds for a parameter, None where none does."""
    by_name = {each.name: each for each in description.parameters}
    for rule in description.constraints:
        defaults = dict(rule.defaults)
        if name not in defaults or rule.parameter not in by_name:
            continue
        equal = same(value(description, by_name[rule.parameter], values), rule.value)
        if equal == (rule.operator == "equals"):
            return defaults[name]
    return None
