# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of job scripts, submitted to a real SLURM."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from casatasks import tclean

from same_images import assert_same_images
from slurm_machine import slurm

SCRIPTS = Path(__file__).resolve().parents[1] / "examples" / "slurm"

#: What the scripts image.
CUBE: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 80,
    "cell": "0.1arcsec",
    "weighting": "briggs",
    "niter": 100_000,
    "threshold": "20mJy",
}


@pytest.fixture(scope="module")
def reference(line_ms: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    name = str(tmp_path_factory.mktemp("tclean") / "cube")
    tclean(line_ms, imagename=name, **CUBE)
    return name


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Three nodes of one processor each, and the test's Python first in the path."""
    with slurm(tmp_path_factory.mktemp("slurm"), 3) as environ:
        yield {
            **os.environ,
            **environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            # The nodes are one machine; no other takes part.
            "DASK_JOBQUEUE__SLURM__INTERFACE": "lo",
        }


def run(command: list[str], environment: dict[str, str], folder: Path) -> str:
    return subprocess.run(
        command, env=environment, cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def submit(
    script: str, environment: dict[str, str], folder: Path, *arguments: str, **options: str
) -> str:
    """Submit one of the scripts from its folder's copy; returns the job's number."""
    shutil.copytree(SCRIPTS, folder, dirs_exist_ok=True)
    given = [f"--{name}={value}" for name, value in options.items()]
    said = run(
        ["sbatch", "--parsable", "--output=job.out", *given, script, *arguments],
        environment,
        folder,
    )
    return said.strip()


def wait(job: str, environment: dict[str, str], folder: Path, seconds: float = 240) -> str:
    """Wait until a job is over; returns its state."""
    deadline = time.monotonic() + seconds
    while True:
        said = run(["scontrol", "show", "job", job], environment, folder)
        state = re.search(r"JobState=(\w+)", said)
        assert state, said
        if state[1] not in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "CONFIGURING"):
            return state[1]
        assert time.monotonic() < deadline, (folder / "job.out").read_text()
        time.sleep(0.5)


def test_one_node(
    environment: dict[str, str], line_ms: str, reference: str, tmp_path: Path
) -> None:
    options = {"cpus-per-task": "1", "mem": "3G"}
    job = submit("one_node.sh", environment, tmp_path, line_ms, "cube", **options)
    assert wait(job, environment, tmp_path) == "COMPLETED", (tmp_path / "job.out").read_text()
    assert_same_images(reference, tmp_path / "cube")


def test_many_nodes(
    environment: dict[str, str], line_ms: str, reference: str, tmp_path: Path
) -> None:
    pytest.importorskip("dask_jobqueue")
    job = submit("many_nodes.sh", environment, tmp_path, line_ms, "cube")
    assert wait(job, environment, tmp_path) == "COMPLETED", (tmp_path / "job.out").read_text()
    assert_same_images(reference, tmp_path / "cube")
    # The workers were jobs of their own, and are gone.
    assert list((tmp_path / "slurm-logs").iterdir())
    assert not run(["squeue", "--noheader", "--states=RUNNING"], environment, tmp_path)


def test_time_is_up(
    environment: dict[str, str], line_ms: str, reference: str, tmp_path: Path
) -> None:
    """The driver's job gets SIGTERM before its end, is queued again, and goes on."""
    pytest.importorskip("dask_jobqueue")
    job = submit("many_nodes.sh", environment, tmp_path, line_ms, "cube")
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("cube.ptclean/**/core.model")):
        assert time.monotonic() < deadline, (tmp_path / "job.out").read_text()
        time.sleep(0.02)
    # As SLURM does it two minutes before the end (--signal=B:TERM@120).
    run(["scancel", "--batch", "--signal=TERM", job], environment, tmp_path)
    show = ["scontrol", "show", "job", job]
    while "Restarts=1" not in (said := run(show, environment, tmp_path)):
        assert time.monotonic() < deadline, said
        time.sleep(0.5)
    # It would wait for two minutes; at once would be too early for the node to forget the first.
    run(["scontrol", "update", f"JobId={job}", "StartTime=now+3"], environment, tmp_path)
    assert wait(job, environment, tmp_path) == "COMPLETED", (tmp_path / "job.out").read_text()
    assert_same_images(reference, tmp_path / "cube")
    stories = [path.read_text() for path in sorted(tmp_path.glob("casa-*.log"))]
    assert sum("is gone on with" in story for story in stories) == 1
