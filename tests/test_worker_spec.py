# SPDX-License-Identifier: GPL-3.0-or-later
"""What workers are started with, checked as plain data: no cluster is started."""

import json
import subprocess
import sys

import pytest

from ptclean.planning.sizing import USABLE_OF_LIMIT
from ptclean.workers.worker_spec import (
    SMALLEST_MEMORY_LIMIT,
    TERMINATE,
    THREAD_VARIABLES,
    casarc_files,
    casarc_text,
    malloc_environment,
    parse_memory_limit,
    shell_lines,
    worker_config,
    worker_environment,
    worker_spec,
)

GIB = 2**30
TOTAL = 64 * GIB


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", None),
        (0, None),
        ("0GiB", None),
        ("", None),
        (" ", None),
        ("none", None),
        ("None", None),
        (None, None),
        ("auto", 16 * GIB),
        (" AUTO ", 16 * GIB),
        ("16GiB", 16 * GIB),
        ("16 gib", 16 * GIB),
        ("16GB", 16 * 10**9),
        ("1e10", 10**10),
        ("0.5", 32 * GIB),
        (0.25, 16 * GIB),
        ("1", TOTAL),
        (1.0, TOTAL),
        (17179869184, 16 * GIB),
        ("1TiB", TOTAL),
    ],
)
def test_memory_limit(value, expected):
    assert parse_memory_limit(value, nworkers=4, total=TOTAL) == expected


@pytest.mark.parametrize(
    "value", ["lots", "16 GiB each", "-1", "-4GiB", "nan", "inf", "16", 8, 1e-9]
)
def test_memory_limit_refused(value):
    with pytest.raises(ValueError, match=r"memory_limit=.*memory_limit='16GiB'") as info:
        parse_memory_limit(value, nworkers=4, total=TOTAL)
    assert repr(value) in str(info.value)


def test_share_of_a_small_machine_is_refused():
    with pytest.raises(ValueError, match=r"memory_limit='auto'.*fewer workers"):
        parse_memory_limit("auto", nworkers=64, total=8 * GIB)
    assert parse_memory_limit("auto", 32, 32 * SMALLEST_MEMORY_LIMIT) == SMALLEST_MEMORY_LIMIT


def test_casarc_text():
    assert casarc_text(1234) == "system.resources.memory: 1234\n"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/home/u"}, "/run/rc:/home/u/.casarc"),
        ({"HOME": "/home/u", "CASARCFILES": "/a:/b"}, "/run/rc:/a:/b"),
        ({"HOME": "/home/u", "CASARCFILES": ""}, "/run/rc:/home/u/.casarc"),
        ({}, "/run/rc:~/.casarc"),
    ],
)
def test_casarc_files(environ, expected):
    assert casarc_files("/run/rc", environ) == expected


@pytest.mark.parametrize(
    ("glibc", "mmap_threshold", "tunables"),
    [
        ("2.17", "33554432", None),
        ("2.28", "33554432", None),
        ("2.34", "33554432", None),
        ("2.35", "1000000000", "glibc.malloc.hugetlb=1"),
        ("2.36", "1000000000", "glibc.malloc.hugetlb=1"),
        ("3.0", "1000000000", "glibc.malloc.hugetlb=1"),
        ("", "1000000000", None),
    ],
)
def test_malloc_environment(glibc, mmap_threshold, tunables):
    assert malloc_environment(glibc) == {
        **({"GLIBC_TUNABLES": tunables} if tunables else {}),
        "MALLOC_TRIM_THRESHOLD_": "1000000000",
        "MALLOC_MMAP_THRESHOLD_": mmap_threshold,
        "MALLOC_ARENA_MAX": "1",
    }


@pytest.mark.parametrize(
    ("users", "glibc", "expected"),
    [
        ("glibc.malloc.check=1", "2.36", "glibc.malloc.check=1:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=1", "2.34", "glibc.malloc.check=1"),
        ("glibc.malloc.hugetlb=0", "2.36", "glibc.malloc.hugetlb=0"),
        ("a=1:glibc.malloc.hugetlb=2:b=1", "2.36", "a=1:glibc.malloc.hugetlb=2:b=1"),
    ],
)
def test_tunables_of_the_user_are_kept(users, glibc, expected):
    assert environment({"GLIBC_TUNABLES": users}, glibc=glibc)["GLIBC_TUNABLES"] == expected


def environment(environ=(), sys_path=(), **kwargs):
    return worker_environment(
        dict(environ), sys_path=list(sys_path), working_directory="/data", **kwargs
    )


@pytest.mark.parametrize("variable", THREAD_VARIABLES)
@pytest.mark.parametrize("users", [{}, {"value": "8"}])
def test_threads(variable, users):
    environ = {variable: users["value"]} if users else {}
    assert environment(environ)[variable] == "1"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("HOME", "/home/u", "/home/u"),
        ("PATH", "/bin", "/bin"),
        ("LD_LIBRARY_PATH", "/opt/lib", "/opt/lib"),
        ("MALLOC_TRIM_THRESHOLD_", "65536", "1000000000"),
        ("PYTHONPATH", "/old", ""),
        ("CASASITECONFIG", "/etc/casasiteconfig.py", "/etc/casasiteconfig.py"),
        ("CASASITECONFIG", "casasiteconfig.py", "/data/casasiteconfig.py"),
        ("CASARCFILES", "/mine", "/mine"),
        ("DASK_SCHEDULER_ADDRESS", "tcp://x:1", None),
        ("DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE", "0.8", None),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", "8", None),
        ("OMPI_MCA_btl", "self", "self"),
    ],
)
def test_environment(variable, value, expected):
    environ = {variable: value}
    assert environment(environ).get(variable) == expected
    assert environ == {variable: value}


@pytest.mark.parametrize(
    ("sys_path", "expected"),
    [
        (["/a", "/b"], "/a:/b"),
        (["", "/a"], "/data:/a"),
        (["scripts", "/a"], "/data/scripts:/a"),
        (["/a", "/b", "/a"], "/a:/b"),
    ],
)
def test_sys_path_reaches_the_worker(sys_path, expected):
    assert environment(sys_path=sys_path)["PYTHONPATH"] == expected


def test_casarc_in_environment():
    assert "CASARCFILES" not in environment({"HOME": "/h"})
    assert environment({"HOME": "/h"}, casarc="/rc")["CASARCFILES"] == "/rc:/h/.casarc"


def config(base=None, limited=False):
    return worker_config(
        base or {}, environ=environment(glibc="2.28"), limited=limited, comm_timeout="1h"
    )


def lookup(tree, path):
    for key in path.split("."):
        tree = tree[key]
    return tree


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("distributed.worker.memory.target", False),
        ("distributed.worker.memory.spill", False),
        ("distributed.worker.memory.pause", False),
        ("distributed.worker.memory.terminate", False),
        ("distributed.worker.profile.enabled", False),
        ("distributed.worker.lifetime.duration", None),
        ("distributed.scheduler.worker-ttl", None),
        ("distributed.comm.timeouts.connect", "1h"),
        ("distributed.comm.timeouts.tcp", "1h"),
        ("distributed.admin.tick.limit", "24h"),
        ("distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS", "1"),
        ("distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_", "1000000000"),
        ("distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_", "33554432"),
        ("distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX", "1"),
    ],
)
def test_config(path, expected):
    value = lookup(config(), path)
    assert value == expected
    # Dask reads 0 as "at once" where false means "never", and 0 == False.
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("users", "limited", "expected"),
    [
        (0.8, True, TERMINATE),
        (False, True, TERMINATE),
        (0.95, False, False),
    ],
)
def test_a_limit_is_kept_whatever_the_user_has_set_elsewhere(users, limited, expected):
    base = {"distributed": {"worker": {"memory": {"terminate": users, "pause": 0.8}}}}
    result = config(base, limited)
    assert lookup(result, "distributed.worker.memory.terminate") is expected
    assert USABLE_OF_LIMIT < TERMINATE
    assert lookup(result, "distributed.worker.memory.pause") is False
    assert base == {"distributed": {"worker": {"memory": {"terminate": users, "pause": 0.8}}}}


@pytest.mark.parametrize("key", ["scheduler", "scheduler-address", "scheduler_address", "shuffle"])
def test_users_client_stays_out_of_the_worker(key):
    assert key not in config({key: "tcp://x:1"})


def test_config_is_json():
    result = config({"temporary-directory": "/scratch", "get": print, "odd": {"key": {1, 2}}})
    assert json.loads(json.dumps(result)) == result
    assert result["temporary-directory"] == "/scratch"
    assert "get" not in result
    assert "odd" not in result


def spec(**changes):
    options = {
        "memory_limit": None,
        "local_directory": "/scratch",
        "start_timeout": 120.0,
    }
    return worker_spec("worker-3", **{**options, **changes})


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("name", "worker-3"),
        ("nthreads", 1),
        ("memory_limit", 0),
        ("local_directory", "/scratch"),
        ("host", "127.0.0.1"),
        ("dashboard", False),
        ("dashboard_address", "127.0.0.1:0"),
        ("death_timeout", 120.0),
        ("preload_nanny", ["ptclean.workers.watchdog"]),
    ],
)
def test_nanny_options(option, expected):
    assert spec()["opts"][option] == expected


def test_nanny_enforces_the_limit():
    assert spec(memory_limit=16 * GIB)["opts"]["memory_limit"] == 16 * GIB


def test_spec_is_json():
    assert spec()["cls"] == "distributed.Nanny"
    assert json.loads(json.dumps(spec())) == spec()


def test_shell_lines_are_read_by_the_nanny_of_a_worker():
    """Run by a shell, and read by Dask in a process that this shell starts."""
    code = (
        "import dask, distributed, json;"
        "keys = ('nanny.pre-spawn-environ', 'worker.memory.pause');"
        "print(json.dumps([dask.config.get('distributed.' + key) for key in keys]))"
    )
    script = "\n".join([*shell_lines("2.36"), f'{sys.executable} -c "{code}"'])
    done = subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True)
    environ, pause = json.loads(done.stdout)
    assert environ["MALLOC_TRIM_THRESHOLD_"] == "1000000000"
    assert environ["MALLOC_ARENA_MAX"] == "1"
    assert environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert environ["OMP_NUM_THREADS"] == "1"
    assert pause is False
