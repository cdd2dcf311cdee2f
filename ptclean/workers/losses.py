# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tasks were lost with their workers, as Dask's scheduler has it.

The scheduler runs such tasks again by itself. Its log of events says which they were
(``Scheduler.remove_worker``); reading it changes nothing of a cluster that may be the user's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from distributed import Client

from ..reporting.events import Loss

#: The unique end of a task's key, which is of no interest.
_SEPARATOR = "-"


class Losses:
    """Watches the tasks of one run.

    Parameters
    ----------
    client : distributed.Client
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._keys: set[str] = set()
        self._used: set[str] = set()
        self._addresses: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._told: set[tuple[float, str]] = set()

    def watch(self, key: str, address: str | None = None) -> str:
        """Take note of a task that is about to be submitted to a worker; returns its key."""
        self._keys.add(key)
        if address is not None:
            self._used.add(address)
        return key

    def settle(self) -> None:
        """Forget the tasks, which are all complete and of which all losses have been told."""
        self._keys.clear()

    def see(self, workers: Mapping[str, str]) -> bool:
        """Take note of the workers that are there; tells whether any is gone, or is another now.

        Parameters
        ----------
        workers : mapping
            Address of each worker by its name.
        """
        gone = any(workers.get(name) != self._addresses[name] for name in self._addresses)
        self._names.update((address, name) for name, address in workers.items())
        self._addresses = dict(workers)
        return gone

    def new(self) -> list[Loss]:
        """Ask the scheduler for the losses since the last call."""
        if not self._keys and not self._used:
            return []
        found = []
        # What is lost is run again whether it is told or not.
        with contextlib.suppress(OSError, TimeoutError):
            for when, event in self._client.get_events("all"):
                if event.get("action") != "remove-worker":
                    continue
                address = str(event.get("worker"))
                tasks = sorted(self._keys.intersection(event.get("processing-tasks", ())))
                # One that has no task may have held chunks; one that was sent away is no loss.
                lost = address in self._used and not event.get("expected")
                if (tasks or lost) and (when, address) not in self._told:
                    self._told.add((when, address))
                    names = tuple(task.rpartition(_SEPARATOR)[0] for task in tasks)
                    found.append(Loss(self._names.get(address, address), names, when))
        return found
