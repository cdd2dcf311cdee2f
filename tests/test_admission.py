# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of workers that somebody else started, and what is said where they lack it.

Not covered: several hosts (``test_hosts.py``).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster

from ptclean import ptclean
from ptclean.errors import UnfitWorkersError
from ptclean.workers.admission import Admission, Examination, Needs, digest, faults, needs_of
from ptclean.workers.cluster import machine_at_hand
from same_images import COMMON

GIB = 2**30

NEEDS = Needs("1.0", "6.7", {"/data/a.ms": "abc"}, "/images/cube.ptclean", 3 * GIB, token="t")
FIT = Examination(
    host="node7",
    ptclean="1.0",
    casatools="6.7",
    nthreads=1,
    memory_limit=None,
    memory=8 * GIB,
    data={"/data/a.ms": "abc"},
    token="t",
    answer="seen-by-node7-12",
)


def test_fit_worker() -> None:
    assert faults(FIT, NEEDS, answered=True) == []
    limited = dataclasses.replace(FIT, memory_limit=4 * GIB)
    assert faults(limited, NEEDS, answered=True) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ptclean": "0.9"}, ["ptclean is 0.9, in this process 1.0", "environment"]),
        ({"casatools": "6.6"}, ["casatools is 6.6, in this process 6.7", "environment"]),
        ({"data": {"/data/a.ms": ""}}, ["does not see /data/a.ms", "the same path"]),
        ({"data": {"/data/a.ms": "abd"}}, ["/data/a.ms is another measurement set"]),
        ({"token": ""}, ["does not see /images/cube.ptclean", "imagename"]),
        ({"token": "u"}, ["does not see /images/cube.ptclean", "imagename"]),
        ({"answer": ""}, ["cannot write to /images/cube.ptclean", "same user"]),
        ({"nthreads": 4}, ["4 tasks at a time", "threads_per_worker=1"]),
        ({"memory_limit": 3 * GIB}, ["3.00 GiB", "pauses", "memory_limit", "chanchunks"]),
        ({"memory": 2 * GIB}, ["node7 has 2.00 GiB free", "chanchunks"]),
    ],
)
def test_unfit_worker(changes: dict[str, Any], words: list[str]) -> None:
    (said,) = faults(dataclasses.replace(FIT, **changes), NEEDS, answered=True)
    assert all(word in said for word in words)


def test_answer_that_does_not_arrive() -> None:
    (said,) = faults(FIT, NEEDS, answered=False)
    assert "does not arrive" in said


def test_error_names_workers_and_cure() -> None:
    error = UnfitWorkersError({f"node{i}": ["too small; use another"] for i in range(5)})
    assert str(error).count("too small; use another") == 3
    assert "Dask worker node0: " in str(error)
    assert "2 more workers" in str(error)


def test_digest_tells_tables_apart(line_ms: str, mosaic_ms: str, tmp_path: Path) -> None:
    os.symlink(line_ms, tmp_path / "link.ms")
    assert digest(line_ms) == digest(str(tmp_path / "link.ms"))
    assert digest(line_ms) != digest(mosaic_ms)
    assert digest(str(tmp_path / "missing.ms")) == ""


def spec(address: str, nthreads: int = 1) -> dict[str, Any]:
    options = {"nthreads": nthreads, "memory_limit": 0, "host": "127.0.0.1", "dashboard": False}
    return {"cls": Nanny, "options": options}


@pytest.fixture
def users_cluster() -> Iterator[SpecCluster]:
    """One worker with one thread, and one with two."""
    with SpecCluster(
        scheduler={
            "cls": Scheduler,
            "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"},
        },
        workers={"one": spec("one"), "two": spec("two", nthreads=2)},
    ) as cluster:
        yield cluster


def test_unfit_worker_stops_the_run_before_it_begins(
    users_cluster: SpecCluster, line_ms: str, tmp_path: Path
) -> None:
    with (
        Client(users_cluster),
        pytest.raises(UnfitWorkersError, match="Dask worker two: Dask gives it 2 tasks") as info,
    ):
        ptclean(line_ms, imagename=str(tmp_path / "cube"), nworkers=2, **COMMON)
    assert list(info.value.faults) == ["two"]
    assert list(tmp_path.iterdir()) == []


def test_unfit_worker_that_joins_later_is_left_out(
    users_cluster: SpecCluster, line_ms: str, tmp_path: Path, log: Callable[[], str]
) -> None:
    needs = needs_of([line_ms], str(tmp_path), 10**6)
    with Client(users_cluster) as client:
        everybody = {
            str(worker["name"]): address
            for address, worker in client.scheduler_info(n_workers=-1)["workers"].items()
        }
        only_one = {"one": everybody["one"]}
        admission = Admission(client, needs)
        assert admission.admit(only_one) == only_one
        assert admission.admit(everybody) == only_one
    assert log().count("Dask worker two is left out of this run: Dask gives it 2 tasks") == 1
    # What was written to find out is gone, but for the driver's own mark.
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("seen-by-")] == [
        "seen-by-the-driver"
    ]


@pytest.mark.parametrize(("memory_limit", "expected"), [("1GiB", int(0.85 * GIB)), (0, None)])
def test_plan_reckons_with_the_memory_of_the_workers(
    memory_limit: Any, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with the driver's, which here has none."""
    monkeypatch.setattr("ptclean.workers.cluster.free_memory", lambda: 0)
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            memory_limit=memory_limit,
        ) as cluster,
        Client(cluster),
    ):
        machine = machine_at_hand(0, "0")
    assert machine.workers == 2
    assert machine.limit == expected
    assert machine.memory > GIB
    if expected:
        assert machine.memory == 2 * GIB
