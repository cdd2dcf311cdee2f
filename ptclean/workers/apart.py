# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a function in a fresh process, from inside a worker.

A worker has a memory budget for its chunks alone, by which CASA would cut a whole cube, and
remembers what it has worked out before. What CASA is to do as in a fresh process of the user's is
done here, in a process that has the user's own CASA settings and a log of its own.

The process dies with its worker, so that a task that is tried again elsewhere is not run twice at
a time (Linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ..errors import TaskError
from ..steps import Outcome
from .worker import WorkerSetup, run

#: ``prctl``'s number for the signal that a process gets when its parent dies.
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Surroundings:
    """What the process has of the user's; plain data.

    Attributes
    ----------
    name : str
        Name of the process, and of its log file.
    log_directory : str
        Absolute.
    casarcfiles : str or None
        The user's environment variable ``CASARCFILES``.
    casa_config : mapping
        See :class:`ptclean.workers.worker.WorkerSetup`.
    """

    name: str
    log_directory: str
    casarcfiles: str | None = None
    casa_config: Mapping[str, Any] = field(default_factory=dict)


def run_apart(surroundings: Surroundings, function: Callable[[Any], Any], argument: Any) -> Outcome:
    """Call a function in a fresh process, in a private and empty working directory.

    Parameters
    ----------
    surroundings : Surroundings
    function : callable
        Of a module that can be imported.
    argument : object
        Plain data.

    Returns
    -------
    Outcome
        As :func:`ptclean.workers.worker.run` gives it in that process.

    Raises
    ------
    TaskError
        If the function raised an exception.
    RuntimeError
        If the process died.
    """
    environ = {k: v for k, v in os.environ.items() if k != "CASARCFILES"}
    if surroundings.casarcfiles is not None:
        environ["CASARCFILES"] = surroundings.casarcfiles
    # What can be imported here can be there, where the working directory is another.
    environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(os.getpid())],
        input=pickle.dumps((surroundings, function, argument)),
        stdout=subprocess.PIPE,
        env=environ,
        check=False,
    )
    if done.returncode != 0 or not done.stdout:
        raise RuntimeError(
            f"the process {surroundings.name} ended with code {done.returncode}; a negative one is "
            f"the number of a signal, and -9 mostly says that memory was short. Its log is in "
            f"{surroundings.log_directory}"
        )
    # From our own child, through a pipe.
    result: Outcome | TaskError = pickle.loads(done.stdout)
    if isinstance(result, TaskError):
        raise result
    return result


def _main(parent: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(f"{__name__} is started by a worker of ptclean, and ends with it")
    # What CASA prints must not get into the answer.
    answer = os.dup(1)
    os.dup2(2, 1)
    surroundings, function, argument = pickle.load(sys.stdin.buffer)
    setup = WorkerSetup(surroundings.log_directory, casa_config=surroundings.casa_config)
    setup.setup(SimpleNamespace(name=surroundings.name, local_directory=os.getcwd()))  # type: ignore[arg-type]
    result: Outcome | TaskError
    try:
        result = run(function, argument)
    except TaskError as error:
        result = error
    with os.fdopen(answer, "wb") as pipe:
        pickle.dump(result, pipe)


if __name__ == "__main__":
    # Under its own name: what is pickled here is unpickled by the module of that name.
    from ptclean.workers import apart

    apart._main(int(sys.argv[1]))
