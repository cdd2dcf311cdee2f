# SPDX-License-Identifier: GPL-3.0-or-later
"""What a clean is told to stop at, as CASA judges it."""

from __future__ import annotations

import threading

from casatools import iterbotsink

from ..records import Record

#: CASA has one iteration control for each process; held as long as somebody uses it.
one_control = threading.Lock()


def check_iteration(iteration: Record) -> None:
    """Have CASA look at what it would be told to stop at.

    tclean does so before it makes any image. Left out while a clean goes on in this process, whose
    control it would be.

    Parameters
    ----------
    iteration : dict
        tclean's iteration parameters as CASA's record.

    Raises
    ------
    RuntimeError
        CASA's own, the same as tclean's, for parameters that make no sense to it.
    """
    if not one_control.acquire(blocking=False):
        return
    try:
        tool = iterbotsink()
        try:
            tool.setupiteration(iterpars=iteration)
        finally:
            tool.done()
    finally:
        one_control.release()
