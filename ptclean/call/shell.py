# SPDX-License-Identifier: GPL-3.0-or-later
"""The task in CASA's shell: parameters taken from global variables, ``inp``, ``go`` and the like.

CASA generates a second set of tasks for its shell, beside those of casatasks. Called without
arguments, these take the global variables named as their parameters; called with arguments, they
give the others the defaults of the shell (:mod:`ptclean.call.subparameters`). They keep the values
of the last call in a file, ``tclean.last``. The shell's functions (``inp``, ``go``, ``default``,
``tget``, ``tput``, ``saveinputs``) ask for nothing but the methods of `ShellTask`.

CASA's shell tasks keep the first global variables that they find. Here they are looked up anew
whenever they are asked for, so that ``default('ptclean')``, variables, ``ptclean()`` also do in a
script what they do at the prompt.

Not covered: what a task is outside of the shell (:mod:`ptclean.call.task`).
"""

from __future__ import annotations

import contextlib
import inspect
import os
import runpy
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from types import FrameType, ModuleType
from typing import Any

from casatasks import casalog
from casatasks.private.task_logging import end_log, start_log

from .. import logs
from . import subparameters
from .description import TaskDescription
from .shell_text import overview
from .task import CasaTask, arguments, call_line
from .validation import allows, validate

#: The mark by which CASA's shell tasks know the global variables of the shell.
_SHELL = "__casashell_state__"

#: Defaults that casatasks and the shell write otherwise, but which mean the same to tclean: images
#: are identical.
_EQUIVALENT: dict[str, tuple[Any, ...]] = {"uvtaper": ([], [""]), "outframe": ("", "LSRK")}


class ShellTask(CasaTask):
    """A task that CASA's shell takes for one of its own.

    Outside of the shell it is a task like those of casatasks. In the shell it is

    * called without arguments, a task of the shell, in scripts as well: the same call of a task of
      casatasks would be an error;
    * called with arguments at the prompt, a task of the shell;
    * called with arguments in a script or a module, a task of casatasks, so that a script means the
      same wherever it runs. Where the shell's defaults would be others, a line in the log says so.

    Parameters
    ----------
    description, run, module
        As for `CasaTask`.
    everywhere : bool, optional
        Whether the task is the shell's in every call, as CASA's tasks in ``gotasks`` are.
    """

    def __init__(
        self,
        description: TaskDescription,
        run: Callable[[dict[str, Any]], Any],
        module: str = "ptclean",
        *,
        everywhere: bool = False,
    ) -> None:
        super().__init__(description, run, module)
        self._everywhere = everywhere
        if everywhere:
            # None stands for a default that depends on the other arguments, as with CASA's own.
            own = self.__signature__.parameters.values()
            self.__signature__ = inspect.Signature([each.replace(default=None) for each in own])

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the task, as one of the shell's or as one of casatasks'.

        Raises
        ------
        TypeError
            If the arguments do not fit the signature.
        AssertionError
            If CASA would refuse a value.
        RuntimeError
            If the variables of the shell are asked for, and there is no shell.
        """
        given = arguments(self._description, args, kwargs)
        caller = sys._getframe(1).f_globals
        nothing_given = all(each is None for each in given.values())
        in_shell = _SHELL in caller
        if self._everywhere or (in_shell and (nothing_given or _is_prompt(caller))):
            if nothing_given:
                values = subparameters.all_values(self._description, self._variables())
            else:
                values = self._completed(given)
            return self._call(values)
        if in_shell:
            self._warn_of_other_defaults(given)
        return super().__call__(*args, **kwargs)

    def inp(self) -> None:
        """Print the parameters, their values in the shell, and what they mean."""
        width = shutil.get_terminal_size(fallback=(80, 24)).columns
        print(overview(self._description, self._variables(), allows, width), end="")

    def set_global_defaults(self) -> None:
        """Delete the shell's variables that are named as parameters."""
        variables = self._variables()
        for parameter in self._description.parameters:
            variables.pop(parameter.name, None)
        self._be_current()

    def tget(self, savefile: str | None = None) -> None:
        """Set the shell's variables to what they were in a call or when they were saved.

        Parameters
        ----------
        savefile : str, optional
            A file that `tput` or a call has written, in this task or in tclean. The default is
            ``ptclean.last``, or else ``ptclean.saved``, in the working directory.
        """
        name = self._description.name
        candidates = [f"{name}.last", f"{name}.saved"] if savefile is None else [savefile]
        files = [each for each in candidates if os.path.isfile(each)]
        if not files:
            print(f"no file {' or '.join(candidates)}: all parameters get their defaults")
            self.set_global_defaults()
            return
        # CASA's own tasks would also take over __name__ and the like.
        saved = runpy.run_path(files[0])
        self._variables().update({k: v for k, v in saved.items() if not k.startswith("__")})
        self._be_current()

    def tput(self, outfile: str | None = None) -> bool:
        """Save the values of the parameters in the shell to a file, for `tget`.

        Parameters
        ----------
        outfile : str, optional
            The default is ``ptclean.last`` in the working directory.

        Returns
        -------
        bool
            Whether the file could be written.
        """
        name = self._description.name
        values = subparameters.all_values(self._description, self._variables())
        return _save(f"{name}.last" if outfile is None else outfile, name, values)

    def _completed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all values of a call with arguments, in the order in which CASA works them out."""
        values: dict[str, Any] = {}
        for subparam in (False, True):
            for parameter in self._description.parameters:
                if parameter.subparam == subparam:
                    value = given[parameter.name]
                    if value is None:
                        value = subparameters.default(self._description, parameter, values)
                    values[parameter.name] = value
        return values

    def _call(self, values: Mapping[str, Any]) -> Any:
        """Do the work; keep the values in a file, whatever becomes of it."""
        name = self._description.name
        before, after = (os.path.realpath(f"{name}.{ending}") for ending in ("pre", "last"))
        saved = _save(before, name, values)
        state = result = None
        try:
            parameters = validate(self._description, values)
            state = start_log(name, call_line(parameters))
            result = self._run(parameters)
        except Exception as error:
            casalog.origin(name)
            casalog.post(f"Exception Reported: Error in {name}: {error}", "SEVERE")
            casalog.post(traceback.format_exc())
            raise
        finally:
            if saved:
                with contextlib.suppress(OSError):
                    os.replace(before, after)
            if state is not None:
                end_log(state, name, result)
        return result

    def _warn_of_other_defaults(self, given: Mapping[str, Any]) -> None:
        """Say in the log where the shell would have taken other defaults than casatasks."""
        name = self._description.name
        defaults = {each.name: each.default for each in self._description.parameters}
        for key, shells in self._completed(given).items():
            equivalent = (*_EQUIVALENT.get(key, ()), defaults[key])
            if given[key] is None and not any(subparameters.same(shells, v) for v in equivalent):
                logs.post(
                    f"{key}={defaults[key]!r} is taken, as casatasks does; for the default that "
                    f"CASA's shell has for this call, {key}={shells!r}, give it, or use 'from "
                    f"ptclean.gotasks.{name} import {name}'",
                    "WARN",
                )

    def _variables(self) -> MutableMapping[str, Any]:
        """Return the global variables of the shell, or of the script that the shell runs."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if _SHELL in frame.f_globals:
                return frame.f_globals
            frame = frame.f_back
        raise RuntimeError(
            f"{self._description.name}: CASA's shell is not running here, and has no variables; "
            f"give parameters as arguments"
        )

    def _be_current(self) -> None:
        """Make this the task that ``inp`` and ``go`` mean where they are given none."""
        inp = self._variables().get("inp")
        state = getattr(inp, "state", None)
        if isinstance(state, dict):
            state["last"] = self


def show_in_taskhelp(module: ModuleType) -> None:
    """Have the shell's ``taskhelp`` list the tasks that a module has; nothing without a shell.

    Parameters
    ----------
    module : ModuleType
        Every name that ``dir`` tells of it is looked at.
    """
    shell = sys.modules.get("casashell")
    extra: list[ModuleType] | None = getattr(shell, "extra_task_modules", None)
    if extra is not None and module not in extra:
        extra.append(module)


def _is_prompt(variables: Mapping[str, Any]) -> bool:
    """Tell the variables of the prompt from those of a script, which has a copy of them."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and variables is shell.user_ns


def _save(path: str, name: str, values: Mapping[str, Any]) -> bool:
    """Write values to a file of Python assignments, with the call in a comment at its end."""
    written = {key: _source(value) for key, value in values.items()}
    call = ",".join(f"{key}={value}" for key, value in written.items())
    lines = [*(f"{key:<20} = {value}" for key, value in written.items()), f"#{name}( {call} )"]
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    except OSError:
        return False
    return True


def _source(value: Any) -> str:
    text = repr(value)
    # An object without a notation of its own.
    return "None" if text.startswith("<") and text.endswith(">") else text
