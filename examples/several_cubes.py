# SPDX-License-Identifier: GPL-3.0-or-later
"""Several cubes on the same workers: one for each weighting.

Workers take a few seconds to start. Within ``with DaskClusterManager(...)`` all calls use the same
ones, and the last line of it ends them.

To try it without data of your own::

    python simulate_ms.py line.ms
    python several_cubes.py
"""

from casatasks import imhead

from ptclean import DaskClusterManager, plan, ptclean

WEIGHTINGS = (-0.5, 2.0)

call = {
    "vis": "line.ms",
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 96,
    "cell": "0.1arcsec",
    "weighting": "briggs",
    "niter": 1000,
    "threshold": "30mJy",
    # Without this, tclean itself makes what it can make in a few seconds.
    "nworkers": 2,
}

with DaskClusterManager(nworkers=2) as cluster:
    print(f"The workers' logs are in {cluster.log_directory}")
    print(plan(imagename="briggs", robust=WEIGHTINGS[0], **call))
    for robust in WEIGHTINGS:
        ptclean(imagename=f"briggs{robust}", robust=robust, **call)

for robust in WEIGHTINGS:
    beams = imhead(f"briggs{robust}.image", mode="summary")["perplanebeams"]["beams"]
    major, minor = (beams["*0"]["*0"][axis]["value"] for axis in ("major", "minor"))
    print(f"robust {robust:>4}: {major:.3f} x {minor:.3f} arcsec")
