# SPDX-License-Identifier: GPL-3.0-or-later
"""The terminal, or notebook, in which a run is looked at: what it is, and who writes to it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


def is_terminal() -> bool:
    """Tell whether the standard error output is a terminal that can move its cursor."""
    # A process may have none, or have closed it.
    with contextlib.suppress(AttributeError, ValueError):
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return False


def is_notebook() -> bool:
    """Tell whether this process is a Jupyter kernel, as tqdm.autonotebook does."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def is_casashell() -> bool:
    """Tell whether this process is CASA's shell."""
    return "casashell" in sys.modules


@contextlib.contextmanager
def bars_aside() -> Iterator[None]:
    """Take bars off the terminal while something else is written, and draw them again."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if tqdm is None or sys.stderr is None:
        yield
        return
    # The bars are drawn in this thread.
    with tqdm.external_write_mode(file=sys.stderr, nolock=True):
        yield
