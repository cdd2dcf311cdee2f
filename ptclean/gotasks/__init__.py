# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks for CASA's shell, where CASA's own packages have theirs.

>>> from ptclean.gotasks.ptclean import ptclean  # doctest: +SKIP
"""
