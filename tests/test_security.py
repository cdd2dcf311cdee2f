# SPDX-License-Identifier: GPL-3.0-or-later
"""Other users of the machine can neither use our workers, nor read what would let them.

Workers that belong to somebody else's cluster are not covered: their protection is its owner's.
"""

import ast
import json
import os
import stat
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from distributed import Client, Security
from distributed.comm import connect

import ptclean
from ptclean import DaskClusterManager
from ptclean.keeping.workdir import work_directory
from ptclean.workers.security import make_security, worker_security_config
from ptclean.workers.worker_spec import worker_config

PACKAGE = Path(next(iter(ptclean.__path__)))
LOOPBACK = ("127.0.0.1", "::1")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """One worker of our own, and all processes that it takes; its scheduler is in this one."""
    folder = tmp_path_factory.mktemp("secure")
    scratch = folder / "scratch"
    scratch.mkdir()
    before = set(psutil.Process().children(recursive=True))
    with DaskClusterManager(1, log_directory=folder, local_directory=scratch) as cluster:
        started = set(psutil.Process().children(recursive=True)) - before
        yield cluster, sorted(started, key=lambda process: process.pid)


def addresses(cluster):
    """Of the scheduler, the worker and its nanny."""
    info = cluster.client.scheduler_info(n_workers=-1)
    (address, worker), *others = info["workers"].items()
    assert not others
    return info["address"], address, worker["nanny"]


def port_of_casa():
    """Return the port on which CASA listens in each process, on all interfaces.

    casatools opens it when it is imported, for programs to find each other, and has no setting for
    it. It names services, and runs nothing.
    """
    from casatools import ctsys

    return int(ctsys.registry()["uri"].rpartition(":")[2])


def test_all_ports_are_on_loopback(own):
    cluster, processes = own
    of_casa = {port_of_casa(), *cluster.client.run(port_of_casa).values()}
    listening = [
        connection.laddr.ip
        for process in (psutil.Process(), *processes)
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port not in of_casa
    ]
    # Scheduler, nanny and worker at least.
    assert len(listening) >= 3
    assert set(listening) <= set(LOOPBACK)


def test_a_stranger_is_turned_away_from_every_port(own):
    """Without a key, and with a key of one's own."""
    cluster, _ = own
    found = addresses(cluster)
    assert len(set(found)) == 3
    for address in found:
        assert address.startswith("tls://127.0.0.1:")
        host = address.removeprefix("tls://")
        for stranger, at in [(Security(), f"tcp://{host}"), (make_security(), f"tls://{host}")]:
            assert not answers(cluster, at, stranger), at
        assert answers(cluster, address, cluster.client.security)


def answers(cluster, address, security):
    """Tell whether something is said by what listens there, to somebody with these keys."""

    async def ask():
        arguments = security.get_connection_args("client")
        try:
            comm = await connect(address, timeout=1, **arguments)
            await comm.write({"op": "identity", "reply": True})
            await comm.read()
        # The connection is refused, dropped, or never made, which is another error each time.
        except (OSError, RuntimeError, TypeError):
            return False
        comm.abort()
        return True

    return cluster.client.sync(ask)


def test_a_client_with_another_key_cannot_join(own):
    cluster, _ = own
    address = addresses(cluster)[0]
    with pytest.raises((OSError, TimeoutError)):
        Client(address, security=make_security(), timeout="1s", set_as_default=False)


def test_no_key_is_on_the_command_line(own):
    """It is everybody's to read; the environment is the user's."""
    cluster, processes = own
    key = cluster.client.security.tls_worker_key
    secret = key.splitlines()[1]
    for process in processes:
        assert secret not in " ".join(process.cmdline())
        assert "PRIVATE KEY" not in " ".join(process.cmdline())
        mode = os.stat(f"/proc/{process.pid}/environ").st_mode
        assert stat.S_IMODE(mode) & 0o077 == 0


def test_no_key_is_on_disk(own):
    cluster, _ = own
    secret = cluster.client.security.tls_worker_key.splitlines()[1].encode()
    for path in cluster.log_directory.rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes(), path


def test_each_cluster_has_a_key_of_its_own():
    assert make_security().tls_worker_key != make_security().tls_worker_key


def test_web_pages_say_nothing(own):
    cluster, _ = own
    port = cluster.client.scheduler_info()["services"]["dashboard"]
    for page in ("/", "/health", "/status", "/info/main/workers.html", "/json/counts.json"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}{page}")


def test_folders_of_work_are_the_users_alone(own, tmp_path):
    cluster, _ = own
    (scratch,) = (cluster.log_directory / "scratch").iterdir()
    with work_directory(str(tmp_path / "line")) as directory:
        for folder in (scratch, directory):
            assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700, folder


def test_keys_of_other_clusters_are_not_used():
    """The user's configuration may hold those of another one."""
    users = {"distributed": {"comm": {"tls": {"ca-file": "/x", "client": {"key": "/k"}}}}}
    environ = dict.fromkeys(
        "OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS NUMEXPR_NUM_THREADS "
        "MALLOC_TRIM_THRESHOLD_ MALLOC_MMAP_THRESHOLD_ MALLOC_ARENA_MAX".split(),
        "1",
    )
    security = make_security()
    config = worker_config(
        users,
        environ=environ,
        limited=False,
        comm_timeout="1h",
        security=worker_security_config(security),
    )
    comm = config["distributed"]["comm"]
    assert comm["require-encryption"] is True
    assert comm["timeouts"]["tcp"] == "1h"
    assert comm["tls"]["ca-file"] == security.tls_ca_file
    assert comm["tls"]["client"]["key"] == security.tls_worker_key
    assert json.loads(json.dumps(config)) == config


#: What runs text as a command, or as Python.
_RUNS_TEXT = {"eval", "exec", "system", "popen", "getoutput", "getstatusoutput"}

#: Functions with the names of tclean's parameters, which are checked to be names; and the recipe
#: that the user asks to have run.
_ALLOWED = {("task.py", "eval"), ("recipe.py", "eval"), ("recipe.py", "exec")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_no_text_is_run(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            allowed = name not in _RUNS_TEXT or (path.name, name) in _ALLOWED
            assert allowed, f"{path.name}:{node.lineno}"
            shell = [word for word in node.keywords if word.arg == "shell"]
            assert not shell, f"{path.name}:{node.lineno}"
