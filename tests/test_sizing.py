# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers and chunks fit the machine, or the user is told before the run."""

import re
from dataclasses import asdict, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ptclean.planning.chunks import Guards
from ptclean.planning.memory import USABLE, WORKER_BASE, ImageSize, worker_memory
from ptclean.planning.sizing import USABLE_OF_LIMIT, Machine, size_run, tclean_seconds

GIB = 2**30
SMALL = ImageSize(64, 64)
LARGE = ImageSize(8000, 8000)
LIMITED = st.booleans()
CHANCHUNKS = st.sampled_from([-1, -1, 1, 7, 500])


@st.composite
def runs(draw, limited=LIMITED, chanchunks=CHANCHUNKS):
    """Draw a cube and a machine; returns the arguments of `size_run`."""
    side = draw(st.integers(32, 10_000))
    limit = draw(st.integers(2**28, 2**37)) if draw(limited) else None
    machine = Machine(draw(st.integers(1, 32)), draw(st.integers(2**28, 2**40)), limit)
    size = ImageSize(side, side, 1, draw(st.sampled_from(["standard", "mosaic"])))
    options = {
        "nworkers": draw(st.sampled_from([0, 0, 1, 5, 40])),
        "chanchunks": draw(chanchunks),
        "cleans": draw(st.booleans()),
        "rows": draw(st.sampled_from([0, 10**4, 10**7])),
        "data_bytes": draw(st.sampled_from([None, 0, 10**9, 10**12])),
    }
    return (size, draw(st.integers(1, 600)), Guards(draw(st.integers(0, 3))), machine), options


def sized(run):
    arguments, options = run
    try:
        return size_run(*arguments, **options)
    except MemoryError:
        return None


@given(runs())
def test_workers_are_no_more_than_wanted_and_of_use(run):
    (_, nchan, _, machine), options = run
    sizing = sized(run)
    if sizing:
        assert 1 <= sizing.nworkers <= (options["nworkers"] or machine.workers)
        assert sizing.nworkers <= len(sizing.chunks) <= nchan
        assert sizing.chunks[0].start == 0
        assert sizing.chunks[-1].stop == nchan


@given(runs())
def test_memory_of_the_largest_chunk_is_told(run):
    (size, *_), _ = run
    sizing = sized(run)
    if sizing:
        largest = max(chunk.gridded_channels for chunk in sizing.chunks)
        assert sizing.worker_memory == worker_memory(size, largest)


@given(runs())
@example(((LARGE, 7677, Guards(0), Machine(12, int(83.79 * GIB))), {"cleans": False}))
def test_all_workers_together_fit_into_the_memory_unless_the_user_is_warned(run):
    (*_, machine), _ = run
    sizing = sized(run)
    if sizing and not sizing.warnings:
        steps, counts = asdict(sizing.memory), asdict(sizing.at_once)
        for name in steps:
            idle = sizing.nworkers - counts[name]
            taken = counts[name] * steps[name] + idle * WORKER_BASE
            assert taken <= machine.memory * USABLE


@given(runs())
def test_where_each_worker_has_its_own_memory_none_takes_that_of_others(run):
    (size, nchan, guards, machine), options = run
    machine = replace(machine, is_one=False)
    sizing = sized(((size, nchan, guards, machine), options))
    if sizing:
        counts = asdict(sizing.at_once).values()
        assert set(counts) == {sizing.nworkers}
        assert (
            sizing.nworkers == 1
            or sizing.nworkers * sizing.worker_memory <= machine.memory * USABLE
        )


@given(runs(limited=st.just(True)))
@example(((LARGE, 100, Guards(1), Machine(12, 800 * GIB, 20 * GIB)), {"nworkers": 1}))
@example(((LARGE, 100, Guards(1), Machine(12, 800 * GIB, 20 * GIB)), {"chanchunks": 20}))
def test_each_worker_keeps_below_its_limit_unless_the_user_is_warned(run):
    (*_, machine), _ = run
    sizing = sized(run)
    if sizing and not sizing.warnings:
        assert sizing.worker_memory <= machine.limit * USABLE_OF_LIMIT


@given(runs(chanchunks=st.integers(1, 700)))
def test_chanchunks_is_followed(run):
    (_, nchan, _, _), options = run
    sizing = sized(run)
    if sizing:
        wanted = options["chanchunks"]
        *full, last = sizing.chunks
        assert all(chunk.channels == wanted for chunk in full)
        assert last.channels == nchan - wanted * len(full) <= wanted


@given(runs(limited=st.just(True), chanchunks=st.just(-1)))
def test_it_is_an_error_if_the_limit_holds_no_channel_with_its_guards(run):
    (size, nchan, guards, machine), _ = run
    usable = machine.limit * USABLE_OF_LIMIT
    if worker_memory(size, min(nchan, 1 + guards.most)) > usable:
        assert sized(run) is None
    if worker_memory(size, min(nchan, 3 + guards.most)) <= usable:
        assert sized(run) is not None


def test_error_names_the_limit_what_is_needed_and_what_to_do():
    machine = Machine(12, 800 * GIB, limit=6 * GIB)
    with pytest.raises(MemoryError) as caught:
        size_run(LARGE, 100, Guards(1), machine)
    text = str(caught.value)
    least = worker_memory(LARGE, 3)
    assert text.startswith("memory_limit=6.00GiB:")
    for figure in ("8000 x 8000", "3 in all", f"{least / GIB:.2f} GiB", "5.40 GiB"):
        assert figure in text
    advised = float(re.search(r"at least ([\d.]+)GiB", text).group(1))
    assert size_run(
        LARGE, 100, Guards(1), Machine(12, 800 * GIB, limit=int((advised + 0.05) * GIB))
    )


def test_a_fixed_number_of_workers_runs_if_it_fits():
    sizing = size_run(SMALL, 100, Guards(1), Machine(4, 64 * GIB), nworkers=12)
    assert sizing.nworkers == 12
    assert not sizing.warnings


def test_more_workers_than_cores_count_with_their_own_limits():
    sizing = size_run(SMALL, 100, Guards(1), Machine(2, 100 * GIB, limit=GIB), nworkers=8)
    assert sizing.nworkers == 8
    assert not sizing.warnings


def test_fewer_workers_than_cores_do_not_inherit_the_limits_of_the_others():
    limit = 20 * GIB
    sizing = size_run(LARGE, 100, Guards(1), Machine(12, 800 * GIB, limit=limit), nworkers=1)
    assert sizing.worker_memory <= limit * USABLE_OF_LIMIT


def test_chunk_that_breaks_the_limit_does_not_go_unsaid():
    machine = Machine(12, 800 * GIB, limit=20 * GIB)
    try:
        sizing = size_run(LARGE, 100, Guards(1), machine, chanchunks=20)
    except MemoryError as error:
        said = str(error)
    else:
        said = " ".join(sizing.warnings)
    assert "chanchunks=20" in said


def test_workers_that_do_not_fit_are_left_out_with_a_warning():
    sizing = size_run(LARGE, 100, Guards(1), Machine(12, 64 * GIB), nworkers=12)
    (warning,) = sizing.warnings
    fewest, most = sizing.at_once.fewest, sizing.nworkers
    assert 1 < fewest < most <= 12
    assert re.match(
        r"nworkers=12 of 1\d\.\d\d GiB each do not fit into 51.20 GiB: of steps that take so much "
        rf"{fewest} run at once, others up to {most}\. The images are the same$",
        warning,
    )


def test_machine_that_is_too_small_is_used_with_a_warning():
    sizing = size_run(LARGE, 100, Guards(1), Machine(4, 8 * GIB))
    assert sizing.nworkers == 1
    assert {chunk.channels for chunk in sizing.chunks} == {1}
    assert re.search(r"takes 13\.40 GiB .* of 6\.40 GiB", sizing.warnings[0])


def test_nothing_is_said_where_all_fits():
    assert size_run(ImageSize(512, 512), 100, Guards(1), Machine(8, 64 * GIB)).warnings == ()


@given(runs(limited=st.just(True)), st.integers(1, 5))
def test_masks_are_kept_below_the_limit_too(run, sides):
    (size, nchan, _, machine), options = run
    guards = Guards(sides, above=1)
    arguments = (replace(size, gridder="standard", automasks=True), nchan, guards, machine)
    options = options | {"first_guards": Guards(), "cleans": True}
    sizing = sized((arguments, options))
    if sizing and not sizing.warnings:
        assert max(asdict(sizing.memory).values()) <= machine.limit * USABLE_OF_LIMIT
        assert sizing.memory.masks > 0


def test_chunks_of_a_clean_do_not_depend_on_how_many_data_there_are():
    def chunks(data_bytes):
        machine = Machine(2, 100 * GIB)
        return size_run(
            ImageSize(1024, 1024), 256, Guards(1), machine, data_bytes=data_bytes
        ).chunks

    assert chunks(0) == chunks(None)


# A cube of 7677 channels of 8000 x 8000 pixels on 12 cores with 83.79 GiB free.


# It has two guard channels on either side and one above, and none in the first pass.

GUARDS = Guards(2, above=1)
REFERENCE = Machine(12, int(83.79 * GIB))


def test_large_cube_is_cleaned_by_as_many_workers_as_each_step_leaves_room_for():
    size = replace(LARGE, automasks=True)
    sizing = size_run(size, 7677, GUARDS, REFERENCE, first_guards=Guards())
    assert sizing.warnings == ()
    assert sizing.at_once.minor == sizing.nworkers > 6
    assert sizing.at_once.first == 6
    assert sizing.at_once.masks == 3
    assert sizing.at_once.major == 2
    # With one channel a chunk, six are gridded in a major cycle for each.
    assert max(chunk.channels for chunk in sizing.chunks) == 2


def test_large_cube_whose_first_pass_has_guard_channels():
    sizing = size_run(LARGE, 7677, GUARDS, REFERENCE)
    assert sizing.at_once.first == sizing.at_once.major == 2
    assert sizing.at_once.minor > 6


def test_large_dirty_cube_fits():
    sizing = size_run(LARGE, 7677, Guards(0), REFERENCE, cleans=False)
    assert sizing.at_once.first * sizing.worker_memory <= REFERENCE.memory * USABLE
    assert sizing.at_once.first >= 5
    assert sizing.warnings == ()


def test_large_cube_with_as_many_workers_as_cores_says_how_many_run():
    sizing = size_run(LARGE, 7677, GUARDS, REFERENCE, first_guards=Guards(), nworkers=12)
    fewest = sizing.at_once.fewest
    (warning,) = sizing.warnings
    assert re.match(f"nworkers=12 .* {fewest} run at once, others up to {sizing.nworkers}", warning)


def test_chunks_are_of_one_size_where_there_is_memory_for_all():
    machine = Machine(12, 83 * GIB)
    size = ImageSize(500, 500)
    sizing = size_run(size, 1000, GUARDS, machine, first_guards=Guards())
    assert set(asdict(sizing.at_once).values()) == {12}


# Estimate of time


def test_estimate_is_near_what_was_measured():
    """0.17 s a channel at 512 x 512, 50 s at 8000 x 8000."""

    def channel(side):
        size = ImageSize(side, side)
        return (
            tclean_seconds(size, 101, 15_600, cleans=False)
            - tclean_seconds(size, 1, 15_600, cleans=False)
        ) / 100

    assert channel(512) == pytest.approx(0.17, rel=0.2)
    assert channel(8000) == pytest.approx(50, rel=0.2)


@given(st.integers(16, 9000), st.integers(1, 9000), st.integers(1, 10**7))
def test_cleaning_takes_longer(side, nchan, rows):
    size = ImageSize(side, side)
    dirty = tclean_seconds(size, nchan, rows, cleans=False)
    assert 0 < dirty < tclean_seconds(size, nchan, rows, cleans=True)


@given(runs(), st.integers(1, 100))
def test_chunks_stay_within_blocks(run, block):
    arguments, options = run
    try:
        whole, blocks = (
            size_run(*arguments, **options),
            size_run(*arguments, **options, block=block),
        )
    except MemoryError:
        return
    assert all(c.start // block == (c.stop - 1) // block for c in blocks.chunks)
    longest = max(c.channels for c in whole.chunks)
    assert max(c.channels for c in blocks.chunks) <= longest
    guards = arguments[2]
    assert max(c.gridded_channels for c in blocks.chunks) <= max(2, longest + guards.most)


@pytest.mark.parametrize(("chanchunks", "said"), [(5, False), (10, False), (4, True), (25, True)])
def test_chunks_other_than_asked_for_are_told(chanchunks, said):
    machine = Machine(2, 16 * GIB)
    sizing = size_run(SMALL, 40, Guards(1), machine, chanchunks=chanchunks, block=10)
    assert any("blocks of 10 channels" in text for text in sizing.warnings) is said


def chunks_of_dirty_cube(size, nchan, machine, **options):
    options = {"rows": 54180, "data_bytes": 2 * 10**8} | options
    return len(size_run(size, nchan, Guards(), machine, cleans=False, **options).chunks)


def test_dirty_cube_is_cut_finer_than_memory_asks_for_where_its_data_stay_in_memory():
    size, machine = ImageSize(1024, 1024), Machine(2, 20 * GIB)
    assert chunks_of_dirty_cube(size, 256, machine) == 16
    assert chunks_of_dirty_cube(size, 256, machine, data_bytes=10**12) == 2
    assert chunks_of_dirty_cube(size, 256, machine, data_bytes=None) == 2


def test_many_rows_make_larger_chunks_of_a_dirty_cube():
    size, machine = ImageSize(256, 256), Machine(2, 1000 * GIB)
    few, many = (chunks_of_dirty_cube(size, 10_000, machine, rows=n) for n in (10**4, 10**8))
    assert many <= few
    # What each row costs a chunk beforehand is a fifth of what the chunk's channels cost.
    size, machine = ImageSize(4096, 4096), Machine(2, 1000 * GIB)
    few, many = (chunks_of_dirty_cube(size, 1000, machine, rows=n) for n in (10**4, 10**9))
    assert many < few


def test_no_chunk_of_a_dirty_cube_is_a_single_channel_that_is_gridded_with_another():
    machine = Machine(2, 200 * GIB)
    assert chunks_of_dirty_cube(ImageSize(8000, 8000), 12, machine, rows=100) == 6
