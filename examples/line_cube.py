# SPDX-License-Identifier: GPL-3.0-or-later
"""A line cube: a script for tclean, with one line of it changed.

To try it without data of your own::

    python simulate_ms.py line.ms
    python line_cube.py
"""

from casatasks import exportfits

from ptclean import ptclean as tclean  # it was: from casatasks import tclean

record = tclean(
    vis="line.ms",
    imagename="line",
    datacolumn="data",
    specmode="cube",
    outframe="LSRK",
    imsize=128,
    cell="0.08arcsec",
    weighting="briggs",
    robust=0.5,
    deconvolver="hogbom",
    usemask="pb",
    pbmask=0.3,
    niter=100000,
    threshold="25mJy",
    restoringbeam="common",
    pbcor=True,
)
print(f"{record['iterdone']} iterations, {record['stopDescription']}")

exportfits(
    imagename="line.image.pbcor",
    fitsimage="line.fits",
    velocity=True,
    overwrite=True,
)
