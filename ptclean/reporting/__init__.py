# SPDX-License-Identifier: GPL-3.0-or-later
"""What users see of a run: log, progress, report."""
