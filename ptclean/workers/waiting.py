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

    def __len__(self) -> int:
        return self._length

    @property
    def for_all(self) -> int:
        """Number of items that anybody may take."""
        return len(self._for_all) + sum(map(len, self._meant_for.values()))

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
        elif home is None and meant_for is not None and meant_for in self._homes:
            heap = self._meant_for.setdefault(meant_for, [])
        heapq.heappush(heap, entry)
        self._length += 1

    def homes(self, workers: Collection[str]) -> None:
        """Say which workers there are: what is at home elsewhere is for all from now on."""
        self._homes = frozenset(workers)
        for heaps in (self._at_home, self._meant_for):
            for home in heaps.keys() - self._homes:
                for entry in heaps.pop(home):
                    heapq.heappush(self._for_all, entry)

    def take(self, worker: str) -> Item | None:
        """Remove and return the largest item at home at a worker, else the largest for all."""
        heap = self._at_home.get(worker) or self._meant_for.get(worker) or self._for_all
        return self._pop(heap or max(self._meant_for.values(), key=len, default=[]))

    def take_any(self) -> Item:
        """Remove and return one item, whatever its home."""
        heaps = [self._for_all, *self._meant_for.values(), *self._at_home.values()]
        item = self._pop(next(heap for heap in heaps if heap))
        assert item is not None
        return item

    def _pop(self, heap: list[tuple[int, int, Item]]) -> Item | None:
        if not heap:
            return None
        self._length -= 1
        return heapq.heappop(heap)[2]
