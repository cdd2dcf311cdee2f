# SPDX-License-Identifier: GPL-3.0-or-later
"""What shows how far a run has come: which lines are due, which bar, how much time is left, and
what then stands on a real terminal. Times are made up, but for real runs, which are not timed.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import pexpect
import pytest
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from ptclean import DaskClusterManager, ptclean, terminal
from ptclean.errors import ParameterError
from ptclean.reporting import progress
from ptclean.reporting.events import Cycle, Phase, Task
from ptclean.reporting.progress import Bar, TimeLeft, chosen
from ptclean.reporting.story import SECONDS_BETWEEN_LINES, Tenths
from ptclean.steps import Outcome

CUBE: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 64,
    "cell": "0.15arcsec",
    "start": 4,
    "nchan": 6,
    "weighting": "briggs",
    "niter": 100,
    "threshold": "20mJy",
}


def outcome(seconds: float) -> Outcome:
    return Outcome(None, seconds, 2**20, [], "worker-0", 1)


@given(st.integers(1, 500))
def test_a_line_is_due_for_each_tenth(total: int) -> None:
    """Where each task takes its time; the last line is another."""
    tenths = Tenths(total, 0.0)
    due = [n for n in range(1, total + 1) if tenths.is_due(n, n * SECONDS_BETWEEN_LINES)]
    assert len(due) == min(total, 10) - 1
    assert due == sorted({-(-total * tenth // 10) for tenth in range(1, 10)} - {total})


def test_lines_are_not_due_more_often_than_they_can_be_read() -> None:
    tenths = Tenths(100, 0.0)
    step = SECONDS_BETWEEN_LINES / 50
    assert [n for n in range(1, 101) if tenths.is_due(n, n * step)] == [50]


def test_time_left_is_that_of_the_last_cycle() -> None:
    left = TimeLeft(nworkers=2)
    costs = {("major", 0): 10, ("major", 1): 10, ("major", 2): 10, ("major", 3): 10}
    left.start(costs, now=0.0)
    assert left.seconds(0.0) is None
    left.done("major", 0, 8.0, now=8.0)
    # 8 s for a cost of 10; three of them on two workers.
    assert left.seconds(8.0) == pytest.approx(12.0)
    assert left.seconds(9.0) == pytest.approx(11.0)
    for index, seconds in ((1, 2.0), (2, 2.0), (3, 4.0)):
        left.done("major", index, seconds, now=10.0)
    assert left.seconds(10.0) == 0.0
    left.start({("major", 3): 10}, now=20.0)
    assert left.seconds(20.0) == pytest.approx(4.0)
    left.start(costs, now=30.0)
    assert left.seconds(30.0) == pytest.approx(8.0)
    assert left.seconds(100.0) == 0.0


@pytest.mark.parametrize("mode", ["auto", "bar", "lines", "off"])
@pytest.mark.parametrize("notebook", [False, True])
@pytest.mark.parametrize("casashell", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_bar_that_is_chosen(mode: str, notebook: bool, casashell: bool, terminal: bool) -> None:
    bar = chosen(mode, terminal=terminal, notebook=notebook, casashell=casashell)
    if mode in ("lines", "off"):
        assert bar is None
    elif notebook:
        assert bar == "notebook"
    elif mode == "bar" or (terminal and not casashell):
        assert bar == "text"
    else:
        assert bar is None


@pytest.mark.parametrize(
    ("value", "mode"),
    [
        ("auto", "auto"),
        (False, "off"),
        ("off", "off"),
        ("bar", "bar"),
    ],
)
def test_configuration(value: Any, mode: str) -> None:
    with dask.config.set({"ptclean.progress": value}):
        assert progress.mode() == mode


def test_configuration_that_is_not_known(line_ms: str, tmp_path: Path) -> None:
    with (
        dask.config.set({"ptclean.progress": "fancy"}),
        pytest.raises(ParameterError, match=r"ptclean.progress='fancy'.*auto, bar, lines or off"),
    ):
        ptclean(line_ms, imagename=str(tmp_path / "cube"), **CUBE)
    assert not list(tmp_path.iterdir())


def test_bar_says_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    now = [0.0]
    bar = Bar(progress._bar_class("text"), nworkers=2, clock=lambda: now[0])
    bar.cycle_done(Cycle(2, 50, 0.1, 0.02, 0.138))
    tasks = tuple(Task("major", index, 3) for index in range(4))
    phase = Phase("major cycle", tasks, 5, 3)
    bar.phase_started(phase)
    for task in tasks[:2]:
        now[0] += 30
        bar.task_done(task, outcome(60.0))
    bar._bar.refresh()
    drawn = screen.getvalue().split("\r")[-1]
    assert drawn.startswith("ptclean: major cycle 3 ")
    assert "2/4 chunks" in drawn
    assert "01:00 left" in drawn
    assert "peak 0.138, threshold 0.02 Jy" in drawn
    with terminal.bars_aside():
        print("something else", file=sys.stderr)
    # The bar was wiped before the line, and drawn again after it.
    assert re.search(r"\r *\rsomething else\n\r?ptclean: major", screen.getvalue())
    bar.phase_ended(phase, 1.0)
    bar.close()
    assert re.search(r"\r *\r$", screen.getvalue()), "the bar stays on the screen"


def test_no_bar_where_the_output_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stderr in (closed, None):
        monkeypatch.setattr(sys, "stderr", stderr)
        assert not terminal.is_terminal()
        if stderr is None:
            with terminal.bars_aside():
                pass


# In real terminals.


def on_terminal(command: list[str], folder: Path) -> str:
    """Return what a command writes to a terminal of 120 columns."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}
    child = pexpect.spawn(
        command[0],
        command[1:],
        cwd=str(folder),
        env=environ,
        dimensions=(40, 120),
        timeout=240,
        encoding="utf-8",
    )
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, child.before
    return child.before or ""


def script(folder: Path, line_ms: str, **extra: Any) -> str:
    path = folder / "image.py"
    arguments = CUBE | {"nworkers": 2, "chanchunks": 2} | extra
    path.write_text(
        "from ptclean import ptclean\n"
        f"ptclean({line_ms!r}, imagename='cube', **{arguments!r})\n"
        "print('The script goes on')\n"
    )
    return str(path)


def left_on_screen(text: str) -> list[str]:
    """Lines that stay: what was wiped by spaces, or overwritten, does not."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        shown: list[str] = []
        for part in line.split("\r"):
            shown[: len(part)] = part
        lines.append("".join(shown).strip())
    # The user's own data may be out of date, of which CASA warns.
    return [line for line in lines if line and "\tSEVERE\t" not in line]


def test_bars_come_and_go_on_a_terminal(line_ms: str, tmp_path: Path) -> None:
    text = on_terminal([sys.executable, script(tmp_path, line_ms)], tmp_path)
    for phase in ("PSF and residual", "minor cycle 1", "major cycle 1", "restoring", "assembling"):
        assert f"ptclean: {phase} " in text
    assert "3/3 chunks" in text
    assert re.search(r"\d\d:\d\d left, peak [0-9.]+, threshold 0.02 Jy", text)
    assert left_on_screen(text) == ["The script goes on"]


def test_casas_shell_has_lines_in_the_log_alone(line_ms: str, tmp_path: Path) -> None:
    pytest.importorskip("casashell")
    shell = [sys.executable, "-m", "casashell", "--nologger", "--logfile", "shell.log"]
    text = on_terminal([*shell, "-c", script(tmp_path, line_ms)], tmp_path)
    assert "The script goes on" in text
    assert "ptclean:" not in text
    assert "Minor cycle 1: " in (tmp_path / "shell.log").read_text()


def test_dashboard_and_names_of_tasks(
    line_ms: str,
    tmp_path: Path,
    log: Callable[[], str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """On a cluster that has a dashboard, whoever looks at it finds chunks and cycles there."""
    with Client(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
        with dask.config.set({"ptclean.progress": "bar"}):
            ptclean(line_ms, imagename=str(tmp_path / "cube"), chanchunks=2, **CUBE)
        assert (
            f"Dask's dashboard shows the workers and their tasks: {client.dashboard_link}" in log()
        )
        assert client.dashboard_link in capfd.readouterr().err
        transitions = list(client.cluster.scheduler.transition_log)
    keys = [str(key) for key, _, finish, *_ in transitions if finish == "memory"]
    assert len(set(keys)) == len(keys)
    names = [key.rpartition("-")[0] for key in keys]
    for name in ("begin-1-chunk-0000", "minor-1-chunk-0002", "major-1-chunk-0001", "assemble-00"):
        assert names.count(name) == 1
    assert len([name for name in names if name.startswith("minor-2-")]) in (0, 3)


def test_nothing_of_it_where_it_is_off(
    line_ms: str,
    cluster: DaskClusterManager,
    tmp_path: Path,
    log: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ptclean.reporting.story.SECONDS_BETWEEN_LINES", 0.0)
    said = {}
    for value in ("lines", "off"):
        before = len(log()) if said else 0
        with dask.config.set({"ptclean.progress": value}):
            ptclean(line_ms, imagename=str(tmp_path / value), nworkers=2, chanchunks=1, **CUBE)
        said[value] = log()[before:]
        assert "ptclean:" not in capfd.readouterr().err.replace("ptclean::", "")
    assert said["lines"].count("Phase PSF and residual: ") == 6
    assert "Phase PSF and residual: 5 of 6 chunks done" in said["lines"]
    assert said["off"].count("Phase PSF and residual: ") == 1
    assert "Minor cycle 1: " in said["off"]
    assert "Dask's dashboard" not in log(), "workers of our own have none"
