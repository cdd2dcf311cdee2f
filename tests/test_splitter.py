# SPDX-License-Identifier: GPL-3.0-or-later
"""What ends while the driver is busy is taken together; where tasks run is in other tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from distributed import Client

from chunk_stand_in import Job
from killing import wait_until, worker_processes
from ptclean import DaskClusterManager
from ptclean.errors import ChunkError
from ptclean.reporting.events import Listener, Task
from ptclean.steps import Outcome, Step
from ptclean.workers.splitter import CubeSplitter


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
    """Is at something else, when the first task has ended, until all others have, and then some."""

    def __init__(self, client: Client, journal: Noted, then: Callable[[], None]) -> None:
        self._client = client
        self._journal = journal
        self._then = then
        self.told: list[int] = []

    def task_done(self, task: Task, outcome: Outcome) -> None:
        assert any(task.index in found for found in self._journal.synced), "told before it is kept"
        self.told.append(task.index)
        if len(self.told) == 1:
            wait_until(lambda: "pending" not in statuses(self._client))
            # They are in the queue of what has ended.
            time.sleep(0.2)
            self._then()


def statuses(client: Client) -> list[str]:
    return [future.status for future in client.futures.values()]


@pytest.fixture(scope="module")
def three() -> Iterator[Client]:
    with DaskClusterManager(3) as manager:
        yield manager.client


def three_steps(*, fails: bool = False) -> list[Step]:
    """Of chunks of which the first ends before the others, and the second may fail."""
    return [
        Step(Job("run", index), "step", {"seconds": seconds, "fails": fails and index == 1})
        for index, seconds in enumerate([0.0, 0.5, 0.6])
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_what_ends_together_is_kept_together(three: Client, fails: bool) -> None:
    journal = Noted()
    listener = Busy(three, journal, lambda: None)
    splitter = CubeSplitter(three, 3, listener, journal=journal, step=take_time)
    steps = three_steps(fails=fails)
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


def test_results_that_are_lost_with_their_workers_are_made_again(three: Client) -> None:
    def kill_workers() -> None:
        for process in worker_processes():
            process.kill()
        wait_until(lambda: "finished" not in statuses(three))

    journal = Noted()
    splitter = CubeSplitter(
        three, 3, Busy(three, journal, kill_workers), journal=journal, step=take_time
    )
    assert splitter.run(three_steps()) == {0: 0, 1: 10, 2: 20}
    # Dask gives up tasks whose workers are all gone, and they are submitted again.
    assert journal.synced[0] == {0: 0}
    assert {index: v for found in journal.synced for index, v in found.items()} == {
        0: 0,
        1: 10,
        2: 20,
    }
