# SPDX-License-Identifier: GPL-3.0-or-later
"""The work directory of a run, ``<imagename>.ptclean``, which is gone when the run is over.

It stands beside the images, so that finished ones are moved, not copied, to their names. A file
in it says whose it is; one that a killed run left is recognised and removed, one that is in use is
not, and neither is a directory that ptclean did not make.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator

from .errors import ImageInUseError, ParameterError

_OWNER = "owner.json"

#: Times a stale directory is moved out of the way before giving up.
_ATTEMPTS = 5


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
        If something else has that name, or nothing can be made there.
    """
    path = f"{imagename}.ptclean"
    if os.path.lexists(path):
        _refuse_unless_stale(path)
    # Made under another name first: a directory with that name always says whose it is.
    new = _made_beside(path)
    try:
        with open(os.path.join(new, _OWNER), "w") as f:
            json.dump(_this_run(), f)
        _take_name(new, path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    try:
        yield path
    finally:
        _remove(path)


def _made_beside(path: str) -> str:
    """Make an empty directory beside a path."""
    folder, name = os.path.split(path)
    try:
        os.makedirs(folder, exist_ok=True)
        return tempfile.mkdtemp(prefix=f"{name}.new-", dir=folder)
    except OSError as error:
        raise ParameterError(
            "imagename",
            path.removesuffix(".ptclean"),
            f"names images in {folder}, where nothing can be made ({error.strerror}); use another "
            "imagename, or see to the folder",
        ) from error


def _this_run() -> dict[str, str | int]:
    return {
        "user": getpass.getuser(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _take_name(new: str, path: str) -> None:
    """Rename a directory, which fails while a directory that is not empty has the name."""
    for _ in range(_ATTEMPTS):
        try:
            os.rename(new, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            return
        _refuse_unless_stale(path)
        _remove(path)
    raise ImageInUseError(path, "others take its place time and again")


def _remove(path: str) -> None:
    """Remove a work directory, taking its name away first.

    A worker of a cluster that is not ours may still be writing: without the name it cannot.
    """
    with contextlib.suppress(OSError):
        away = tempfile.mkdtemp(prefix=f"{path}.removed-")
        os.rename(path, away)
        shutil.rmtree(away, ignore_errors=True)


def _refuse_unless_stale(path: str) -> None:
    try:
        with open(os.path.join(path, _OWNER)) as f:
            owner = json.load(f)
        user, host, since = (str(owner[key]) for key in ("user", "host", "since"))
        pid = int(owner["pid"])
    except FileNotFoundError:
        if not os.path.lexists(path):
            return
        raise _not_ours(path) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise _not_ours(path) from None
    if host != socket.gethostname() or _is_alive(pid):
        raise ImageInUseError(path, f"{user} on {host}, process {pid}, since {since}")


def _not_ours(path: str) -> ParameterError:
    return ParameterError(
        "imagename",
        path.removesuffix(".ptclean"),
        f"needs {path} for its work, but that exists and is not ptclean's; use another imagename, "
        "or move it away",
    )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
