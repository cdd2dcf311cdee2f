# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples run as they stand, on small data, and do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from compare_images import compare_image_sets, format_table
from ptclean.workers.cluster import default_nworkers

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

#: The line that makes a script for tclean one for ptclean, and the line that it was.
SWAPPED = "from ptclean import ptclean as tclean"
BEFORE = "from casatasks import tclean"

#: Scripts that are run, and those that other tests cover.
SCRIPTS = {"line_cube", "several_cubes", "continue_cleaning", "continuum", "demo"}
TESTED_ELSEWHERE = {"casasiteconfig", "compare_images", "ngc5921", "plot_cube", "simulate_ms"}


def run(script: str, folder: Path, vis: str, *arguments: str, swapped: bool = True) -> str:
    """Run an example in a folder with a measurement set ``line.ms``; return what it printed.

    CASA's log is ``casa.log`` there. With ``swapped=False`` the one line is as it was for tclean.
    """
    folder.mkdir()
    (folder / "line.ms").symlink_to(vis)
    path = EXAMPLES / f"{script}.py"
    if not swapped:
        text = path.read_text()
        assert text.count(SWAPPED) == 1
        path = folder / path.name
        path.write_text(text.replace(SWAPPED, BEFORE))
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        # Cubes as small as these are tclean's otherwise.
        "DASK_PTCLEAN__SMALL_CUBE_SECONDS": "0",
        "MPLBACKEND": "agg",
    }
    done = subprocess.run(
        [sys.executable, str(path), *arguments],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def log_of(folder: Path) -> str:
    (path,) = folder.glob("casa-*.log")
    return path.read_text()


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == SCRIPTS | TESTED_ELSEWHERE


@pytest.mark.parametrize(
    ("script", "images"), [("line_cube", "line"), ("continue_cleaning", "twice")]
)
def test_one_line_is_swapped(script: str, images: str, line_ms: str, tmp_path: Path) -> None:
    """The same script with tclean prints the same, and makes the same images."""
    printed = run(script, tmp_path / "ptclean", line_ms)
    assert "tclean serially" not in log_of(tmp_path / "ptclean")
    assert printed == run(script, tmp_path / "tclean", line_ms, swapped=False)
    assert " iterations, threshold" in printed
    differences = compare_image_sets(tmp_path / "tclean" / images, tmp_path / "ptclean" / images)
    assert ".image.pbcor" in differences
    assert all(d.identical for d in differences.values()), format_table(differences)


def test_several_cubes(line_ms: str, tmp_path: Path) -> None:
    """All calls use workers that were started once."""
    folder = tmp_path / "several"
    printed = run("several_cubes", folder, line_ms)
    log = log_of(folder)
    assert log.count("engine  2 workers") == 2
    assert log.count("Using 2 Dask workers") == 1
    assert "engine  2 workers" in printed
    assert len([line for line in printed.splitlines() if "arcsec" in line]) == 2
    assert len(list(folder.glob("briggs*.image"))) == 2


@pytest.mark.skipif(default_nworkers() == 1, reason="one core shares nothing with itself")
def test_continuum(line_ms: str, tmp_path: Path) -> None:
    """On all workers, and within rounding what tclean makes."""
    for name, swapped in (("ptclean", True), ("tclean", False)):
        assert "iterations" in run("continuum", tmp_path / name, line_ms, swapped=swapped)
    assert re.search(r"engine +\d+ workers", log_of(tmp_path / "ptclean"))
    found = compare_image_sets(tmp_path / "tclean/continuum", tmp_path / "ptclean/continuum")
    assert found[".residual.tt0"].largest < 1e-6


def test_demo_for_data_of_ones_own(line_ms: str, tmp_path: Path) -> None:
    options = "--ms line.ms --imsize 64 --cell 0.1arcsec --start 4 --nchan 6 --niter 300"
    printed = run("demo", tmp_path / "demo", line_ms, *options.split())
    assert "The images are identical." in printed
    assert list((tmp_path / "demo").glob("demo-output/line-1/line.png"))
