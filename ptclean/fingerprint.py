# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell whether files have changed since, by names, sizes and times; nothing is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator

#: Files that are written to whenever a table is opened (casacore), or by any task (CASA).
_PASSING = ("table.lock",)
_PASSING_TABLES = ("HISTORY",)


def fingerprints(paths: Iterable[str]) -> dict[str, str]:
    """Return a text for each path that is another one when the files below it have changed.

    Parameters
    ----------
    paths : iterable of str
        Files and directories, such as measurement sets and images.

    Returns
    -------
    dict of str
        By path; empty for one that does not exist.
    """
    return {path: _fingerprint(path) for path in paths}


def _fingerprint(path: str) -> str:
    if not os.path.exists(path):
        return ""
    found = hashlib.sha256()
    for name in sorted(_files(path)):
        state = os.stat(os.path.join(path, name) if name else path)
        found.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return found.hexdigest()


def _files(path: str) -> Iterator[str]:
    """Yield the names of the files below a directory, or an empty one for a file."""
    if not os.path.isdir(path):
        yield ""
    for folder, folders, names in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if name not in _PASSING_TABLES]
        for name in names:
            if name not in _PASSING:
                yield os.path.relpath(os.path.join(folder, name), path)
