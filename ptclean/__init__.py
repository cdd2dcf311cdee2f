# SPDX-License-Identifier: GPL-3.0-or-later
"""tclean, on many workers, with tclean's own images.

>>> from ptclean import ptclean as tclean  # doctest: +SKIP

Names are imported when they are first asked for: workers import this package too, and they need
neither casatasks nor the description of the task.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "ptclean": "ptclean.run",
    "plan": "ptclean.run",
    "report": "ptclean.reporting.run_report",
    "Report": "ptclean.reporting.run_report",
    "Plan": "ptclean.planning.plan",
    "DaskClusterManager": "ptclean.workers.cluster",
    "ParallelCubeImager": "ptclean.imaging.imager",
    "job_script_prologue": "ptclean.workers.cluster",
}

__all__ = [
    "DaskClusterManager",
    "ParallelCubeImager",
    "Plan",
    "Report",
    "__version__",
    "job_script_prologue",
    "plan",
    "ptclean",
    "report",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
