# SPDX-License-Identifier: GPL-3.0-or-later
"""A bar for each phase, where somebody looks on: in a terminal, or in a notebook.

tqdm draws it. Whether there is one is decided by `chosen`; how long a phase will take by
`TimeLeft`. Neither needs a terminal or a clock. Nothing of a bar stays on the screen.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ..config import setting
from ..steps import Outcome
from ..terminal import is_casashell, is_notebook, is_terminal
from .events import Cycle, Listener, Phase, Task


def mode() -> str:
    """Return ``progress`` of the configuration.

    Raises
    ------
    ParameterError
        If it is none of the known ones.
    """
    # YAML takes a bare off for false.
    return str(setting("progress") or "off")


def chosen(mode: str, *, terminal: bool, notebook: bool, casashell: bool) -> str | None:
    """Choose a bar.

    Parameters
    ----------
    mode : str
        As `mode` returns it.
    terminal : bool
        Whether the standard error output is a terminal that can move its cursor.
    notebook : bool
        Whether this is the kernel of a notebook.
    casashell : bool
        Whether this is CASA's shell. There tasks write to the log, and leave the terminal to the
        user; so there is no bar unless it is asked for.

    Returns
    -------
    str or None
        ``'notebook'``, ``'text'`` or None.
    """
    if mode in ("lines", "off"):
        return None
    if notebook:
        return "notebook"
    return "text" if mode == "bar" or (terminal and not casashell) else None


def bar_for_run(nworkers: int) -> Listener:
    """Return the bar that fits the configuration and the place where this process runs.

    Parameters
    ----------
    nworkers : int
        Tasks that run at once.
    """
    kind = _chosen_here()
    return Listener() if kind is None else Bar(_bar_class(kind), nworkers)


def write(line: str) -> None:
    """Write a line where the bars are, if there are any."""
    if _chosen_here() is not None:
        print(line, file=sys.stderr)


def _chosen_here() -> str | None:
    return chosen(mode(), terminal=is_terminal(), notebook=is_notebook(), casashell=is_casashell())


def _bar_class(kind: str) -> Any:
    if kind == "notebook":
        with warnings.catch_warnings():
            # Without ipywidgets tqdm says so, and draws a bar of text.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm
    else:
        from tqdm import tqdm

    class _Tqdm(tqdm):  # type: ignore[misc]
        #: tqdm would start a thread that outlives the run.
        monitor_interval = 0

    # Left alone tqdm makes a lock for several processes.
    _Tqdm.set_lock(threading.RLock())
    return _Tqdm


class TimeLeft:
    """Estimates how long a phase will take, from the times that its tasks have taken.

    A task is expected to take as long as the same step of the same chunk did last; one that has
    none yet, as long for its cost as those of its phase that are complete, or of the phase before.

    Parameters
    ----------
    nworkers : int
        Tasks that run at once.
    """

    def __init__(self, nworkers: int) -> None:
        self._nworkers = self._at_once = max(1, nworkers)
        self._last: dict[tuple[str, int], float] = {}
        self._waiting: dict[tuple[str, int], int] = {}
        self._spent: dict[str, tuple[float, int]] = {}
        self._since = 0.0

    def start(
        self, tasks: Mapping[tuple[str, int], int], now: float, at_once: int | None = None
    ) -> None:
        """Begin a phase: cost of each task by step and chunk, and tasks at once, if fewer."""
        self._waiting = dict(tasks)
        self._at_once = at_once or self._nworkers
        self._since = now

    def done(self, step: str, index: int, seconds: float, now: float) -> None:
        """Take note of a task that is complete, and of its time in s."""
        cost = self._waiting.pop((step, index), 0)
        self._last[step, index] = seconds
        spent, total = self._spent.get(step, (0.0, 0))
        self._spent[step] = (spent + seconds, total + cost)
        self._since = now

    def seconds(self, now: float) -> float | None:
        """Return the seconds that are left; None if nothing is known yet."""
        expected = [
            self._expected(step, index, cost) for (step, index), cost in self._waiting.items()
        ]
        known = [value for value in expected if value is not None]
        if len(known) < len(expected):
            return None
        if not known:
            return 0.0
        # No sooner than its longest task, and than all of them side by side.
        whole = max(max(known), sum(known) / self._at_once)
        return max(0.0, whole - (now - self._since))

    def _expected(self, step: str, index: int, cost: int) -> float | None:
        if (step, index) in self._last:
            return self._last[step, index]
        spent, total = self._spent.get(step, (0.0, 0))
        return cost * spent / total if total else None


class Bar(Listener):
    """Draws a bar for each phase.

    Parameters
    ----------
    tqdm : type
        What draws it.
    nworkers : int
        Tasks that run at once.
    clock : callable
        Returns a time, in s.
    """

    def __init__(
        self, tqdm: Any, nworkers: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tqdm = tqdm
        self._clock = clock
        self._left = TimeLeft(nworkers)
        self._bar: Any = None
        self._residual = ""

    def phase_started(self, phase: Phase) -> None:
        self._close()
        now = self._clock()
        costs = {(task.step, task.index): task.cost for task in phase.tasks}
        self._left.start(costs, now, phase.at_once)
        self._bar = self._tqdm(
            total=len(phase.tasks),
            desc=f"ptclean: {phase}",
            unit=f" {phase.unit}",
            leave=False,
            postfix=self._text(now),
            dynamic_ncols=True,
            mininterval=0.1,
            bar_format="{desc} {bar} {n_fmt}/{total_fmt}{unit}, {elapsed}{postfix}",
        )

    def task_done(self, task: Task, outcome: Outcome) -> None:
        now = self._clock()
        self._left.done(task.step, task.index, outcome.seconds, now)
        if self._bar is not None:
            self._bar.set_postfix_str(self._text(now), refresh=False)
            self._bar.update()

    def phase_ended(self, phase: Phase, seconds: float) -> None:
        self._close()

    def cycle_done(self, cycle: Cycle) -> None:
        self._residual = f"peak {cycle.peak:.3g}, threshold {cycle.threshold:.3g} Jy"

    def close(self) -> None:
        self._close()

    def _text(self, now: float) -> str:
        left = self._left.seconds(now)
        time_left = "" if left is None else f"{self._tqdm.format_interval(left)} left"
        return ", ".join(part for part in (time_left, self._residual) if part)

    def _close(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()
