# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory limits, and calls that hold the interpreter lock: Dask's own settings, and ours.

Tasks stand for CASA: they hold memory that Dask cannot free, in the process and from one task to
the next as CASA's tools do, or they hold the interpreter lock. Not covered: what a run makes of a
worker that was killed.
"""

import asyncio
import contextlib
import ctypes
import mmap
import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client, KilledWorker, LocalCluster, get_worker, wait
from distributed.comm.tcp import TCP
from tornado.iostream import IOStream

from ptclean import DaskClusterManager, logs
from ptclean.workers.cgroup import kernel_kills, memory_left
from ptclean.workers.patience import SCHEDULER_SETTINGS, impatient_scheduler, pausing_worker

MIB = 2**20
LIMIT = 400 * MIB

#: Memory that outlives the tasks.
_held = []


# What the workers run.


def fill_memory(nbytes):
    """Take memory as C++ does until the process has `nbytes`, and keep it."""
    missing = nbytes - psutil.Process().memory_info().rss
    block = mmap.mmap(-1, max(missing, mmap.PAGESIZE))
    for start in range(0, len(block), mmap.PAGESIZE):
        block[start] = 1
    _held.append(block)
    return psutil.Process().memory_info().rss


def status():
    return get_worker().status.name


def hold_interpreter_lock(seconds):
    ctypes.PyDLL(None).sleep(seconds)
    return get_worker().name


# Helpers.


@pytest.fixture(autouse=True)
def no_other_cluster(monkeypatch):
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)


def local_cluster(**options):
    """One worker, started as Dask's users do."""
    return LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        **options,
    )


@pytest.fixture
def casalog(tmp_path):
    from casatasks import casalog

    before = casalog.logfile()
    path = tmp_path / "user.log"
    casalog.setlogfile(str(path))
    yield path
    casalog.setlogfile(before)


# Memory.


def test_dasks_own_settings_stall_a_worker_that_fills_its_memory():
    """What ours are for: the memory is not Dask's to free, and so the worker never goes on."""
    with local_cluster(memory_limit=LIMIT) as cluster, Client(cluster) as client:
        assert client.submit(fill_memory, int(0.87 * LIMIT), pure=False).result() > 0.8 * LIMIT
        address = next(iter(client.scheduler_info()["workers"]))

        async def until_paused(dask_scheduler):
            while dask_scheduler.workers[address].status.name != "paused":
                await asyncio.sleep(0.05)

        client.run_on_scheduler(until_paused)
        next_task = client.submit(status, pure=False)
        with pytest.raises(TimeoutError):
            wait([next_task], timeout=3)
        assert next_task.status == "pending"
        next_task.release()


def test_our_worker_goes_on_until_its_limit_and_is_killed_there(tmp_path):
    # The user's configuration is Dask's own; and one that switches limits off changes nothing.
    users = {"ptclean.allowed-failures": 0, "distributed.worker.memory.terminate": False}
    with (
        dask.config.set(users),
        DaskClusterManager(1, f"{LIMIT // MIB}MiB", log_directory=tmp_path) as cluster,
    ):
        client = cluster.client
        for part in (0.87, 0.9):
            filled = client.submit(fill_memory, int(part * LIMIT), pure=False).result()
            assert filled > 0.8 * LIMIT
            assert client.submit(status, pure=False).result() == "running"
        (before,) = client.run(lambda: psutil.Process().pid).values()
        with pytest.raises(KilledWorker):
            client.submit(fill_and_wait, 2 * LIMIT, pure=False).result()
        # Started anew, with its memory empty.
        client.wait_for_workers(1, timeout=120)
        assert client.submit(fill_memory, 0, pure=False).result() < 0.8 * LIMIT
        (after,) = client.run(lambda: psutil.Process().pid).values()
        assert after != before
    assert "exceeded 95% memory budget" in (tmp_path / "worker-0.out").read_text()


def fill_and_wait(nbytes):
    fill_memory(nbytes)
    ctypes.CDLL(None).sleep(60)


# The interpreter lock.


def test_a_call_that_holds_the_interpreter_lock_costs_no_worker_of_ours(tmp_path):
    """With Dask's settings, scaled down, it does; these are the user's in both."""
    users = {
        "distributed.scheduler.worker-ttl": "1s",
        "distributed.scheduler.allowed-failures": 0,
        "distributed.comm.timeouts.connect": "2s",
        "distributed.comm.timeouts.tcp": "12s",
        "ptclean.allowed-failures": 0,
    }
    # The scheduler waits for ten heartbeats in any case.
    seconds = 9
    with (
        dask.config.set(users),
        local_cluster(memory_limit=0) as naive,
        Client(naive, set_as_default=False) as client,
        DaskClusterManager(1, log_directory=tmp_path) as own,
    ):
        theirs = client.submit(hold_interpreter_lock, seconds, pure=False)
        ours = own.client.submit(hold_interpreter_lock, seconds, pure=False)
        # While it is at it, it is asked for something, over a new connection.
        (name,) = own.client.run(lambda dask_worker: dask_worker.name, wait=True).values()
        assert ours.result() == name == "worker-0"
        with pytest.raises(KilledWorker):
            theirs.result()


@pytest.mark.parametrize(
    ("ttl", "connect", "said"),
    [
        ("5 minutes", "30s", ["worker-ttl='5 minutes'", "connect='30s'"]),
        (None, "1h", []),
        ("2h", "2h", []),
        (600, "1h", ["worker-ttl=600"]),
    ],
)
def test_what_is_said_of_schedulers(ttl, connect, said):
    found = impatient_scheduler(dict(zip(SCHEDULER_SETTINGS, (ttl, connect), strict=True)))
    assert len(found) == len(said)
    for sentence, words in zip(found, said, strict=True):
        assert sentence.startswith("distributed.")
        assert words in sentence
        assert re.search(
            r"Start (the scheduler|scheduler and workers) with distributed\.", sentence
        )


@pytest.mark.parametrize(
    ("limit", "pause", "said"), [(None, 0.8, False), (2**30, False, False), (2**30, 0.8, True)]
)
def test_what_is_said_of_workers(limit, pause, said):
    found = pausing_worker(limit, pause)
    assert bool(found) is said
    if said:
        assert "distributed.worker.memory.pause=0.8" in found[0]
        assert "819.20 MiB" in found[0]


def test_settings_of_the_users_cluster_are_reported(tmp_path, casalog):
    with (
        local_cluster(memory_limit=2**31) as cluster,
        Client(cluster),
        DaskClusterManager(log_directory=tmp_path),
    ):
        pass
    warnings = [line.message for line in logs.parse(casalog.read_text()) if line.priority == "WARN"]
    for words in (
        "Dask scheduler: distributed.scheduler.worker-ttl='5 minutes': ",
        "Dask scheduler: distributed.comm.timeouts.connect='30s': ",
        "Dask worker 0: distributed.worker.memory.pause=0.8: it is paused at 1.60 GiB, ",
    ):
        assert len([message for message in warnings if words in message]) == 1, words


# "Unable to allocate 7.27 EiB for an array with shape (8387229930220700999,)".

#: What Dask took for the length of a message: somebody asked a port of Dask's for a web page.
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_where_the_number_comes_from():
    assert struct.unpack("<Q", REQUEST[:8]) == (8387229930220700999,)


def test_dask_over_plain_tcp_believes_a_web_request_to_be_a_message():
    async def receive():
        near, far = socket.socketpair()
        with far:
            comm = TCP(IOStream(near), "tcp://here", "tcp://there")
            far.sendall(REQUEST)
            try:
                await comm.read()
            finally:
                comm.abort()

    words = "Unable to allocate 7.27 EiB for an array with shape (8387229930220700999,)"
    with pytest.raises(MemoryError, match=re.escape(words)):
        asyncio.run(receive())


def test_our_processes_hang_up_on_a_web_request(tmp_path, caplog):
    with DaskClusterManager(1, log_directory=tmp_path) as own:
        info = own.client.scheduler_info(n_workers=-1)
        ((address, worker),) = info["workers"].items()
        for each in (info["address"], address, worker["nanny"]):
            host, port = each.removeprefix("tls://").split(":")
            with socket.create_connection((host, int(port)), timeout=30) as stranger:
                stranger.sendall(REQUEST)
                # It is closed, perhaps after a word of TLS.
                with contextlib.suppress(ConnectionResetError):
                    while stranger.recv(1024):
                        pass
        assert own.client.submit(status, pure=False).result() == "running"
    said = (tmp_path / "worker-0.out").read_text() + caplog.text
    assert "Unable to allocate" not in said


# Control groups.


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def groups(tmp_path):
    """Return what is left to a process whose groups a text names."""

    def left(membership):
        (tmp_path / "self").write_text(membership)
        return memory_left(str(tmp_path / "cgroup"), str(tmp_path / "self"))

    return left


def test_memory_of_a_batch_job(groups, tmp_path):
    job = tmp_path / "cgroup" / "system.slice" / "slurmstepd.scope" / "job_7"
    write(job, memory__max="8000\n", memory__current="5000\n")
    write(job / "step_0", memory__max="max\n", memory__current="4000\n")
    write(job.parent, memory__max="max\n")
    assert groups("0::/system.slice/slurmstepd.scope/job_7/step_0\n") == 3000
    write(job, memory__stat="anon 3000\ninactive_file 1500\nactive_file 500\n")
    assert groups("0::/system.slice/slurmstepd.scope/job_7/step_0\n") == 4500
    write(job / "step_0", memory__max="5000\n")
    assert groups("0::/system.slice/slurmstepd.scope/job_7/step_0\n") == 1000


def test_memory_of_a_batch_job_of_the_first_version(groups, tmp_path):
    job = tmp_path / "cgroup" / "memory" / "slurm" / "uid_1" / "job_7"
    write(job, memory__limit_in_bytes="8000\n", memory__usage_in_bytes="5000\n")
    write(job, memory__stat="inactive_file 1\ntotal_inactive_file 500\n")
    text = "9:cpu,cpuacct:/other\n4:memory:/slurm/uid_1/job_7/step_0\n0::/\n"
    assert groups(text) == 3500


def test_memory_of_a_container(groups, tmp_path):
    """Its group is at the top of what it sees, by whatever path it is called."""
    write(tmp_path / "cgroup", memory__max="900\n", memory__current="1000\n")
    assert groups("0::/docker/abc\n") == 0
    assert groups("0::/\n") == 0


@pytest.mark.parametrize("text", ["", "0::/\n", "0::/user.slice\n", "1:name=systemd:/\n", "odd"])
def test_no_limit(groups, text):
    assert groups(text) is None


@pytest.fixture
def kills(tmp_path):
    """Return the kernel's kills that count for a process whose groups a text names."""

    def counted(membership):
        paths = [tmp_path / name for name in ("cgroup", "self", "vmstat")]
        paths[1].write_text(membership)
        paths[2].write_text("pgmajfault 5\noom_kill 70\nnuma_hit 9\n")
        return kernel_kills(*map(str, paths))

    return counted


def test_kills_are_those_of_the_own_group(kills, tmp_path):
    job = tmp_path / "cgroup" / "system.slice" / "job_7"
    write(job, memory__events="low 0\noom 3\noom_kill 2\noom_group_kill 1\n")
    write(job.parent, memory__events="low 0\noom 9\noom_kill 8\noom_group_kill 1\n")
    assert kills("0::/system.slice/job_7\n") == 2
    assert kills("0::/docker/abc\n") == 70
    write(tmp_path / "cgroup", memory__events="oom_kill 9\n")
    assert kills("0::/docker/abc\n") == 9


def test_kills_of_the_first_version(kills, tmp_path):
    group = tmp_path / "cgroup" / "memory" / "job_7"
    write(group, memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    assert kills("4:memory:/job_7\n0::/\n") == 4


def test_kills_where_groups_do_not_count(kills, tmp_path):
    """Kernels before 4.13 do not, nor does the group of all groups."""
    write(tmp_path / "cgroup" / "memory", memory__oom_control="oom_kill_disable 0\n")
    assert kills("4:memory:/\n0::/\n") == 70
    assert kills("") == 70
    assert kernel_kills(*[str(tmp_path / "none")] * 3) is None


def test_real_control_group(tmp_path):
    """A process in a group of 512 MiB plans with what that leaves."""
    top = Path("/sys/fs/cgroup/memory")
    if not os.access(top / "memory.limit_in_bytes", os.W_OK):
        pytest.skip("control groups (of the first version) cannot be made here")
    group = top / f"ptclean-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(512 * MIB))
        script = (
            "import os; "
            f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid())); "
            "from ptclean.workers.cluster import machine_at_hand; "
            "print(machine_at_hand(1, '0').memory)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        group.rmdir()
    assert done.returncode == 0, done.stderr
    assert 100 * MIB < int(done.stdout) < 512 * MIB
