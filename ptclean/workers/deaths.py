# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of a worker that has died: how much memory it had, and whether that is why.

A process that the kernel's OOM killer or Dask's nanny ends says nothing. The nannies of our own
workers watch its memory (:mod:`ptclean.workers.watchdog`) and write what they see into files, of
which the driver reads the last state here. Of workers that somebody else started nothing is known.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from dask.utils import format_bytes

from .cgroup import kernel_kills

#: Part of its limit above which a worker counts as killed for it: the nanny looks now and then.
_NEAR = 0.8

#: Seconds within which deaths count as of one moment.
_AT_ONCE = 30.0


@dataclass(frozen=True)
class Death:
    """A worker that has died.

    Attributes
    ----------
    worker : str
        Its name.
    pid : int
        Number of its process.
    log_path : str
        Its CASA log file; empty if it is not known.
    peak_memory : int or None
        Largest resident memory of its process in its last task, in bytes; None if not known.
    limit : int or None
        Bytes at which its nanny kills it.
    of_memory : bool or None
        Whether it was killed for want of memory; None if that is not known.
    """

    worker: str
    pid: int = 0
    log_path: str = ""
    peak_memory: int | None = None
    limit: int | None = None
    of_memory: bool | None = None

    def __str__(self) -> str:
        text = f"{self.worker} (process {self.pid})"
        if self.peak_memory is not None:
            text += f" at a peak of {format_bytes(self.peak_memory)}"
        if self.limit:
            text += f", its limit being {format_bytes(self.limit)}"
        if self.log_path:
            text += f"; its log is {self.log_path}"
        return text


def memory_file(scratch: str, pid: int) -> str:
    """Return the file in which the nanny of a worker writes what memory that has."""
    return os.path.join(scratch, f"memory-{pid}.json")


@dataclass(frozen=True)
class Seen:
    """What the nanny of a worker has seen of it.

    Attributes
    ----------
    peak : int or None
        Largest resident memory of its process in its last task, in bytes; None if not known.
    over_limit : bool
        Whether the nanny has killed it for its memory.
    exit_code : int or None
        How its process ended, as in `subprocess.Popen.returncode`; None if not known.
    """

    peak: int | None = None
    over_limit: bool = False
    exit_code: int | None = None


def write_seen(path: str, seen: Seen) -> None:
    """Write down what a nanny has seen of its worker."""
    new = f"{path}.new"
    with open(new, "w") as f:
        json.dump(asdict(seen), f)
    os.replace(new, path)


def read_seen(path: str) -> Seen:
    """Read what `write_seen` has written; nothing is known if there is no such file."""
    try:
        with open(path) as f:
            return Seen(**json.load(f))
    except (OSError, ValueError, TypeError):
        return Seen()


def peak_of(pid: int) -> int | None:
    """Return the largest resident memory of a process so far, in bytes (proc(5), ``VmHWM``)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    match = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


class KernelKills:
    """Kills of the kernel for want of memory, each of which explains the death of one worker.

    Workers that die at once are asked about one after the other: what the first question finds
    explains the deaths that are asked about soon after it, but not one that comes later.

    Parameters
    ----------
    count : callable, optional
        As `ptclean.workers.cgroup.kernel_kills`.
    clock : callable, optional
        As `time.monotonic`.
    """

    def __init__(
        self,
        count: Callable[[], int | None] = kernel_kills,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count, self._clock = count, clock
        self._counted = count()
        self._left = 0
        self._found = clock()

    def claim(self) -> bool | None:
        """Put a death down to a kill, if there is one; None if kills cannot be counted."""
        counted, now = self._count(), self._clock()
        if counted is None or self._counted is None:
            return None
        if now - self._found > _AT_ONCE:
            self._left = 0
        if counted > self._counted:
            self._left += counted - self._counted
            self._found = now
        self._counted = counted
        if not self._left:
            return False
        self._left -= 1
        return True


def is_of_memory(seen: Seen, limit: int | None, killed: Callable[[], bool | None]) -> bool | None:
    """Tell whether a worker died for want of memory.

    Parameters
    ----------
    seen : Seen
        What its nanny has seen.
    limit : int or None
        Its limit, in bytes.
    killed : callable
        Tells whether the kernel has killed a worker, as `KernelKills.claim`. It is asked only if
        the kernel may have done so: its kills are none of a worker that crashed.

    Returns
    -------
    bool or None
        None if that cannot be told.
    """
    if seen.over_limit or (seen.peak and limit and seen.peak >= _NEAR * limit):
        return True
    if seen.exit_code not in (None, -signal.SIGKILL):
        return False
    return killed()
