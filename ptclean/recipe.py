# SPDX-License-Identifier: GPL-3.0-or-later
"""Recipes that nobody wants to edit: what they call tclean is ptclean, for the life of one process.

``python -m ptclean run recipe.py`` ends up here. CASA's modules are changed in memory, as they are
imported, and nothing else is: a recipe may still say where CASA's log goes before it imports CASA.

Covers what gets `tclean` from ``casatasks``, in whatever form of import, and the shell of CASA
(``python -m ptclean run -m casashell -c recipe.py``), whose tasks are its own. What calls
``casatasks.private`` gets tclean itself, as ptclean does where it leaves an image to tclean; so do
CASA's other tasks (``simanalyze``), and processes that a recipe starts.
"""

from __future__ import annotations

import builtins
import importlib.util
import inspect
import os
import pkgutil
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

#: The module that has tclean as the shell of CASA calls it.
_SHELL_TASK = "casashell.private.tclean"


def run_script(path: str, arguments: Sequence[str], defaults: Mapping[str, Any]) -> None:
    """Run a script as ``python path arguments`` does, with ptclean for tclean.

    Parameters
    ----------
    path : str
    arguments : sequence of str
        What the script finds in ``sys.argv``, after its name.
    defaults : mapping
        Of ptclean's own parameters, where a call does not give them.
    """
    replace_tclean(defaults)
    sys.argv = [path, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    _keep_ptclean_importable()
    if pkgutil.get_importer(path) is not None:
        # A folder or archive with a __main__.py.
        runpy.run_path(path, run_name="__main__")
        return
    # Not by runpy, which takes the module away before functions of it run at the end.
    loader = SourceFileLoader("__main__", os.path.abspath(path))
    code = loader.source_to_code(loader.get_data(loader.path), loader.path)
    script = ModuleType("__main__")
    script.__dict__.update(__file__=loader.path, __loader__=loader, __builtins__=builtins)
    sys.modules["__main__"] = script
    exec(code, script.__dict__)


def run_module(name: str, arguments: Sequence[str], defaults: Mapping[str, Any]) -> None:
    """Run a module as ``python -m name arguments`` does, with ptclean for tclean.

    Parameters
    ----------
    name : str
    arguments, defaults
        As for `run_script`.
    """
    replace_tclean(defaults)
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def replace_tclean(defaults: Mapping[str, Any]) -> None:
    """Have casatasks, and the shell of CASA, give ptclean for tclean from now on.

    Parameters
    ----------
    defaults : mapping
        Of ptclean's own parameters, where a call does not give them.
    """

    def in_casatasks(module: ModuleType) -> None:
        # It takes tclean from casatasks when it is imported, which has to be before.
        from .run import ptclean

        task = stand_in(ptclean, defaults)
        for each in (module, sys.modules["casatasks.tclean"]):
            each.tclean = task  # type: ignore[attr-defined]

    def in_shell(module: ModuleType) -> None:
        from .run import ptclean

        # Called by CASA's own code, with all values, when it has found and checked them.
        module._tclean_t = stand_in(ptclean, defaults)  # type: ignore[attr-defined]

    for name, change in (("casatasks", in_casatasks), (_SHELL_TASK, in_shell)):
        if name in sys.modules:
            change(sys.modules[name])
        sys.meta_path.insert(0, _AfterImport(name, change))


def stand_in(task: Any, defaults: Mapping[str, Any]) -> Any:
    """Make an object that calls a task and looks as casatasks' own tclean.

    The ALMA pipeline, and others, look into the code of a task's method ``__call__`` for the names
    of its parameters, leave out what they do not find there, and log the name of its class.

    Parameters
    ----------
    task : callable
        It has tclean's parameters first, then others.
    defaults : mapping
        Other defaults than the task's, by parameter.

    Returns
    -------
    object
    """
    parameters = inspect.signature(task).parameters
    values = {name: defaults.get(name, each.default) for name, each in parameters.items()}

    def call(*given: Any) -> Any:
        # What was not given is left to the task, which makes a new list where a default is one.
        pairs = zip(values.items(), given, strict=True)
        named = {name: value for (name, default), value in pairs if value is not default}
        return task(**{**defaults, **named})

    # As Python writes it: `inspect.Parameter` has seen to it that these are names.
    method: Any = eval(
        f"lambda self, {', '.join(values)}: call({', '.join(values)})", {"call": call}
    )
    method.__name__, method.__qualname__ = "__call__", "_tclean.__call__"
    method.__defaults__ = tuple(values.values())
    kind = type(
        "_tclean",
        (),
        {
            "__doc__": task.__doc__,
            "__module__": "casatasks.tclean",
            "__call__": method,
            "__reduce__": lambda self: (stand_in, (task, dict(defaults))),
            "_info_group_": getattr(task, "_info_group_", ""),
            "_info_desc_": getattr(task, "_info_desc_", ""),
        },
    )
    return kind()


class _AfterImport(MetaPathFinder):
    """Changes a module as soon as it has been imported, before anybody sees it."""

    def __init__(self, name: str, change: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._change = change
        self._searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as others do, and have the change made when it has been executed."""
        if fullname != self._name or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._searching = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _keep_ptclean_importable() -> None:
    """Let workers import ptclean where it was found in the working directory, not installed."""
    if not any(finder.find_spec("ptclean", None) for finder in sys.meta_path):
        sys.path.append(str(Path(__file__).parents[1]))
