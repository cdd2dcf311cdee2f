# SPDX-License-Identifier: GPL-3.0-or-later
"""Directives that write parts of the documentation from the project's own files.

- ``settings``: every key of ``ptclean/ptclean.yaml`` with its comment, default and variable.
- ``own-parameters``: the parameters that ``xml/ptclean.xml`` adds to tclean's.
- ``known-values``: the values of tclean's parameters with which ptclean's engine works.

What is written once cannot go stale. CASA's own texts are not repeated here: they are in CASA's
documentation, and ``help(ptclean)`` shows those of the CASA that is installed.
"""

from __future__ import annotations

import inspect
import re
from importlib.resources import files
from types import ModuleType
from typing import NamedTuple

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from ptclean.call.description import Parameter, find_ptclean_xml, parse
from ptclean.config import kind, variable
from ptclean.planning import continuum_scope, scope

_KEY = re.compile(r"^  ([a-z][a-z0-9-]*):", re.ASCII)
_COMMENT = "  #"


class Setting(NamedTuple):
    """A key of ptclean.yaml.

    Attributes
    ----------
    key : str
    default : str
        As in the file.
    comment : str
        What stands above it.
    """

    key: str
    default: str
    comment: str


def read_settings(text: str) -> list[Setting]:
    """Read the keys below ``ptclean:`` in a yaml file, with their comments.

    Raises
    ------
    ValueError
        If a key has no comment.
    """
    defaults = yaml.safe_load(text)["ptclean"]
    settings: list[Setting] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.startswith(_COMMENT):
            comment.append(line.removeprefix(_COMMENT).strip())
        elif match := _KEY.match(line):
            key = match[1]
            if not comment:
                raise ValueError(f"{key} has no comment in ptclean.yaml")
            default = yaml.safe_dump(defaults[key]).split("\n")[0]
            settings.append(Setting(key, default, " ".join(comment)))
            comment = []
    if {each.key for each in settings} != set(defaults):
        raise ValueError("ptclean.yaml has keys that are not in two spaces from the margin")
    return settings


class Settings(SphinxDirective):
    """All settings, as a list of definitions."""

    def run(self) -> list[nodes.Node]:
        text = files("ptclean").joinpath("ptclean.yaml").read_text("utf-8")
        return [nodes.definition_list("", *map(_setting, read_settings(text)))]


class OwnParameters(SphinxDirective):
    """The parameters that ptclean adds to tclean's."""

    def run(self) -> list[nodes.Node]:
        own = parse(find_ptclean_xml().read_bytes()).parameters
        return [nodes.definition_list("", *map(_parameter, own))]


class KnownValues(SphinxDirective):
    """What tclean's parameters may be for cubes, and for continuum images, as a table."""

    def run(self) -> list[nodes.Node]:
        engines = (scope, continuum_scope)
        names = [each for engine in engines for each in (*engine._KNOWN, *engine._UNSET)]
        head = ["parameter", "cubes, in chunks", "continuum images, in parts"]
        body = nodes.tbody("", *(_row(name, engines) for name in dict.fromkeys(names)))
        columns = [nodes.colspec("", colwidth=width) for width in (2, 4, 4)]
        titles = [nodes.entry("", nodes.paragraph("", each)) for each in head]
        group = nodes.tgroup("", *columns, nodes.thead("", nodes.row("", *titles)), body)
        return [nodes.table("", group.deepcopy(), classes=["colwidths-auto"])]


def _row(name: str, engines: tuple[ModuleType, ...]) -> nodes.Node:
    cells = [nodes.paragraph("", "", nodes.literal("", name))]
    cells += [_values(name, engine) for engine in engines]
    return nodes.row("", *(nodes.entry("", each) for each in cells))


def _values(name: str, engine: ModuleType) -> nodes.Node:
    if name in engine._UNSET:
        return nodes.paragraph("", "not given")
    if name not in engine._KNOWN:
        return nodes.paragraph("", "any")
    marked: list[nodes.Node] = []
    for value in engine._KNOWN[name]:
        marked += [nodes.literal("", f"{value}"), nodes.Text(", ")]
    return nodes.paragraph("", "", *marked[:-1])


def _setting(setting: Setting) -> nodes.Node:
    effect, touch, when = setting.comment.partition("Touch it ")
    facts = nodes.paragraph(
        "",
        "",
        nodes.Text("Default "),
        nodes.literal("", setting.default),
        nodes.Text(f"; {kind(setting.key).text}. "),
        nodes.literal("", variable(setting.key)),
        classes=["setting-facts"],
    )
    body = [facts, nodes.paragraph("", effect.strip())]
    if touch:
        body.append(nodes.paragraph("", touch + when))
    return _item(setting.key, setting.key, body)


def _parameter(parameter: Parameter) -> nodes.Node:
    paragraphs: list[str | tuple[str, str]] = [""]
    for line in inspect.cleandoc(parameter.description).splitlines():
        # CASA's way: a value, a semicolon and what it means, indented where it goes on.
        if value := re.match(r"(\w+=\S+); (.*)", line):
            paragraphs.append((value[1], value[2]))
        elif not line or line.startswith("default: "):
            paragraphs.append(line)
        elif isinstance(last := paragraphs[-1], tuple):
            paragraphs[-1] = (last[0], f"{last[1]} {line.strip()}")
        else:
            paragraphs[-1] = f"{last} {line.strip()}".strip()
    body = []
    for each in paragraphs:
        if isinstance(each, tuple):
            literal = nodes.literal("", each[0])
            body.append(nodes.paragraph("", "", literal, nodes.Text(f": {each[1]}")))
        elif each:
            body.append(nodes.paragraph("", each))
    return _item(f"{parameter.name}={parameter.default!r}", parameter.name, body)


def _item(term: str, name: str, body: list[nodes.Node]) -> nodes.Node:
    return nodes.definition_list_item(
        "",
        nodes.term("", "", nodes.literal("", term), ids=[nodes.make_id(name)]),
        nodes.definition("", *body),
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("settings", Settings)
    app.add_directive("own-parameters", OwnParameters)
    app.add_directive("known-values", KnownValues)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
