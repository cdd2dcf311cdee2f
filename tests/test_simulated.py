# SPDX-License-Identifier: GPL-3.0-or-later
"""The hours of the simulated measurement sets.

Modules run in one process in any order, and tclean's last digits depend on what a process imaged
before in the same hour (:mod:`simulated`).
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from simulate_ms import SIDEREAL_DAY

#: Hours between the observations of two modules; the observations themselves take minutes.
APART = 1.1


def hours(module: Path) -> dict[str, float]:
    """Hours from the first transit of each call of `simulate`, by its place in the module."""
    found = {}
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "simulate":
                given = {word.arg: word.value for word in node.keywords}
                zero = ast.Constant(0)
                day, hour = (ast.literal_eval(given.get(n, zero)) for n in ("day", "hour"))
                found[f"{module.name}:{node.lineno}"] = day * SIDEREAL_DAY / 3600 + hour
    return found


def too_close(modules: list[dict[str, float]]) -> list[str]:
    """Places, in pairs, of observations of different modules in the same hour."""
    return [
        f"{place} and {other}"
        for i, module in enumerate(modules)
        for later in modules[i + 1 :]
        for place, hour in module.items()
        for other, another in later.items()
        if abs(hour - another) < APART
    ]


def test_each_module_has_hours_of_its_own() -> None:
    tests = Path(__file__).parent
    # These simulate on a day of their own, by another default.
    modules = sorted(set(tests.glob("*.py")) - {tests / "test_simulate.py"})
    found = [hours(module) for module in modules]
    assert sum(map(len, found)) > 20
    assert not too_close(found)


@pytest.mark.parametrize(("second", "close"), [(2.5, 1), (2.4 + APART, 0), (-2.4, 0)])
def test_close(second: float, close: int) -> None:
    assert len(too_close([{"a:1": 2.4, "a:2": 2.4}, {"b:1": second}])) == 2 * close
