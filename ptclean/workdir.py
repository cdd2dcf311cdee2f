# SPDX-License-Identifier: GPL-3.0-or-later
"""The work directory of a run, ``<imagename>.ptclean``, which is gone when the run is over.

It stands beside the images, so that finished ones are moved, not copied, to their names. A file
in it says whose it is; one that a killed run left is recognised and removed, one that is in use is
not, and neither is a directory that ptclean did not make.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator

from .errors import ImageInUseError, ParameterError

_OWNER = "owner.json"


@contextlib.contextmanager
def work_directory(imagename: str) -> Iterator[str]:
    """Make the work directory of a run; removed on leaving.

    Parameters
    ----------
    imagename : str
        Absolute.

    Yields
    ------
    str
        Its path.

    Raises
    ------
    ImageInUseError
        If a run that goes on has it.
    ParameterError
        If something else has that name.
    """
    path = f"{imagename}.ptclean"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        os.mkdir(path)
    except FileExistsError:
        _remove_if_stale(path)
        os.mkdir(path)
    try:
        with open(os.path.join(path, _OWNER), "w") as f:
            json.dump(
                {
                    "user": getpass.getuser(),
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                },
                f,
            )
        yield path
    finally:
        # A worker of a cluster that is not ours may still be writing: without the name it cannot.
        removed = f"{path}.removed-{os.getpid()}"
        os.rename(path, removed)
        shutil.rmtree(removed, ignore_errors=True)


def _remove_if_stale(path: str) -> None:
    try:
        with open(os.path.join(path, _OWNER)) as f:
            owner = json.load(f)
    except (OSError, ValueError):
        raise ParameterError(
            "imagename",
            path.removesuffix(".ptclean"),
            f"needs {path} for its work, but that exists and is not ptclean's; use another "
            "imagename, or move it away",
        ) from None
    if owner["host"] != socket.gethostname() or _is_alive(owner["pid"]):
        raise ImageInUseError(
            path,
            f"{owner['user']} on {owner['host']}, process {owner['pid']}, since {owner['since']}",
        )
    shutil.rmtree(path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
