# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``python -m ptclean`` does: run a recipe, or print the description of the task."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from . import __version__

_RUN = """
Run a recipe as Python does, with ptclean in the place of casatasks' tclean. Options come before
the recipe; what comes after it is the recipe's. A call in the recipe that gives nworkers,
chanchunks or memory_limit itself is done as it says.
"""

_EXAMPLES = """
examples:
  python -m ptclean run --nworkers 8 recipe.py target.ms
  python -m ptclean run -m mypackage.imaging target.ms
  python -m ptclean run -m casashell --nologger -c recipe.py target.ms
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line; by default that of this process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ptclean", description="tclean, on many workers.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=_versions())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run a recipe with ptclean for tclean",
        usage="%(prog)s [OPTIONS] (RECIPE | -m MODULE) [ARGUMENTS]",
        description=_RUN,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run.add_argument("--nworkers", type=int, help="default of nworkers")
    run.add_argument("--chanchunks", type=int, help="default of chanchunks")
    run.add_argument("--memory-limit", metavar="LIMIT", help="default of memory_limit")
    run.add_argument(
        "-m",
        dest="module",
        nargs=argparse.REMAINDER,
        help="a module to run, and its arguments",
    )
    run.add_argument("recipe", nargs=argparse.REMAINDER, help="a script, and its arguments")
    commands.add_parser("xml", help="print the complete XML description of the task")
    options = parser.parse_args(arguments)
    if options.command == "xml":
        _print_xml()
    else:
        _run(options, run)


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    from . import recipe

    words = options.module or options.recipe
    if words[:1] == ["--"]:
        del words[0]
    if not words:
        parser.error("there is no recipe: give a script, or -m and a module")
    if options.module is None and not os.path.exists(words[0]):
        parser.error(f"there is no recipe {words[0]!r} in {os.getcwd()}")
    defaults = _defaults(options, parser)
    run = recipe.run_module if options.module else recipe.run_script
    run(words[0], words[1:], defaults)


def _defaults(options: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Return the parameters that are given, checked: a recipe may run for hours before tclean."""
    import psutil

    from .call.own_parameters import OWN_PARAMETERS, check_own_parameters
    from .workers.worker_spec import parse_memory_limit

    given = {name: getattr(options, name) for name in OWN_PARAMETERS}
    defaults = {name: value for name, value in given.items() if value is not None}
    try:
        check_own_parameters({"nworkers": 0, "chanchunks": -1} | defaults)
        total = psutil.virtual_memory().total
        parse_memory_limit(given["memory_limit"], given["nworkers"] or 1, total)
    except ValueError as error:
        parser.error(str(error))
    return defaults


def _print_xml() -> None:
    from casaconfig import config

    # Otherwise CASA opens a log file in the working directory.
    config.logfile = os.devnull
    from .call.description import joined_xml

    sys.stdout.buffer.write(joined_xml().encode("utf-8") + b"\n")


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"ptclean {__version__} with casatasks {version('casatasks')}"
    except PackageNotFoundError:
        return f"ptclean {__version__}, without casatasks"


if __name__ == "__main__":
    main()
