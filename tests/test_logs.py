# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user reads of a run: the story once, in one log, and nothing that drowns it."""

from __future__ import annotations

import math
import os
import random
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ptclean import DaskClusterManager, logs, ptclean, report
from ptclean.logs import LogLine
from ptclean.reporting.events import Cycle, Loss, Phase, Task, cycle_of
from ptclean.reporting.story import MESSAGES_OF_AN_ORIGIN, Story, describe_cycle
from ptclean.steps import Outcome
from ptclean.workers.losses import Losses

CUBE: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 64,
    "cell": "0.15arcsec",
    "start": 4,
    "nchan": 6,
    "weighting": "briggs",
    "niter": 300,
    "threshold": "20mJy",
}


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    lines: list[tuple[str, str, str]] = []
    monkeypatch.setattr(logs, "post", lambda m, p="INFO", o="": lines.append((m, p, o)))
    return lines


def outcome(worker: str, *warnings: LogLine) -> Outcome:
    return Outcome(None, 1.0, 2**20, list(warnings), worker, 1)


def task(index: int = 0) -> Task:
    return Task("major", index, 1)


def test_what_all_workers_say_is_repeated_once(posted: list[tuple[str, str, str]]) -> None:
    story = Story(said=[LogLine("WARN", "old::news", "known to the user")])
    for i in range(100):
        story.task_done(
            task(i),
            outcome(
                f"worker-{i % 7}",
                LogLine("SEVERE", "tables::open", "the same\nin two lines"),
                LogLine("WARN", "old::news", "known to the user"),
                LogLine("WARN", "grid::ft", f"channel {i} is odd"),
            ),
        )
    assert posted.count(("the same\nin two lines", "SEVERE", "worker-0::tables::open")) == 1
    assert Counter(origin.partition("::")[2] for _, _, origin in posted) == {
        "tables::open": 1,
        "grid::ft": MESSAGES_OF_AN_ORIGIN,
    }
    posted.clear()
    story.close()
    assert sorted(line for line, _, _ in posted) == [
        "90 more warnings of grid::ft are in the workers' logs",
        "Said 100 times, also by 7 workers, and logged once: the same",
        "Said 101 times, also by 7 workers, and logged once: known to the user",
    ]


def test_lines_of_a_cycle() -> None:
    line = describe_cycle(Cycle(3, 220, 0.0486, 0.02, 0.0489, gridded=(0, 1), total=5), losses=2)
    assert line == (
        "Minor cycle 3: 220 iterations down to a cyclethreshold of 0.0486 Jy/beam; peak residual "
        "0.0489 Jy/beam, threshold 0.02; 3 of 5 chunks did not change and were left out; 2 tasks "
        "done again"
    )
    assert describe_cycle(Cycle(0, 0, 0.0, 0.02, 1.5)) == (
        "Before the first minor cycle: peak residual 1.5 Jy/beam, threshold 0.02"
    )


def test_lines_of_phases_and_losses(posted: list[tuple[str, str, str]]) -> None:
    story = Story()
    story.worker_lost(Loss("worker-1", ("major-2-chunk-0003", "major-2-chunk-0004"), 0.0))
    story.worker_lost(Loss("worker-2", (), 0.0))
    story.phase_ended(Phase("major cycle", (task(0), task(1)), 5, 2), 1.25)
    story.phase_ended(Phase("assembling", (task(0), task(1)), 2, unit="products"), 0.5)
    assert [(line, priority) for line, priority, _ in posted] == [
        ("worker-1 was lost; done again: major-2-chunk-0003, major-2-chunk-0004", "WARN"),
        ("worker-2 was lost", "WARN"),
        ("Phase major cycle 2: 2 of 5 chunks, 1.2 s", "INFO"),
        ("Phase assembling: 2 products, 0.5 s", "INFO"),
    ]


def test_cycle_of_several_planes() -> None:
    """A channel's peak is the largest of its planes, its iterations are the sum of theirs."""
    records = [
        {"iterdone": 6, "summaryminor": [[1, 2, 3, 0], [0.4, 0.5, 0.1, 0.2], [9, 9, 9, 9]]},
        {"iterdone": 9, "summaryminor": [[4, 5], [0.7, 0.6], [9, 9]]},
    ]
    cycle = cycle_of(1, {"cyclethreshold": 0.8}, records, threshold=0.1, peak=0.9, planes=2)
    assert cycle.iterations == 15
    assert cycle.channel_iterations == (3, 3, 9)
    assert cycle.channel_peaks == (0.5, 0.2, 0.7)


class _Scheduler:
    """Stands for a client: the events of a scheduler that another run uses as well."""

    def __init__(self) -> None:
        self.events: list[tuple[float, dict[str, Any]]] = []
        self.reachable = True

    def get_events(self, topic: str) -> tuple[tuple[float, dict[str, Any]], ...]:
        assert topic == "all"
        if not self.reachable:
            raise OSError("the scheduler is gone")
        return tuple(self.events)

    def remove(self, when: float, worker: str, *tasks: str, expected: bool = False) -> None:
        self.events.append(
            (
                when,
                {
                    "action": "remove-worker",
                    "worker": worker,
                    "processing-tasks": set(tasks),
                    "expected": expected,
                },
            )
        )


def test_losses_are_those_of_the_run() -> None:
    scheduler = _Scheduler()
    losses = Losses(scheduler)  # type: ignore[arg-type]
    assert losses.new() == []
    assert not losses.see({"a": "tcp://1", "b": "tcp://2"})
    losses.watch("major-1-chunk-0000-abc", "tcp://1")
    losses.watch("major-1-chunk-0001-abd", "tcp://2")
    scheduler.events.append((0.0, {"action": "add-worker", "worker": "tcp://9"}))
    scheduler.remove(1.0, "tcp://7", "somebody-else's")
    scheduler.remove(2.0, "tcp://1", "major-1-chunk-0000-abc", "somebody-else's")
    scheduler.remove(3.0, "tcp://2", expected=True)
    assert losses.see({"a": "tcp://3", "b": "tcp://2"})
    assert losses.new() == [Loss("a", ("major-1-chunk-0000",), 2.0)]
    assert losses.new() == []
    scheduler.remove(4.0, "tcp://2")
    scheduler.reachable = False
    assert losses.new() == [], "what cannot be told must not end the run"
    scheduler.reachable = True
    assert losses.new() == [Loss("b", (), 4.0)]


def own_lines(text: str) -> list[str]:
    """Messages of ptclean in a log, without CASA's own."""
    return [
        line.message for line in logs.parse(text) if line.origin.strip().startswith("ptclean::::")
    ]


def test_story_is_told_once(
    line_ms: str,
    cluster: DaskClusterManager,
    tmp_path: Path,
    log: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each line is there as often as what it tells of has happened."""
    # However slow the machine is, no line says how far a phase has come.
    monkeypatch.setattr("ptclean.reporting.story.SECONDS_BETWEEN_LINES", math.inf)
    result = ptclean(line_ms, imagename=str(tmp_path / "cube"), nworkers=2, chanchunks=2, **CUBE)
    lines = own_lines(log())
    cycles = result["nmajordone"] - 1
    expected = {
        r"#####.*Begin Task: ptclean": 1,
        r"ptclean\( vis=": 1,
        r"chunks  3 of 2 channels": 1,
        r"Phase PSF and residual: 3 chunks, [\d.]+ s$": 1,
        r"Before the first minor cycle: peak residual": 1,
        r"Minor cycle \d+: \d+ iterations down to a cyclethreshold": cycles,
        r"Phase minor cycle \d+: 3 chunks, [\d.]+ s$": cycles,
        r"Phase major cycle \d+: ": cycles,
        r"Phase restoring: 3 chunks": 1,
        r"Phase assembling: 7 products, [\d.]+ s$": 1,
        r"Task ptclean complete. Start time: .* End time: ": 1,
        r"#####.*End Task: ptclean": 1,
    }
    for pattern, count in expected.items():
        found = [line for line in lines if re.match(pattern, line)]
        assert len(found) == count, (pattern, lines)
    iterations = [int(m[1]) for line in lines if (m := re.match(r"Minor cycle \d+: (\d+) ", line))]
    assert sum(iterations) == result["iterdone"]
    # Besides: the rest of the plan, frames of the task, parameters that are verified.
    assert len(lines) <= sum(expected.values()) + 12, lines


def test_terminal_is_left_alone_and_logs_are_found(line_ms: str, tmp_path: Path) -> None:
    """A script without input, whose output is a file: it says nothing, the log names all."""
    arguments = CUBE | {"nworkers": 2, "chanchunks": 2, "imagename": "cube"}
    script = f"from ptclean import ptclean; ptclean({line_ms!r}, **{arguments!r})"
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" <&-', sys.executable, script],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout == ""
    # Only CASA's own complaints about the user's data come through, those of workers once.
    complaints = [line for line in done.stderr.splitlines() if "\tSEVERE\t" in line]
    assert done.stderr.splitlines() == complaints
    assert len(set(complaints)) == len(complaints)
    (path,) = tmp_path.glob("casa*.log")
    match = re.search(r"their logs are in (\S+), each in a file of its name", path.read_text())
    assert match
    assert sorted(each.name for each in Path(match[1]).glob("worker-*.log")) == [
        "worker-0.log",
        "worker-1.log",
    ]
    data = report(str(tmp_path / "cube")).data
    assert set(data["logs"].values()) == {f"{match[1]}/worker-{i}.log" for i in (0, 1)}
    # The workers' own output, Dask's loggers among it, stays in their files.
    assert "distributed" in (Path(match[1]) / "worker-0.out").read_text()
    assert "distributed" not in path.read_text()


def test_lost_worker_is_told_and_reported(
    line_ms: str, tmp_path: Path, log: Callable[[], str], capfd: pytest.CaptureFixture[str]
) -> None:
    choose = random.Random(5921)
    killed: list[int] = []
    over = threading.Event()

    def kill_one_at_work() -> None:
        while not over.wait(0.05) and not list(tmp_path.glob("cube.ptclean/attempt-*/chunk-*")):
            pass
        while not over.wait(0.1) and not killed:
            workers = [
                process
                for process in psutil.Process().children(recursive=True)
                if any("spawn_main" in word for word in process.cmdline())
            ]
            victim = choose.choice(workers)
            victim.kill()
            killed.append(victim.pid)

    thread = threading.Thread(target=kill_one_at_work)
    thread.start()
    try:
        ptclean(line_ms, imagename=str(tmp_path / "cube"), nworkers=2, chanchunks=1, **CUBE)
    finally:
        over.set()
        thread.join()
    assert killed
    told = [line for line in logs.parse(log()) if "was lost" in line.message]
    assert len(told) == 1
    assert told[0].priority == "WARN"
    assert re.match(r"worker-[01] was lost", told[0].message)
    data = report(str(tmp_path / "cube")).data
    (loss,) = data["losses"]
    assert told[0].message.startswith(loss["worker"])
    assert all(name in told[0].message for name in loss["tasks"])
    assert "distributed" not in capfd.readouterr().err
