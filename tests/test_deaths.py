# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers that die of a chunk time and again: what is tried, and what the error says.

That nothing comes of a death now and then is in ``test_resume.py`` and ``test_run.py``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest

from ptclean import DaskClusterManager
from ptclean.errors import ChunkError
from ptclean.planning.chunks import Chunk
from ptclean.reporting.events import Listener
from ptclean.steps import Step
from ptclean.workers.deaths import Death, KernelKills, Seen, is_of_memory
from ptclean.workers.splitter import CubeSplitter

GIB = 2**30


class Job:
    """A chunk as far as the splitter knows it."""

    def __init__(self, run: str, index: int) -> None:
        self.run = run
        self.index = index
        self.cost = 1
        self.label = f"chunk-{index}"

    def __str__(self) -> str:
        return str(Chunk(self.index, 3 * self.index, 3 * self.index + 3, 0, 9))


def greedy(job: Job, steps: int, name: str, arguments: dict[str, Any]) -> int:
    """Take more memory than there is, unless nobody else is at work."""
    at_work = Path(job.run)
    mine = at_work / f"{job.index}-{os.getpid()}"
    mine.touch()
    deadline = time.monotonic() + 3
    alone = True
    while alone and time.monotonic() < deadline:
        time.sleep(0.1)
        others = [int(path.name.split("-")[1]) for path in at_work.iterdir() if path != mine]
        alone = not any(is_alive(pid) for pid in others)
    if name == "always" or not alone:
        np.ones(GIB // 8).sum()
        time.sleep(3)
    mine.unlink()
    return job.index


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def crashing(job: Job, steps: int, name: str, arguments: dict[str, Any]) -> None:
    """Die of something else."""
    os.kill(os.getpid(), signal.SIGSEGV)


def forget(run: str, index: int | None = None) -> None:
    pass


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskClusterManager]:
    """Two workers that are killed as soon as they take 0.6 GiB."""
    with (
        dask.config.set({"ptclean.allowed-failures": 0}),
        DaskClusterManager(2, "0.6GiB", log_directory=tmp_path_factory.mktemp("logs")) as manager,
    ):
        yield manager


def splitter(cluster: DaskClusterManager, step: Callable[..., Any]) -> CubeSplitter:
    return CubeSplitter(cluster.client, 2, Listener(), step=step, forget=forget)


def test_fewer_tasks_at_once_where_memory_is_short(
    limited: DaskClusterManager, tmp_path: Path, log: Callable[[], str]
) -> None:
    at_work = tmp_path / "at work"
    at_work.mkdir()
    steps = [Step(Job(str(at_work), index), "now and then") for index in range(3)]
    assert splitter(limited, greedy).run(steps) == {0: 0, 1: 1, 2: 2}
    assert "no more than 1 tasks run at once" in log()


def test_the_error_names_what_is_known(limited: DaskClusterManager, tmp_path: Path) -> None:
    with pytest.raises(ChunkError) as error:
        splitter(limited, greedy).run([Step(Job(str(tmp_path), 2), "always")])
    text = str(error.value)
    assert "chunk 2 (channels 6~8) failed at step 'always'" in text
    assert any(f"last {name} (process" in text for name in limited.worker_logs)
    assert "at a peak of" in text
    assert "its limit being 614.40 MiB" in text
    assert any(str(path) in text for path in limited.worker_logs.values())
    assert "nworkers" in text
    assert "memory_limit" in text


IN_GROUP = """
import os, sys
from pathlib import Path
group, at_work = sys.argv[1:]
Path(group, "cgroup.procs").write_text(str(os.getpid()))
import dask
from ptclean import DaskClusterManager
from ptclean.steps import Step
from test_deaths import Job, greedy, splitter

steps = [Step(Job(at_work, index), "now and then") for index in range(3)]
with dask.config.set({"ptclean.allowed-failures": 0}), DaskClusterManager(2) as cluster:
    print(dict(sorted(splitter(cluster, greedy).run(steps).items())))
"""


def test_the_kernels_kills_are_known(tmp_path: Path) -> None:
    """The same in a control group that is too small for two workers, which have no limit."""
    top = Path("/sys/fs/cgroup/memory")
    if not os.access(top / "memory.limit_in_bytes", os.W_OK):
        pytest.skip("control groups (of the first version) cannot be made here")
    at_work = tmp_path / "at work"
    at_work.mkdir()
    group = top / f"ptclean-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(2 * GIB))
        done = subprocess.run(
            [sys.executable, "-c", IN_GROUP, str(group), str(at_work)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        control = (group / "memory.oom_control").read_text()
    finally:
        wait_until_left(group)
        group.rmdir()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{0: 0, 1: 1, 2: 2}"
    assert int(control.split("oom_kill ")[1]) > 0, "the kernel did not kill"
    said = "".join(path.read_text() for path in tmp_path.glob("casa-*.log"))
    assert "Memory is short, as it seems: from now on no more than 1 tasks run at once" in said


def wait_until_left(group: Path) -> None:
    """Wait until no process is in a control group, killing those that stay."""
    deadline = time.monotonic() + 20
    while pids := (group / "cgroup.procs").read_text().split():
        if time.monotonic() > deadline:
            for pid in pids:
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.1)


def test_a_crash_is_not_taken_for_want_of_memory(
    limited: DaskClusterManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even while the kernel kills others for it."""
    kills = iter(range(7, 1000))
    monkeypatch.setattr(limited, "_kills", KernelKills(lambda: next(kills)))
    with pytest.raises(ChunkError, match="memory was not short"):
        splitter(limited, crashing).run([Step(Job(str(tmp_path), 0), "minor")])


@pytest.mark.parametrize(
    ("seen", "limit", "killed", "expected"),
    [
        (Seen(9 * GIB), 10 * GIB, False, True),
        (Seen(GIB, over_limit=True), 10 * GIB, False, True),
        (Seen(GIB), 10 * GIB, False, False),
        (Seen(GIB), None, False, False),
        (Seen(GIB), None, True, True),
        (Seen(GIB), None, None, None),
        (Seen(), 10 * GIB, None, None),
        (Seen(GIB, exit_code=-signal.SIGKILL), None, True, True),
        (Seen(GIB, exit_code=-signal.SIGKILL), None, False, False),
        (Seen(GIB, exit_code=-signal.SIGSEGV), None, True, False),
        (Seen(GIB, exit_code=-signal.SIGSEGV), None, None, False),
        (Seen(9 * GIB, exit_code=-signal.SIGTERM), 10 * GIB, False, True),
    ],
)
def test_of_memory(
    seen: Seen, limit: int | None, killed: bool | None, expected: bool | None
) -> None:
    assert is_of_memory(seen, limit, lambda: killed) is expected


def test_a_crash_does_not_use_up_a_kill() -> None:
    kills, now = [0], [0.0]
    known = KernelKills(lambda: kills[-1], lambda: now[-1])
    kills.append(1)
    assert is_of_memory(Seen(exit_code=-signal.SIGSEGV), None, known.claim) is False
    assert is_of_memory(Seen(exit_code=-signal.SIGKILL), None, known.claim) is True


def test_each_kill_explains_one_death() -> None:
    kills, now = [7], [0.0]
    known = KernelKills(lambda: kills[-1], lambda: now[-1])
    assert known.claim() is False
    kills.append(9)
    assert [known.claim() for _ in range(3)] == [True, True, False]


def test_a_kill_of_long_ago_explains_nothing() -> None:
    kills, now = [0], [0.0]
    known = KernelKills(lambda: kills[-1], lambda: now[-1])
    kills.append(5)
    assert known.claim() is True
    now.append(3600.0)
    assert known.claim() is False


def test_where_kills_cannot_be_counted_nothing_is_said() -> None:
    assert KernelKills(lambda: None).claim() is None


def test_what_is_not_known_is_not_said() -> None:
    assert str(Death("worker-3", 17)) == "worker-3 (process 17)"
