# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell whether data have changed: while they were being imaged, or since another run saw them.

Each major cycle reads measurement sets anew, at different times in different workers: images of
data that were flagged, calibrated or extended in between belong to no data at all, and nothing in
them shows it. Files are compared by size and time of change, which takes no reading.

Not covered: what only CASA's bookkeeping writes (locks, the history of tasks).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from ..errors import DataChangedError, DataGoneError

#: Size in bytes and time of change in ns of each file, by path.
Fingerprint: TypeAlias = dict[str, tuple[int, int]]

#: Files and subtables that say nothing about visibilities.
_IRRELEVANT = frozenset(["table.lock", "HISTORY", "FLAG_CMD", "SORTED_TABLE", "PROCESSOR"])


def fingerprint(paths: Iterable[str]) -> Fingerprint:
    """Look at all files of measurement sets, of images, or at single files.

    Parameters
    ----------
    paths : iterable of str
        One that is gone has no files.

    Returns
    -------
    Fingerprint
    """
    found: Fingerprint = {}
    for path in paths:
        for file in _files(path):
            # It may go at any time.
            with contextlib.suppress(OSError):
                status = os.stat(file)
                found[file] = (status.st_size, status.st_mtime_ns)
    return found


def digests(paths: Iterable[str]) -> dict[str, str]:
    """Return a text for each path that is another one when the files below it have changed.

    Parameters
    ----------
    paths : iterable of str

    Returns
    -------
    dict of str
        By path; empty for one that does not exist.
    """
    return {path: _digest(path) for path in paths}


def _digest(path: str) -> str:
    found = fingerprint([path])
    if not found:
        return ""
    lines = [f"{os.path.relpath(file, path)}\0{state}" for file, state in sorted(found.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _files(path: str) -> Iterator[str]:
    if os.path.isfile(path):
        yield path
    for root, folders, files in os.walk(path, followlinks=True):
        folders[:] = sorted(set(folders) - _IRRELEVANT)
        for name in sorted(set(files) - _IRRELEVANT):
            yield os.path.join(root, name)


def differences(before: Fingerprint, after: Fingerprint) -> list[str]:
    """Return the files that were changed, made or removed."""
    return sorted(
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    )


@contextlib.contextmanager
def unchanged_data(paths: Sequence[str]) -> Iterator[None]:
    """Make sure that measurement sets are the same at the end as at the beginning.

    Parameters
    ----------
    paths : sequence of str

    Raises
    ------
    DataGoneError
        If what was done with them failed, and files of them are not there or cannot be read, the
        others being the same.
    DataChangedError
        If they are not the same, whether what was done with them failed or not.
    """
    before = fingerprint(paths)
    try:
        yield
    except Exception as error:
        changed = differences(before, fingerprint(paths))
        gone = _unreadable(before)
        if gone and gone.keys() >= set(changed):
            raise DataGoneError(sorted(gone), gone[min(gone)]) from error
        if changed:
            raise DataChangedError(changed) from error
        raise
    changed = differences(before, fingerprint(paths))
    if changed:
        raise DataChangedError(changed)


def _unreadable(files: Iterable[str]) -> dict[str, str]:
    """Read the beginning of files; returns what the system says of those where that fails."""
    said = {}
    for path in files:
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as error:
            said[path] = error.strerror or str(error)
    return said
