# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems without locks or links, and data that go away in the middle of a run.

There is no such file system at hand: system calls fail below a folder as they fail there, in the
driver and in its workers (``lacking.c``). NFS without a lock daemon says ``ENOLCK``, Lustre that is
mounted without them ``ENOSYS``; FAT refuses links with ``EPERM``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casatasks import tclean

from ptclean import DaskClusterManager, logs, ptclean
from ptclean.errors import DataGoneError
from ptclean.keeping import disk
from ptclean.keeping.fingerprint import unchanged_data
from same_images import COMMON, assert_same_images, pixels

CUBE = {**COMMON, "threshold": "60mJy"}
OWN = {"nworkers": 2, "chanchunks": 3}

SCRIPT = """
import fcntl, os, sys
from ptclean import ptclean

arguments = eval(sys.argv[1])
with open(arguments["imagename"] + ".probe", "w") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        print("has locks")
    except OSError:
        print("has no locks")
ptclean(**arguments)
"""

Lacking = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("takes Linux and a C compiler")
    path = tmp_path_factory.mktemp("library") / "lacking.so"
    source = Path(__file__).with_name("lacking.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, source, "-ldl"], check=True)
    return path


@pytest.fixture
def lacking(library: Path, tmp_path: Path) -> Lacking:
    """Call ptclean in a process, with images in a folder without something."""

    def call(*, locks: int = 0, links: int = 0, **arguments: Any) -> Any:
        folder = tmp_path / "lacking"
        folder.mkdir(exist_ok=True)
        environ = {
            "LD_PRELOAD": str(library),
            "LACKING_FOLDER": str(folder),
            "LACKING_LOCKS": str(locks),
            "LACKING_LINKS": str(links),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, repr({"imagename": str(folder / "cube"), **arguments})],
            cwd=tmp_path,
            env=os.environ | environ,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


NO_LOCKS = "ptclean runs tclean serially: several processes write images, which CASA locks"


def said(folder: Path) -> str:
    return "\n".join(path.read_text() for path in folder.glob("casa-*.log"))


def test_without_locks_it_is_tclean_that_runs(
    lacking: Lacking, line_ms: str, tmp_path: Path
) -> None:
    tclean(line_ms, imagename=str(tmp_path / "tclean"), **CUBE)
    done = lacking(locks=errno.ENOLCK, links=errno.EPERM, vis=line_ms, **CUBE, **OWN)
    assert done.returncode == 0, done.stderr
    assert "has no locks" in done.stdout
    assert NO_LOCKS in said(tmp_path)
    # Masks that CASA could not remove for want of locks stay.
    for product in ("image", "residual", "model", "psf"):
        expected = pixels(tmp_path / f"tclean.{product}")
        assert np.array_equal(pixels(tmp_path / "lacking" / f"cube.{product}"), expected)


def test_without_locks_that_tclean_needs(lacking: Lacking, line_ms: str, tmp_path: Path) -> None:
    """The error is tclean's own."""
    done = lacking(locks=errno.ENOSYS, vis=line_ms, **CUBE, **OWN)
    assert done.returncode != 0
    assert os.strerror(errno.ENOSYS) in done.stderr
    assert NO_LOCKS in said(tmp_path)


def test_locks_links_and_colons_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (disk.has_locks, disk.has_links, disk.has_colons)
    for has in asked:
        assert has(str(tmp_path / "not" / "there" / "yet"))
    mkdir = os.mkdir

    def refuse(*args: object) -> None:
        raise PermissionError(errno.EPERM, "not here")

    def refuse_colons(path: str, *args: int) -> None:
        if ":" in path:
            raise FileNotFoundError(errno.ENOENT, "as exFAT says", path)
        mkdir(path, *args)

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(os, "mkdir", refuse_colons)
    monkeypatch.setattr(disk, "_knows_nameless_files", lambda folder: False)
    for has in asked:
        assert not has(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


# Data that go away.


def test_data_that_go_away_and_come_back(
    line_ms: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vis = tmp_path / "line.ms"
    shutil.copytree(line_ms, vis)
    tclean(line_ms, imagename=str(tmp_path / "tclean"), **CUBE)
    call = {"vis": str(vis), "imagename": str(tmp_path / "cube"), **CUBE, **OWN}
    post = logs.post

    def go_away(text: str, *args: str) -> None:
        post(text, *args)
        if text.startswith("Phase minor cycle 1") and vis.is_dir():
            vis.rename(tmp_path / "elsewhere")

    with DaskClusterManager(nworkers=2), monkeypatch.context() as patch:
        patch.setattr(logs, "post", go_away)
        with pytest.raises(DataGoneError, match=rf"(?s)vis: .*{vis}.*No such file.*goes on from"):
            ptclean(**call)
    assert [p.name for p in tmp_path.glob("cube*")] == ["cube.ptclean"]
    (tmp_path / "elsewhere").rename(vis)
    ptclean(**call)
    assert_same_images(tmp_path / "tclean", tmp_path / "cube")


def test_data_that_cannot_be_read_are_why_a_run_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "a.ms"
    data.mkdir()
    (data / "table.dat").write_text("data")

    def fail(*, gone: bool) -> None:
        with unchanged_data([str(data)]):
            if gone:
                (data / "table.dat").rename(data / "moved")
                (data / "moved").rename(tmp_path / "moved")
            raise OSError("a worker could not read")

    with pytest.raises(OSError, match="a worker could not read"):
        fail(gone=False)
    with pytest.raises(DataGoneError, match=r"table\.dat: No such file") as caught:
        fail(gone=True)
    assert isinstance(caught.value.__cause__, OSError)
