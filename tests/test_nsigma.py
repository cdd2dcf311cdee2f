# SPDX-License-Identifier: GPL-3.0-or-later
"""Cubes that are cleaned down to a number of sigmas, in chunks of the blocks that CASA cleans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptclean import plan
from ptclean.planning.blocks import block_channels
from ptclean.planning.chunks import Guards, cut, cut_at_blocks
from ptclean.planning.memory import ImageSize
from ptclean.planning.sizing import Machine, size_run
from same_images import assert_same_as_tclean, pixels

#: An image of a size of which CASA cleans ten channels at a time.
BROAD: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": [1000, 810],
    "cell": "0.1arcsec",
    "start": 2,
    "nchan": 12,
    "weighting": "natural",
    "niter": 100_000,
    "nsigma": 5.0,
    "cyclefactor": 0.5,
    "nmajor": 3,
    "restoration": False,
}


@pytest.mark.usefixtures("cluster")
def test_nsigma(line_ms: str, tmp_path: Path) -> None:
    returned = assert_same_as_tclean(line_ms, tmp_path, chanchunks=3, **BROAD)
    assert returned["nmajordone"] > 2
    assert pixels(tmp_path / "ptclean.model").any()


def test_chunks_are_the_blocks_of_casa(line_ms: str, tmp_path: Path) -> None:
    arguments = {"imagename": str(tmp_path / "cube"), "nworkers": 2, **BROAD}
    made = plan(line_ms, chanchunks=3, **arguments)
    assert [(chunk.start, chunk.stop) for chunk in made.chunks] == [(0, 10), (10, 12)]
    assert any("whole blocks of 10 channels" in text for text in made.warnings)
    assert block_channels(1000, 810, 12) == 10


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"imsize": 100}, "CASA cleans all channels of images of this size one after the other"),
        ({"usemask": "auto-multithresh"}, "nsigma=5.0 with usemask='auto-multithresh'"),
        ({"stokes": "XXYY"}, "a Stokes plane with that of the plane before"),
    ],
)
def test_what_is_left_to_tclean(
    changes: dict[str, Any], reason: str, line_ms: str, tmp_path: Path
) -> None:
    made = plan(line_ms, imagename=str(tmp_path / "cube"), nworkers=2, **BROAD | changes)
    assert reason in str(made.serial)


def test_blocks_that_do_not_fit_are_tcleans(
    line_ms: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The workers that other tests may have started have no limit.
    monkeypatch.setattr("ptclean.workers.cluster._open_managers", [])
    made = plan(
        line_ms, imagename=str(tmp_path / "cube"), nworkers=2, memory_limit="700MiB", **BROAD
    )
    assert "of a worker, and there are 0.6" in str(made.serial)


@given(
    nchan=st.integers(1, 100),
    size=st.integers(1, 60),
    block=st.integers(2, 40),
    guard=st.integers(0, 3),
)
def test_chunks_of_whole_blocks(nchan: int, size: int, block: int, guard: int) -> None:
    made = cut_at_blocks(nchan, size, block, Guards(guard))
    assert [chunk.start for chunk in made[1:]] == [chunk.stop for chunk in made[:-1]]
    assert (made[0].start, made[-1].stop) == (0, nchan)
    assert all(chunk.start % block == 0 for chunk in made)
    # CASA cleans a single channel in another way.
    assert nchan == 1 or min(chunk.channels for chunk in made) > 1
    assert max(chunk.channels for chunk in made) <= max(size, block) + 1


def test_whole_blocks_of_the_size_that_is_wanted() -> None:
    assert cut_at_blocks(30, 10, 10, Guards(1)) == cut(30, 10, Guards(1))
    assert [chunk.channels for chunk in cut_at_blocks(41, 25, 10, Guards(1))] == [20, 21]
    with pytest.raises(ValueError, match="whole blocks of 0"):
        cut_at_blocks(10, 1, 0, Guards(1))


def test_workers_that_fit_chunks_of_blocks() -> None:
    size = ImageSize(1000, 1000)
    machine = Machine(workers=8, memory=4 * 2**30)
    blocks = size_run(size, 80, Guards(1), machine, chanchunks=1, block=10, whole_blocks=True)
    assert [chunk.channels for chunk in blocks.chunks] == [10] * 8
    assert blocks.nworkers * blocks.worker_memory <= machine.memory
    assert blocks.nworkers < 8
