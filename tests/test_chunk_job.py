# SPDX-License-Identifier: GPL-3.0-or-later
"""What is sent to workers for a chunk, the part that is the same for all chunks as bytes."""

from __future__ import annotations

import pickle

import pytest

from ptclean.imaging.chunk_job import ChunkJob, CubeJob
from ptclean.planning.chunks import Guards, cut
from ptclean.records import ImagingRecords


@pytest.fixture
def jobs() -> list[ChunkJob]:
    cube = CubeJob(
        run="run",
        records=ImagingRecords({}, {"imsize": [64, 64]}, {}, {}, {}, {}, {}),
        coordinates={"spectral2": {"crval": 1e11}},
        channels=7,
        directory="/",
        cleans=False,
        restores=True,
        corrects=False,
        guards=Guards(1),
    )
    return [ChunkJob(cube, chunk, ()) for chunk in cut(7, 3, Guards(1))]


def test_planes_of_the_cube(jobs: list[ChunkJob]) -> None:
    assert [job.core_plane(4) for job in jobs] == [None, 1, None]
    assert [job.core_plane(7 + 6) for job in jobs] == [None, None, 1]


def test_records_are_pickled_once(jobs: list[ChunkJob]) -> None:
    """CASA's records are most of what is sent, and each task is pickled twice, each time alone."""
    sent = [pickle.dumps(job) for job in jobs]
    there = [pickle.loads(each) for each in sent]
    assert there == jobs
    assert len({id(job.cube) for job in there}) == 1
    assert [pickle.dumps(job) for job in there] == sent
