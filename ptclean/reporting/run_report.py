# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a run: as text, as a page, and as plain data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from typing import Any

from .. import logs
from ..config import setting
from ..records import Record
from .report_page import page
from .run_record import keep, load
from .run_sums import cycle_rows, headline, phase_rows, worker_rows

#: Cycles that the text shows: so many of the first, and of the last.
_CYCLES_OF_EACH_END = 20


class Report:
    """What a run did.

    Attributes
    ----------
    data : dict
        All of it, as plain data (``ptclean.reporting.run_record.RunRecorder``).

    Examples
    --------
    >>> print(ptclean.report("line"))  # doctest: +SKIP
    >>> ptclean.report("line").html("line.html")  # doctest: +SKIP
    """

    def __init__(self, data: Record) -> None:
        self.data = data

    def __str__(self) -> str:
        data = self.data
        parts = ["\n".join(f"{name:<10}  {value}" for name, value in headline(data))]
        parts.append(data["plan"])
        if data["cycles"]:
            parts.append(_table(_ends(cycle_rows(data))))
        if data["phases"]:
            parts.append(_table(phase_rows(data)))
        if data["workers"]:
            parts.append(_table(worker_rows(data)))
        parts += [
            f"{loss['worker']} was lost after {loss['when']:.0f} s; done again: "
            f"{', '.join(loss['tasks']) or 'nothing'}"
            for loss in data["losses"]
        ]
        changed = ", ".join(f"{name}={data['call'][name]}" for name in data["changed"])
        parts.append(f"ptclean({changed})")
        parts.append(", ".join(f"{name} {value}" for name, value in data["versions"].items()))
        return "\n\n".join(parts)

    def html(self, path: str | os.PathLike[str]) -> str:
        """Write a page that needs nothing else: no network, no other file.

        Parameters
        ----------
        path : path

        Returns
        -------
        str
            The absolute path.
        """
        target = os.path.abspath(os.path.expanduser(os.fspath(path)))
        with open(f"{target}.new", "w", encoding="utf-8") as f:
            f.write(page(self.data))
        os.replace(f"{target}.new", target)
        return target

    def _repr_html_(self) -> str:
        """Show the page in a notebook, in a frame of its own."""
        return (
            f'<iframe srcdoc="{escape(page(self.data))}" title="ptclean" '
            'style="width:100%;height:40em;border:0"></iframe>'
        )


def report(imagename: str) -> Report:
    """Report on the run that made images.

    Parameters
    ----------
    imagename : str
        As ptclean was given it.

    Returns
    -------
    Report
        Prints as text; its method `html` writes a page with pictures.

    Raises
    ------
    FileNotFoundError
        If no run of ptclean has left its data in these images.
    """
    return Report(load(imagename))


def keep_report(data: Record) -> None:
    """Keep the data of a run with its images, and write the page that the configuration asks for.

    The images are complete: what cannot be written is said, and no more.

    Parameters
    ----------
    data : dict
    """
    imagename = data["imagename"]
    try:
        keep(data, imagename)
        target = page_path(setting("report"), imagename)
        if target is not None:
            logs.post(f"The report of this run is {Report(data).html(target)}")
    except Exception as error:
        # Whatever is odd about it must not take away what a long run returns.
        logs.post(
            f"The report of this run could not be written: {type(error).__name__}: {error}", "WARN"
        )


def page_path(wanted: Any, imagename: str) -> str | None:
    """Say where the configuration wants the page of a run.

    Parameters
    ----------
    wanted : bool, str or None
        ``report`` of the configuration.
    imagename : str
        Absolute. A page is never ``<imagename>.something``, where scripts expect images.
    """
    if wanted in (None, False, ""):
        return None
    if wanted is True:
        return f"{imagename}-ptclean.html"
    path = os.path.abspath(os.path.expanduser(str(wanted)))
    if os.path.isdir(path) or str(wanted).endswith("/"):
        return os.path.join(path, f"{os.path.basename(imagename)}-ptclean.html")
    return path


def _ends(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    head, *body = rows
    if len(body) <= 2 * _CYCLES_OF_EACH_END:
        return rows
    left_out = ("...",) + ("",) * (len(head) - 1)
    return [head, *body[:_CYCLES_OF_EACH_END], left_out, *body[-_CYCLES_OF_EACH_END:]]


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Lay out rows of text; all columns but the first stand to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
