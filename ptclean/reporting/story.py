# SPDX-License-Identifier: GPL-3.0-or-later
"""A run's story, in the CASA log of the user's process.

One line when a phase is over, one for each cycle, one for each tenth of the chunks of a phase that
takes its time, and one for each worker that is lost. What workers warn of is repeated once, however
many of them say the same; the rest is counted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

from .. import logs
from ..steps import Outcome
from .events import Cycle, Listener, Loss, Phase, Task

#: Seconds between lines that say how far a phase has come. Phases shorter than that need none.
SECONDS_BETWEEN_LINES = 1.0

#: Different messages of one origin that are repeated; one that has a number in it is another each
#: time.
MESSAGES_OF_AN_ORIGIN = 10


class Tenths:
    """Which lines are due while a phase goes on; knows no clock.

    Parameters
    ----------
    total : int
        Tasks of the phase.
    now : float
        Time, in s, as in all calls.
    """

    def __init__(self, total: int, now: float) -> None:
        self._total = total
        self._told = 0
        self._last = now

    def is_due(self, done: int, now: float) -> bool:
        """Tell whether a line is due now that so many tasks are complete.

        Not when all are: the phase's last line says that.
        """
        tenths = 10 * done // self._total
        if done >= self._total or tenths <= self._told:
            return False
        if now - self._last < SECONDS_BETWEEN_LINES:
            return False
        self._told, self._last = tenths, now
        return True


class Story(Listener):
    """Tells the log what happens.

    Parameters
    ----------
    tenths : bool
        Whether it says how far a phase has come, while it goes on.
    said : iterable of LogLine
        What the user's process has warned of already.
    clock : callable
        Returns a time, in s.
    """

    def __init__(
        self,
        *,
        tenths: bool = True,
        said: Iterable[logs.LogLine] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wants_tenths = tenths
        self._clock = clock
        self._tenths: Tenths | None = None
        self._phase: Phase | None = None
        self._done = 0
        self._losses = 0
        self._warnings = RepeatedWarnings(said)

    def phase_started(self, phase: Phase) -> None:
        self._phase, self._done = phase, 0
        self._tenths = Tenths(len(phase.tasks), self._clock()) if self._wants_tenths else None

    def task_done(self, task: Task, outcome: Outcome) -> None:
        self._done += 1
        self._warnings.repeat(outcome)
        phase = self._phase
        if phase and self._tenths and self._tenths.is_due(self._done, self._clock()):
            logs.post(f"Phase {phase}: {self._done} of {len(phase.tasks)} {phase.unit} done")

    def phase_ended(self, phase: Phase, seconds: float) -> None:
        number = len(phase.tasks)
        some = f"{number}" if number == phase.total else f"{number} of {phase.total}"
        logs.post(f"Phase {phase}: {some} {phase.unit}, {seconds:.1f} s")

    def cycle_done(self, cycle: Cycle) -> None:
        logs.post(describe_cycle(cycle, self._losses))
        self._losses = 0

    def worker_lost(self, loss: Loss) -> None:
        self._losses += len(loss.tasks)
        again = f"; done again: {', '.join(loss.tasks)}" if loss.tasks else ""
        logs.post(f"{loss.worker} was lost{again}", "WARN")

    def close(self) -> None:
        for line in self._warnings.summary():
            logs.post(line)


def describe_cycle(cycle: Cycle, losses: int = 0) -> str:
    """Return the line of a cycle.

    Parameters
    ----------
    cycle : Cycle
    losses : int
        Tasks that were done again in it.
    """
    peak = f"peak residual {cycle.peak:.6g} Jy/beam, threshold {cycle.threshold:.6g}"
    if not cycle.number:
        return f"Before the first minor cycle: {peak}"
    line = (
        f"Minor cycle {cycle.number}: {cycle.iterations} iterations down to a cyclethreshold of "
        f"{cycle.cyclethreshold:.6g} Jy/beam; {peak}"
    )
    left_out = cycle.total - len(cycle.gridded)
    if cycle.gridded and left_out:
        line += f"; {left_out} of {cycle.total} chunks did not change and were left out"
    if losses:
        line += f"; {losses} tasks done again"
    return line


class RepeatedWarnings:
    """Repeats what workers warn of in the user's log, each message once.

    Parameters
    ----------
    said : iterable of LogLine
        What is there already.
    """

    def __init__(self, said: Iterable[logs.LogLine] = ()) -> None:
        self._seen: Counter[tuple[str, str, str]] = Counter(set(said))
        self._of_origin: Counter[str] = Counter()
        self._workers: dict[tuple[str, str, str], set[str]] = {}
        self._kept_back: Counter[str] = Counter()

    def repeat(self, outcome: Outcome) -> None:
        """Post those lines of a task that nobody has logged before."""
        new = []
        for line in outcome.warnings:
            if line in self._seen or self._of_origin[line.origin] < MESSAGES_OF_AN_ORIGIN:
                if line not in self._seen:
                    self._of_origin[line.origin] += 1
                    new.append(line)
                self._seen[line] += 1
                self._workers.setdefault(line, set()).add(outcome.worker)
            else:
                self._kept_back[line.origin] += 1
        logs.forward(new, outcome.worker)

    def summary(self) -> list[str]:
        """Return lines that say what was not posted."""
        lines = []
        for line, count in self._seen.items():
            if count > 1:
                workers = len(self._workers[line])
                lines.append(
                    f"Said {count} times, also by {workers} worker{'s' * (workers != 1)}, and "
                    f"logged once: {line[2].splitlines()[0]}"
                )
        for origin, count in self._kept_back.items():
            lines.append(f"{count} more warnings of {origin} are in the workers' logs")
        return lines
