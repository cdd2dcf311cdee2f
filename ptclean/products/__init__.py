# SPDX-License-Identifier: GPL-3.0-or-later
"""CASA images on disk: pixels, beams, coordinates, history."""
