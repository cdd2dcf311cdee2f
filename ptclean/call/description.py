# SPDX-License-Identifier: GPL-3.0-or-later
"""The description of the task: its parameters, their types, defaults and texts.

A CASA task is described by an XML file. ``ptclean.xml`` describes only what ptclean adds; the
rest is read from the ``tclean.xml`` of the installed casatasks whenever ptclean is loaded, so that
ptclean follows the CASA it runs with.

This module reads the XML and joins the two files. It does *not* check arguments
(:mod:`ptclean.call.validation`) and makes nothing callable (:mod:`ptclean.call.task`).
"""

import ast
import importlib.resources
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import casatasks
import xmltodict

# xmltodict makes a list only where it sees an element twice. These may come any number of times.
_LISTS = ("allowed", "default", "equals", "notequals", "param", "type", "value", "when")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a task.

    Attributes
    ----------
    name : str
    types : tuple of str
        Names of the types a value may have, in the order and the words of the XML
        (``'int'``, ``'doubleVec'``, ...). ``('variant',)`` stands for nearly any value.
    default : object
        The value that CASA's Python tasks (not its shell) take where none is given.
    allowed : tuple
        The only values allowed; empty where there is no such list.
    minimum, maximum : float, int or None
        Bounds, both inclusive.
    shortdescription, description : str
        One line, and the full text.
    subparam : bool
        Whether CASA's shell shows the parameter only when another one asks for it.
    mustexist : bool
        Whether a path must exist.
    """

    name: str
    types: tuple[str, ...]
    default: Any
    allowed: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    shortdescription: str = ""
    description: str = ""
    subparam: bool = False
    mustexist: bool = False


@dataclass(frozen=True)
class Constraint:
    """What CASA's shell does with subparameters when their parent has a certain value.

    Attributes
    ----------
    parameter : str
        Name of the parent.
    operator : {'equals', 'notequals'}
    value : object
        What the parent is compared with.
    defaults : tuple of (str, object)
        The subparameters that become active, each with the default it gets. CASA's own rules
        name some parameters that do not exist, and some twice.
    """

    parameter: str
    operator: Literal["equals", "notequals"]
    value: Any
    defaults: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class TaskDescription:
    """Everything that a task's XML says.

    Attributes
    ----------
    name, category, shortdescription, description, returns, example : str
    parameters : tuple of Parameter
        In the order of the signature.
    constraints : tuple of Constraint
    """

    name: str
    category: str
    shortdescription: str
    description: str
    parameters: tuple[Parameter, ...]
    constraints: tuple[Constraint, ...]
    returns: str
    example: str


def load(tclean_xml: Path | None = None) -> TaskDescription:
    """Describe ptclean: the parameters of tclean, then ptclean's own.

    Parameters
    ----------
    tclean_xml : Path, optional
        Description of tclean; by default that of the installed casatasks.

    Returns
    -------
    TaskDescription

    Raises
    ------
    ValueError
        If tclean has a parameter that ptclean would add, or its XML cannot be understood.
    """
    return parse(joined_xml(tclean_xml))


def joined_xml(tclean_xml: Path | None = None) -> str:
    """Return the complete description of ptclean as one XML document.

    Parameters
    ----------
    tclean_xml : Path, optional
        Description of tclean; by default that of the installed casatasks.

    Returns
    -------
    str
        XML in the dialect of CASA's own task descriptions.

    Raises
    ------
    ValueError
        If tclean has a parameter that ptclean would add.
    """
    if tclean_xml is None:
        tclean_xml = Path(casatasks.xml_interface_defs()["tclean"])
    document = _read(tclean_xml.read_bytes())
    tclean = document["casaxml"]["task"]
    own = _read(find_ptclean_xml().read_bytes())["casaxml"]["task"]

    names = [element["@name"] for element in tclean["input"]["param"]]
    clash = [e["@name"] for e in own["input"]["param"] if e["@name"] in names]
    if clash:
        raise ValueError(
            f"{', '.join(clash)}: tclean of casatasks {casatasks.version_string()} has a "
            f"parameter that ptclean would add; this version of ptclean cannot be used with it"
        )
    rules = [*_when(tclean), *_when(own)]
    joined_input = {
        "param": tclean["input"]["param"] + own["input"]["param"],
        **({"constraints": {"when": rules}} if rules else {}),
    }
    document["casaxml"]["task"] = {**own, "input": joined_input}
    text: str = xmltodict.unparse(document, pretty=True)
    return text


def parse(xml: str | bytes) -> TaskDescription:
    """Read the description of a task.

    Parameters
    ----------
    xml : str or bytes
        XML document in the dialect of casatasks' files.

    Returns
    -------
    TaskDescription

    Raises
    ------
    ValueError
        If a parameter has no default value, or one of an unknown type.
    """
    task = _read(xml)["casaxml"]["task"]
    parameters = tuple(_parameter(element) for element in task["input"]["param"])
    return TaskDescription(
        name=task["@name"],
        category=task.get("@category", ""),
        shortdescription=_text(task.get("shortdescription")),
        description=_text(task.get("description")),
        parameters=parameters,
        constraints=tuple(_constraints(_when(task))),
        returns=_returns(task.get("returns")),
        example=_text(task.get("example")),
    )


def find_ptclean_xml() -> Traversable:
    """Return where ptclean.xml is: in the installed package, or beside it in a source tree.

    Returns
    -------
    Traversable

    Raises
    ------
    FileNotFoundError
        If it is in neither place.
    """
    source_tree = Path(__file__).parents[2] / "xml" / "ptclean.xml"
    try:
        installed = importlib.resources.files("ptclean.xml") / "ptclean.xml"
    except ModuleNotFoundError:
        candidates: tuple[Traversable, ...] = (source_tree,)
    else:
        candidates = (installed, source_tree)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"ptclean.xml is neither in the package ptclean.xml nor at {source_tree}; "
        f"install ptclean again"
    )


def _read(xml: str | bytes) -> dict[str, Any]:
    document: dict[str, Any] = xmltodict.parse(xml, force_list=_LISTS)
    return document


def _text(element: Any) -> str:
    """Return an element's text; xmltodict gives a dict where there are attributes as well."""
    if isinstance(element, Mapping):
        element = element.get("#text")
    # The apostrophes of CASA's files are escaped for the Python source that is made of them.
    return (element or "").replace("\\'", "'")


def _returns(element: Any) -> str:
    text = _text(element)
    if not text and isinstance(element, Mapping):
        return str(element.get("@type", ""))
    return text


def _parameter(element: Mapping[str, Any]) -> Parameter:
    name = element["@name"]
    types = tuple(_types(element))
    minimum = maximum = None
    allowed: list[Any] = []
    for rule in element.get("allowed", ()):
        if rule.get("@kind") == "range":
            bounds = {v["@range"]: ast.literal_eval(_text(v)) for v in rule["value"]}
            minimum, maximum = bounds.get("min"), bounds.get("max")
        else:
            allowed += [_scalar(_text(value), types[0]) for value in rule["value"]]
    if "value" not in element:
        raise ValueError(f"parameter {name} has no default value")
    return Parameter(
        name=name,
        types=types,
        default=_default(element["value"][0], types[0]),
        allowed=tuple(allowed),
        minimum=minimum,
        maximum=maximum,
        shortdescription=_text(element.get("shortdescription")),
        description=_text(element.get("description")),
        subparam=element.get("@subparam") == "true",
        mustexist=any(_attribute(e, "mustexist") for e in (element, *element.get("type", ()))),
    )


def _types(element: Mapping[str, Any]) -> list[str]:
    if "type" in element:
        names = [_text(one) for one in element["type"]]
    else:
        names = [element["@type"]]
    return ["variant" if name == "any" else name for name in names]


def _attribute(element: Any, name: str) -> bool:
    return isinstance(element, Mapping) and element.get(f"@{name}") == "true"


def _default(value: Any, declared: str) -> Any:
    """Return the default that a ``<value>`` stands for.

    Elements of a vector are nested ``<value>`` elements. Text in a vector counts for nothing:
    that is how CASA reads its own ``cell``, whose default is an empty list.
    """
    kind = value.get("@type", declared) if isinstance(value, Mapping) else declared
    if kind == "vector":
        kind = declared
    if not kind.endswith("Vec"):
        return _scalar(_text(value), kind)
    nested = value.get("value", ()) if isinstance(value, Mapping) else ()
    return [_scalar(_text(one), kind.removesuffix("Vec")) for one in nested]


def _scalar(text: str, kind: str) -> Any:
    match kind:
        case "string" | "path" | "variant" | "any":
            return text
        case "int":
            return int(text)
        case "double":
            return float(text)
        case "bool":
            return text.lower() == "true"
        case _:
            raise ValueError(f"cannot read {text!r} as a value of type {kind!r}")


def _when(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = (task["input"].get("constraints") or {}).get("when", [])
    return rules


def _constraints(rules: Iterable[Mapping[str, Any]]) -> Iterable[Constraint]:
    operators: tuple[Literal["equals", "notequals"], ...] = ("equals", "notequals")
    for when in rules:
        for operator in operators:
            for rule in when.get(operator, ()):
                yield Constraint(
                    parameter=when["@param"],
                    operator=operator,
                    value=_scalar(rule["@value"], rule.get("@type", "string")),
                    defaults=tuple(
                        (default["@param"], _constraint_default(default["value"][0]))
                        for default in rule.get("default", ())
                    ),
                )


def _constraint_default(value: Any) -> Any:
    """Return the default that a rule gives: a value of a named type, or else a Python literal."""
    if isinstance(value, Mapping):
        return _default(value, "string")
    return ast.literal_eval(value) if value else ""
