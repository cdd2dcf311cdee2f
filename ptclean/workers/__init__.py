# SPDX-License-Identifier: GPL-3.0-or-later
"""Dask workers for CASA: started or borrowed, examined, given work, and replaced when they die."""
