# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a run as one HTML page, without scripts, other files or the network; pure."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import numpy as np

from ..records import Record
from . import pictures
from .pictures import COLOURS, Series
from .run_sums import (
    Rows,
    cycle_rows,
    gridded_chunks,
    headline,
    memory_of_pieces,
    number_of_pieces,
    phase_rows,
    seconds_of_pieces,
    timeline,
    unit,
    worker_rows,
    workers_in_order,
    workers_of_pieces,
)

#: Rows of a table that are shown: thousands can be had from ``Report.data``.
_MOST_ROWS = 400

#: Rows of the timeline; with more workers, the first ones stand for all.
_MOST_WORKERS = 256

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--dim:#5b6675;--ground:#fbfbfa;--card:#fff;
--grid:#e3e6ea;--line:#9aa4b1;--accent:#2f6db3}
@media(prefers-color-scheme:dark){:root{--ink:#e2e6ec;--dim:#98a3b3;--ground:#14181e;
--card:#1b2129;--grid:#2c343f;--line:#5c6878;--accent:#7db2ee}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
main{max-width:62rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.35rem;margin:0 0 .2rem;overflow-wrap:anywhere}
h1 small{display:block;font-size:.85rem;font-weight:400;color:var(--dim)}
h2{font-size:1.05rem;margin:0 0 .6rem}
h3{font-size:.9rem;margin:1.1rem 0 .2rem}
section{background:var(--card);border:1px solid var(--grid);border-radius:8px;
padding:1rem 1.2rem;margin:1rem 0}
p{margin:.2rem 0 .6rem;color:var(--dim);max-width:50rem}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:.8rem 1.5rem;margin:0}
dt{font-size:.75rem;color:var(--dim);text-transform:uppercase;letter-spacing:.05em}
dd{margin:0;overflow-wrap:anywhere}
pre{margin:0;font:13px/1.5 ui-monospace,"DejaVu Sans Mono",monospace;white-space:pre-wrap;
overflow-wrap:anywhere}
.scroll{max-height:24rem;overflow:auto}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid var(--grid)}
th{color:var(--dim);font-weight:600;position:sticky;top:0;background:var(--card)}
th:first-child,td:first-child{text-align:left;padding-left:0}
.long,th.long{text-align:left;overflow-wrap:anywhere;min-width:14rem}
summary{cursor:pointer;color:var(--accent);margin-top:.6rem}
figure{margin:.2rem 0 .6rem}
figcaption{font-size:12.5px;color:var(--dim);display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;
padding-left:5rem}
figcaption i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}
figcaption b{display:inline-block;width:9em;height:.8em;margin:0 .4em;border-radius:2px}
svg{display:block;width:100%;height:auto}
svg text{font-size:12px;fill:var(--dim)}
.axis{stroke:var(--line);fill:none}
.grid{stroke:var(--grid);fill:none}
.mark{stroke:var(--ink);fill:none;stroke-width:.6;opacity:.45}
.limit{stroke:var(--ink);fill:none;stroke-dasharray:5 4}
"""


def page(data: Record) -> str:
    """Return the page.

    Parameters
    ----------
    data : dict
        Of :mod:`ptclean.reporting.run_record`.
    """
    name = escape(data["imagename"].rpartition("/")[2])
    sections = [
        _section("Summary", _summary(data)),
        _section("Plan", f"<pre>{escape(data['plan'])}</pre>"),
        _section("Cleaning", _cleaning(data)),
        _section("Times", _times(data)),
        _section(unit(data).capitalize(), _pieces(data)),
        _section("Workers", _workers(data)),
        _section("Call", _call(data)),
        _section("Versions", _definitions(data["versions"].items())),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # A browser asks for an icon otherwise.
        '<link rel="icon" href="data:,">'
        f"<title>ptclean: {name}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{name}<small>{escape(data['imagename'])}</small></h1>"
        f"{''.join(sections)}</main></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _summary(data: Record) -> str:
    lines = [(name, value) for name, value in headline(data) if name != "image"]
    body = _definitions(lines)
    if data["serial"]:
        body += (
            "<p>tclean itself ran, in the user's own process: there were no chunks and no workers "
            "to report on.</p>"
        )
    return body + "".join(f"<p>Warning: {escape(text)}</p>" for text in data["warnings"])


def _cleaning(data: Record) -> str:
    cycles = data["cycles"]
    if not cycles:
        return ""
    minor = [cycle for cycle in cycles if cycle["number"]]
    first = cycles[0]["number"]
    limits = [cycle["cyclethreshold"] for cycle in minor]
    shown = [
        Series("peak residual at the end of the cycle", COLOURS[0], [c["peak"] for c in cycles]),
        Series("cyclethreshold", COLOURS[1], [0.0] * (1 - first) + limits, dashed=True),
        Series("threshold", COLOURS[6], [cycle["threshold"] for cycle in cycles], dashed=True),
    ]
    body = ""
    if len(cycles) > 1:
        shown = [each for each in shown if any(value > 0 for value in each.values)]
        body += pictures.curves(shown, x="cycle", y="Jy/beam", first=first)
    if minor and len(minor[0]["channel_peaks"]) > 1:
        body += "<h3>Peak residual of each channel after each minor cycle</h3>"
        body += pictures.heat(
            [cycle["channel_peaks"] for cycle in minor], x="channel", y="cycle", unit="Jy/beam"
        )
        body += "<h3>Iterations of each channel in each minor cycle</h3>"
        body += pictures.heat(
            [cycle["channel_iterations"] for cycle in minor],
            x="channel",
            y="cycle",
            unit="iterations; none where it is empty",
        )
    chunks = gridded_chunks(data)
    if (chunks == 2).any():
        body += "<h3>Chunks in each major cycle</h3>"
        body += (
            "<p>A chunk whose model did not change, nor that of its neighbours, is left out: its "
            "residual would come out the same.</p>"
        )
        body += pictures.classes(
            chunks,
            [("gridded", COLOURS[0]), ("left out", COLOURS[3])],
            x="chunk",
            y="cycle",
            first_row=1,
        )
    return body + _table(cycle_rows(data))


def _times(data: Record) -> str:
    if not data["phases"]:
        return ""
    between = (
        "<p>Workers that are not busy wait for the last chunk of a phase, or have nothing to do "
        "since there are fewer chunks than workers.</p>"
    )
    return between + _table(phase_rows(data))


def _pieces(data: Record) -> str:
    if not number_of_pieces(data) or not data["tasks"]["step"]:
        return ""
    names, seconds = seconds_of_pieces(data)
    colours = _colours_of_steps(data)
    one = unit(data).removesuffix("s")
    body = f"<h3>Time of each {one}</h3>"
    body += pictures.bars(
        [Series(n, colours[n], row) for n, row in zip(names, seconds.tolist(), strict=True)],
        x=one,
        y="seconds",
    )
    memory = memory_of_pieces(data)
    body += f"<h3>Largest memory of the worker at each {one}</h3>"
    planned = float(data["planned_memory"])
    body += pictures.bars(
        [Series("memory", COLOURS[0], memory.tolist())],
        x=one,
        y="MB",
        limit=planned or None,
        limit_name="planned",
    )
    total = seconds.sum(axis=0)
    slowest = np.argsort(-total, kind="stable")[:_MOST_ROWS]
    workers = workers_of_pieces(data)
    rows: Rows = [(one, "channels", *(f"{n} / s" for n in names), "all / s", "MB", "worker")]
    for i in slowest:
        channels = data["chunks"][i] if data["chunks"] else "all"
        each = (f"{value:.1f}" for value in seconds[:, i])
        rows.append(
            (
                str(i),
                channels,
                *each,
                f"{total[i]:.1f}",
                f"{memory[i]:.0f}",
                ", ".join(workers[i]),
            )
        )
    more = f"The slowest {len(slowest)} of them" if len(slowest) < len(total) else "All of them"
    return f"{body}<details><summary>{more}, the slowest first</summary>{_table(rows)}</details>"


def _workers(data: Record) -> str:
    if not data["workers"]:
        return ""
    colours = _colours_of_steps(data)
    order = workers_in_order(data)
    body = "<h3>What each worker was at</h3>"
    body += pictures.classes(
        timeline(data, pictures.WIDTH)[order[:_MOST_WORKERS]],
        [(name, colours[name]) for name in data["steps"]],
        x="seconds from the call; a thin line is the end of a cycle",
        y="worker",
        x_range=(0.0, max(float(data["seconds"]), 1e-3)),
        marks=_spaced([cycle["end"] for cycle in data["cycles"]], data["seconds"] / 200),
        row_names=[data["workers"][i] for i in order],
    )
    body += _table(worker_rows(data), long=5)
    if data["losses"]:
        body += "<h3>Workers that were lost</h3>"
        rows: Rows = [("worker", "after / s", "done again")]
        rows += [
            (loss["worker"], f"{loss['when']:.0f}", ", ".join(loss["tasks"]))
            for loss in data["losses"]
        ]
        body += _table(rows, long=2)
    return body


def _call(data: Record) -> str:
    def call(names: Iterable[str]) -> str:
        lines = "".join(f"    {name}={data['call'][name]},\n" for name in names)
        return f"<pre>{escape(f'ptclean({chr(10)}{lines})')}</pre>"

    return (
        f"{call(data['changed'])}<details><summary>All parameters</summary>"
        f"{call(data['call'])}</details>"
    )


def _colours_of_steps(data: Record) -> dict[str, str]:
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(data["steps"])}


def _spaced(values: Iterable[float], least: float) -> list[float]:
    """Leave out values that are closer than that to the one before."""
    kept: list[float] = []
    for value in values:
        if not kept or value - kept[-1] >= least:
            kept.append(value)
    return kept


def _definitions(items: Iterable[tuple[str, str]]) -> str:
    each = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in items
    )
    return f"<dl>{each}</dl>"


def _table(rows: Rows, long: int | None = None) -> str:
    """Lay out a table; the column `long` may have texts of several lines."""
    head, *body = rows
    left_out = len(body) - _MOST_ROWS
    if left_out > 0:
        half = _MOST_ROWS // 2
        gap = (f"… {left_out} more", *("" for _ in head[1:]))
        body = [*body[:half], gap, *body[-half:]]
    lines = "".join(
        "<tr>"
        + "".join(
            f'<td class="long">{escape(text)}</td>' if i == long else f"<td>{escape(text)}</td>"
            for i, text in enumerate(row)
        )
        + "</tr>"
        for row in body
    )
    names = "".join(
        f'<th class="long">{escape(name)}</th>' if i == long else f"<th>{escape(name)}</th>"
        for i, name in enumerate(head)
    )
    return (
        f'<div class="scroll"><table><thead><tr>{names}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )
