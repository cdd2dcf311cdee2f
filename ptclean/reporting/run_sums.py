# SPDX-License-Identifier: GPL-3.0-or-later
"""Sums over the data of a run, for its report; pure.

Tables are rows of texts, of which the first is the head.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from ..records import Record
from .run_record import from_ranges

Rows = list[tuple[str, ...]]

#: Tasks that are not of one chunk or part.
_OF_THE_IMAGE = ("remove_spent", "make_empty", "assemble")


def headline(data: Record) -> list[tuple[str, str]]:
    """Return what matters most, by name."""
    lines = [("image", data["imagename"]), ("began", f"{data['started']} on {data['host']}")]
    lines.append(("time", duration(data["seconds"])))
    if data["serial"]:
        lines.append(("engine", f"tclean, serially: {data['serial']}"))
    else:
        pieces = f"{number_of_pieces(data)} {unit(data)}"
        lines.append(("engine", f"{_some(len(data['workers']), 'worker')}, {pieces}"))
    if "iterdone" in data:
        # tclean counts the first residual.
        cycles = data.get("nmajordone", len(data["cycles"]))
        lines.append(("cleaned", f"{data['iterdone']} iterations, {cycles} major cycles in all"))
    if data.get("stopDescription"):
        lines.append(("stopped", data["stopDescription"]))
    if data["cycles"]:
        last = data["cycles"][-1]
        lines.append(("residual", f"{last['peak']:.4g} Jy/beam, threshold {last['threshold']:.4g}"))
    if data["tasks"]["memory"]:
        lines.append(
            (
                "memory",
                f"{max(data['tasks']['memory'])} MB a worker at most, "
                f"{data['planned_memory']} MB planned",
            )
        )
    if data["losses"]:
        again = sum(len(loss["tasks"]) for loss in data["losses"])
        lines.append(
            ("lost", f"{_some(len(data['losses']), 'worker')}, {_some(again, 'task')} done again")
        )
    return lines


def _some(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def duration(seconds: float) -> str:
    """Write a time as it is read best."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def unit(data: Record) -> str:
    """What the work was cut into."""
    return "parts" if data["continuum"] else "chunks"


def number_of_pieces(data: Record) -> int:
    """Into how many chunks, or parts, the work was cut."""
    number: int = data["pieces"]
    return number


def cycle_rows(data: Record) -> Rows:
    """Return a row for each cycle."""
    rows: Rows = [
        (
            "cycle",
            "iterations",
            "cyclethreshold",
            "peak residual",
            "channels cleaned",
            "chunks gridded",
        )
    ]
    for cycle in data["cycles"]:
        cleaned = sum(n > 0 for n in cycle["channel_iterations"])
        gridded = len(from_ranges(cycle["gridded"]))
        rows.append(
            (
                str(cycle["number"]),
                str(cycle["iterations"]) if cycle["number"] else "",
                f"{cycle['cyclethreshold']:.4g}" if cycle["number"] else "",
                f"{cycle['peak']:.4g}",
                str(cleaned) if cycle["number"] else "",
                f"{gridded} of {cycle['total']}" if cycle["number"] and cycle["total"] else "",
            )
        )
    return rows


def phase_rows(data: Record) -> Rows:
    """Return a row for each kind of phase: how long it took, and how busy the workers were."""
    kinds: dict[str, list[Record]] = defaultdict(list)
    for phase in data["phases"]:
        if "seconds" in phase:
            kinds[phase["title"].rstrip("0123456789 ")].append(phase)
    ends = np.array(data["tasks"]["end"])
    seconds = np.array(data["tasks"]["seconds"])
    rows: Rows = [("phase", "times", "tasks", "time", "workers busy")]
    for title, phases in kinds.items():
        took = sum(phase["seconds"] for phase in phases)
        busy = 0.0
        for phase in phases:
            # Tasks are noted within their phase, the clock's steps aside.
            within = (ends >= phase["start"]) & (ends <= phase["start"] + phase["seconds"] + 0.05)
            busy += float(seconds[within].sum())
        share = busy / (took * data["nworkers"]) if took else 0.0
        rows.append(
            (
                title,
                str(len(phases)),
                str(sum(phase["tasks"] for phase in phases)),
                duration(took),
                f"{min(share, 1):.0%}",
            )
        )
    return rows


def worker_rows(data: Record) -> Rows:
    """Return a row for each worker: its tasks, time, memory and log."""
    tasks = data["tasks"]
    worker = np.array(tasks["worker"], dtype=int)
    seconds, memory = np.array(tasks["seconds"]), np.array(tasks["memory"])
    rows: Rows = [("worker", "tasks", "busy", "of the time", "memory / MB", "log")]
    for i in workers_in_order(data):
        name, mine = data["workers"][i], worker == i
        busy = float(seconds[mine].sum())
        rows.append(
            (
                name,
                str(int(mine.sum())),
                duration(busy),
                f"{min(busy / max(data['seconds'], 1e-9), 1):.0%}",
                str(int(memory[mine].max(initial=0))),
                data["logs"].get(name, ""),
            )
        )
    return rows


def workers_in_order(data: Record) -> list[int]:
    """Return the positions of the workers by their names, worker-2 before worker-10."""

    def parts(i: int) -> list[tuple[int, str]]:
        # Numbers stand before words, and are ordered by their size.
        words = re.findall(r"\d+|\D+", data["workers"][i])
        return [(int(word), "") if word.isdigit() else (sys.maxsize, word) for word in words]

    return sorted(range(len(data["workers"])), key=parts)


def seconds_of_pieces(data: Record) -> tuple[list[str], NDArray[np.float64]]:
    """Return the names of steps, and the seconds of each (first axis) for each chunk or part."""
    steps, chunks, seconds = _tasks_of_pieces(data)
    number = number_of_pieces(data)
    names = data["steps"]
    sums = np.zeros((len(names), number))
    np.add.at(sums, (steps, chunks), seconds)
    used = [i for i in range(len(names)) if sums[i].any()]
    return [names[i] for i in used], sums[used]


def memory_of_pieces(data: Record) -> NDArray[np.float64]:
    """Return the largest memory, in MB, of the workers while they were at each chunk or part."""
    found = np.zeros(number_of_pieces(data))
    keep = _is_of_piece(data)
    chunks = np.array(data["tasks"]["chunk"], dtype=int)[keep]
    np.maximum.at(found, chunks, np.array(data["tasks"]["memory"], dtype=float)[keep])
    return found


def workers_of_pieces(data: Record) -> list[list[str]]:
    """Return the names of the workers that worked on each chunk or part."""
    found: list[list[str]] = [[] for _ in range(number_of_pieces(data))]
    for is_piece, chunk, worker in zip(
        _is_of_piece(data), data["tasks"]["chunk"], data["tasks"]["worker"], strict=True
    ):
        name = data["workers"][worker]
        if is_piece and name not in found[chunk]:
            found[chunk].append(name)
    return found


def timeline(data: Record, columns: int) -> NDArray[np.uint8]:
    """Say what each worker (first axis) was at: 0 for nothing, else the number of the step and 1.

    Parameters
    ----------
    data : dict
    columns : int
        Into which the time of the run is cut.
    """
    found = np.zeros((len(data["workers"]), columns), dtype=np.uint8)
    scale = columns / max(data["seconds"], 1e-9)
    tasks = data["tasks"]
    for step, worker, end, seconds in zip(
        tasks["step"], tasks["worker"], tasks["end"], tasks["seconds"], strict=True
    ):
        first = max(0, int((end - seconds) * scale))
        last = max(first + 1, round(end * scale))
        found[worker, first:last] = step + 1
    return found


def gridded_chunks(data: Record) -> NDArray[np.uint8]:
    """Say of each cycle (first axis) and chunk: 1 if it was gridded, 2 if it was left out."""
    cycles = [cycle for cycle in data["cycles"] if cycle["gridded"]]
    found = np.full((len(cycles), number_of_pieces(data)), 2, dtype=np.uint8)
    for row, cycle in zip(found, cycles, strict=True):
        row[from_ranges(cycle["gridded"])] = 1
    return found


def _tasks_of_pieces(
    data: Record,
) -> tuple[NDArray[np.int_], NDArray[np.int_], NDArray[np.float64]]:
    keep = _is_of_piece(data)
    tasks = data["tasks"]
    return (
        np.array(tasks["step"], dtype=int)[keep],
        np.array(tasks["chunk"], dtype=int)[keep],
        np.array(tasks["seconds"], dtype=float)[keep],
    )


def _is_of_piece(data: Record) -> NDArray[np.bool_]:
    """Tell tasks of chunks or parts from those of the image as a whole."""
    names = np.array([name in _OF_THE_IMAGE for name in data["steps"]], dtype=bool)
    step = np.array(data["tasks"]["step"], dtype=int)
    chunk = np.array(data["tasks"]["chunk"], dtype=int)
    if not len(step):
        return np.zeros(0, dtype=bool)
    result: NDArray[np.bool_] = ~names[step] & (chunk < number_of_pieces(data))
    return result
