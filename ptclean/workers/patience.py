# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a Dask cluster that somebody else started waits for CASA, and lets it use its memory.

In one call CASA may hold Python's interpreter lock for minutes, during which a worker answers
nothing and sends no heartbeat; and it holds memory that Dask cannot free. A cluster with Dask's own
settings takes such a worker for dead, or pauses it. Our own clusters are set otherwise
(:mod:`ptclean.workers.worker_spec`, :mod:`ptclean.workers.cluster`); of the user's, the log says
so.

Plain functions on settings; how they are asked for is :mod:`ptclean.workers.cluster`'s.
"""

from __future__ import annotations

from typing import Any

from dask.utils import format_bytes, parse_timedelta

#: Seconds that a worker should be given. One call of CASA, a major cycle of a chunk, takes minutes.
PATIENCE = 3600.0

#: What the scheduler is asked for; its process may know nothing of ptclean.
SCHEDULER_SETTINGS = (
    "distributed.scheduler.worker-ttl",
    "distributed.comm.timeouts.connect",
)


def impatient_scheduler(settings: dict[str, Any]) -> list[str]:
    """Say which settings of a scheduler's process would cost a busy worker.

    Parameters
    ----------
    settings : dict
        Values of `SCHEDULER_SETTINGS`, as Dask's configuration has them there.

    Returns
    -------
    list of str
        Sentences that name setting and value, and what to set.
    """
    ttl, connect = SCHEDULER_SETTINGS
    found = []
    if _is_short(settings.get(ttl)):
        found.append(
            f"{ttl}={settings[ttl]!r}: the scheduler takes a worker for dead from which it has "
            "heard nothing for that long, and repeats its work; one call of CASA may take longer. "
            f"Start the scheduler with {ttl}=null"
        )
    if _is_short(settings.get(connect)):
        found.append(
            f"{connect}={settings[connect]!r}: a worker that is busy in CASA does not answer in "
            f"that time. Start scheduler and workers with {connect}=1h"
        )
    return found


def pausing_worker(limit: int | None, pause: float | bool) -> list[str]:
    """Say whether a worker stops when CASA fills its memory.

    Parameters
    ----------
    limit : int or None
        Bytes, its ``memory_limit``.
    pause : float or False
        ``distributed.worker.memory.pause`` of its process.

    Returns
    -------
    list of str
        As `impatient_scheduler`.
    """
    if not limit or pause is False:
        return []
    paused_at = format_bytes(int(limit * pause))
    return [
        f"distributed.worker.memory.pause={pause!r}: it is paused at {paused_at}, and waits for "
        "memory that CASA gives back only when it goes on. Chunks are planned to stay below; start "
        "workers with distributed.worker.memory.pause=false to be safe"
    ]


def _is_short(value: Any) -> bool:
    return value is not None and parse_timedelta(value) < PATIENCE
