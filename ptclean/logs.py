# SPDX-License-Identifier: GPL-3.0-or-later
"""CASA's log: where it is, how a line of it reads, and how a worker's warnings get into it.

Each worker logs to a file of its own. The user reads one log, that of their own process, so WARN
and SEVERE lines of the workers are repeated there, under the name of the worker.

Functions that need ``casatasks`` (those that post, and `casalog_path`) are for the user's process
alone; workers use `parse` only.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .terminal import bars_aside

if TYPE_CHECKING:
    from .steps import Outcome

#: Priorities of the lines that are repeated in the user's log.
ALARMING = frozenset({"WARN", "SEVERE"})

# Time, priority, origin and message, separated by tabs; each further line of a message has the
# same again, with a plus sign behind the origin (casacore, LogSink; the same in 6.7.0 and 6.7.6).
_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\t(\w+)\s*\t([^\t]*)\t(.*)")


class LogLine(NamedTuple):
    """A message in CASA's log.

    Attributes
    ----------
    priority : str
        ``'INFO'``, ``'WARN'``, ``'SEVERE'`` and so on.
    origin : str
        What logged it, such as ``'synthesisimager::selectdata'``.
    message : str
        The text, which may have several lines.
    """

    priority: str
    origin: str
    message: str


def parse(text: str) -> list[LogLine]:
    """Return the messages in a piece of a CASA log file.

    Parameters
    ----------
    text : str
        Complete lines of the file.

    Returns
    -------
    list of LogLine
        All messages with text, in order. Lines that are not CASA's continue the message before.
    """
    found: list[LogLine] = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match and not match[2].endswith("+"):
            found.append(LogLine(*match.groups()))
        elif found:
            message = match[3] if match else line
            found[-1] = found[-1]._replace(message=f"{found[-1].message}\n{message}")
    return [line for line in found if line.message.strip()]


def casalog_path() -> Path | None:
    """Return the CASA log file of this process; None if it logs to no file."""
    from casatasks import casalog

    name = casalog.logfile()
    if not name or Path(name) == Path("/dev/null"):
        return None
    return Path(name).absolute()


def default_log_directory() -> Path:
    """Return the folder for the workers' log files, beside the CASA log file of this process.

    Returns
    -------
    Path
        ``<name of the log file without .log>.ptclean``, or where CASA logs to no file, or to one
        in a folder that is not there, a new temporary folder. Nothing else is created.
    """
    log = casalog_path()
    if log is None or not log.parent.is_dir():
        return Path(tempfile.mkdtemp(prefix="ptclean-logs-"))
    name = log.name.removesuffix(".log")
    return log.with_name(f"{name}.ptclean")


def post(message: str, priority: str = "INFO", origin: str = "") -> None:
    """Write a message to the CASA log of this process.

    Parameters
    ----------
    message : str
        The text.
    priority : str, default 'INFO'
        CASA's priority.
    origin : str, default ''
        What logs it, besides the task that runs.
    """
    from casatasks import casalog

    # CASA writes some lines to the terminal as well.
    with bars_aside():
        casalog.post(message, priority, origin)


def forward_warnings(outcome: Outcome) -> None:
    """Repeat a task's WARN and SEVERE lines in the CASA log of this process.

    Lines that are equal are written once, with their number.

    Parameters
    ----------
    outcome : Outcome
        What :func:`ptclean.workers.worker.run` returned. A :class:`ptclean.errors.TaskError` has
        the same attributes and will do as well.
    """
    forward(outcome.warnings, outcome.worker)


def forward(lines: Iterable[tuple[str, str, str]], worker: str) -> None:
    """Repeat messages of a worker in the CASA log of this process, as `forward_warnings` does."""
    for (priority, origin, message), count in Counter(map(tuple, lines)).items():
        repeated = f" ({count} times)" if count > 1 else ""
        post(f"{message}{repeated}", priority, f"{worker}::{origin.removesuffix('::casa')}")
