# SPDX-License-Identifier: GPL-3.0-or-later
"""The order in which workers take what waits for them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ptclean.workers.waiting import Waiting


def everything(waiting: Waiting[str], worker: str) -> list[str]:
    taken = []
    while (item := waiting.take(worker)) is not None:
        taken.append(item)
    return taken


def test_largest_first_and_home_before_others() -> None:
    waiting: Waiting[str] = Waiting(["a", "b"])
    waiting.put("for all, 3", 3)
    waiting.put("for all, 7", 7)
    waiting.put("a's, 1", 1, "a")
    waiting.put("a's, 2", 2, "a")
    waiting.put("b's, 9", 9, "b")
    assert everything(waiting, "a") == ["a's, 2", "a's, 1", "for all, 7", "for all, 3"]
    assert len(waiting) == 1
    assert waiting.take("a") is None
    assert waiting.take_any() == "b's, 9"
    assert not waiting


def test_equals_in_their_order() -> None:
    waiting: Waiting[str] = Waiting(["a"])
    for name in "xyz":
        waiting.put(name, 1)
    assert everything(waiting, "a") == ["x", "y", "z"]


def test_what_was_at_home_at_a_lost_worker_is_for_all() -> None:
    waiting: Waiting[str] = Waiting(["a", "b"])
    waiting.put("b's", 1, "b")
    waiting.put("gone's", 2, "gone")
    assert waiting.for_all == 1
    waiting.homes(["a", "c"])
    assert waiting.for_all == 2
    assert everything(waiting, "c") == ["gone's", "b's"]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["a", "b", "c", None]))),
    st.sets(st.sampled_from(["a", "b", "c"]), min_size=1),
    st.sets(st.sampled_from(["a", "b", "c"]), min_size=1),
)
def test_each_is_taken_once(items: list[tuple[int, str | None]], first: set[str], then: set[str]):
    waiting: Waiting[int] = Waiting(first)
    for number, (cost, home) in enumerate(items):
        waiting.put(number, cost, home)
    waiting.homes(then)
    taken = []
    for worker in sorted(then):
        while (item := waiting.take(worker)) is not None:
            assert items[item][1] in (worker, None) or items[item][1] not in first & then
            taken.append(item)
    assert sorted(taken) == list(range(len(items)))
    assert not waiting
