# SPDX-License-Identifier: GPL-3.0-or-later
"""From a call to checked parameters: CASA's description of the task, and the ways of calling it."""
