# SPDX-License-Identifier: GPL-3.0-or-later
"""The task as an object: its signature, documentation, log lines, errors and pickling."""

import copy
import inspect
import pickle
import pydoc
import re
import sys
import types
from dataclasses import replace

import casatasks
import pytest
from casatasks import casalog

from ptclean.call.description import load
from ptclean.call.task import CasaTask, bind, docstring, signature

DESCRIPTION = load()
NAMES = [p.name for p in DESCRIPTION.parameters]
OWN_CALL = ", nworkers=0, chanchunks=-1, memory_limit='0' )"


@pytest.fixture
def vis(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.ms").mkdir()
    return "one.ms"


@pytest.fixture
def task():
    """Return a task whose work is to give back the parameters it gets."""
    return CasaTask(DESCRIPTION, lambda parameters: parameters)


@pytest.fixture
def stock(monkeypatch):
    """Return a function that calls CASA's own wrapper of tclean with another function inside."""

    def call(work, /, **arguments):
        with monkeypatch.context() as patch:
            patch.setitem(casatasks.tclean.__call__.__globals__, "_tclean_t", work)
            return casatasks.tclean(**arguments)

    return call


@pytest.fixture
def log(tmp_path):
    """Return a function that gives the lines logged since its last call, without their times."""
    before = casalog.logfile()
    file = tmp_path / "task.log"
    casalog.setlogfile(str(file))
    read = 0

    def new_lines():
        nonlocal read
        lines = file.read_text().splitlines()
        new, read = lines[read:], len(lines)
        without_times = (re.sub(r"\d{4}-\d\d-\d\d[ T][\d:.]+", "TIME", line) for line in new)
        return [re.sub(r"\s+", " ", line) for line in without_times]

    new_lines()
    yield new_lines
    casalog.setlogfile(before)


def as_ptclean(line):
    return line.replace("tclean", "ptclean").replace(
        "parallel=False )", "parallel=False" + OWN_CALL
    )


def fail(*_):
    raise OSError("disk full")


# Signature and documentation


def test_signature_is_tcleans_and_three_more(task):
    stock = inspect.signature(casatasks.tclean)
    ours = inspect.signature(task)
    assert ours == signature(DESCRIPTION)
    assert list(ours.parameters) == [*stock.parameters, "nworkers", "chanchunks", "memory_limit"]
    first = [ours.parameters[name] for name in stock.parameters]
    assert str(ours.replace(parameters=first)) == str(stock)


def test_help_shows_every_parameter_with_its_description(task):
    text = pydoc.render_doc(task, renderer=pydoc.plaintext)
    for parameter in DESCRIPTION.parameters:
        first_line = parameter.description.splitlines()[0].rstrip()
        assert re.search(rf"^ *{parameter.name} +{re.escape(first_line)}", text, re.MULTILINE)


def test_documentation_has_the_layout_of_casas(task):
    def headings(text):
        return [line for line in inspect.cleandoc(text).splitlines() if line.startswith("----")]

    def column(text, name):
        return len(re.search(rf"^ *({name} +)\S", text, re.MULTILINE).group(1))

    stock = type(casatasks.tclean).__doc__
    assert headings(task.__doc__) == headings(stock)
    assert column(task.__doc__, "imsize") == column(stock, "imsize")
    assert task.__doc__.startswith("ptclean ---- " + DESCRIPTION.shortdescription)
    assert DESCRIPTION.returns in task.__doc__
    assert DESCRIPTION.example.splitlines()[-1] in task.__doc__


def test_documentation_takes_the_short_description_where_there_is_no_long_one():
    short = replace(DESCRIPTION.parameters[0], description="")
    text = docstring(replace(DESCRIPTION, parameters=(short,)))
    assert f"vis                  {short.shortdescription}\n" in text


def test_casas_task_list_finds_it(task):
    assert task._info_group_ == type(casatasks.tclean)._info_group_
    assert task._info_desc_ == DESCRIPTION.shortdescription
    assert {"_info_group_", "_info_desc_"} <= set(dir(task))


# Calls


def test_run_gets_all_parameters_checked_and_converted(task, vis):
    parameters = task(vis, imagename="im", cell=5, nworkers=2)
    assert list(parameters) == NAMES
    assert (parameters["vis"], parameters["cell"], parameters["nworkers"]) == (vis, [5], 2)
    assert parameters["memory_limit"] == "0"


def test_all_parameters_may_be_positional(task, vis):
    values = [p.default for p in DESCRIPTION.parameters]
    parameters = task(vis, *values[1:-1], "4GiB")
    assert parameters["memory_limit"] == "4GiB"


def test_run_may_change_what_it_gets_without_changing_the_defaults(task, vis):
    task(vis)["restfreq"].append("1GHz")
    assert task(vis)["restfreq"] == []
    assert inspect.signature(task).parameters["restfreq"].default == []


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {"nosuch": 1}),
        ((), {"specmod": "cube"}),
        (("one.ms",), {"vis": "one.ms"}),
        ((), {"self": 1}),
    ],
)
def test_type_errors_read_as_those_of_tclean(task, args, kwargs):
    with pytest.raises(TypeError) as stock:
        casatasks.tclean(*args, **kwargs)
    with pytest.raises(TypeError) as ours:
        task(*args, **kwargs)
    assert str(ours.value) == str(stock.value).replace("_tclean.", "_ptclean.")


def test_too_many_arguments(task):
    count = len(NAMES) + 1
    message = f"takes from 1 to {count} positional arguments but {count + 1} were given"
    with pytest.raises(TypeError, match=rf"^_ptclean\.__call__\(\) {message}$"):
        task(*[""] * count)


def test_bind_can_speak_of_another_function(vis):
    assert bind(DESCRIPTION, [vis], {"niter": 3}, "plan")["niter"] == 3
    with pytest.raises(TypeError, match=r"^plan\(\) got an unexpected keyword argument 'nosuch'"):
        bind(DESCRIPTION, [], {"nosuch": 1}, "plan")
    with pytest.raises(
        TypeError, match=r"^plan\(\) takes from 0 to 95 positional arguments but 96"
    ):
        bind(DESCRIPTION, [""] * 96, {}, "plan")


def test_a_name_that_is_not_one_is_refused():
    bad = replace(DESCRIPTION.parameters[0], name="vis=print('hello')")
    with pytest.raises(ValueError, match="cannot be the name of a parameter"):
        bind(replace(DESCRIPTION, parameters=(bad,)), [], {})


# Log


def test_log_block_is_that_of_tclean(stock, vis, log):
    stock(lambda *_: {"iterdone": 3}, vis=vis, imagename="im", cell=5)
    expected = [as_ptclean(line) for line in log()]
    assert len(expected) == 6

    result = CasaTask(DESCRIPTION, lambda _: {"iterdone": 3})(vis=vis, imagename="im", cell=5)
    assert result == {"iterdone": 3}
    assert log() == expected


def test_log_of_an_exception_is_that_of_tclean(stock, vis, log):
    with pytest.raises(OSError, match="disk full"):
        stock(fail, vis=vis)
    expected = [as_ptclean(line) for line in log()]

    with pytest.raises(OSError, match="disk full"):
        CasaTask(DESCRIPTION, fail)(vis=vis)
    logged = log()
    assert logged == expected
    assert any("raised an exception of class OSError" in line for line in logged)
    assert "End Task: ptclean" in logged[-2]


@pytest.mark.parametrize(
    ("kwargs", "error"), [({"niter": "ten"}, AssertionError), ({"nosuch": 1}, TypeError)]
)
def test_wrong_arguments_leave_no_trace_in_the_log(vis, log, kwargs, error):
    ran = []
    with pytest.raises(error):
        CasaTask(DESCRIPTION, ran.append)(vis=vis, **kwargs)
    assert log() == []
    assert ran == []


# Pickling


def test_task_is_pickled_by_name(task, monkeypatch):
    home = types.ModuleType("home_of_a_task")
    home.ptclean = CasaTask(DESCRIPTION, fail, module=home.__name__)
    monkeypatch.setitem(sys.modules, home.__name__, home)
    assert pickle.loads(pickle.dumps(home.ptclean)) is home.ptclean
    assert copy.deepcopy(home.ptclean) is home.ptclean

    stray = CasaTask(DESCRIPTION, fail, module=home.__name__)
    with pytest.raises(pickle.PicklingError, match="not the same object"):
        pickle.dumps(stray)
