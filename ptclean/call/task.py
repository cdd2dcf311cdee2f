# SPDX-License-Identifier: GPL-3.0-or-later
"""A CASA task as a Python object: callable, documented, and logged like CASA's own tasks.

CASA generates the source of its tasks from XML. Here one class does what that source does, for
the description it is given: binds and checks the arguments, writes the begin, call and end lines
to CASA's log, and calls the function that does the work.

Not covered: the work itself, and the shell's way of taking arguments from global variables
(:mod:`ptclean.call.shell`).
"""

import inspect
import keyword
import textwrap
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from types import FunctionType
from typing import Any

from casatasks.private.task_logging import end_log, except_log, start_log

from .description import TaskDescription
from .validation import validate

_NAME_COLUMN = 21
_RULE_WIDTH = 78


class CasaTask:
    """A task made of its description and the function that does the work.

    Parameters
    ----------
    description : TaskDescription
    run : callable
        Called as ``run(parameters)`` with the checked values of all parameters; what it returns
        is what the task returns.
    module : str, optional
        Where the task is found under its name. A task is pickled as a reference to that place,
        as a function is.
    """

    def __init__(
        self,
        description: TaskDescription,
        run: Callable[[dict[str, Any]], Any],
        module: str = "ptclean",
    ) -> None:
        self._description = description
        self._run = run
        self._info_group_ = description.category
        self._info_desc_ = description.shortdescription
        self.__module__ = module
        self.__name__ = self.__qualname__ = description.name
        self.__doc__ = docstring(description)
        self.__signature__ = signature(description)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Check the arguments, then do the work between a begin and an end line in CASA's log.

        Raises
        ------
        TypeError
            If the arguments do not fit the signature.
        AssertionError
            If CASA would refuse a value.
        """
        name = self._description.name
        parameters = bind(self._description, args, kwargs)
        state = start_log(name, call_line(parameters))
        result = None
        try:
            result = self._run(parameters)
        except Exception as error:
            except_log(name, error)
            raise
        finally:
            end_log(state, name, result)
        return result

    def __reduce__(self) -> str:
        return self.__qualname__

    def __repr__(self) -> str:
        return f"<CASA task {self._description.name}>"


def bind(
    description: TaskDescription,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    function: str | None = None,
) -> dict[str, Any]:
    """Bind the arguments of a call to a task's parameters, then check and convert them.

    Parameters
    ----------
    description : TaskDescription
    args, kwargs : sequence, mapping
        The arguments of the call.
    function : str, optional
        Name of the function that errors speak of. The default is that of the task's own method,
        ``_ptclean.__call__``, whose ``self`` Python counts as an argument, as with CASA's tasks.

    Returns
    -------
    dict of str to object
        A value for every parameter, in the order of the signature.

    Raises
    ------
    TypeError
        If the arguments do not fit the signature; the text is Python's.
    AssertionError
        If CASA would refuse a value; the text is CASA's.
    """
    # Copies, since the work may change a list that it is given.
    defaults = {each.name: copy(each.default) for each in description.parameters}
    return validate(description, _collected(description, args, kwargs, defaults, function))


def arguments(
    description: TaskDescription, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Bind the arguments of a call to a task's parameters, without a look at their values.

    Parameters
    ----------
    description, args, kwargs
        As for `bind`.

    Returns
    -------
    dict of str to object
        In the order of the signature; None for what is not given.

    Raises
    ------
    TypeError
        If the arguments do not fit the signature; the text is Python's.
    """
    return _collected(
        description, args, kwargs, {each.name: None for each in description.parameters}
    )


def call_line(parameters: Mapping[str, Any]) -> list[str]:
    """Return the arguments of a call as CASA logs them."""
    return [f"{key}={value!r}" for key, value in parameters.items()]


def signature(description: TaskDescription) -> inspect.Signature:
    """Return the signature of a task.

    Parameters
    ----------
    description : TaskDescription

    Returns
    -------
    inspect.Signature
    """
    return inspect.Signature(
        [
            inspect.Parameter(
                parameter.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=parameter.default,
            )
            for parameter in description.parameters
        ]
    )


def docstring(description: TaskDescription) -> str:
    """Return the documentation of a task, laid out as that of CASA's tasks.

    Parameters
    ----------
    description : TaskDescription

    Returns
    -------
    str
    """
    return "\n".join(
        [
            f"{description.name} ---- {description.shortdescription}",
            "",
            inspect.cleandoc(description.description),
            "",
            _rule("parameter descriptions"),
            "",
            *(
                _entry(parameter.name, parameter.description or parameter.shortdescription)
                for parameter in description.parameters
            ),
            _entry("RETURNS", description.returns),
            "",
            _rule("examples"),
            "",
            inspect.cleandoc(description.example),
            "",
        ]
    )


def _rule(title: str) -> str:
    return f"--------- {title} ".ljust(_RULE_WIDTH, "-")


def _entry(name: str, text: str) -> str:
    indented = textwrap.indent(inspect.cleandoc(text), " " * _NAME_COLUMN)
    return f"{name:<{_NAME_COLUMN - 1}} {indented.lstrip()}"


def _collected(
    description: TaskDescription,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    defaults: Mapping[str, Any],
    function: str | None = None,
) -> dict[str, Any]:
    """Return the arguments of a call by name.

    ``inspect.Signature.bind`` would bind as well, but with error texts of its own, which know
    neither the function's name nor Python's suggestions. So Python itself binds, to a function
    made of the parameters' names, as ``collections.namedtuple`` does it.
    """
    names = [parameter.name for parameter in description.parameters]
    for name in names:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"{name!r} cannot be the name of a parameter")
    own = ["self"] if function is None else []
    collect: FunctionType = eval(f"lambda {', '.join([*own, *names])}: ({', '.join(names)},)", {})
    collect.__defaults__ = tuple(defaults[name] for name in names)
    collect.__qualname__ = function or f"_{description.name}.__call__"
    return dict(zip(names, collect(*([None] * len(own)), *args, **kwargs), strict=True))
