# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGTERM and Ctrl-C while a run is on: both end it in order, once.

Batch systems send SIGTERM some seconds before they kill a job whose time is up. Python dies of it
where it stands, and leaves workers, locks and unfinished directories behind. Here it becomes an
exception, as Ctrl-C is one, so that all that was begun is ended. Who is impatient and repeats
either does not interrupt that.

Only in the main thread, where Python lets one handle signals, and only where nobody else does: a
handler of the user's own stays.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

#: Seconds after a signal during which others like it are not heeded.
PATIENCE = 15.0

#: The innermost run that handles signals.
_handling: list[_Handling] = []


class Terminated(SystemExit):
    """The process was asked to end, by SIGTERM; it exits with the status that shells give that."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class _Handling:
    def __init__(self) -> None:
        self.process = os.getpid()
        self.heeded: float | None = None
        self.held = False
        self.pending: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:
            # A child that was forked meanwhile.
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if self.held:
            self.pending = number
            return
        now = time.monotonic()
        if self.heeded is not None and now - self.heeded < PATIENCE:
            return
        self.heeded = now
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """Turn SIGTERM into an exception, and let it or Ctrl-C interrupt what is within only once.

    Raises
    ------
    Terminated
        Within, where SIGTERM arrives.
    KeyboardInterrupt
        Within, where SIGINT does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handling = _Handling()
    ours: dict[int, Any] = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    former: dict[int, Any] = {}
    _handling.append(handling)
    try:
        for number, usual in ours.items():
            if signal.getsignal(number) == usual:
                former[number] = signal.signal(number, handling)
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        _handling.remove(handling)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Put SIGTERM and Ctrl-C off while something short is done that wants to be whole."""
    if not _handling or threading.current_thread() is not threading.main_thread():
        yield
        return
    handling = _handling[-1]
    handling.held = True
    try:
        yield
    finally:
        handling.held = False
    if handling.pending is not None:
        handling(handling.pending, None)
