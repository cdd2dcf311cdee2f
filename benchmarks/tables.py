# SPDX-License-Identifier: GPL-3.0-or-later
"""Write ``docs/benchmarks.md``, and its plot, from the results of ``benchmarks/compare.py``.

python benchmarks/tables.py
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from compare import CASES, RESULTS, ROOT, pairs, ratios, spread

_NAMES = {"tclean": "tclean", "pclean": "casa-pclean", "mpi": "tclean, mpicasa with 2 servers"}

_HEAD = """\
# Benchmarks

Measured by `make bench` on {machines}, with {versions}.
Each run is a process of its own, and engines take turns; a figure is the median of the ratios
within a round, with the smallest and the largest of them. *Session* is the time of the whole
process, *call* that of the task. All have one OpenMP thread a process. The images are compared
in the same rounds; *leave* is the largest residual that an engine stopped at. ptclean alone waits
for its images to be on disk. Where ptclean's commit is told, each run began with nothing left to be
written; in the other rounds, which are older, ptclean came last, and waited for what the others had
left as well.

casa-pclean is told the frequency at which the cube starts and the width of its channels, since it
otherwise images the first chunk's channels in each chunk (version 0.2.3, casatools 6.7.0.31); of
several chunk sizes it has the fastest, except for the small cube, which is cut in two. With
auto-multithresh it stops early, most often before its first minor cycle, with an empty mask, so
that its time is not given.

![How many times as fast ptclean was as others](benchmarks.png)

*Sessions: the bar is the median, the line from the smallest to the largest ratio of a round.*

| case | against | session: times as fast | call: times as fast | to reach | its images | measured |
|---|---|---|---|---|---|---|
"""


def name_of(result: dict[str, Any], kind: str) -> str:
    """Say what ptclean was compared with."""
    chunk = result.get("chunk_of_pclean")
    return _NAMES[kind] + f", {chunk} channels a chunk" * (kind == "pclean" and chunk is not None)


def others(result: dict[str, Any]) -> list[str]:
    """Engines that ptclean was compared with, always in the same order."""
    return [kind for kind in _NAMES if kind in result["times"]]


def row(result: dict[str, Any], kind: str) -> str:
    """One line of the table."""

    def figure(which: str) -> str:
        return spread(ratios(result["times"], kind, which), mark="**")

    case = CASES[result["case"]]
    images = result["images"]
    said = "; ".join(images["ptclean" if kind == "tclean" else kind])
    goal = case.goal if kind == "tclean" else "1.00"
    if case.slack and kind == "tclean":
        longer = [ours - other for other, ours in pairs(result["times"], kind, "session")]
        goal += f": {spread(longer, 1, ' s', '**')}"
    rounds = len(result["times"]["ptclean"])
    measured = result["when"] + (f", {result['commit']}" if "commit" in result else "")
    return (
        f"| {result['says']} ({rounds} rounds) | {name_of(result, kind)} | {figure('session')} | "
        f"{figure('call')} | {goal} | {said} | {measured} |"
    )


def plot(results: Sequence[dict[str, Any]]) -> None:
    """Draw the ratios of sessions, one bar for each case and engine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [
        (f"{each['case']}, {name_of(each, kind)}", ratios(each["times"], kind, "session"))
        for each in results
        for kind in others(each)
    ]
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.35 * len(bars)), layout="constrained")
    for place, (_, each) in enumerate(bars):
        axes.barh(place, statistics.median(each), color="#4477aa", height=0.6)
        axes.plot([min(each), max(each)], [place, place], color="black")
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times as fast")
    figure.savefig(ROOT / "docs" / "benchmarks.png", dpi=100)


def main() -> None:
    """Write the page."""
    results = [
        json.loads(path.read_text())
        for name in CASES
        for path in (RESULTS / f"{name}.json", RESULTS / f"{name}.others.json")
        if path.is_file()
    ]
    if not results:
        raise SystemExit(f"there are no results in {RESULTS}; python benchmarks/compare.py")
    machines = {
        f"{each['machine']['cores']} cores of {each['machine']['processor']}" for each in results
    }
    versions = {
        f"casatools {each['versions']['casatools']} and Dask {each['versions']['dask']}"
        for each in results
    }
    text = _HEAD.format(
        machines=" and ".join(sorted(machines)), versions=", or ".join(sorted(versions))
    )
    plot(results)
    rows = [row(each, kind) for each in results for kind in others(each)]
    (ROOT / "docs" / "benchmarks.md").write_text(text + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
