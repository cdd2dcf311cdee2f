# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps that wait for a worker, in the order in which workers take them.

A step of a chunk whose tools live in a worker waits for that worker; one whose chunk has no home,
or whose home is gone, for any. The former may be meant for one, who takes it unless others have
nothing else to do. Of those that a worker may take, the largest comes first, so that the last to
end are small ones. An operation takes as long for ten thousand steps as for ten.

Does not cover what workers there are, and what runs on them (:mod:`ptclean.workers.splitter`).
"""

from __future__ import annotations

import heapq
from collections.abc import Collection
from itertools import count
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Waiting(Generic[Item]):
    """Items that wait, each for its home or for anybody.

    Parameters
    ----------
    workers : collection of str
        Those that there are.

    Examples
    --------
    >>> waiting = Waiting(['worker-0', 'worker-1'])
    >>> waiting.put('small', 1)
    >>> waiting.put('large', 9, home='worker-2')
    >>> waiting.put('at home', 5, home='worker-0')
    >>> waiting.take('worker-0'), waiting.take('worker-0')
    ('at home', 'large')
    """

    def __init__(self, workers: Collection[str]) -> None:
        self._homes = frozenset(workers)
        self._at_home: dict[str, list[tuple[int, int, Item]]] = {}
        self._meant_for: dict[str, list[tuple[int, int, Item]]] = {}
        self._for_all: list[tuple[int, int, Item]] = []
        self._order = count()
        self._length = 0
        self._with_home = 0

    def __len__(self) -> int:
        return self._length

    @property
    def for_all(self) -> int:
        """Number of items that anybody may take."""
        return self._length - self._with_home

    def put(
        self, item: Item, cost: int, home: str | None = None, meant_for: str | None = None
    ) -> None:
        """Add an item.

        Parameters
        ----------
        item : object
        cost : int
            The larger, the earlier it is taken.
        home : str, optional
            The worker that is to take it as long as it is there.
        meant_for : str, optional
            The worker that takes it, of an item without a home, unless others have nothing to do.
        """
        # The order breaks ties, so that items need not be comparable.
        entry = (-cost, next(self._order), item)
        heap = self._for_all
        if home is not None and home in self._homes:
            heap = self._at_home.setdefault(home, [])
            self._with_home += 1
        elif home is None and meant_for is not None and meant_for in self._homes:
            heap = self._meant_for.setdefault(meant_for, [])
        heapq.heappush(heap, entry)
        self._length += 1

    def homes(self, workers: Collection[str]) -> None:
        """Say which workers there are: what is at home elsewhere is for all from now on."""
        self._homes = frozenset(workers)
        for home in self._at_home.keys() - self._homes:
            self._with_home -= len(self._at_home[home])
            self._give_up(self._at_home.pop(home))
        for home in self._meant_for.keys() - self._homes:
            self._give_up(self._meant_for.pop(home))

    def take(self, worker: str) -> Item | None:
        """Remove and return the largest item at home at a worker, else the largest for all."""
        if heap := self._at_home.get(worker):
            self._with_home -= 1
        else:
            heap = self._meant_for.get(worker) or self._for_all
        heap = heap or max(self._meant_for.values(), key=len, default=[])
        return self._pop(heap) if heap else None

    def take_any(self) -> Item:
        """Remove and return one item, whatever its home."""
        for heap in (self._for_all, *self._meant_for.values()):
            if heap:
                return self._pop(heap)
        self._with_home -= 1
        return self._pop(next(heap for heap in self._at_home.values() if heap))

    def _give_up(self, heap: list[tuple[int, int, Item]]) -> None:
        for entry in heap:
            heapq.heappush(self._for_all, entry)

    def _pop(self, heap: list[tuple[int, int, Item]]) -> Item:
        self._length -= 1
        return heapq.heappop(heap)[2]
