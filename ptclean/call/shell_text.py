# SPDX-License-Identifier: GPL-3.0-or-later
"""How CASA's shell shows the parameters of a task: the lines that ``inp`` prints.

A line has the name, the value, and behind a hash what the parameter means, which goes on below
itself where the terminal is too narrow. Names on which others depend are bold on white, the
subparameters below them green and indented; values are blue where they are not the default, and
red where they are not allowed. Widths and colours are those of CASA 6.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .description import Parameter, TaskDescription
from .subparameters import default, is_shown, parents, same, value

_NAME = 23
_VALUE = 23
_INDENT = 3
#: Where the hash stands: behind name, ' = ', value and a space.
_HASH = _NAME + 3 + _VALUE + 1

_PLAIN = ""
_BOLD_ON_WHITE = "\x1b[1m\x1b[47m"
_GREEN = "\x1b[92m"
_BLUE = "\x1b[34m"
_RED = "\x1b[91m"
_END = "\x1b[0m"


def overview(
    description: TaskDescription,
    values: Mapping[str, Any],
    is_valid: Callable[[Parameter, Any], bool],
    width: int,
) -> str:
    """Return what ``inp`` prints for a task.

    Parameters
    ----------
    description : TaskDescription
    values : mapping of str to object
        What is set, under parameters' names; anything else in it is ignored.
    is_valid : callable
        Tells whether a parameter may have a value.
    width : int
        Columns of the terminal.

    Returns
    -------
    str
        Lines, the last one ended as well.
    """
    lines = [f"# {description.name} -- {description.shortdescription}"]
    with_subparameters = parents(description)
    for parameter in description.parameters:
        if not is_shown(description, parameter, values):
            continue
        now = value(description, parameter, values)
        if not is_valid(parameter, now):
            colour = _RED
        elif same(now, default(description, parameter, values)):
            colour = _PLAIN
        else:
            colour = _BLUE
        name = _name(parameter, parameter.name in with_subparameters)
        lines += _lines(name, _shown(now), colour, parameter.shortdescription, width)
    return "\n".join(lines) + "\n"


def _name(parameter: Parameter, has_subparameters: bool) -> str:
    """Return the first 25 columns of a parameter's line, up to the equals sign."""
    if parameter.subparam:
        wide = _NAME - _INDENT
        return f"{' ' * _INDENT}{_GREEN}{parameter.name[:wide]:<{wide}} ={_END}"
    name = f"{parameter.name[:_NAME]:<{_NAME}} ="
    return f"{_BOLD_ON_WHITE}{name}{_END}" if has_subparameters else name


def _shown(value: Any) -> str:
    # Without repr's escapes and choice of quotes, as CASA does it.
    return f"'{value}'" if type(value) is str else str(value)


def _lines(name: str, value: str, colour: str, text: str, width: int) -> Iterator[str]:
    first = f"{name} {colour}{value:<{_VALUE}}{_END if colour else ''}"
    pieces = _wrapped(text, width - _HASH - 1)
    if len(value) > _VALUE:
        # No room for a hash: what the parameter means begins on the next line.
        yield first
    elif not pieces:
        yield f"{first} #"
    else:
        yield f"{first} #{pieces.pop(0)}"
    for piece in pieces:
        yield f"{' ' * _HASH}#{piece}"


def _wrapped(text: str, width: int) -> list[str]:
    """Break a text into pieces of some columns, each with a space in front.

    The text ends, as in CASA, before a word that is too long for a piece of its own.
    """
    words = " ".join(text.split())
    pieces = textwrap.wrap(words, max(width - 1, 1), break_long_words=False, break_on_hyphens=False)
    fitting: list[str] = []
    for piece in pieces:
        if len(piece) >= width:
            break
        fitting.append(f" {piece}")
    return fitting
