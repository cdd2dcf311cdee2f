# SPDX-License-Identifier: GPL-3.0-or-later
"""Where memory is short, fewer tasks run at once than there are workers, each step as many as fit.

What fits is in ``test_sizing.py``.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chunk_stand_in import Job
from ptclean import DaskClusterManager, plan
from ptclean.planning.memory import WORKER_BASE, AtOnce, StepMemory, tasks_at_once
from ptclean.planning.sizing import Machine
from ptclean.reporting.events import Listener
from ptclean.steps import Step
from ptclean.workers.splitter import CubeSplitter
from same_images import assert_same_as_tclean

LIMITS = {"heavy": 1, "light": 3}


def at_work(job: Job, steps: int, name: str, arguments: dict[str, Any]) -> tuple[int, int]:
    """Return how many tasks are at work with this one, at most, and the number of the process.

    Parameters
    ----------
    arguments : dict
        ``wanted``: tasks that are waited for.
    """
    mine = Path(job.run) / f"{job.index}"
    mine.touch()
    most, deadline = 0, time.monotonic() + arguments.get("seconds", 0.2)
    while time.monotonic() < deadline and most < arguments.get("wanted", 99):
        most = max(most, len(list(Path(job.run).iterdir())))
        time.sleep(0.01)
    time.sleep(0.05)
    mine.unlink()
    return most, os.getpid()


def forget(run: str, index: int | None = None) -> None:
    pass


@pytest.fixture(scope="module")
def three() -> Iterator[DaskClusterManager]:
    with DaskClusterManager(3) as manager:
        yield manager


@pytest.fixture
def splitter(three: DaskClusterManager) -> CubeSplitter:
    return CubeSplitter(three.client, 3, Listener(), step=at_work, forget=forget, limits=LIMITS)


def steps(folder: Path, name: str, **arguments: float) -> list[Step]:
    return [Step(Job(str(folder), index), name, arguments) for index in range(6)]


def test_each_step_has_its_own_limit_and_all_workers_get_chunks(
    splitter: CubeSplitter, tmp_path: Path
) -> None:
    heavy = splitter.run(steps(tmp_path, "heavy"))
    assert [most for most, _ in heavy.values()] == [1] * 6
    homes = {index: pid for index, (_, pid) in heavy.items()}
    assert sorted(list(homes.values()).count(pid) for pid in set(homes.values())) == [2, 2, 2]
    light = splitter.run(steps(tmp_path, "light", seconds=20, wanted=3)[:3])
    assert [most for most, _ in light.values()] == [3] * 3
    assert {index: pid for index, (_, pid) in light.items()} == {i: homes[i] for i in range(3)}


def test_neighbours_have_different_homes(three: DaskClusterManager, tmp_path: Path) -> None:
    unlimited = CubeSplitter(three.client, 3, Listener(), step=at_work, forget=forget)
    begun = unlimited.run(steps(tmp_path, "first"))
    assert len({begun[index][1] for index in range(3)}) == 3


def test_chunks_that_are_taken_up_have_the_least_limit(
    splitter: CubeSplitter, tmp_path: Path
) -> None:
    """Of a former driver's chunks no worker has the tools: they take most memory."""
    for step in steps(tmp_path, "heavy"):
        splitter.skip(step)
    assert {most for most, _ in splitter.run(steps(tmp_path, "light")).values()} == {1}
    # They are at home now.
    light = splitter.run(steps(tmp_path, "light", seconds=20, wanted=3)[:3])
    assert [most for most, _ in light.values()] == [3] * 3


def test_chunks_of_a_worker_that_died_have_the_least_limit(
    splitter: CubeSplitter, tmp_path: Path
) -> None:
    begun = splitter.run(steps(tmp_path, "heavy"))
    os.kill(begun[0][1], signal.SIGKILL)
    deadline = time.monotonic() + 30
    while begun[0][1] in three_pids(splitter) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert {most for most, _ in splitter.run(steps(tmp_path, "light")).values()} == {1}


def test_images_are_the_same_where_memory_lets_one_worker_at_a_time_grid_models(
    line_ms: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {
        "specmode": "cube",
        "datacolumn": "data",
        "imsize": 256,
        "cell": "0.1arcsec",
        "niter": 300,
        "cycleniter": 100,
        "weighting": "briggs",
    }
    folder = {"vis": line_ms, "imagename": str(tmp_path / "other"), "nworkers": 3, "chanchunks": 2}
    assert "at once" not in str(plan(**folder, **arguments))
    monkeypatch.setattr(Machine, "at_once", lambda *_: AtOnce(3, 2, 1, 3, 3))
    text = str(plan(**folder, **arguments))
    assert (
        "3 workers, of which memory lets fewer work at once: 2 in the first pass, 1 in major cycles"
        in text
    )
    limits: dict[str, int] = {}
    limit_of = CubeSplitter._limit_of

    def noted(self: CubeSplitter, steps: list[Step]) -> int:
        limits[steps[0].name] = limit_of(self, steps)
        return limits[steps[0].name]

    monkeypatch.setattr(CubeSplitter, "_limit_of", noted)
    assert_same_as_tclean(line_ms, tmp_path, nworkers=3, chanchunks=2, **arguments)
    assert limits == {"begin": 2, "minor": 3, "major": 1, "finish": 3}


def test_a_worker_that_dies_changes_nothing_where_there_are_no_limits(
    three: DaskClusterManager, tmp_path: Path
) -> None:
    unlimited = CubeSplitter(three.client, 3, Listener(), step=at_work, forget=forget)
    begun = unlimited.run(steps(tmp_path, "first"))
    os.kill(begun[0][1], signal.SIGKILL)
    most = [
        most for most, _ in unlimited.run(steps(tmp_path, "then", seconds=20, wanted=2)).values()
    ]
    assert len(most) == 6
    assert max(most) > 1


def three_pids(splitter: CubeSplitter) -> set[int]:
    return set(splitter._client.run(os.getpid, on_error="ignore").values())


def test_workers_that_wait_are_counted() -> None:
    memory = StepMemory(first=10**10, major=3 * 10**10, masks=0, minor=2 * 10**9)
    found = tasks_at_once(memory, 12, 5 * 10**10)
    assert (found.first, found.major) == (4, 1)
    assert found.masks == found.nworkers == 12
    assert found.minor * (memory.minor - WORKER_BASE) + 12 * WORKER_BASE <= 5 * 10**10
    assert found.fewest == 1


def test_a_machine_without_room_has_one_worker() -> None:
    memory = StepMemory(first=10**10, major=3 * 10**10, masks=0, minor=2 * 10**9)
    assert tasks_at_once(memory, 12, 10**9).nworkers == 1
