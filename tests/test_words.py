# SPDX-License-Identifier: GPL-3.0-or-later
"""ptclean says what tclean says: the same values are taken, and the same ones refused in the same
words, over thousands of calls of both tasks.

Both are called as users call them. What each would do with the values that it has taken is replaced
at the place where CASA's own wrapper hands them to the task's function, which remembers them.
Covers what a task says by itself, without data; what it says of data is in ``test_bad_input.py``.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import casatasks
import numpy as np
import pytest

from ptclean import ptclean
from ptclean.call.description import load

DESCRIPTION = load()
DEFAULTS = {p.name: p.default for p in inspect.signature(casatasks.tclean).parameters.values()}
NAMES = list(DEFAULTS)

Arguments = dict[str, Any]
Verdict = tuple[str, Any]
Judge = Callable[..., Verdict]

#: Values of any kind, good and bad.
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 7, 10**20, 0.0, 2.5, -0.5, float("nan"), float("inf"), 1j),
    *("", " ", "5", "mfs", "none", "1arcsec", "one.ms", "héllo\n", "a'b", b"mfs", Decimal("1.5")),
    *([], [5], [2.5], [5, 2.5], ["a"], ["a", ""], ["5", 5], [None], [True], [[5]], [["a"]], [{}]),
    *((), (5,), (5, 6), ("a",), (2.5, "a"), {}, {"a": 1}, {5}, frozenset(), range(3)),
    *(np.int32(5), np.int64(5), np.uint8(5), np.float32(2.5), np.float64(2.5), np.bool_(True)),
    *(np.str_("mfs"), np.array(5), np.array([]), np.array([5, 6]), np.array([2.5])),
    *(np.array(["a"]), np.array([True]), np.array([[5]]), object, len),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a folder with two names that exist."""
    monkeypatch.chdir(tmp_path)
    for name in ("one.ms", "two.ms"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def judges(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Judge, Judge]:
    """Functions that call tclean and ptclean, and return what each said."""
    taken: list[Arguments] = []

    def work(*values: Any) -> None:
        taken.append(dict(zip(NAMES, values, strict=True)))

    # The log of thousands of calls is of no interest.
    wrapper = casatasks.tclean.__call__.__globals__
    monkeypatch.setitem(wrapper, "_tclean_t", work)
    for name in ("_start_log", "_end_log", "_except_log"):
        monkeypatch.setitem(wrapper, name, lambda *_: None)
    for name in ("start_log", "end_log", "except_log"):
        monkeypatch.setattr(f"ptclean.call.task.{name}", lambda *_: None)
    monkeypatch.setattr(ptclean, "_run", taken.append)

    def judge(task: Any) -> Judge:
        def call(*args: Any, **kwargs: Any) -> Verdict:
            taken.clear()
            try:
                task(*args, **kwargs)
            except Exception as error:
                return type(error).__name__, str(error).replace("_ptclean.", "_tclean.")
            (values,) = taken
            return "taken", [(name, exact(values[name])) for name in NAMES]

        return call

    return judge(casatasks.tclean), judge(ptclean)


def exact(value: Any) -> Any:
    """Return a value with the types of all that it holds, since 5 == 5.0 == True."""
    if isinstance(value, list | tuple):
        return type(value), [exact(one) for one in value]
    return type(value), repr(value)


def assert_same(judges: tuple[Judge, Judge], *args: Any, **kwargs: Any) -> Verdict:
    """Assert that both say the same of a call, and return it."""
    expected, found = (judge(*args, **kwargs) for judge in judges)
    assert found == expected, f"{args} {kwargs}"
    return expected


def assert_same_for_each(judges: tuple[Judge, Judge], arguments: Arguments) -> tuple[int, int]:
    """Assert that both say the same of each of many arguments, in two calls.

    The first is refused with what is wrong with each parameter; the second has the others.

    Returns
    -------
    int, int
        How many values were taken, and refused.
    """
    kind, text = assert_same(judges, vis="one.ms", **arguments)
    if kind == "taken":
        return len(arguments), 0
    assert kind == "AssertionError"
    refused = set(ast.literal_eval(text))
    good = {name: value for name, value in arguments.items() if name not in refused}
    assert assert_same(judges, vis="one.ms", **good)[0] == "taken"
    return len(good), len(refused)


def limits(name: str) -> list[Any]:
    """Return the values that a parameter may have, and those at its bounds and beyond."""
    (parameter,) = (p for p in DESCRIPTION.parameters if p.name == name)
    values = [*parameter.allowed, *(str(value).swapcase() for value in parameter.allowed)]
    for bound in (parameter.minimum, parameter.maximum):
        if bound is not None:
            values += [bound, int(bound), np.nextafter(bound, -9), np.nextafter(bound, 9), -bound]
    return values


def test_every_parameter_with_every_kind_of_value(judges: tuple[Judge, Judge]) -> None:
    counts = [assert_same_for_each(judges, dict.fromkeys(NAMES[1:], value)) for value in VALUES]
    taken, refused = (sum(each) for each in zip(*counts, strict=True))
    assert taken + refused == len(VALUES) * (len(NAMES) - 1) > 5000
    assert min(taken, refused) > 1000


def test_values_at_the_limits(judges: tuple[Judge, Judge]) -> None:
    for values in itertools.zip_longest(*map(limits, NAMES[1:])):
        given = zip(NAMES[1:], values, strict=True)
        assert_same_for_each(judges, {name: value for name, value in given if value is not None})


def test_values_of_any_kind_together(judges: tuple[Judge, Judge]) -> None:
    choose = random.Random(92)
    for _ in range(25):
        assert_same_for_each(judges, {name: choose.choice(VALUES) for name in NAMES[1:]})


def test_one_or_two_parameters_at_a_time(judges: tuple[Judge, Judge]) -> None:
    choose = random.Random(93)
    kinds = set()
    for number in [1, 2] * 25:
        names = choose.sample(NAMES[1:], number)
        given = {name: choose.choice(VALUES + limits(name)) for name in names}
        kinds.add(assert_same(judges, vis="one.ms", **given)[0])
    assert kinds == {"taken", "AssertionError"}


def test_positional_arguments(judges: tuple[Judge, Judge]) -> None:
    """Defaults in their places, one of them changed; and some given by name, or twice."""
    choose = random.Random(94)
    kinds = set()
    for _ in range(60):
        values = ["one.ms", *list(DEFAULTS.values())[1 : choose.randint(1, len(NAMES))]]
        place = choose.randrange(len(values))
        if place:
            values[place] = choose.choice(VALUES)
        later = NAMES[len(values) :] if choose.random() < 0.9 else NAMES
        names = choose.sample(later, min(len(later), 2))
        kinds.add(assert_same(judges, *values, **{name: DEFAULTS[name] for name in names})[0])
    assert kinds == {"taken", "AssertionError", "TypeError"}


VIS = [
    *("one.ms", "./one.ms", "/nowhere.ms", "~/nowhere.ms", "nowhere.ms", "", "one.ms,two.ms", "*"),
    *(["one.ms"], ["one.ms", "two.ms"], ["one.ms", "nowhere.ms"], ["nowhere.ms", "one.ms"]),
    *(("one.ms", "two.ms"), [["one.ms"]], ["one.ms", ["two.ms"]], ["one.ms", ""], ["one.ms", None]),
    *(np.array(["one.ms"]), np.array(["one.ms", "nowhere.ms"]), {"one.ms"}, {"one.ms": 1}),
    *(Path("one.ms"), b"one.ms", None, 5, [5], [], [""], (), True, np.str_("one.ms"), "one.ms/"),
    *("one.ms\0", "$HOME", ["one.ms"] * 3),
]


@pytest.mark.parametrize("vis", VIS, ids=repr)
def test_measurement_sets(judges: tuple[Judge, Judge], vis: Any) -> None:
    assert_same(judges, vis=vis)
    assert_same(judges, vis=vis, niter="ten", specmode="cubee")


@pytest.mark.parametrize(
    "arguments",
    [
        {"interactive": 0},
        {"interactive": 1},
        {"niter": None},
        {"startmodel": None},
        {"mask": None},
        {"usemask": None},
        {"psfphasecenter": None},
        {"weighting": "robust"},
        {"specmode": "mtmfs"},
        {"niter": 100.0},
        {"imsize": [128.0, 128]},
        {"nchan": "5"},
        {"imagermode": "mosaic"},
        {"mode": "velocity"},
        {"niter": "ten", "specmode": "cubee", "robust": 3, "cell": None},
    ],
    ids=repr,
)
def test_what_recipes_give_and_tclean_refuses(
    judges: tuple[Judge, Judge], arguments: Arguments
) -> None:
    assert assert_same(judges, vis="one.ms", **arguments)[0] != "taken"


def test_unknown_words(judges: tuple[Judge, Judge]) -> None:
    """Each name with a letter less, with one more, and in other letters.

    Some Pythons propose a word that is like it; ours are among those that they may propose.
    """
    words = [word for name in NAMES for word in (name[:-1], name + "s", name.swapcase())]
    for word in words:
        if word not in DEFAULTS:
            assert assert_same(judges, vis="one.ms", **{word: 1})[0] == "TypeError"
    assert_same(judges, "one.ms", vis="one.ms")
    assert_same(judges, self=1)
