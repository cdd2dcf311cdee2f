# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks of channels in which CASA deconvolves a cube."""

from __future__ import annotations

#: CASA deconvolves a cube in blocks of at least this many channels, more if the images are small
#: (``SynthesisDeconvolver::numblockchans``).
_SMALLEST_BLOCK = 10
_BLOCK_PIXELS = 8e6


def block_channels(nx: int, ny: int, nchan: int) -> int:
    """Channels that CASA in one process deconvolves at a time."""
    return min(nchan, max(_SMALLEST_BLOCK, int(_BLOCK_PIXELS / nx / ny)))
