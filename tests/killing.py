# SPDX-License-Identifier: GPL-3.0-or-later
"""Kill workers and drivers, for the tests that nothing comes of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from ptclean.keeping.encoding import decode

#: Runs a call in a process of its own, which kills itself when something has happened a number of
#: times, having told which workers it has.
DRIVER = """
import json, os, signal, sys
import psutil
from ptclean import ptclean
from ptclean.imaging import assembly
from ptclean.keeping import resumption
from ptclean.keeping.encoding import encode
from ptclean.keeping.journal import Journal

# What runs the tests in the background may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
arguments, where, count, number, outcome = json.loads(sys.argv[1])
left = count

def dies_in(owner, name, is_it):
    # The function is called first, then the process dies.
    function = getattr(owner, name)
    def dying(*args, **kwargs):
        global left
        result = function(*args, **kwargs)
        if is_it(*args):
            left -= 1
            if left == 0:
                print(*(p.pid for p in psutil.Process().children(recursive=True)), flush=True)
                os.kill(os.getpid(), number)
        return result
    setattr(owner, name, dying)

if where == "install":
    dies_in(assembly, "_replace", lambda *args: True)
elif where == "installed":
    dies_in(Journal, "put", lambda journal, fact, value: fact == "installed")
elif where == "take over":
    dies_in(resumption, "remove_former", lambda *args: True)
elif where:
    dies_in(Journal, "add", lambda journal, step, value: step.name == where)
returned = ptclean(**arguments)
with open(outcome, "w") as f:
    json.dump(encode(returned), f)
"""


class Driver:
    """A call of ptclean in a process of its own.

    Parameters
    ----------
    folder : Path
        Where its process works and logs.
    where : str, optional
        Name of a step, 'install', 'installed' or 'take over': where it sends itself a signal.
    count : int
        How many times that has been done before it does.
    number : int
        The signal.
    **arguments
        Of the call.
    """

    def __init__(
        self,
        folder: Path,
        where: str = "",
        count: int = 1,
        number: int = signal.SIGKILL,
        **arguments: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.workers: list[int] = []
        self._outcome = folder / "returned.json"
        self._outcome.unlink(missing_ok=True)
        told = json.dumps([arguments, where, count, number, str(self._outcome)])
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, told],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As a batch system does; a signal to it does not reach the tests.
            start_new_session=True,
        )

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.kill()
        self.process.communicate()

    def kill(self) -> None:
        """Kill it, wherever it is."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.workers = [child.pid for child in children]
        self.process.kill()
        self.process.wait()

    def wait(self) -> tuple[int, str]:
        """Wait for its end; returns exit status and what it has written to stderr."""
        told, errors = self.process.communicate(timeout=300)
        lines = [line for line in told.splitlines() if line and line.replace(" ", "").isdigit()]
        if lines:
            self.workers = [int(pid) for pid in lines[-1].split()]
        return self.process.returncode, errors

    def returned(self) -> Any:
        """What the call has returned."""
        return decode(json.loads(self._outcome.read_text()))


def wait_until(
    happens: Callable[[], Any],
    seconds: float = 60,
    says: Callable[[], str] = lambda: "it takes too long",
) -> None:
    """Wait until something is so; fail, and say why, if it does not come to be."""
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, says()
        time.sleep(0.05)


def wait_until_gone(pids: list[int], seconds: float = 30) -> None:
    """Wait until processes have ended; fail if they do not."""

    def left() -> list[int]:
        return [pid for pid in pids if _is_alive(pid)]

    wait_until(lambda: not left(), seconds, lambda: f"still there: {left()}")


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def worker_processes(parent: psutil.Process | None = None) -> list[psutil.Process]:
    """Processes of the workers that a process has started, this one if none is given."""
    found = []
    for process in (parent or psutil.Process()).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("spawn_main" in word for word in process.cmdline()):
                found.append(process)
    return found


@contextlib.contextmanager
def killed_workers(
    begun: Callable[[], Any],
    choose: Callable[[list[psutil.Process]], list[psutil.Process]],
    pause: Callable[[int], float],
    most: int,
) -> Iterator[list[int]]:
    """Kill workers of this process while something is done.

    Parameters
    ----------
    begun : callable
        Tells whether it may begin.
    choose : callable
        Chooses victims among the processes of the workers.
    pause : callable
        Seconds to wait, for a number of workers that have been killed.
    most : int
        Workers to be killed.

    Yields
    ------
    list of int
        Processes that have been killed so far.
    """
    killed: list[int] = []
    over = threading.Event()

    def kill_now_and_then() -> None:
        while not over.wait(0.02) and not begun():
            pass
        while not over.wait(pause(len(killed))) and len(killed) < most:
            for victim in choose(worker_processes()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
                    killed.append(victim.pid)

    thread = threading.Thread(target=kill_now_and_then)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()
