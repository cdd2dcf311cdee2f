# SPDX-License-Identifier: GPL-3.0-or-later
"""The workers that a run uses: real processes, with the real casatools in them.

Not covered: Dask clusters on other machines, which are a client like any other here.
"""

import asyncio
import contextlib
import ctypes
import os
import pickle
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client, KilledWorker, LocalCluster, get_worker

import ptclean
from killing import wait_until
from ptclean import errors, logs
from ptclean.workers import worker
from ptclean.workers.borrowed import addresses_of
from ptclean.workers.cluster import DaskClusterManager, default_nworkers

PACKAGE_FOLDER = str(Path(next(iter(ptclean.__path__))).parent)
CASA_MEMORY = 1500


# What the workers run.


def surroundings(variables):
    import casatools

    return {
        "environ": {name: os.environ.get(name) for name in variables},
        "budget": casatools.ctsys.hostinfo()["memory"]["available"] // 1024,
        "directory": os.getcwd(),
        "files": os.listdir(),
        "casatasks": "casatasks" in sys.modules,
    }


def huge_pages_of_a_large_array():
    """Bytes that the system keeps in huge pages, of an array that is written to all over."""
    array = (ctypes.c_char * 2**28)()
    ctypes.memset(array, 1, len(array))
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(re.search(r"^AnonHugePages:\s*(\d+) kB", rollup, re.MULTILINE)[1])


def log_warnings(*messages):
    import casatools

    for message in messages:
        casatools.logger.post(message, "WARN", "made::up")
    casatools.logger.post("nothing special", "INFO", "made::up")


def open_missing_image(path):
    Path("IMAGING_WEIGHT_left_behind").mkdir()
    import casatools

    casatools.image().open(path)


class Unpicklable(Exception):
    def __reduce__(self):
        raise TypeError("not me")


def raise_unpicklable():
    raise Unpicklable("what happened")


def allocate(nbytes, seconds):
    """Hold memory that Dask knows nothing of until the process has `nbytes`."""
    held = bytearray(max(0, nbytes - psutil.Process().memory_info().rss))
    for start in range(0, len(held), 4096):
        held[start] = 1
    time.sleep(seconds)
    return get_worker().status.name, psutil.Process().memory_info().rss


def hold_interpreter_lock(seconds):
    """Be as deaf as a worker inside CASA."""
    ctypes.PyDLL(None).sleep(seconds)


# Helpers.


def submit(cluster, function, *args):
    return cluster.client.submit(worker.run, function, *args, pure=False)


def on_worker(cluster, function, *args):
    return submit(cluster, function, *args).result(timeout=60)


def pids(client):
    return sorted(client.run(os.getpid).values())


def descendants():
    return psutil.Process().children(recursive=True)


def gone(processes):
    return not any(psutil.pid_exists(pid) for pid in processes)


@pytest.fixture(autouse=True)
def no_client_is_left_open(monkeypatch):
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    yield
    with pytest.raises(ValueError, match="No clients found"):
        Client.current()


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Two workers of our own."""
    directory = tmp_path_factory.mktemp("logs")
    with DaskClusterManager(2, casa_memory=CASA_MEMORY, log_directory=directory) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def users_cluster():
    """A cluster that somebody else started."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
    ) as cluster:
        yield cluster


@pytest.fixture
def casalog(tmp_path):
    """A CASA log file of the test's own."""
    from casatasks import casalog

    before = casalog.logfile()
    path = tmp_path / "user.log"
    casalog.setlogfile(str(path))
    yield path
    casalog.setlogfile(before)


# Parameters.


def test_default_nworkers():
    assert 1 <= default_nworkers() <= os.cpu_count()
    assert DaskClusterManager().nworkers == default_nworkers()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nworkers": -1}, r"nworkers=-1 .*nworkers=0"),
        ({"memory_limit": "much"}, r"memory_limit='much' .*memory_limit='16GiB'"),
        ({"casa_memory": 0}, r"casa_memory=0 .*positive"),
    ],
)
def test_wrong_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        DaskClusterManager(**arguments)


def test_nworkers_must_be_an_integer():
    with pytest.raises(TypeError):
        DaskClusterManager(nworkers=1.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_directory": "logs"}, "log_directory='logs' is a relative path"),
        ({"log_directory": "/logs", "casa_memory": -5}, "casa_memory=-5"),
    ],
)
def test_worker_setup_is_checked_before_it_is_sent(arguments, message):
    with pytest.raises(ValueError, match=message):
        worker.WorkerSetup(**arguments)


# Workers of our own.


def test_start_and_stop_leave_nothing(tmp_path, casalog):
    environ = dict(os.environ)
    before = {process.pid for process in descendants()}
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with DaskClusterManager(1, local_directory=scratch) as cluster:
        assert cluster.start() is cluster
        assert cluster.owned
        assert cluster.nworkers == 1
        assert len(cluster.client.nthreads()) == 1
        assert cluster.log_directory == tmp_path / "user.ptclean"
        assert cluster.worker_logs == {"worker-0": tmp_path / "user.ptclean" / "worker-0.log"}
        client = cluster.client
        assert list(scratch.iterdir())
        with pytest.raises(ValueError, match="No clients found"):
            Client.current()
    assert client.status == "closed"
    assert {process.pid for process in descendants()} == before
    assert not list(scratch.iterdir())
    assert os.environ == environ
    assert dask.config.get("distributed.scheduler.worker-ttl") == "5 minutes"
    cluster.close()


def test_surroundings_of_a_task(own, monkeypatch):
    monkeypatch.chdir("/")
    variables = [
        "OMP_NUM_THREADS",
        "MALLOC_TRIM_THRESHOLD_",
        "MALLOC_ARENA_MAX",
        "CASASITECONFIG",
    ]
    outcome = on_worker(own, surroundings, variables)
    found = outcome.value
    assert found["environ"] == {
        "OMP_NUM_THREADS": "1",
        "MALLOC_TRIM_THRESHOLD_": "1000000000",
        "MALLOC_ARENA_MAX": "1",
        "CASASITECONFIG": os.environ.get("CASASITECONFIG"),
    }
    assert found["budget"] == CASA_MEMORY
    assert found["files"] == []
    assert not Path(found["directory"]).exists()
    assert not found["casatasks"]
    assert outcome.worker in own.worker_logs
    assert outcome.pid in pids(own.client)
    assert 50 * 2**20 < outcome.peak_memory < 2**30
    assert outcome.warnings == []


def test_large_arrays_are_in_huge_pages(own):
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[never]" in enabled.read_text():
        pytest.skip("the system has no huge pages to give")
    libc, version = platform.libc_ver()
    if libc != "glibc" or tuple(map(int, version.split("."))) < (2, 35):
        pytest.skip("this C library does not ask for them")
    assert on_worker(own, huge_pages_of_a_large_array).value > 2**27


def test_each_worker_has_its_log(own):
    assert sorted(own.worker_logs) == ["worker-0", "worker-1"]
    for path in own.worker_logs.values():
        assert path.parent == own.log_directory
        assert path.is_file()


def test_warnings_reach_the_users_log(own, casalog):
    outcome = on_worker(own, log_warnings, "once", "twice", "twice", "two\nlines")
    assert [(line.priority, line.message) for line in outcome.warnings] == [
        ("WARN", "once"),
        ("WARN", "twice"),
        ("WARN", "twice"),
        ("WARN", "two\nlines"),
    ]
    logs.forward_warnings(outcome)
    found = logs.parse(casalog.read_text())
    assert [line.message for line in found] == ["once", "twice (2 times)", "two\nlines"]
    assert all(line.priority == "WARN" for line in found)
    assert all(f"{outcome.worker}::made::up" in line.origin for line in found)


def test_many_warnings_are_cut(own):
    outcome = on_worker(own, log_warnings, *[f"number {i}" for i in range(150)])
    assert len(outcome.warnings) == worker.MAX_WARNINGS + 1
    assert outcome.warnings[-1].message.startswith("50 more warnings are in ")


def test_error_of_casa(own, tmp_path):
    missing = str(tmp_path / "missing.im")
    with pytest.raises(errors.TaskError, match=r"open_missing_image failed in worker") as info:
        on_worker(own, open_missing_image, missing)
    error = info.value
    assert error.error_type == "RuntimeError"
    assert missing in error.error
    assert error.log_path == str(own.worker_logs[error.worker])
    assert error.log_path in str(error)
    assert "open_missing_image" in error.traceback
    assert [line.priority for line in error.warnings] == ["SEVERE"]
    assert pickle.loads(pickle.dumps(error)).__dict__ == error.__dict__
    # The directory that the failed task left something in is not that of the next one.
    for _ in range(2):
        assert on_worker(own, surroundings, []).value["files"] == []


def test_error_that_cannot_be_pickled(own):
    with pytest.raises(errors.TaskError, match="Unpicklable: what happened"):
        on_worker(own, raise_unpicklable)


def test_killed_worker_comes_back_as_it_was(own):
    before = pids(own.client)
    os.kill(before[0], signal.SIGKILL)

    def replaced():
        # Until Dask has noticed, a call of all workers fails.
        with contextlib.suppress(OSError):
            found = pids(own.client)
            return len(found) == 2 and before[0] not in found
        return False

    wait_until(replaced, seconds=20)
    assert before[1] in pids(own.client)
    reports = own.client.run(worker.report).values()
    assert {each.name: Path(each.log_path) for each in reports} == own.worker_logs
    assert not any(each.problems for each in reports)


def test_inside_a_running_event_loop(own, tmp_path):
    async def notebook_cell():
        with DaskClusterManager(1, log_directory=tmp_path) as cluster:
            return on_worker(cluster, surroundings, []).worker

    assert asyncio.run(notebook_cell()) == "worker-0"


def test_memory_limit(tmp_path):
    limit = 2**30
    with (
        dask.config.set({"ptclean.allowed-failures": 0}),
        DaskClusterManager(1, "1GiB", log_directory=tmp_path) as cluster,
    ):
        assert on_worker(cluster, surroundings, []).value["budget"] == 1024
        outcome = on_worker(cluster, allocate, int(0.87 * limit), 0.5)
        status, resident = outcome.value
        assert resident > 0.8 * limit
        assert status == "running"
        assert outcome.peak_memory >= resident
        # The mark is that of the task, and the memory went back.
        assert on_worker(cluster, surroundings, []).peak_memory < 0.5 * limit
        with pytest.raises(KilledWorker):
            on_worker(cluster, allocate, 2 * limit, 5)
        assert on_worker(cluster, surroundings, []).value["budget"] == 1024


def test_auto_memory_limit_warns(tmp_path, casalog):
    with DaskClusterManager(1, "auto", log_directory=tmp_path):
        pass
    warnings = [line for line in logs.parse(casalog.read_text()) if line.priority == "WARN"]
    assert len(warnings) == 1
    assert re.match(r"memory_limit='auto' gives .*stalls.*memory_limit='0'", warnings[0].message)


def test_close_does_not_wait_for_casa(tmp_path):
    before = set(descendants())
    cluster = DaskClusterManager(1, log_directory=tmp_path).start()
    future = submit(cluster, hold_interpreter_lock, 60)
    time.sleep(0.5)
    started = time.monotonic()
    cluster.close()
    assert time.monotonic() - started < 15
    assert set(descendants()) == before
    del future


def test_worker_that_does_not_start(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no licence for today\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    before = {process.pid for process in descendants()}
    with pytest.raises(errors.WorkerStartError, match="exit status 3") as info:
        DaskClusterManager(2, log_directory=tmp_path).start()
    assert "no licence for today" in str(info.value)
    assert info.value.log_path.endswith(".out")
    assert {process.pid for process in descendants()} == before


def test_python_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(errors.WorkerStartError, match="could not be started"):
        DaskClusterManager(1, log_directory=tmp_path).start()


def test_workers_that_are_slow(tmp_path):
    with pytest.raises(errors.WorkerStartError, match="Of 1 workers 0 were ready") as info:
        DaskClusterManager(1, log_directory=tmp_path, start_timeout=0.01).start()
    assert "start-timeout" in str(info.value)


# The cluster of somebody else.


@pytest.fixture
def users_client(users_cluster):
    with Client(users_cluster) as client:
        yield client


def test_users_client_is_used_and_left_alone(users_client, tmp_path):
    before = pids(users_client)
    for requested, expected in [(0, 2), (5, 5)]:
        with DaskClusterManager(
            requested, casa_memory=CASA_MEMORY, log_directory=tmp_path
        ) as cluster:
            assert cluster.client is users_client
            assert not cluster.owned
            assert cluster.nworkers == expected
            assert sorted(cluster.worker_logs.values()) == [tmp_path / "0.log", tmp_path / "1.log"]
            found = on_worker(cluster, surroundings, ["OMP_NUM_THREADS"]).value
            # More, for the runs to come: CASA asks once.
            assert found["budget"] > CASA_MEMORY
            assert found["environ"] == {"OMP_NUM_THREADS": "1"}
            assert found["files"] == []
    assert users_client.status == "running"
    assert pids(users_client) == before
    assert users_client.submit(sum, [1, 2]).result() == 3


def test_budget_that_comes_too_late_is_reported(users_client, tmp_path, casalog):
    with DaskClusterManager(casa_memory=CASA_MEMORY, log_directory=tmp_path):
        pass
    with DaskClusterManager(casa_memory=10**6, memory_limit="1GiB", log_directory=tmp_path):
        pass
    warnings = [line.message for line in logs.parse(casalog.read_text()) if line.priority == "WARN"]
    # These settings are Dask's own, in both runs.
    own = [
        message
        for setting in ("MALLOC_TRIM_THRESHOLD_=65536", "worker-ttl=", "timeouts.connect=")
        for message in warnings
        if setting in message
    ]
    limit, budget = (message for message in warnings if message not in own)
    # Those of the scheduler, which lives in this process, are ours while a manager is open here.
    assert len(own) in (2, 6)
    assert "memory_limit='1GiB' has no effect" in limit
    assert re.match(r"Dask worker \d and 1 more: .* less memory than the 1000000 MB", budget)


@pytest.mark.parametrize(
    ("environ", "number"),
    [
        ({"OMP_NUM_THREADS": "1"}, 0),
        ({"OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "1000000000"}, 0),
        ({"OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "65536"}, 1),
        ({"OMP_NUM_THREADS": "8"}, 1),
        ({"MALLOC_TRIM_THRESHOLD_": "0"}, 2),
    ],
)
def test_slow_settings_of_other_peoples_workers(environ, number):
    assert len(worker._slow_settings(environ)) == number


def test_workers_are_listed_while_the_client_renews_what_it_knows():
    """Each time, it forgets what `scheduler_info` has fetched."""
    often = {"distributed.client.scheduler-info-interval": "1ms"}
    with (
        dask.config.set(often),
        Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client,
    ):
        assert {frozenset(addresses_of(client)) for _ in range(500)} == {frozenset("01")}


def test_names_are_asked_for_again_where_workers_are_others() -> None:
    with DaskClusterManager(1) as manager:
        known = addresses_of(manager.client)
        assert addresses_of(manager.client, known) is known
        (pid,) = manager.client.run(os.getpid).values()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: addresses_of(manager.client, known) not in ({}, known))
        (address,) = addresses_of(manager.client, known).values()
        assert address in manager.client.nthreads()


def test_scheduler_address(users_cluster, monkeypatch, tmp_path):
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", users_cluster.scheduler_address)
    with DaskClusterManager(log_directory=tmp_path) as cluster:
        assert not cluster.owned
        assert cluster.nworkers == 2
        client = cluster.client
        before = pids(client)
    assert client.status == "closed"
    with Client(users_cluster) as again:
        assert pids(again) == before


def test_scheduler_that_is_not_there(monkeypatch):
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:1")
    with pytest.raises(errors.WorkerStartError, match="DASK_SCHEDULER_ADDRESS"):
        DaskClusterManager(start_timeout="1s").start()


def test_workers_in_this_process_are_refused(casalog):
    from casatasks import casalog as sink

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster),
        pytest.raises(ValueError, match=r"as threads.*processes=True"),
    ):
        DaskClusterManager().start()
    assert sink.logfile() == str(casalog)


def test_asynchronous_client_is_refused():
    async def main():
        async with Client(processes=False, asynchronous=True, dashboard_address="127.0.0.1:0"):
            with pytest.raises(ValueError, match="asynchronous"):
                DaskClusterManager().start()

    asyncio.run(main())


# Scripts as users write them.

SCRIPT = """
import os
with open({marker!r}, "a") as file:
    file.write("the first line ran\\n")
from ptclean.workers.cluster import DaskClusterManager
with DaskClusterManager(1) as cluster:
    pids = set(cluster.client.run(os.getpid).values())
    assert len(pids) == 1 and os.getpid() not in pids
print("finished")
"""


@pytest.fixture
def environment():
    paths = [PACKAGE_FOLDER, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.mark.parametrize("way", ["file", "stdin", "command", "runpy"])
def test_script_without_main_guard(way, tmp_path, environment):
    marker = tmp_path / "marker"
    text = SCRIPT.format(marker=str(marker))
    script = tmp_path / "script.py"
    script.write_text(text)
    command = [sys.executable, "-W", "error::ResourceWarning"]
    command += {
        "file": [str(script)],
        "stdin": ["-"],
        "command": ["-c", text],
        "runpy": ["-c", f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"],
    }[way]
    done = subprocess.run(
        command,
        input=text if way == "stdin" else "",
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "finished\n"
    assert done.stderr == ""
    assert marker.read_text() == "the first line ran\n"


def test_names_in_the_users_folder_do_not_hide_modules(tmp_path, monkeypatch):
    (tmp_path / "dask.py").write_text("raise RuntimeError('wrong dask')")
    monkeypatch.chdir(tmp_path)
    with DaskClusterManager(1, log_directory=tmp_path / "logs") as cluster:
        assert len(pids(cluster.client)) == 1


INTERRUPTED = """
import os, signal, time
from ptclean.workers.cluster import DaskClusterManager
# What runs the tests in the background may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
with DaskClusterManager(1) as cluster:
    before = set(cluster.client.run(os.getpid).values())
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(1)
        assert set(cluster.client.run(os.getpid).values()) == before
        print("the worker lives", flush=True)
"""

ABANDONED = """
import os, time
import psutil
from ptclean.workers.cluster import DaskClusterManager
from test_cluster import hold_interpreter_lock
cluster = DaskClusterManager(1, local_directory="scratch").start()
future = cluster.client.submit(hold_interpreter_lock, 60)
time.sleep(0.5)
print(*[each.pid for each in psutil.Process().children(recursive=True)], flush=True)
time.sleep(60)
"""

SUDDEN = """
import os, shutil, signal, time
from ptclean.workers.cluster import DaskClusterManager
from ptclean.workers.launching import Launcher
launch = Launcher.launch
def launch_and_die(*args):
    print(launch(*args).pid, flush=True)
    if removed:
        # As the watchdog of another worker does, before that of this one is there.
        time.sleep(0.3)
        shutil.rmtree(args[0].scratch)
    os.kill(os.getpid(), signal.SIGKILL)
Launcher.launch = launch_and_die
removed = {removed}
DaskClusterManager(1, local_directory="scratch").start()
"""


@contextlib.contextmanager
def running(text, directory, environment):
    script = directory / "script.py"
    script.write_text(text)
    environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    # In a session of its own it is the foreground process of a terminal that we play.
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        cwd=directory,
        env=environment,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_ctrl_c_does_not_reach_the_workers(tmp_path, environment):
    with running(INTERRUPTED, tmp_path, environment) as process:
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "the worker lives\n"
        assert process.wait(timeout=20) == 0


@pytest.mark.parametrize("removed", [False, True])
def test_workers_end_with_a_script_that_was_killed_before_they_began(
    removed, tmp_path, environment
):
    (tmp_path / "scratch").mkdir()
    with running(SUDDEN.format(removed=removed), tmp_path, environment) as process:
        processes = [int(process.stdout.readline())]
        process.wait()
        wait_until(lambda: gone(processes), seconds=20)
    assert not list((tmp_path / "scratch").iterdir())


def test_busy_workers_end_with_a_killed_script(tmp_path, environment):
    (tmp_path / "scratch").mkdir()
    with running(ABANDONED, tmp_path, environment) as process:
        processes = [int(pid) for pid in process.stdout.readline().split()]
        assert len(processes) >= 2
        process.kill()
        process.wait()
        wait_until(lambda: gone(processes), seconds=10)
    assert not list((tmp_path / "scratch").iterdir())
