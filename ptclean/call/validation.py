# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks and converts the arguments of a task exactly as CASA's own tasks do.

CASA ships its rules as code generated from each task's XML; here they are made from the same XML
at run time and handed to the same validator, that of casatools. Verdicts, converted values and
error texts are therefore CASA's.

Not covered: what values mean together (that ``niter`` wants a mask, say). That belongs to whoever
uses them.
"""

from collections.abc import Mapping
from typing import Any

from casatools.coercetype import coerce
from casatools.errors import create_error_string
from casatools.typecheck import CasaValidator

from .description import Parameter, TaskDescription

# The order counts where a parameter may have more than four types, which are then tried in this
# order and not in that of the XML: CASA's generator of task code keeps types in a Scala Set, and
# Scala orders a Set of more than four elements by their hashes. So cell=5 becomes [5].
_RULES: dict[str, dict[str, Any]] = {
    "path": {"type": "cPath", "coerce": coerce.expand_path},
    "boolVec": {"type": "cBoolVec", "coerce": [coerce.to_list, coerce.to_boolvec]},
    "intVec": {"type": "cIntVec", "coerce": [coerce.to_list, coerce.to_intvec]},
    "pathVec": {"type": "cPathVec", "coerce": [coerce.to_list, coerce.expand_pathvec]},
    "variant": {"type": "cVariant", "coerce": [coerce.to_variant]},
    "string": {"type": "cStr", "coerce": coerce.to_str},
    "double": {"type": "cFloat", "coerce": coerce.to_float},
    "bool": {"type": "cBool"},
    "stringVec": {"type": "cStrVec", "coerce": [coerce.to_list, coerce.to_strvec]},
    "int": {"type": "cInt"},
    "record": {"type": "cDict"},
    "doubleVec": {"type": "cFloatVec", "coerce": [coerce.to_list, coerce.to_floatvec]},
}
_HASH_ORDER = list(_RULES)
_LARGEST_ORDERED_SET = 4
_EXISTING = {"cPath": "cReqPath", "cPathVec": "cReqPathVec"}


def validate(description: TaskDescription, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check and convert the arguments of a task.

    Safe to call from several threads at once, which CASA's own tasks are not.

    Parameters
    ----------
    description : TaskDescription
    arguments : mapping of str to object
        A value for every parameter.

    Returns
    -------
    dict of str to object
        The values, converted where CASA converts them, in the order of the signature.

    Raises
    ------
    AssertionError
        If CASA would refuse a value; the text is CASA's.
    """
    # A validator keeps its document and its errors: each call needs its own.
    validator = CasaValidator()
    if not validator.validate(dict(arguments), schema(description)):
        raise AssertionError(create_error_string(validator.errors))
    document = validator.document
    return {parameter.name: document[parameter.name] for parameter in description.parameters}


def allows(parameter: Parameter, value: Any) -> bool:
    """Tell whether CASA would take a value for a parameter.

    Parameters
    ----------
    parameter : Parameter
    value : object

    Returns
    -------
    bool
    """
    name = parameter.name
    return bool(CasaValidator().validate({name: value}, {name: _field(parameter)}))


def schema(description: TaskDescription) -> dict[str, dict[str, Any]]:
    """Return the rules for a task's arguments, as casatools' validator takes them.

    Parameters
    ----------
    description : TaskDescription

    Returns
    -------
    dict of str to dict
        A new one at each call, since the validator may write to it.

    Raises
    ------
    ValueError
        If a parameter is of a type for which there is no rule.
    """
    return {parameter.name: _field(parameter) for parameter in description.parameters}


def _field(parameter: Parameter) -> dict[str, Any]:
    unknown = [name for name in parameter.types if name not in _RULES]
    if unknown:
        raise ValueError(f"parameter {parameter.name}: no rule for type {', '.join(unknown)}")
    types = list(parameter.types)
    if len(types) > _LARGEST_ORDERED_SET:
        types.sort(key=_HASH_ORDER.index)
    rules = [_RULES[name].copy() for name in types]
    if parameter.mustexist:
        for rule in rules:
            rule["type"] = _EXISTING.get(rule["type"], rule["type"])
    field: dict[str, Any] = rules[0] if len(rules) == 1 else {"anyof": rules}
    if parameter.allowed:
        field["allowed"] = list(parameter.allowed)
    if parameter.minimum is not None:
        field["min"] = parameter.minimum
    if parameter.maximum is not None:
        field["max"] = parameter.maximum
    return field
