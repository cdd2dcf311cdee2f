# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies on disk during a run, so that nothing is lost with a process."""
