# SPDX-License-Identifier: GPL-3.0-or-later
"""ptclean as a task of CASA's shell, with the shell's defaults at the prompt and in scripts alike.

For ``startup.py``, and for scripts that used the shell's own tclean.
"""

from ..call.description import load
from ..call.shell import ShellTask
from ..run import run

__all__ = ["ptclean"]

ptclean = ShellTask(load(), run, module=__name__, everywhere=True)
