# SPDX-License-Identifier: GPL-3.0-or-later
"""The work directory of a run, ``<imagename>.ptclean``, which is gone when the run is over.

It stands beside the images, so that finished ones are moved, not copied, to their names. A file in
it says whose it is. One that a killed run left is recognised, and gone on with or removed, as the
caller wants (:mod:`ptclean.keeping.resumption`); one that is in use is not touched, and neither is
a directory that ptclean did not make.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import glob
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from .. import logs
from ..errors import ImageInUseError, ParameterError
from .durable import write_json

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

_OWNER = "owner.json"

#: File without which a directory that has no owner is not ptclean's
#: (:mod:`ptclean.keeping.manifest`).
_MANIFEST = "manifest.json"

#: Times a stale directory is moved out of the way, or one is removed, before giving up.
_ATTEMPTS = 5

#: Seconds, times the attempts so far, before a directory that somebody wrote into is removed again.
_PAUSE = 0.2


def _never(error: BaseException) -> bool:
    return False


@contextlib.contextmanager
def work_directory(
    imagename: str, *, goes_on: bool = False, keeps: Callable[[BaseException], bool] = _never
) -> Iterator[str]:
    """Make the work directory of a run, or take over the one that there is; removed on leaving.

    Parameters
    ----------
    imagename : str
        Absolute.
    goes_on : bool
        Whether to go on with what a former run has left. Otherwise that is removed.
    keeps : callable
        Tells of an exception whether the directory stays, without an owner, for a later run.

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
    if goes_on:
        _take_over(path)
    else:
        _make(path)
    try:
        yield path
    except BaseException as error:
        if keeps(error):
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(path, _OWNER))
        else:
            _remove(path)
        raise
    _remove(path)


def make_folder(path: str) -> None:
    """Make a folder in a work directory, unless it is there.

    Raises
    ------
    FileNotFoundError
        If the work directory is not there: a run that has ended took its name away, and a worker
        that is still at it must not bring it back.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)


def empty_folder(path: str, keep: Collection[str] = ()) -> None:
    """Remove all that is in a folder, but for some names."""
    # Listed first: of a folder that changes, not every file system lists the rest.
    for entry in list(os.scandir(path)):
        if entry.name in keep:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.remove(entry.path)


def refuse_if_in_use(imagename: str) -> None:
    """Raise ImageInUseError if a run that goes on has an image's work directory."""
    with contextlib.suppress(ParameterError):
        _refuse_unless_stale(f"{imagename}.ptclean")


def _make(path: str) -> None:
    folder, name = os.path.split(path)
    if os.path.lexists(path):
        _refuse_unless_stale(path)
    for left in Path(folder).glob(f"{glob.escape(name)}.removed-*"):
        # By a run that was killed while it removed it.
        shutil.rmtree(left, ignore_errors=True)
    # Made under another name first: a directory with that name always says whose it is.
    new = _made_beside(path)
    try:
        write_json(os.path.join(new, _OWNER), _this_run())
        _take_name(new, path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


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


def _this_run() -> dict[str, str | int | None]:
    return {
        "user": getpass.getuser(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _start_of(os.getpid()),
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
        with _locked(path):
            _refuse_unless_stale(path)
            if os.path.lexists(path):
                logs.post(f"{path}, which a run that has ended left, is removed")
            _remove(path)
    raise ImageInUseError(path, "others take its place time and again")


def _take_over(path: str) -> None:
    with _locked(path):
        _refuse_unless_stale(path)
        if not os.path.isdir(path):
            raise ImageInUseError(path, "another run has just removed it")
        owner = os.path.join(path, _OWNER)
        if os.path.exists(owner):
            write_json(owner, _this_run())
            return
        # Of several hosts that go on with work that nobody has, one creates the file.
        try:
            with open(owner, "x") as f:
                json.dump(_this_run(), f)
        except FileExistsError:
            raise ImageInUseError(path, "another run has just taken it") from None


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Keep other processes of this host from taking a directory at the same time.

    Where the file system knows no locks they are not kept from it.
    """
    handle = None
    try:
        # Gone, or locks are unknown: what follows finds out about the former.
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not os.path.samestat(os.fstat(handle), os.stat(path)):
                raise ImageInUseError(path, "another run has just taken it")
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _remove(path: str) -> None:
    """Remove a work directory, taking its name away first.

    A worker of a cluster that outlives the run may still be writing: without the name it cannot,
    but for files that it has open, and what it makes in the directory that it is in.
    """
    with contextlib.suppress(OSError):
        away = tempfile.mkdtemp(prefix=f"{path}.removed-")
        os.rename(path, away)
        for attempt in range(_ATTEMPTS):
            time.sleep(attempt * _PAUSE)
            shutil.rmtree(away, ignore_errors=True)
            if not os.path.lexists(away):
                break


def _refuse_unless_stale(path: str) -> None:
    try:
        with open(os.path.join(path, _OWNER)) as f:
            owner = json.load(f)
        user, host, since = (str(owner[key]) for key in ("user", "host", "since"))
        pid = int(owner["pid"])
        started = owner.get("started")
    except FileNotFoundError:
        if not os.path.lexists(path) or os.path.isfile(os.path.join(path, _MANIFEST)):
            return
        raise _not_ours(path) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise _not_ours(path) from None
    if host != socket.gethostname():
        raise ImageInUseError(
            path,
            f"{user} on {host}, process {pid}, since {since}; whether it still runs cannot be seen "
            "from here",
        )
    if _is_alive(pid) and started in (None, _start_of(pid)):
        raise ImageInUseError(path, f"{user} on {host}, process {pid}, since {since}")


def _not_ours(path: str) -> ParameterError:
    return ParameterError(
        "imagename",
        path.removesuffix(".ptclean"),
        f"needs {path} for its work, but that exists and is not ptclean's; use another imagename, "
        "or move it away",
    )


def _start_of(pid: int) -> str | None:
    """When a process started, in a form that changes with each boot; None if that is unknown.

    Numbers of processes are given again. From proc(5), field 22 of stat, in ticks since the boot:
    a clock that is set does not matter.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # The second field is a name in brackets, which may hold blanks and brackets.
    return f"{boot}-{stat.rpartition(')')[2].split()[19]}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
