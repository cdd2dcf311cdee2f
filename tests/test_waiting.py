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


def test_what_is_meant_for_one_is_taken_by_others_that_have_nothing_else_to_do() -> None:
    waiting: Waiting[str] = Waiting(["a", "b"])
    for number in range(6):
        waiting.put(f"chunk {number}", 1, meant_for="ab"[number % 2])
    waiting.put("for all", 9)
    assert waiting.for_all == 7
    assert [waiting.take("a") for _ in range(3)] == ["chunk 0", "chunk 2", "chunk 4"]
    assert waiting.take("a") == "for all"
    assert waiting.take("b") == "chunk 1"
    assert everything(waiting, "a") == ["chunk 3", "chunk 5"]


def test_a_home_goes_before_what_is_meant() -> None:
    waiting: Waiting[str] = Waiting(["a", "b"])
    waiting.put("at home", 1, "a", meant_for="b")
    waiting.put("meant", 5, meant_for="a")
    waiting.put("meant for none", 1, meant_for="gone")
    assert waiting.take("b") == "meant for none"
    assert waiting.take("a") == "at home"
    waiting.homes(["b"])
    assert waiting.take("b") == "meant"


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["a", "b", "c", None]), st.sampled_from("abc"))
    ),
    st.sets(st.sampled_from(["a", "b", "c"]), min_size=1),
    st.sets(st.sampled_from(["a", "b", "c"]), min_size=1),
)
def test_each_is_taken_once(
    items: list[tuple[int, str | None, str]], first: set[str], then: set[str]
) -> None:
    waiting: Waiting[int] = Waiting(first)
    for number, (cost, home, meant_for) in enumerate(items):
        waiting.put(number, cost, home, meant_for)
    waiting.homes(then)
    taken = []
    for worker in sorted(then):
        while (item := waiting.take(worker)) is not None:
            assert items[item][1] in (worker, None) or items[item][1] not in first & then
            taken.append(item)
    assert sorted(taken) == list(range(len(items)))
    assert not waiting
