# SPDX-License-Identifier: GPL-3.0-or-later
"""What the control group of this process leaves it of memory, and kills for want of it (Linux).

A batch system, a container or systemd may give a process less memory than the machine has, in a
group that is not at the root of the hierarchy; there Dask and psutil do not look for it, and the
kernel kills who takes more. Each group above counts as well. Both versions of control groups are
covered (cgroups(7)), also as seen from within a container.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

#: Where the hierarchy is, and the files with limit, usage and kills, by version.
_V2 = ("", "memory.max", "memory.current", "memory.events")
_V1 = ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control")

#: Bytes in memory.stat that the kernel takes back when they are needed.
_RECLAIMABLE = ("total_inactive_file", "inactive_file")


def memory_left(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> int | None:
    """Return the bytes that this process's control groups leave it.

    Parameters
    ----------
    root : str
        Where control groups are mounted.
    membership : str
        File that says of which groups a process is a member.

    Returns
    -------
    int or None
        The least over the group and all groups above it: limit less what is used and not merely
        cached. None if there is no limit.
    """
    left: list[int] = []
    for (mount, limit_file, usage_file, _), group in _groups(membership):
        for folder in _folders(Path(root, mount), group):
            limit = _number(folder / limit_file)
            if limit is not None:
                used = (_number(folder / usage_file) or 0) - _reclaimable(folder / "memory.stat")
                left.append(max(0, limit - max(0, used)))
    return min(left, default=None)


def kernel_kills(
    root: str = "/sys/fs/cgroup",
    membership: str = "/proc/self/cgroup",
    vmstat: str = "/proc/vmstat",
) -> int | None:
    """Return how many processes like this one the kernel has killed for want of memory.

    Parameters
    ----------
    root, membership : str
        As for `memory_left`.
    vmstat : str
        The kernel's statistics of the whole machine (proc(5)).

    Returns
    -------
    int or None
        Those of its own control group, whosever limit they exceeded; those of the whole machine
        where groups do not count; None if nobody does.
    """
    for (mount, *_, kills_file), group in _groups(membership):
        for folder in _folders(Path(root, mount), group):
            if (kills := _kills(folder / kills_file)) is not None:
                return kills
    return _kills(Path(vmstat))


def _folders(top: Path, group: str) -> Iterator[Path]:
    """Name the folders of a group and of those above it, the lowest one first."""
    relative = PurePosixPath(group.lstrip("/"))
    # In a container the group's own path may not be there, and its files are at the top.
    yield from dict.fromkeys([top / relative, *(top / p for p in relative.parents), top])


def _groups(membership: str) -> list[tuple[tuple[str, str, str, str], str]]:
    try:
        lines = Path(membership).read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        number, controllers, group = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            found.append((_V2, group))
        elif "memory" in controllers.split(","):
            found.append((_V1, group))
    return found


def _number(path: Path) -> int | None:
    """Read a number; None for a file that is not there, or for no limit ("max")."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _kills(path: Path) -> int | None:
    try:
        match = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) if match else None


def _reclaimable(path: Path) -> int:
    try:
        words = dict(line.split(None, 1) for line in path.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return next((int(words[name]) for name in _RECLAIMABLE if name in words), 0)
