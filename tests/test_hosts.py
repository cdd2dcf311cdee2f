# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers on several hosts, which come and go.

The hosts are network namespaces with names and addresses of their own, on one machine.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from casatasks import tclean

from hosts import Host, hosts, scheduler, worker
from same_images import COMMON, assert_same_images

#: A host that is lost is given up soon.
IMPATIENT = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "5s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
}

SCRIPT = """
import json, sys
from distributed import Client
workers, arguments = json.loads(sys.argv[1])
with Client(sys.argv[2], set_as_default=False) as client:
    client.wait_for_workers(workers, timeout=60)
from ptclean import ptclean as tclean
try:
    tclean(**arguments)
except RuntimeError as error:
    print(type(error).__name__, error)
print("finished")
"""


@pytest.fixture(scope="module")
def reference(line_ms: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    name = str(tmp_path_factory.mktemp("tclean") / "cube")
    tclean(line_ms, imagename=name, **COMMON)
    return name


def start_run(driver: Host, address: str, folder: Path, workers: int, **arguments: Any) -> Any:
    """Call ptclean on a host once there are so many workers."""
    return driver.start(
        [sys.executable, "-c", SCRIPT, json.dumps([workers, {**COMMON, **arguments}]), address],
        cwd=str(folder),
        output="run.out",
        environ={"DASK_SCHEDULER_ADDRESS": address},
    )


def test_a_host_is_lost_and_another_joins(line_ms: str, reference: str, tmp_path: Path) -> None:
    """One of two hosts drops off the network in the middle of a run; a third takes its place."""
    images = tmp_path / "images"
    with hosts("ptc-driver", "ptc-node1", "ptc-node2", "ptc-node3") as (driver, *nodes):
        address = scheduler(driver, str(tmp_path), **IMPATIENT)
        for node in nodes[:2]:
            worker(node, address, str(tmp_path))
        run = start_run(
            driver, address, tmp_path, 2, vis=line_ms, imagename=str(images / "cube"), chanchunks=1
        )
        while not list(images.glob("cube.ptclean/attempt-*/chunk-*/core.model")):
            assert run.poll() is None, "it ended before there was a model"
            time.sleep(0.01)
        nodes[0].unplug()
        worker(nodes[2], address, str(tmp_path))
        run.wait(timeout=200)
    output = (tmp_path / "run.out").read_text()
    assert output.endswith("finished\n"), output
    assert_same_images(reference, images / "cube")
    assert list(tmp_path.glob("casa-*.ptclean/ptc-node3.log"))


@pytest.mark.parametrize("hidden", ["data", "images"])
def test_a_host_that_does_not_see(hidden: str, line_ms: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    unseen = {"data": Path(line_ms).parent, "images": images}[hidden]
    with hosts("ptc-driver", "ptc-bare") as (driver, bare):
        address = scheduler(driver, str(tmp_path))
        worker(bare, address, str(tmp_path), hidden=str(unseen))
        run = start_run(
            driver, address, tmp_path, 1, vis=line_ms, imagename=str(images / "cube"), nworkers=2
        )
        assert run.wait(timeout=100) == 0
    output = (tmp_path / "run.out").read_text()
    named = {"data": line_ms, "images": f"{images}/cube.ptclean"}[hidden]
    assert "UnfitWorkersError" in output, output
    assert f"Dask worker ptc-bare: it does not see {named}" in output
    assert list(images.iterdir()) == []
