# SPDX-License-Identifier: GPL-3.0-or-later
"""What Dask's scheduler and ptclean's driver take for each task, on many workers that sleep.

The real scheduler and the real splitter, in this process; real Dask workers in a few others, in
which a step of a chunk is to sleep. What is sent for a chunk is what is sent in a run. ::

    PYTHONPATH=examples python benchmarks/scheduling.py --workers 1000 --chunks 10000

prints the processor time of this process for each task, and the peak of its memory after a tenth of
the tasks and at the end. Told apart is what the workers' heartbeats take, task or none, measured
before the first task is there. ``--bare`` does the same with Dask's own ``submit`` and
``as_completed`` in the place of the splitter: what is left is Dask's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
from distributed import Client, LocalCluster, Worker, as_completed, get_worker

from ptclean.imaging.chunk_job import ChunkJob, CubeJob
from ptclean.planning.chunks import Chunk
from ptclean.reporting.events import Listener
from ptclean.steps import Outcome, Step
from ptclean.workers import splitter
from ptclean.workers.splitter import CubeSplitter

#: Workers in one process, so that this machine holds a thousand.
WORKERS_A_PROCESS = 125

#: Seconds for which workers are left alone to settle, and then those in which idling is measured.
SETTLING, IDLING = 10.0, 20.0

SETTINGS = {
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "1h",
    "distributed.scheduler.worker-ttl": None,
    "distributed.comm.timeouts.connect": "10m",
}


def make_jobs(chunks: int, folder: Path) -> list[ChunkJob]:
    """Make the jobs of a cube with so many chunks, as large as they are in a run."""
    # Only the driver needs CASA; all that serve as workers import this module.
    from ptclean import plan
    from simulate_ms import simulate

    vis = folder / "data.ms"
    simulate(vis, nchan=4)
    made = plan(
        str(vis),
        imagename=str(folder / "cube"),
        specmode="cube",
        imsize=64,
        cell="0.1arcsec",
        weighting="briggs",
        niter=100,
        nworkers=2,
    )
    assert made.records is not None
    cube = CubeJob(
        run="benchmark",
        records=made.records,
        coordinates=made.coordinates,
        channels=chunks,
        directory=str(folder),
        cleans=True,
        restores=True,
        corrects=False,
    )
    return [
        ChunkJob(cube, Chunk(index, index, index + 1, index, index + 1), ())
        for index in range(chunks)
    ]


def run(function: Any, job: ChunkJob, steps: int, name: str, arguments: dict[str, Any]) -> Outcome:
    """Take as long as told, in the place of what prepares a process for a task of CASA."""
    time.sleep(arguments["seconds"])
    return Outcome(
        value=None, seconds=0.0, peak_memory=0, warnings=[], worker=str(get_worker().name), pid=0
    )


class Count:
    """Counts steps, in the place of what keeps them, and takes the memory after a tenth."""

    def __init__(self, tenth: int) -> None:
        self.done = 0
        self.tenth = tenth
        self.peaks: list[float] = []

    def add(self, *_: Any) -> None:
        """Count one."""
        self.done += 1
        if self.done == self.tenth:
            self.peaks.append(peak())

    def sync(self) -> None:
        """Do nothing."""


def peak() -> float:
    """Largest resident memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def serve(address: str, workers: int) -> None:
    """Be so many workers, until the scheduler ends."""
    made = [
        await Worker(address, nthreads=1, name=f"{os.getpid()}-{number}", memory_limit=0)
        for number in range(workers)
    ]
    await asyncio.gather(*(worker.finished() for worker in made))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--cycles", type=int, default=1, help="steps of each chunk")
    parser.add_argument("--seconds", type=float, default=1.0, help="that each task sleeps")
    parser.add_argument("--bare", action="store_true", help="without the splitter")
    parser.add_argument("--serve", metavar="SCHEDULER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with dask.config.set(SETTINGS):
        if options.serve:
            asyncio.run(serve(options.serve, options.workers))
            return
        measure(options.workers, options.chunks, options.cycles, options.seconds, bare=options.bare)


def submit_all(client: Client, jobs: list[ChunkJob], seconds: float, count: Any) -> None:
    """Keep a task in flight on each worker, with what Dask has for it alone."""
    waiting = iter(jobs)
    running: dict[Any, str] = {}
    completed = as_completed(loop=client.loop)

    def submit(worker: str) -> None:
        job = next(waiting, None)
        if job is not None:
            future = client.submit(
                time.sleep,
                seconds,
                key=f"{job.label}-{uuid4().hex}",
                workers=[worker],
                allow_other_workers=True,
                pure=False,
            )
            running[future] = worker
            completed.add(future)

    for worker in client.scheduler_info(n_workers=-1)["workers"]:
        submit(worker)
    for future in completed:
        future.result()
        future.release()
        count()
        submit(running.pop(future))


def idle_share() -> float:
    """Processor time that this process takes while its workers have no task, as a share of one."""
    time.sleep(SETTLING)
    used = time.process_time()
    time.sleep(IDLING)
    return (time.process_time() - used) / IDLING


def measure(workers: int, chunks: int, cycles: int, seconds: float, *, bare: bool) -> None:
    """Measure, and print."""
    # By the name of this module, so that they are pickled as references, as those of a run are.
    import scheduling

    splitter.run = scheduling.run
    count = Count(chunks * cycles // 10)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        jobs = make_jobs(chunks, Path(folder))
        cluster = stack.enter_context(
            LocalCluster(n_workers=0, dashboard_address=None, protocol="tcp")
        )
        client = stack.enter_context(Client(cluster, set_as_default=False))
        for start in range(0, workers, WORKERS_A_PROCESS):
            number = min(WORKERS_A_PROCESS, workers - start)
            command = [sys.executable, __file__, "--serve", cluster.scheduler_address]
            process = subprocess.Popen([*command, "--workers", str(number)])
            stack.callback(process.wait)
            stack.callback(process.kill)
        client.wait_for_workers(workers, timeout=600)
        idle = idle_share()
        cube_splitter = CubeSplitter(client, workers, Listener(), journal=count)
        started, used = time.perf_counter(), time.process_time()
        for _ in range(cycles):
            if bare:
                submit_all(client, jobs, seconds, count.add)
                continue
            cube_splitter.run([Step(job, "sleep", {"seconds": seconds}) for job in jobs])
        elapsed, used = time.perf_counter() - started, time.process_time() - used
        count.peaks.append(peak())
    tasks = chunks * cycles
    print(f"{tasks} tasks on {workers} workers: {elapsed:.1f} s")
    print(
        f"processor time for each task: {1e3 * used / tasks:.2f} ms, of which "
        f"{1e3 * idle * elapsed / tasks:.2f} for heartbeats ({idle:.1%} of the time)"
    )
    after_tenth, at_end = count.peaks
    print(f"peak memory after a tenth: {after_tenth:.0f} MiB, at the end: {at_end:.0f} MiB")


if __name__ == "__main__":
    main()
