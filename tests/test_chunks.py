# SPDX-License-Identifier: GPL-3.0-or-later
"""Chunks cover the cube once, with the guard channels that the interpolation reaches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptclean.planning.chunks import (
    CHUNKS_PER_WORKER,
    Chunk,
    Guards,
    choose_parts,
    cut,
    cut_evenly,
    cut_in_blocks,
    guard_channels,
    neighbours,
    smallest_useful_chunk,
)

CHANNELS = st.integers(1, 300)
SIZES = st.integers(1, 320)
GUARDS = st.integers(0, 6)


@st.composite
def cubes(draw, guards=GUARDS):
    """Draw a cut of any kind: number of channels, guard channels, chunks."""
    nchan, guard = draw(CHANNELS), draw(guards)
    function = draw(st.sampled_from([cut, cut_evenly]))
    return nchan, guard, function(nchan, draw(SIZES), Guards(guard))


def channels(chunk):
    return set(range(chunk.start, chunk.stop))


def gridded(chunk):
    return set(range(chunk.gridded_start, chunk.gridded_stop))


@given(cubes())
def test_core_channels_cover_the_axis_once_in_order(cube):
    nchan, _, chunks = cube
    assert [c for chunk in chunks for c in range(chunk.start, chunk.stop)] == list(range(nchan))
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert sum(chunk.channels for chunk in chunks) == nchan


@given(cubes())
def test_guards_are_on_both_sides_but_for_the_ends_of_the_axis(cube):
    nchan, guard, chunks = cube
    for chunk in chunks:
        reach = set(range(chunk.start - guard, chunk.stop + guard)) & set(range(nchan))
        if chunk.channels == 1 < nchan and guard == 0:
            assert gridded(chunk) > reach
            assert chunk.gridded_channels == 2
        else:
            assert gridded(chunk) == reach
        assert chunk.gridded_channels == len(gridded(chunk))


@given(cubes())
def test_core_is_found_among_the_gridded_channels(cube):
    for chunk in cube[2]:
        axis = range(chunk.gridded_start, chunk.gridded_stop)
        assert set(axis[chunk.core_in_gridded]) == channels(chunk)


@given(cubes())
def test_no_channel_of_a_longer_cube_is_gridded_alone(cube):
    nchan, _, chunks = cube
    assert all(chunk.gridded_channels >= min(2, nchan) for chunk in chunks)


@given(CHANNELS, SIZES, GUARDS)
def test_cut_makes_chunks_of_the_size_and_a_rest(nchan, size, guard):
    *full, last = cut(nchan, size, Guards(guard))
    assert all(chunk.channels == size for chunk in full)
    assert last.channels == nchan - size * len(full) <= size


@given(CHANNELS, SIZES, GUARDS)
def test_even_chunks_differ_by_a_channel_at_most(nchan, parts, guard):
    chunks = cut_evenly(nchan, parts, Guards(guard))
    sizes = {chunk.channels for chunk in chunks}
    assert len(chunks) == min(parts, nchan)
    assert max(sizes) - min(sizes) <= 1


@given(cubes())
def test_neighbours_are_all_chunks_that_own_guard_channels(cube):
    _, _, chunks = cube
    for chunk in chunks:
        owners = {other for other in chunks if channels(other) & gridded(chunk)} - {chunk}
        found = list(neighbours(chunks, chunk))
        assert set(found) == owners
        assert len(found) == len(owners)


@given(cubes(guards=st.integers(1, 6)))
def test_neighbours_know_each_other_where_there_are_guards(cube):
    _, _, chunks = cube
    for chunk in chunks:
        assert all(chunk in neighbours(chunks, other) for other in neighbours(chunks, chunk))


def test_chunks_of_ten_channels():
    assert cut(10, 4, Guards(1)) == (
        Chunk(0, 0, 4, 0, 5),
        Chunk(1, 4, 8, 3, 9),
        Chunk(2, 8, 10, 7, 10),
    )
    assert [c.start for c in cut_evenly(10, 4, Guards(1))] == [0, 2, 5, 7]
    assert cut(1, 5, Guards(3)) == (Chunk(0, 0, 1, 0, 1),)


def test_guards_may_reach_over_several_chunks():
    chunks = cut(9, 2, Guards(3))
    assert [c.index for c in neighbours(chunks, chunks[2])] == [1, 0, 3, 4]


def test_chunk_is_named_by_its_core_channels():
    assert [str(chunk) for chunk in cut(5, 4, Guards(1))] == [
        "chunk 0 (channels 0~3)",
        "chunk 1 (channels 4)",
    ]


@pytest.mark.parametrize("function", [cut, cut_evenly])
@pytest.mark.parametrize("arguments", [(0, 1), (5, 0), (5, -1), (-5, 1)])
def test_what_cannot_be_cut_is_refused(function, arguments):
    with pytest.raises(ValueError, match=f"cannot cut {arguments[0]} channels"):
        function(*arguments, Guards(1))


@pytest.mark.parametrize("numbers", [{"sides": -1}, {"above": -1}])
def test_negative_guards_are_refused(numbers):
    with pytest.raises(ValueError, match="there cannot be fewer guard channels than none"):
        Guards(**numbers)


@given(CHANNELS, st.integers(0, 4), st.integers(0, 2), st.booleans())
def test_no_guard_channel_is_out_of_reach(nchan, sides, above, even):
    guards = Guards(sides, fewest=1, even=even, above=above)
    for start in {0, nchan // 2, nchan - 1}:
        piece = guards.around(start, start + 1, nchan)
        assert piece.gridded_channels <= 1 + guards.most
        assert start - guards.reach <= piece.gridded_start
        assert piece.gridded_stop <= start + 1 + guards.reach


# Guard channels


@pytest.mark.parametrize(
    ("interpolation", "data_width", "image_width", "guard"),
    [
        ("linear", 1.0, 1.0, 2),
        ("linear", 244.1e3, 244.118e3, 2),  # the same channel in another frame
        ("linear", 1.0, 2.0, 1),
        ("linear", 1.0, 100.0, 1),
        ("linear", 1.0, 0.9, 5),
        ("linear", 1.0, 0.5, 6),
        ("linear", 1.0, 0.3, 9),
        ("nearest", 1.0, 1.0, 1),
        ("nearest", 1.0, 0.5, 2),
        ("nearest", 1.0, 1000.0, 1),
        ("cubic", 1.0, 1.0, 4),
        ("cubic", 1.0, 0.5, 9),
        ("cubic", 1.0, 4.0, 3),
    ],
)
def test_guard_channels(interpolation, data_width, image_width, guard):
    for sign_of_data, sign_of_image in [(1, 1), (-1, 1), (1, -1), (-1, -1)]:
        assert (
            guard_channels(interpolation, sign_of_data * data_width, sign_of_image * image_width)
            == guard
        )


@given(st.sampled_from([("linear", 1), ("cubic", 2)]), st.integers(1, 2000))
def test_guards_are_the_image_channels_within_reach(kind, data_width):
    """From core to data channel, and from there to the image channels of its model value."""
    interpolation, stencil = kind
    reach = stencil * data_width + stencil * 100
    within = sum(1 for channel in range(1, 100) if channel * 100 < reach)
    assert guard_channels(interpolation, data_width, 100) >= within


@pytest.mark.parametrize("function", [cut, cut_evenly])
def test_guards_more(function):
    """One more above, and below where the first channel would be an odd one."""
    pieces = function(9, 3, Guards(1, even=True, above=1))
    assert [(c.start, c.stop, c.gridded_start, c.gridded_stop) for c in pieces] == [
        (0, 3, 0, 5),
        (3, 6, 2, 8),
        (6, 9, 4, 9),
    ]


@pytest.mark.parametrize("arguments", [("spline", 1.0, 1.0), ("", 1.0, 1.0)])
def test_unknown_interpolation_is_refused(arguments):
    with pytest.raises(ValueError, match=f"interpolation='{arguments[0]}'.*'linear'"):
        guard_channels(*arguments)


@pytest.mark.parametrize("widths", [(0.0, 1.0), (1.0, 0.0)])
def test_channel_without_width_is_refused(widths):
    with pytest.raises(ValueError, match=r"data_width=.*image_width="):
        guard_channels("linear", *widths)


# Number of chunks


@given(CHANNELS, st.integers(1, 64), st.integers(1, 400), st.booleans(), st.integers(2**10, 2**27))
def test_parts_fit_and_are_no_more_than_of_use(nchan, nworkers, largest, cleans, pixels):
    parts = choose_parts(nchan, nworkers, largest, cleans=cleans, pixels=pixels)
    assert 1 <= parts <= nchan
    assert max(chunk.channels for chunk in cut_evenly(nchan, parts, Guards(1))) <= largest
    assert parts == nchan or parts % nworkers == 0
    needed = -(-nchan // largest)
    assert parts < max(needed, nworkers * CHUNKS_PER_WORKER) + nworkers


def test_dirty_cube_is_cut_into_a_chunk_for_each_worker():
    assert choose_parts(1000, 8, 1000, cleans=False, pixels=512**2) == 8


def test_clean_is_cut_finer_so_that_chunks_without_emission_can_rest():
    assert choose_parts(1000, 8, 1000, cleans=True, pixels=512**2) == 8 * CHUNKS_PER_WORKER
    assert choose_parts(1000, 1, 1000, cleans=True, pixels=512**2) == CHUNKS_PER_WORKER
    assert choose_parts(1000, 1, 1000, cleans=False, pixels=512**2) == 1


def test_small_chunks_are_worth_their_fixed_costs_only_for_large_images():
    assert choose_parts(64, 8, 64, cleans=True, pixels=256**2) == 8
    assert choose_parts(64, 8, 64, cleans=True, pixels=4096**2) == 8 * CHUNKS_PER_WORKER


@given(st.integers(1, 2**27), st.integers(1, 2**27))
def test_useful_size_falls_with_the_pixels(one, other):
    few, many = sorted([one, other])
    assert 1 <= smallest_useful_chunk(many) <= smallest_useful_chunk(few) <= 16


def test_memory_decides_where_it_is_short():
    assert choose_parts(100, 4, 7, cleans=False, pixels=512**2) == 16
    assert choose_parts(10, 4, 1, cleans=False, pixels=512**2) == 10


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 100), st.integers(0, 3))
def test_chunks_do_not_go_beyond_blocks(nchan, size, block, guard):
    made = cut_in_blocks(nchan, size, block, Guards(guard))
    assert [channel for chunk in made for channel in range(chunk.start, chunk.stop)] == list(
        range(nchan)
    )
    assert all(chunk.start // block == (chunk.stop - 1) // block for chunk in made)
    assert all(chunk.channels <= size for chunk in made)
    assert [chunk.index for chunk in made] == list(range(len(made)))


def test_block_as_long_as_the_cube_changes_nothing():
    assert cut_in_blocks(23, 5, 23, Guards(1)) == cut(23, 5, Guards(1))


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_impossible_blocks_are_refused(numbers):
    with pytest.raises(ValueError, match="cannot cut"):
        cut_in_blocks(*numbers, Guards(1))


@given(CHANNELS, st.integers(1, 20), st.integers(0, 2), st.integers(2, 5))
def test_chunks_are_gridded_as_so_many_channels_at_least(nchan, size, guard, fewest):
    for function in (cut, cut_evenly):
        for chunk in function(nchan, size, Guards(guard, fewest=fewest)):
            assert chunk.gridded_channels >= min(fewest, nchan)
            assert channels(chunk) <= gridded(chunk)
            assert gridded(chunk) <= set(range(nchan))
