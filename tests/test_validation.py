# SPDX-License-Identifier: GPL-3.0-or-later
"""Verdicts, converted values and error texts are those of casatasks' own tclean."""

import ast
import inspect
import sys
from concurrent.futures import ThreadPoolExecutor

import casatasks
import numpy as np
import pytest

from ptclean.call.description import Parameter, TaskDescription, load
from ptclean.call.validation import schema, validate

DESCRIPTION = load()
STOCK_DEFAULTS = {
    p.name: p.default for p in inspect.signature(casatasks.tclean).parameters.values()
}
OWN_DEFAULTS = {p.name: p.default for p in DESCRIPTION.parameters[len(STOCK_DEFAULTS) :]}
LIMITED = [
    p
    for p in DESCRIPTION.parameters
    if p.name in STOCK_DEFAULTS and (p.allowed or p.minimum is not None or p.maximum is not None)
]


@pytest.fixture
def vis(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.ms").mkdir()
    (tmp_path / "two.ms").mkdir()
    return "one.ms"


@pytest.fixture
def stock(monkeypatch):
    """Return a function that gives the arguments as tclean's own wrapper lets them through.

    The wrapper is CASA's and runs as it is; only what it would call next is replaced, by a
    function that remembers its arguments.
    """
    seen = []
    monkeypatch.setitem(
        casatasks.tclean.__call__.__globals__, "_tclean_t", lambda *values: seen.append(values)
    )

    def validated(arguments):
        casatasks.tclean(**arguments)
        return dict(zip(STOCK_DEFAULTS, seen.pop(), strict=True))

    return validated


def ours(arguments):
    checked = validate(DESCRIPTION, STOCK_DEFAULTS | OWN_DEFAULTS | arguments)
    return {name: checked[name] for name in STOCK_DEFAULTS}


def exact(value):
    """Return a value with the types of all that it holds, since 5 == 5.0 == True."""
    if isinstance(value, list | tuple):
        return type(value), [exact(one) for one in value]
    return type(value), repr(value)


def outcome(function, arguments):
    try:
        return {name: exact(value) for name, value in function(arguments).items()}
    except Exception as error:
        return type(error), str(error)


def refused(result):
    """Return the names of the parameters that an error text complains about."""
    return set() if isinstance(result, dict) else set(ast.literal_eval(result[1]))


ODD_VALUES = [
    None,
    True,
    np.True_,
    0,
    5,
    -3,
    10**20,
    2.5,
    float("nan"),
    1 + 2j,
    np.int32(5),
    np.int64(5),
    np.uint8(5),
    np.float32(2.5),
    np.float64(2.5),
    "",
    "mfs",
    "1arcsec",
    "héllo\n",
    np.str_("mfs"),
    b"mfs",
    [],
    [5],
    [2.5],
    [5, 2.5],
    [5, "1arcsec"],
    ["mfs"],
    ["mfs", ""],
    [None],
    [True],
    [np.int64(5), np.float32(2.5)],
    [[5]],
    (5, 6),
    ("mfs",),
    {},
    {"a": 1},
    {5},
    range(3),
    np.array([5, 6]),
    np.array([5, 6], dtype=np.int32),
    np.array([2.5, 3.5]),
    np.array([2.5], dtype=np.float32),
    np.array(["mfs"]),
    np.array([True]),
    np.array(5),
    np.array([]),
    object,
    len,
]


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda v: f"{type(v).__name__}-{v!r}")
def test_verdict_on_an_odd_value_is_tcleans_for_every_parameter(stock, vis, value):
    # First all parameters at once: the error names each that does not take the value.
    # Then the value for all the others, to compare what it is converted to.
    everything = {**dict.fromkeys(STOCK_DEFAULTS, value), "vis": vis}
    expected = outcome(stock, everything)
    assert outcome(ours, everything) == expected

    accepted = {n: v for n, v in everything.items() if n not in refused(expected)}
    expected = outcome(stock, accepted)
    assert isinstance(expected, dict), "a parameter was refused that was not named"
    assert outcome(ours, accepted) == expected


@pytest.mark.parametrize("parameter", LIMITED, ids=lambda p: p.name)
def test_verdict_at_the_limits_is_tcleans(stock, vis, parameter):
    values = [*parameter.allowed, *(value.swapcase() for value in parameter.allowed)]
    for bound in (parameter.minimum, parameter.maximum):
        if bound is not None:
            values += [bound, int(bound), bound - 0.001, bound + 0.001, bound - 1, bound + 1]
    for value in values:
        arguments = {"vis": vis, parameter.name: value}
        assert outcome(ours, arguments) == outcome(stock, arguments), value


@pytest.mark.parametrize(
    "value",
    [
        "one.ms",
        "./one.ms",
        ["one.ms"],
        ["one.ms", "two.ms"],
        ("one.ms", "two.ms"),
        np.array(["one.ms"]),
        "no.ms",
        "/no.ms",
        "~/no.ms",
        ["no.ms"],
        ["one.ms", "no.ms"],
        "",
        [""],
        [],
        None,
        5,
        [5],
        {"one.ms": 1},
    ],
    ids=repr,
)
def test_verdict_on_vis_is_tcleans(stock, vis, value):
    assert outcome(ours, {"vis": value}) == outcome(stock, {"vis": value})


def test_several_errors_are_told_at_once(stock, vis):
    arguments = {"vis": vis, "niter": "ten", "specmode": "cubee", "robust": 3, "cell": None}
    expected = outcome(stock, arguments)
    assert refused(expected) == {"niter", "specmode", "robust", "cell"}
    assert outcome(ours, arguments) == expected


def test_cell_is_converted_in_casas_order_of_types(vis):
    # In the order of the XML, where int comes first, it would stay a number.
    assert exact(ours({"vis": vis, "cell": 5})["cell"]) == exact([5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nworkers": 2.0}, "{'nworkers': ['must be of cInt type']}"),
        ({"chanchunks": "auto"}, "{'chanchunks': ['must be of cInt type']}"),
        ({"memory_limit": 0}, "{'memory_limit': ['must be of cStr type']}"),
        ({"memory_limit": None}, "null value not allowed"),
    ],
)
def test_own_parameters_are_refused_in_casas_words(vis, arguments, message):
    with pytest.raises(AssertionError) as refusal:
        ours({"vis": vis, **arguments})
    assert message in str(refusal.value)


def test_result_is_a_plain_dict_in_the_order_of_the_signature(vis):
    arguments = STOCK_DEFAULTS | OWN_DEFAULTS | {"vis": vis, "niter": 7}
    backwards = dict(reversed(arguments.items()))
    result = validate(DESCRIPTION, backwards)
    assert type(result) is dict
    assert list(result) == [p.name for p in DESCRIPTION.parameters]
    assert result == arguments


def test_arguments_are_left_alone(vis):
    arguments = STOCK_DEFAULTS | OWN_DEFAULTS | {"vis": vis, "cell": 5}
    validate(DESCRIPTION, arguments)
    assert arguments["cell"] == 5


def test_threads_do_not_see_each_others_arguments(vis):
    def check(number):
        for repeat in range(8):
            assert ours({"vis": vis, "niter": number, "field": f"f{number}"})["niter"] == number
            with pytest.raises(AssertionError, match=rf"unallowed value {number}-{repeat}\b"):
                ours({"vis": vis, "niter": number, "specmode": f"{number}-{repeat}"})

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(check, range(8)))
    finally:
        sys.setswitchinterval(interval)


def test_a_type_without_a_rule_is_an_error():
    parameter = Parameter("x", ("int", "quaternion"), 0)
    description = TaskDescription("t", "", "", "", (parameter,), (), "", "")
    with pytest.raises(ValueError, match="parameter x: no rule for type quaternion"):
        schema(description)
