# SPDX-License-Identifier: GPL-3.0-or-later
"""A clean in two calls: a dirty cube first, its noise, then the clean from where the cube stands.

tclean goes on from the images that it finds under `imagename`, and so does ptclean, from its own
as from tclean's. With ``calcpsf=False`` and ``calcres=False`` nothing is made twice.

To try it without data of your own::

    python simulate_ms.py line.ms
    python continue_cleaning.py
"""

from casatasks import imstat

from ptclean import ptclean as tclean  # it was: from casatasks import tclean

call = {
    "vis": "line.ms",
    "imagename": "twice",
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 96,
    "cell": "0.1arcsec",
    "weighting": "briggs",
    "robust": 0.5,
}

tclean(**call, niter=0)

# Channels at the ends of the band, without a line.
noise = imstat("twice.residual", chans="0~1;14~15")["medabsdevmed"][0] * 1.4826
print(f"noise {1000 * noise:.1f} mJy")

record = tclean(
    **call,
    niter=100000,
    threshold=f"{4 * noise:.6f}Jy",
    calcpsf=False,
    calcres=False,
    pbcor=True,
)
print(f"{record['iterdone']} iterations, {record['stopDescription']}")
