# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may talk to the processes that we start: these themselves, and nobody else on the machine.

A Dask worker runs whatever it is sent, and the loopback interface is open to every user of the
machine. So our own scheduler, nannies and workers speak TLS with a key that is made for one
cluster, is kept in memory, and proves on both sides of each connection that the other side belongs
to it. Without the key nothing is read of what is sent.

Not covered: clusters that somebody else started, whose protection is their owner's choice (in
Dask: ``distributed.comm.require-encryption`` and ``distributed.comm.tls``).
"""

from __future__ import annotations

from typing import Any

from distributed import Security


def make_security() -> Security:
    """Make the key and the certificate of one cluster.

    Returns
    -------
    Security
        For the scheduler, its workers and its client; nothing of it is on disk.
    """
    return Security.temporary()


def worker_security_config(security: Security) -> dict[str, Any]:
    """Return the part of Dask's configuration that lets a worker take part.

    It holds the private key, so that it belongs where the user alone can read it: into a process's
    environment, not on its command line.

    Parameters
    ----------
    security : Security
        Of the cluster (`make_security`).

    Returns
    -------
    dict
        Below ``distributed.comm``, in place of what the user has set there for other clusters.
    """
    tls = security.get_tls_config_for_role("worker")
    pair = {"key": tls["key"], "cert": tls["cert"]}
    # A worker acts as a worker alone; the other roles must not be left with another cluster's key.
    roles = dict.fromkeys(("worker", "client", "scheduler"), pair)
    return {
        "require-encryption": True,
        "tls": {"ca-file": tls["ca_file"], **roles},
    }
