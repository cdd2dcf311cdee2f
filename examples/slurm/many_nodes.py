"""A cube on workers that are jobs of SLURM: python many_nodes.py MEASUREMENT_SET IMAGENAME.

The partition, the account and so on are those of dask-jobqueue's configuration, in
``~/.config/dask/jobqueue.yaml``, or further arguments of `SLURMCluster`.
"""

import sys

import dask
from dask_jobqueue import SLURMCluster
from distributed import Client

from ptclean import job_script_prologue
from ptclean import ptclean as tclean

vis, imagename = sys.argv[1:]

# A worker is silent for as long as one call of CASA takes; that is no reason to give it up.
dask.config.set({"distributed.scheduler.worker-ttl": None})

with (
    SLURMCluster(
        # One worker a job, with one thread. `ptclean.plan` says how much memory one takes.
        cores=1,
        processes=1,
        memory="4GiB",
        walltime="1-00:00:00",
        # How CASA wants its processes started; ptclean cannot say it once they run.
        job_script_prologue=job_script_prologue(),
        log_directory="slurm-logs",
    ) as cluster,
    Client(cluster),
):
    # Or cluster.scale(jobs=50) for a fixed number.
    cluster.adapt(minimum_jobs=1, maximum_jobs=2)
    tclean(
        vis=vis,
        imagename=imagename,
        datacolumn="data",
        specmode="cube",
        imsize=80,
        cell="0.1arcsec",
        weighting="briggs",
        niter=100_000,
        threshold="20mJy",
        nworkers=2,
        chanchunks=2,
    )
