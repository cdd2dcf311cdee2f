# SPDX-License-Identifier: GPL-3.0-or-later
"""From parameters to a plan: in chunks or by tclean, in which chunks, and what that takes."""
