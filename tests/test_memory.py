# SPDX-License-Identifier: GPL-3.0-or-later
"""CASA's own reckoning of memory is known to the bit; a worker's is the measured one."""

import casatasks
import pytest
from casatools import image
from hypothesis import given
from hypothesis import strategies as st

from ptclean.planning.memory import (
    WORKER_BASE,
    ImageSize,
    casa_budget,
    casa_requirement,
    largest_gridded,
    padded,
    step_memory,
    worker_memory,
    workers_that_fit,
)

GIB = 2**30
GRIDDERS = st.sampled_from(["standard", "mosaic", "wproject"])
SIZES = st.builds(ImageSize, st.integers(16, 12_000), st.integers(16, 12_000), st.just(1), GRIDDERS)


def miscinfo(name):
    im = image()
    im.open(name)
    try:
        return im.miscinfo()
    finally:
        im.done()


def test_requirement_is_what_tclean_wrote():
    assert casa_requirement(ImageSize(128, 128), 16) / GIB == 0.015106201171875


@pytest.mark.parametrize(
    ("gridder", "stokes", "nchan"),
    [("standard", "I", 3), ("standard", "XXYY", 2), ("mosaic", "I", 2)],
)
def test_requirement_is_what_tclean_writes(line_ms, tmp_path, monkeypatch, gridder, stokes, nchan):
    monkeypatch.chdir(tmp_path)
    casatasks.tclean(
        line_ms,
        imagename="dirty",
        specmode="cube",
        imsize=[100, 140],
        cell="0.1arcsec",
        nchan=nchan,
        stokes=stokes,
        gridder=gridder,
        restoration=False,
    )
    size = ImageSize(100, 140, npol=2 if stokes == "XXYY" else 1, gridder=gridder)
    found = miscinfo("dirty.residual")
    assert found["memreq"] * GIB == casa_requirement(size, nchan)
    assert found["chnchnks"] == 1


@given(st.integers(1, 20_000))
def test_padding_is_the_next_even_length_that_is_fast_to_transform(pixels):
    def fast(length):
        for factor in (2, 3, 5):
            while length % factor == 0:
                length //= factor
        return length == 1

    length = padded(pixels)
    shortest = int(1.2 * pixels - 0.5) + 1
    assert length % 2 == 0
    assert fast(length)
    assert not any(fast(n) for n in range(shortest + shortest % 2, length, 2))
    assert length >= shortest


@given(SIZES, st.integers(1, 500))
def test_budget_leaves_casa_no_reason_to_cut(size, channels):
    """CASA plans with 80 % of what it is told."""
    assert 0.8 * casa_budget(size, channels) * 2**20 > casa_requirement(size, channels)
    assert casa_budget(size, channels) >= 1024


@given(SIZES, st.integers(0, 2**40))
def test_largest_gridded_is_the_last_that_fits(size, available):
    channels = largest_gridded(size, available)
    # Rounded to bytes for each channel.
    if channels:
        assert worker_memory(size, channels) <= available + channels
    assert worker_memory(size, channels + 1) > available - channels


@given(SIZES, st.integers(1, 500))
def test_a_worker_needs_more_for_each_channel(size, channels):
    assert WORKER_BASE < worker_memory(size, channels) < worker_memory(size, channels + 1)


def test_a_large_image_takes_what_was_measured():
    one = worker_memory(ImageSize(8000, 8000), 1)
    assert one == pytest.approx(6.8e9, rel=0.01)
    many = worker_memory(ImageSize(8000, 8000), 101)
    assert (many - one) / 100 == pytest.approx(59 * 8000**2)


#: Peaks of a worker's memory as benchmarks/worker_memory.py found them, MiB.
MEASURED = [
    ("standard", False, 1024, 1, 316),
    ("standard", False, 1024, 6, 603),
    ("standard", False, 2048, 1, 631),
    ("standard", False, 2048, 4, 1298),
    ("standard", True, 1024, 2, 486),
    ("standard", True, 1024, 6, 840),
    ("wproject", False, 1024, 2, 428),
    ("wproject", False, 1024, 6, 609),
    ("mosaic", False, 1024, 6, 830),
]

#: What a worker took there before it imaged anything.
BASE = 205


@pytest.mark.parametrize(("gridder", "automasks", "imsize", "channels", "measured"), MEASURED)
def test_what_is_planned_is_what_was_measured(gridder, automasks, imsize, channels, measured):
    size = ImageSize(imsize, imsize, gridder=gridder, automasks=automasks)
    planned = step_memory(size, channels, channels, channels).most
    assert planned >= measured * 2**20
    assert planned - WORKER_BASE + BASE * 2**20 == pytest.approx(measured * 2**20, rel=0.2)


def test_stokes_planes_count_as_pixels():
    four, two = ImageSize(500, 500, npol=4), ImageSize(1000, 500, npol=2)
    assert worker_memory(four, 3) == worker_memory(two, 3)


@given(st.integers(1, 100), st.integers(1, 2**36), st.integers(0, 2**40))
def test_workers_fit_unless_not_even_one_does(wanted, each, available):
    workers = workers_that_fit(wanted, each, available)
    assert 1 <= workers <= wanted
    assert workers == 1 or workers * each <= available
    assert workers == wanted or (workers + 1) * each > available
