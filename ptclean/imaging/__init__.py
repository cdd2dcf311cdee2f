# SPDX-License-Identifier: GPL-3.0-or-later
"""The cycles: what a chunk does, and the control that all chunks share."""
