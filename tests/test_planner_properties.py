# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever the cube, the machine and the wishes are: its chunks cover it once, and fit.

Of the planner as a whole, :func:`ptclean.planning.sizing.size_run`; of cutting alone see
``test_chunks.py``, and of the numbers that come out ``test_sizing.py``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ptclean.planning.chunks import Guards, guard_channels
from ptclean.planning.memory import (
    ImageSize,
    casa_budget,
    casa_requirement,
    largest_gridded,
    padded,
    worker_memory,
)
from ptclean.planning.partition import choose_parts, cut_rows
from ptclean.planning.sizing import USABLE_OF_LIMIT, Machine, Sizing, size_run

MIB, GIB, TIB = 2**20, 2**30, 2**40

GRIDDERS = st.sampled_from(["standard", "mosaic", "wproject"])
SIZES = st.builds(
    ImageSize, st.integers(1, 20_000), st.integers(1, 20_000), st.integers(1, 4), GRIDDERS
)
MACHINES = st.builds(
    Machine,
    st.integers(1, 200),
    st.integers(1, 4 * TIB),
    st.none() | st.integers(256 * MIB, TIB),
)
CHANNELS = st.integers(1, 20_000) | st.integers(1, 20)


@st.composite
def runs(draw: st.DrawFn) -> tuple[ImageSize, int, Guards, Machine, dict[str, Any]]:
    """Draw arguments of `size_run`."""
    nchan = draw(CHANNELS)
    wishes = {
        "nworkers": draw(st.just(0) | st.integers(1, 300)),
        "chanchunks": draw(st.just(-1) | st.integers(1, 2 * nchan)),
        "cleans": draw(st.booleans()),
        "block": draw(st.none() | st.integers(1, 2 * nchan)),
    }
    guards = Guards(
        draw(st.integers(0, 9)),
        fewest=draw(st.integers(1, 5)),
        even=draw(st.booleans()),
        above=draw(st.integers(0, 1)),
    )
    # Thousands of chunks of single channels are slow to make, and no other than hundreds.
    assume(wishes["chanchunks"] == -1 or nchan / wishes["chanchunks"] < 500)
    assume(wishes["block"] is None or nchan / wishes["block"] < 500)
    return draw(SIZES), nchan, guards, draw(MACHINES), wishes


def sized(run: tuple[ImageSize, int, Guards, Machine, dict[str, Any]]) -> Sizing:
    """Size a run, which does not fit under every limit."""
    size, nchan, guards, machine, wishes = run
    try:
        return size_run(size, nchan, guards, machine, **wishes)
    except MemoryError:
        assume(False)
        raise


@given(runs())
def test_chunks_cover_the_cube_once_with_their_guards_inside(run: Any) -> None:
    _, nchan, guards, _, wishes = run
    chunks = sized(run).chunks
    assert [chunk.start for chunk in chunks] == [0, *(chunk.stop for chunk in chunks[:-1])]
    assert chunks[-1].stop == nchan
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert chunk.channels >= 1
        assert 0 <= chunk.gridded_start <= max(0, chunk.start - guards.sides)
        above = guards.sides + guards.above
        assert min(nchan, chunk.stop + above) <= chunk.gridded_stop <= nchan
        assert chunk.gridded_channels >= min(guards.fewest, nchan)
        assert not (guards.even and chunk.gridded_start % 2)
        if wishes["block"]:
            assert chunk.start // wishes["block"] == (chunk.stop - 1) // wishes["block"]
        if wishes["chanchunks"] > 0:
            assert chunk.channels <= wishes["chanchunks"]


@given(runs())
def test_workers_are_no_more_than_asked_for_or_of_use(run: Any) -> None:
    _, nchan, _, machine, wishes = run
    made = sized(run)
    assert 1 <= made.nworkers <= (wishes["nworkers"] or machine.workers)
    assert made.nworkers <= len(made.chunks) <= nchan


@given(runs())
# The last chunk has all six channels: the fewest there are, and another one so as to begin even.
@example(
    (
        ImageSize(469, 2416, 3, "standard"),
        6,
        Guards(0, fewest=5, even=True),
        Machine(1, 1, 1_840_912_718),
        {"nworkers": 0, "chanchunks": -1, "cleans": False, "block": None},
    )
)
def test_worker_stays_under_its_limit(run: Any) -> None:
    size, _, _, machine, _ = run
    made = sized(run)
    largest = max(chunk.gridded_channels for chunk in made.chunks)
    assert made.worker_memory == worker_memory(size, largest)
    if machine.limit is not None:
        assert made.worker_memory <= machine.limit * USABLE_OF_LIMIT


@given(runs())
def test_what_does_not_fit_is_refused_with_a_limit_that_does(run: Any) -> None:
    """One GiB more than the message says, since it is rounded."""
    size, nchan, guards, machine, wishes = run
    try:
        size_run(size, nchan, guards, machine, **wishes)
    except MemoryError as refusal:
        text = str(refusal)
        if "give each worker at least" in text:
            needed = float(text.split("at least ")[1].split("GiB")[0])
            enough = replace(machine, limit=int((needed + 1) * GIB))
            size_run(size, nchan, guards, enough, **wishes | {"chanchunks": -1})
        else:
            assert "use chanchunks=" in text
            fewer = int(text.split("use chanchunks=")[1].split()[0])
            size_run(size, nchan, guards, machine, **wishes | {"chanchunks": fewer})


@given(runs())
def test_chunks_grid_no_more_channels_than_reckoned(run: Any) -> None:
    _, nchan, guards, _, _ = run
    for chunk in sized(run).chunks:
        assert chunk.gridded_channels <= guards.gridded_channels(chunk.channels, nchan)


@given(
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.floats(1.0, 1e9),
    st.floats(1.0, 1e9),
    st.booleans(),
)
@example("linear", 1e3, 1e3, True)
def test_guards_are_those_of_either_direction_and_no_fewer_for_wider_data(
    interpolation: str, data: float, image: float, degrids: bool
) -> None:
    assume(data / image < 1e4)
    guard = guard_channels(interpolation, data, image, degrids=degrids)
    assert guard >= degrids
    for sign in (1, -1):
        assert guard == guard_channels(interpolation, -data, sign * image, degrids=degrids)
    assert guard <= guard_channels(interpolation, 2 * data, image, degrids=degrids)


@given(SIZES, st.integers(1, 5000))
def test_casa_is_promised_more_than_it_reckons_with(size: ImageSize, channels: int) -> None:
    assert casa_budget(size, channels) * MIB >= 2 * casa_requirement(size, channels)


@given(SIZES, st.integers(0, 4 * TIB))
def test_channels_that_fit_do_and_one_more_does_not(size: ImageSize, available: int) -> None:
    channels = largest_gridded(size, available)
    if channels:
        # Of bytes that are rounded.
        assert worker_memory(size, channels) <= available + channels
    assert worker_memory(size, channels + 1) > available - channels - 1 or channels == 0


@given(st.integers(1, 10**6))
def test_padded_length_is_even_and_has_small_factors(pixels: int) -> None:
    length = padded(pixels)
    assert length % 2 == 0
    assert length >= pixels
    for factor in (2, 3, 5):
        while length % factor == 0:
            length //= factor
    assert length == 1


@given(
    st.dictionaries(st.sampled_from(["ms0", "ms1", "ms2"]), st.integers(1, 5000), min_size=1),
    st.integers(1, 40),
    st.booleans(),
)
def test_parts_of_rows_cover_them_once(
    rows: dict[str, int], wanted: int, interleaved: bool
) -> None:
    parts = cut_rows(rows, wanted, interleaved=interleaved)
    assert 1 <= len(parts) <= max(wanted, len(rows))
    assert sum(part.nrows for part in parts) == sum(rows.values())


@given(st.floats(0, 1e15), st.integers(1, 10**9), st.booleans())
def test_number_of_parts_is_a_number(visibilities: float, pixels: int, interleaved: bool) -> None:
    assert choose_parts(visibilities, pixels, interleaved=interleaved) >= 1


@pytest.mark.parametrize("nchan", [1, 2, 3, 7, 960, 3840, 7680, 32768])
@pytest.mark.parametrize("nworkers", [1, 2, 12, 96])
def test_usual_cubes_keep_all_workers_busy(nchan: int, nworkers: int) -> None:
    made = size_run(ImageSize(512, 512), nchan, Guards(2), Machine(nworkers, 8 * nworkers * GIB))
    assert made.nworkers == min(nworkers, nchan)
    assert not made.warnings
