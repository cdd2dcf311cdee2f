# SPDX-License-Identifier: GPL-3.0-or-later
"""What ends while the driver is busy is taken together; where tasks run is in other tests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from distributed import Client

from ptclean import DaskClusterManager
from ptclean.errors import ChunkError
from ptclean.reporting.events import Listener, Task
from ptclean.workers.splitter import CubeSplitter, Step
from ptclean.workers.worker import Outcome


@dataclass(frozen=True)
class Job:
    """A chunk as far as the splitter knows it."""

    index: int
    run: str = "run"
    cost: int = 1

    @property
    def label(self) -> str:
        return f"chunk-{self.index}"


def take_time(job: Job, steps: int, name: str, arguments: dict[str, Any]) -> int:
    time.sleep(arguments["seconds"])
    if arguments["fails"]:
        raise ValueError("as told")
    return 10 * job.index


class Noted:
    """A journal; what each `sync` found new."""

    def __init__(self) -> None:
        self.synced: list[dict[int, int]] = []
        self._added: dict[int, int] = {}

    def add(self, step: Step, value: int) -> None:
        self._added[step.job.index] = value

    def sync(self) -> None:
        self.synced.append(self._added)
        self._added = {}


class Busy(Listener):
    """Is at something else, when the first task has ended, until all others have."""

    def __init__(self, client: Client, journal: Noted) -> None:
        self._client = client
        self._journal = journal
        self.told: list[int] = []

    def task_done(self, task: Task, outcome: Outcome) -> None:
        assert any(task.index in found for found in self._journal.synced), "told before it is kept"
        self.told.append(task.index)
        deadline = time.monotonic() + 60
        while any(future.status == "pending" for future in self._client.futures.values()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        # They are in the queue of what has ended.
        time.sleep(0.2)


@pytest.fixture(scope="module")
def three() -> Iterator[Client]:
    with DaskClusterManager(3) as manager:
        yield manager.client


@pytest.mark.parametrize("fails", [False, True])
def test_what_ends_together_is_kept_together(three: Client, fails: bool) -> None:
    journal = Noted()
    listener = Busy(three, journal)
    splitter = CubeSplitter(three, 3, listener, journal=journal, step=take_time)
    times = [0.0, 0.5, 0.6]
    steps = [
        Step(Job(index), "step", {"seconds": seconds, "fails": fails and index == 1})
        for index, seconds in enumerate(times)
    ]
    if fails:
        with pytest.raises(ChunkError, match="as told"):
            splitter.run(steps)
        # What was complete beside the one that failed need not be made again.
        assert journal.synced == [{0: 0}, {2: 20}]
        assert listener.told == [0, 2]
    else:
        assert splitter.run(steps) == {0: 0, 1: 10, 2: 20}
        assert journal.synced == [{0: 0}, {1: 10, 2: 20}]
        assert sorted(listener.told) == [0, 1, 2]
