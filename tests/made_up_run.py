# SPDX-License-Identifier: GPL-3.0-or-later
"""The data of a run that never was, as large as wanted: told to a `RunRecorder`, event by event."""

from __future__ import annotations

import math
import random
from typing import Any

from ptclean.planning.chunks import Chunk, Guards
from ptclean.planning.plan import Plan
from ptclean.reporting.events import Cycle, Loss, Phase, Task
from ptclean.reporting.run_record import RunRecorder
from ptclean.steps import Outcome


def made_up_run(
    *,
    imagename: str = "/data/line",
    channels: int = 48,
    chunks: int = 12,
    workers: int = 4,
    cycles: int = 5,
    **call: Any,
) -> dict[str, Any]:
    """Return the data of a clean in which the line channels take longest, and one worker dies."""
    random.seed(5921)
    now = [0.0]
    size = channels // chunks
    cut = tuple(Chunk(i, i * size, (i + 1) * size, i * size, (i + 1) * size) for i in range(chunks))
    plan = Plan(
        imagename=imagename,
        nworkers=workers,
        chunks=cut,
        guards=Guards(2),
        shape=(512, 512, 1, channels),
        start=1.4e9,
        width=1e4,
        frame="LSRK",
        rows=1_000_000,
        worker_memory=900 * 2**20,
        casa_memory=2000,
    )
    parameters = {"vis": "line.ms", "imagename": imagename, "niter": 100_000, **call}
    recorder = RunRecorder(plan, parameters, {"niter": 0}, 0.0, clock=lambda: now[0])
    recorder.used_workers(
        {f"worker-{i}": f"/data/casa.ptclean/worker-{i}.log" for i in range(workers)}
    )
    line = [0.02 + math.exp(-(((c / channels - 0.5) / 0.1) ** 2)) for c in range(channels)]

    def phase(title: str, step: str, of: list[int], cost: float, cycle: int = 0) -> None:
        tasks = tuple(Task(step, index, size) for index in of)
        told = Phase(title, tasks, chunks, cycle)
        recorder.phase_started(told)
        began = now[0]
        free = [began] * workers
        ends = []
        for task in tasks:
            worker = free.index(min(free))
            seconds = cost * size * random.uniform(0.8, 1.3) * (0.4 + line[task.index * size])
            free[worker] += seconds
            memory = int(random.uniform(500, 850)) * 2**20
            outcome = Outcome(None, seconds, memory, [], f"worker-{worker}", 1)
            ends.append((free[worker], task, outcome))
        for now[0], task, outcome in sorted(ends, key=lambda end: end[0]):
            recorder.task_done(task, outcome)
        recorder.phase_ended(told, now[0] - began)

    every = list(range(chunks))
    phase("PSF and residual", "begin", every, 3.0)
    recorder.cycle_done(Cycle(0, 0, 0.0, 0.002, max(line), total=chunks))
    for number in range(1, cycles + 1):
        limit = max(0.002, max(line) * 0.25)
        iterations = [int(40 * math.log(max(value / limit, 1))) for value in line]
        line = [min(value, limit * random.uniform(0.9, 1)) for value in line]
        changed = [i for i in every if any(iterations[i * size : (i + 1) * size])]
        phase("minor cycle", "minor", every, 0.2, number)
        phase("major cycle", "major", changed, 2.0, number)
        cycle = Cycle(
            number,
            sum(iterations),
            limit,
            0.002,
            max(line),
            tuple(iterations),
            tuple(line),
            tuple(changed),
            chunks,
            2 if number == cycles else 0,
        )
        recorder.cycle_done(cycle)
    recorder.worker_lost(Loss("worker-1", ("major-2-chunk-0003",), now[0] / 2))
    phase("restoring", "finish", every, 0.3)
    recorder.end(
        {"iterdone": 1234, "nmajordone": cycles + 1, "stopcode": 2, "stopDescription": "threshold"}
    )
    return recorder.data
