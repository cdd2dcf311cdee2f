# SPDX-License-Identifier: GPL-3.0-or-later
"""A continuum image of the channels without a line, with two Taylor terms, on all workers.

The image is the same for any number of workers, and tclean's within the rounding of a sum in
single precision. CASA fits the beam to the pixels of the PSF above a limit, over which rounding may
lift one: give `restoringbeam` where the beam must be the same to the last digit too.

To try it without data of your own::

    python simulate_ms.py line.ms
    python continuum.py
"""

from casatasks import imstat

from ptclean import ptclean as tclean  # it was: from casatasks import tclean

record = tclean(
    vis="line.ms",
    imagename="continuum",
    datacolumn="data",
    spw="0:0~3;12~15",
    specmode="mfs",
    deconvolver="mtmfs",
    nterms=2,
    imsize=96,
    cell="0.1arcsec",
    weighting="briggs",
    robust=0.0,
    niter=200,
    threshold="5mJy",
)
peak = imstat("continuum.image.tt0")["max"][0]
print(f"{record['iterdone']} iterations, {record['stopDescription']}; peak {1000 * peak:.1f} mJy")
