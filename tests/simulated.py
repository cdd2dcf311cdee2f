# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulate measurement sets apart from the process that images them.

CASA keeps what it works out for an hour of observation, by whatever came first in a process; the
last digit of frequencies depends on it. Simulating is another first than imaging, so that tclean in
this process would differ from itself in a fresh one, and from the workers, in the last digits.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def simulate(path: str | Path, **arguments: Any) -> None:
    """Call :func:`simulate_ms.simulate` in a process of its own."""
    script = f"from simulate_ms import simulate; simulate({str(path)!r}, **{arguments!r})"
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
