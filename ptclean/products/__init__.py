# SPDX-License-Identifier: GPL-3.0-or-later
"""From chunks to images on disk."""
