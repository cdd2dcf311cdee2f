# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are either complete or not there, also after a loss of power.

The system keeps written data in memory for a while, and a name may reach the disk before the data.
Does not cover what is in the files.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from typing import Any


def write_json(path: str, value: Any) -> None:
    """Write a JSON file, in the place of one that has the name.

    Raises
    ------
    OSError
        If it cannot be written; the former one is then as it was.
    """
    write_bytes(path, json.dumps(value).encode())


def write_bytes(path: str, content: bytes) -> None:
    """Write a file, in the place of one that has the name; raises as `write_json`."""
    folder, name = os.path.split(path)
    handle, new = tempfile.mkstemp(prefix=f"{name}.new-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(new)
        raise
    sync_directory(folder)


def sync_directory(path: str) -> None:
    """Have the names in a directory written to disk, where the file system does such a thing."""
    # Some file systems refuse it for directories; they have other ways.
    with contextlib.suppress(OSError):
        sync_file(path)


def sync_tree(path: str) -> None:
    """Have all files below a directory written to disk; returns at once if there is none.

    Raises
    ------
    OSError
        If the disk is full, for one thing.
    """
    for folder, _, names in os.walk(path):
        for name in names:
            sync_file(os.path.join(folder, name))
        sync_directory(folder)


def sync_file(path: str) -> None:
    """Have a file written to disk; raises as `sync_tree`."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
