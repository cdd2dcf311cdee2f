# SPDX-License-Identifier: GPL-3.0-or-later
"""A quota, and a file system without links: real ones, in files of this machine.

They take root's rights and tools that few machines have, and are skipped without:
``apt-get install btrfs-progs exfat-fuse exfatprogs``. Where links and locks are wanting is imitated
for all machines in ``test_lacking``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from casatasks import tclean

from ptclean import ptclean
from ptclean.errors import DiskError
from ptclean.keeping import disk
from ptclean.workers.cluster import DaskClusterManager
from same_images import COMMON, assert_same_images

OWN: dict[str, Any] = {"nworkers": 2, "chanchunks": 3}
CUBE: dict[str, Any] = {**COMMON, "threshold": "60mJy"}

NO_COLONS = "CASA gives images names with colons"

Made = Callable[..., Path]


def command(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{' '.join(words)}: {done.stderr}")
    return done.stdout.strip()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Made]:
    """Make a file system in a file, and mount it; returns the folder."""
    undo: list[list[str]] = []

    def mount(make: str, *by: str) -> Path:
        tools = ("losetup", make, by[0])
        if os.geteuid() != 0 or not all(map(shutil.which, tools)):
            pytest.skip(f"takes root's rights and {', '.join(tools)}")
        image, folder = tmp_path / "file-system", tmp_path / "mounted"
        folder.mkdir()
        with open(image, "wb") as file:
            file.truncate(256 * 2**20)
        command(make, str(image))
        device = command("losetup", "--find", "--show", str(image))
        undo.append(["losetup", "--detach", device])
        command(*by, device, str(folder))
        undo.append(["umount", "--lazy", str(folder)])
        return folder

    yield mount
    for words in reversed(undo):
        subprocess.run(words, check=True)


def test_a_quota(line_ms: str, tmp_path: Path, mounted: Made) -> None:
    """There is room on the disk, for others."""
    disk_of_many = mounted("mkfs.btrfs", "mount")
    folder = disk_of_many / "mine"
    command("btrfs", "quota", "enable", str(disk_of_many))
    command("btrfs", "subvolume", "create", str(folder))
    (folder / "cube.notes").write_text("somebody's")
    call = {"vis": line_ms, **CUBE, **OWN}
    with DaskClusterManager(nworkers=2), dask.config.set({"ptclean.check-space": False}):
        ptclean(imagename=str(tmp_path / "cube"), **call)
        for limit in ("2M", "4M"):
            command("btrfs", "qgroup", "limit", limit, str(folder))
            with pytest.raises(DiskError, match=r"(?s)your quota.*another file sys"):
                ptclean(imagename=str(folder / "cube"), **call)
            # No work is kept where none was complete.
            found = {path.name for path in folder.glob("cube*")}
            assert found - {"cube.ptclean"} == {"cube.notes"}
        command("btrfs", "qgroup", "limit", "none", str(folder))
        ptclean(imagename=str(folder / "cube"), **call)
    assert (folder / "cube.notes").read_text() == "somebody's"
    assert_same_images(tmp_path / "cube", folder / "cube")


def test_fat(line_ms: str, tmp_path: Path, mounted: Made, log: Callable[[], str]) -> None:
    folder = mounted("mkfs.exfat", "mount.exfat-fuse")
    assert not disk.has_links(str(folder))
    assert not disk.has_colons(str(folder))
    ptclean(line_ms, imagename=str(folder / "cube"), **CUBE, **OWN)
    assert f"ptclean runs tclean serially: {NO_COLONS}" in log()
    tclean(line_ms, imagename=str(tmp_path / "tclean"), **CUBE)
    assert_same_images(tmp_path / "tclean", folder / "cube")
