# SPDX-License-Identifier: GPL-3.0-or-later
"""What Dask's scheduler and ptclean's driver take for each task, on many workers that sleep.

The real scheduler, the real splitter and real Dask workers, all in this process, in which a step
of a chunk is to sleep::

    python benchmarks/scheduling.py --workers 1000 --chunks 10000

prints the processor time of this process for each task, the workers' part included, and the peak of
its memory after a tenth of the chunks and at the end.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import dataclass
from typing import Any

import dask
from distributed import Client, LocalCluster, get_worker

from ptclean.reporting.events import Listener
from ptclean.workers import splitter
from ptclean.workers.splitter import CubeSplitter, Step
from ptclean.workers.worker import Outcome


@dataclass(frozen=True)
class Job:
    """A chunk of which only the place in the order matters."""

    index: int
    run: str = "benchmark"
    cost: int = 1

    @property
    def label(self) -> str:
        """Name in the keys of its tasks."""
        return f"chunk-{self.index:05d}"


def run(function: Any, job: Job, steps: int, name: str, arguments: dict[str, Any]) -> Outcome:
    """Take as long as told, in the place of what prepares a process for a task of CASA."""
    time.sleep(arguments["seconds"])
    return Outcome(
        value=None, seconds=0.0, peak_memory=0, warnings=[], worker=str(get_worker().name), pid=0
    )


def peak() -> float:
    """Largest resident memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--cycles", type=int, default=1, help="steps of each chunk")
    parser.add_argument("--seconds", type=float, default=0.1, help="that each task sleeps")
    options = parser.parse_args()
    splitter.run = run
    settings = {
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
        "distributed.worker.profile.enabled": False,
        "distributed.admin.system-monitor.interval": "1h",
        "distributed.scheduler.worker-ttl": None,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=options.workers,
            threads_per_worker=1,
            processes=False,
            dashboard_address=None,
            memory_limit=0,
            protocol="inproc",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(options.workers)
        done = 0
        peaks: list[float] = []

        def count(*_: Any) -> None:
            nonlocal done
            done += 1
            if done == options.chunks * options.cycles // 10:
                peaks.append(peak())

        cube_splitter = CubeSplitter(client, options.workers, Listener(), keep=count)
        jobs = [Job(index) for index in range(options.chunks)]
        started, used = time.perf_counter(), time.process_time()
        for _ in range(options.cycles):
            cube_splitter.run([Step(job, "sleep", {"seconds": options.seconds}) for job in jobs])
        elapsed, used = time.perf_counter() - started, time.process_time() - used
    tasks = options.chunks * options.cycles
    print(f"{tasks} tasks on {options.workers} workers: {elapsed:.1f} s")
    print(f"processor time for each task: {1e3 * used / tasks:.2f} ms")
    print(f"peak memory after a tenth: {peaks[0]:.0f} MiB, at the end: {peak():.0f} MiB")


if __name__ == "__main__":
    main()
