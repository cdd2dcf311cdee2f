# SPDX-License-Identifier: GPL-3.0-or-later
"""What file systems have left, and whether they are the reason why something failed.

When a disk fills up under it CASA raises an exception, or ends the whole process: casacore writes
what it has buffered when it closes a table, and what goes wrong there nobody can catch ("terminate
called after throwing an instance of 'casacore::AipsError' ... No space left on device", signal 6;
measured, 6.7.0). To others it looks as if the worker had died. So the file system is asked: before
a run whether there is room, before and after each step whether there still is, and when something
failed by writing to it, which also finds quotas and what is mounted for reading alone.

Does not cover: how much a run takes (:mod:`ptclean.planning.space`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator

from ..errors import DiskError

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

#: Bytes without which a step is not begun, and with fewer than which it is not believed to have
#: written all.
LEAST = 2**18

#: Bytes that are written to find out whether that is possible.
_PROBE = 2**20

#: What casacore says where less was written than was to be (``LockFile.cc``, ``FiledesIO.cc``). It
#: does not look why: the reason that it names, if any, is that of an earlier failure.
FELL_SHORT = re.compile(r"Failed AlwaysAssert trace\w*WRITE|FiledesIO::p?write - write error")

#: What a file system says when it can take no more.
_REASONS = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "takes no more from you, by your quota",
    errno.EROFS: "is mounted for reading alone",
    errno.EACCES: "may not be written to by you",
    errno.EPERM: "may not be written to by you",
    errno.EIO: "does not work (input/output error)",
    errno.ESTALE: "is no longer there (stale file handle)",
}


def existing_ancestor(path: str) -> str:
    """Return the path, or the innermost folder above it that exists."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        parent = os.path.dirname(path)
        if parent == path:
            break
        path = parent
    return path


def free_bytes(path: str) -> int:
    """Return the bytes that the user may still write where a path is, or will be."""
    return shutil.disk_usage(existing_ancestor(path)).free


def used_bytes(folder: str) -> int:
    """Return the bytes that all files below a folder take; 0 if there is none."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            # Somebody may be removing them.
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
    return total


def available_space(imagename: str) -> int:
    """Bytes that are free for a run, with those that the work of a former one takes."""
    return free_bytes(imagename) + used_bytes(f"{imagename}.ptclean")


def why_not_writable(folder: str) -> str | None:
    """Write to a folder, and say why that does not work.

    Parameters
    ----------
    folder : str
        It, or a folder above it, exists.

    Returns
    -------
    str or None
        A sentence that names the folder; None if a megabyte could be written.
    """
    folder = existing_ancestor(folder)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, f"cannot be written to ({error.strerror})")
        return f"the file system of {folder} {reason}{_left(folder)}"
    return None


def _said(text: str, folder: str) -> str | None:
    """Find in the text of an error that a file system took no more, though by now it does."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        if os.strerror(number) in text or f"[Errno {number}]" in text:
            return f"the file system of {folder} {_REASONS[number]}{_left(folder)}"
    if FELL_SHORT.search(text):
        return (
            f"the file system of {folder} took less than CASA wrote, as it does where it is full "
            f"or your quota is used up{_left(folder)}"
        )
    return None


def _left(folder: str) -> str:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return ""
    return f" ({usage.free / 2**20:.0f} MiB of {usage.total / 2**20:.0f} MiB are free)"


def has_locks(folder: str) -> bool:
    """Tell whether files can be locked where a folder is, or will be.

    NFS without a lock daemon and Lustre mounted without the option ``flock`` have no locks. Some of
    CASA does without, and some ends the process: what it cannot lock it takes for used by another
    (``PlainTable::closeObject``; measured, 6.7.0). Where no file can be made, that is another
    matter.
    """
    if fcntl is None:
        return True
    with contextlib.suppress(OSError):
        with tempfile.TemporaryFile(dir=existing_ancestor(folder)) as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
    return True


def has_links(folder: str) -> bool:
    """Tell whether symbolic links can be made where a folder is, or will be.

    FAT and exFAT have none, nor have some shares of other systems. Where nothing at all can be
    made, that is not for want of links.
    """
    return _takes(folder, lambda place: os.symlink(place, os.path.join(place, "link")))


def has_colons(folder: str) -> bool:
    """Tell whether names with colons can be made where a folder is, or will be.

    FAT and exFAT refuse them. CASA gives such names to the images that it makes in passing
    ("imagesolver::cleanpsf", measured, 6.7.0), in the directory that the process is in.

    Whatever knows files without names is none of them: it need not be tried, which would change the
    folder's time.
    """
    return _knows_nameless_files(folder) or _takes(
        folder, lambda place: os.mkdir(os.path.join(place, "a:b"))
    )


def _takes(folder: str, make: Callable[[str], None]) -> bool:
    """Tell whether something can be made in a new folder there; yes if that cannot be made."""
    with contextlib.suppress(OSError):
        with tempfile.TemporaryDirectory(dir=existing_ancestor(folder)) as place:
            try:
                make(place)
            except OSError:
                return False
    return True


def _knows_nameless_files(folder: str) -> bool:
    """Tell whether the system, Linux, and the file system do; see open(2)."""
    try:
        os.close(os.open(existing_ancestor(folder), os.O_TMPFILE | os.O_RDWR))
    except (OSError, AttributeError):
        return False
    return True


def require_room(folder: str) -> None:
    """Refuse to begin a step, or to believe in its images, where next to nothing is free.

    Parameters
    ----------
    folder : str
        Work directory of a run.

    Raises
    ------
    OSError
        With the number ``ENOSPC``.
    """
    if free_bytes(folder) < LEAST:
        raise OSError(errno.ENOSPC, f"the file system is full{_left(folder)}", folder)


def require_writable(imagename: str) -> None:
    """Check before a run that its images can be written.

    Parameters
    ----------
    imagename : str
        Absolute.

    Raises
    ------
    DiskError
    """
    reason = why_not_writable(os.path.dirname(imagename))
    if reason is not None:
        raise DiskError(
            f"imagename={imagename!r}: {reason}", "give an imagename on another file system"
        )


def require_space(imagename: str, needed: int, free: int) -> None:
    """Check before a run that its work and its images will fit.

    Parameters
    ----------
    imagename : str
        Absolute.
    needed, free : int
        Bytes.

    Raises
    ------
    DiskError
    """
    if needed > free:
        raise DiskError(
            f"imagename={imagename!r}: the run takes about {needed / 2**30:.3g} GiB on that file "
            f"system until it is over, and {free / 2**30:.3g} GiB are free",
            "make room, give an imagename on a larger file system, or make fewer channels or "
            "smaller images; if the file system holds more than it says, set ptclean.check-space "
            "to false in Dask's configuration",
        )


@contextlib.contextmanager
def failures_explained(*folders: str) -> Iterator[None]:
    """Find out whether a file system is why a run failed, and say so instead.

    Parameters
    ----------
    *folders : str
        Where the run writes.

    Raises
    ------
    DiskError
        In place of any other exception, those of Dask for workers that died included, if one of
        the folders cannot be written to.
    """
    try:
        yield
    except Exception as error:
        reasons = [*map(why_not_writable, folders), _said(str(error), folders[0])]
        reason = next(filter(None, reasons), None)
        if reason is None or isinstance(error, DiskError):
            raise
        raise DiskError(
            reason[0].upper() + reason[1:],
            "make room there, or give an imagename on another file system, and call again; images "
            "of that name are as they were before",
            str(error),
        ) from error
