# SPDX-License-Identifier: GPL-3.0-or-later
"""Open CASA tables and images so that they are closed again, whatever happens.

A tool of its own for each use: CASA's tools are not safe to share between threads.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

from casatools import image, table


@contextlib.contextmanager
def open_table(path: str, *, write: bool = False, lock: str = "default") -> Iterator[Any]:
    """Open a table and give the `table` tool; closed on leaving.

    Parameters
    ----------
    path : str
    write : bool
        Whether to write to it.
    lock : str
        casacore's lock option ('default', 'auto', 'usernoread', ...).

    Raises
    ------
    OSError
        If CASA cannot open it.
    """
    tool = table()
    if not tool.open(path, lockoptions={"option": lock}, nomodify=not write):
        raise OSError(f"cannot open table {path}")
    try:
        yield tool
    finally:
        tool.close()


@contextlib.contextmanager
def open_image(path: str) -> Iterator[Any]:
    """Open an image and give the `image` tool; closed on leaving."""
    tool = image()
    if not tool.open(path):
        raise OSError(f"cannot open image {path}")
    try:
        yield tool
    finally:
        tool.close()
        tool.done()


def flush(path: str) -> None:
    """Have what CASA's tools in this process have not written of an image yet on disk.

    A table that is open is opened once for the whole process (casacore's ``TableCache``), so this
    is the one that the tools write to. Measured, 6.7.0: a mosaic's model is all zeros on disk after
    the minor cycle.
    """
    with open_table(path, write=True) as tb:
        tb.flush()


def take_over_locks(path: str) -> None:
    """Free a table or image from the locks of processes that have it open, idle.

    A process locks parts of the file ``table.lock``: those of a copy are nobody's.
    """
    lock = os.path.join(path, "table.lock")
    if os.path.exists(lock):
        shutil.copyfile(lock, f"{lock}.new")
        os.replace(f"{lock}.new", lock)


def copy_table(path: str, new: str) -> None:
    """Copy a table or an image which a worker may have open, and close meanwhile.

    CASA's locks are of no meaning to others, and a worker may be waiting at them. What it writes
    anew it writes beside, under another name (``table.dat_tmp``).
    """
    shutil.copytree(path, new, ignore=shutil.ignore_patterns("*.new-*", "*.new", "*_tmp"))
