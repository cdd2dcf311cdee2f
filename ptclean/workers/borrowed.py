# SPDX-License-Identifier: GPL-3.0-or-later
"""A Dask cluster that somebody else has started: finding it, and asking it.

Covers the client that is open in this process and the scheduler that the configuration names. Does
not cover whether its workers are fit for a run (:mod:`ptclean.workers.admission`).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import dask
from distributed import Client

from ..errors import WorkerStartError
from .worker import WorkerReport, report


def users_client() -> Client | None:
    """Return the client that is open in this process, if there is one.

    Raises
    ------
    ValueError
        If it is asynchronous.
    """
    try:
        client = Client.current()
    except ValueError:
        return None
    if client.asynchronous:
        raise ValueError(
            "The Dask client that is open is asynchronous, and ptclean is not; open it without "
            "asynchronous=True, or close it to let ptclean start workers of its own"
        )
    return client


def scheduler_address() -> str | None:
    """Return the scheduler that the environment or the configuration names, if one does."""
    # Dask reads the environment when it is imported; the user may have set it since.
    return os.environ.get("DASK_SCHEDULER_ADDRESS") or dask.config.get("scheduler-address", None)


@contextlib.contextmanager
def connected_client(address: str, timeout: float) -> Iterator[Client]:
    """Connect to a scheduler for a while.

    Raises
    ------
    WorkerStartError
        If nothing answers there within `timeout` seconds.
    """
    try:
        client = Client(address, set_as_default=False, timeout=timeout)
    except (OSError, TimeoutError, ValueError) as error:
        raise WorkerStartError(
            f"No Dask scheduler could be reached at {address!r} ({error})",
            "Start it, correct DASK_SCHEDULER_ADDRESS, or unset it to let ptclean start workers "
            "of its own",
        ) from error
    with client:
        yield client


def reports_of(client: Client) -> list[WorkerReport]:
    """Ask all workers for what they say of themselves; those that end meanwhile say nothing.

    Raises
    ------
    WorkerStartError
        If ptclean is not there.
    """
    found = client.run(report, on_error="return").values()
    for each in found:
        if isinstance(each, ImportError):
            raise WorkerStartError(
                f"The workers of {scheduler_of(client)} cannot import ptclean ({each})",
                "Install ptclean, in the same version, in the Python that the workers run",
            ) from each
        if isinstance(each, Exception) and not isinstance(each, OSError):
            raise each
    return [each for each in found if isinstance(each, WorkerReport)]


def addresses_of(client: Client, known: dict[str, str] | None = None) -> dict[str, str]:
    """Return the addresses, by name, of all workers that there are.

    Parameters
    ----------
    client : distributed.Client
    known : dict, optional
        What was returned before. Where the addresses are the same ones, the names are not asked
        for: with them comes all that the scheduler knows of each worker.

    Notes
    -----
    Not by `distributed.Client.scheduler_info`: what that has fetched, the client replaces every two
    seconds by an answer that names no workers, now and then before it is returned.
    """
    if known and client.nthreads().keys() == set(known.values()):
        return known
    info = client.sync(client.scheduler.identity, n_workers=-1)
    return {str(worker["name"]): address for address, worker in info["workers"].items()}


def unregister_later(client: Client, plugin: str) -> None:
    """Take our plugin from the user's cluster, without waiting for workers that are busy."""

    def unregister() -> None:
        # A cluster that is gone needs no tidying.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            client.unregister_worker_plugin(plugin)

    thread = threading.Thread(target=unregister, name="ptclean unregister", daemon=True)
    thread.start()
    thread.join(timeout=5)


def dashboard_of(client: Client) -> str | None:
    """Return the address of the cluster's dashboard, if it has one."""
    with contextlib.suppress(KeyError):
        return client.dashboard_link or None
    return None


def scheduler_of(client: Client) -> str:
    """Say in a message which cluster it is."""
    return client.scheduler.address if client.scheduler else "that is open"
