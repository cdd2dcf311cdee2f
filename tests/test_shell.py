# SPDX-License-Identifier: GPL-3.0-or-later
"""The task of CASA's shell, compared with the shell's own tclean, without a shell.

All that both ask of a shell is a name in the global variables of their caller, which here are a
dictionary. What happens in a shell that runs is in ``test_casashell.py``.
"""

import contextlib
import inspect
import io
import os
import pickle
import re
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptclean.call.description import load
from ptclean.call.shell import ShellTask, show_in_taskhelp
from ptclean.call.task import bind
from ptclean.run import ptclean as anywhere

stock = pytest.importorskip("casashell.private.tclean", reason="casashell is not installed")

DESCRIPTION = load()
OWN = {"nworkers": 0, "chanchunks": -1, "memory_limit": "0"}
TCLEANS = [p for p in DESCRIPTION.parameters if p.name not in OWN]
PARENTS = {rule.parameter for rule in DESCRIPTION.constraints} - set(OWN)

#: Values that CASA takes for parameters of a type, and values that few parameters may have.
OF_TYPE = {
    "bool": [True, False],
    "int": [0, 7, -1],
    "double": [0.5, -3.0, 7],
    "string": ["", "text", "a 'b'"],
    "stringVec": [[], ["x", "y"], "z"],
    "intVec": [[1, 2], 3],
    "doubleVec": [[0.5], (1.0, 2.0)],
    "variant": ["1Jy", 5, [], {"a": 1}],
    "path": ["one.ms"],
    "pathVec": [["one.ms", "one.ms"]],
}
ODD = [None, True, 7, 0.5, "odd", [], [1], {"a": 1}, object]


def values_of(parameter):
    """Values for a parameter: mostly those that it may have, and those that rules know."""
    ruled = [rule.value for rule in DESCRIPTION.constraints if rule.parameter == parameter.name]
    of_type = [value for name in parameter.types for value in OF_TYPE[name]]
    return st.sampled_from([*ruled, *(parameter.allowed or of_type), parameter.default])


some_values = st.fixed_dictionaries({}, optional={each.name: values_of(each) for each in TCLEANS})
some_odd_value = st.dictionaries(
    st.sampled_from([p.name for p in TCLEANS]), st.sampled_from(ODD), max_size=1
)


class Shell(dict):
    """The global variables of a shell, with both tasks, which only note what they would do."""

    def __init__(self, **values):
        super().__init__(values)
        self.noted = {}
        self["__casashell_state__"] = {}
        self["tclean"] = stock._tclean()
        self["ptclean"] = self.task(everywhere=True)

    def task(self, **options):
        def run(parameters):
            self.noted["ptclean"] = parameters
            return {"iterdone": 3}

        return ShellTask(DESCRIPTION, run, **options)

    def tclean_t(self, *values):
        self.noted["tclean"] = dict(zip((each.name for each in TCLEANS), values, strict=True))
        return {"iterdone": 3}

    def do(self, line):
        """Execute a line as at the prompt: what it printed, or its error; calls are noted."""
        self.noted.clear()
        with pytest.MonkeyPatch.context() as patch, io.StringIO() as printed:
            patch.setattr(stock, "_tclean_t", self.tclean_t)
            with contextlib.redirect_stdout(printed):
                try:
                    exec(line, self)
                except Exception as error:
                    return f"{type(error).__name__}: {error}"
            return printed.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.ms").mkdir()
    return tmp_path


@pytest.fixture
def shell(folder):
    return Shell(vis="one.ms")


def both(shell, line):
    """Do something with tclean, then the same with ptclean, whose name becomes tclean's."""
    first = shell.do(line), dict(shell.noted).get("tclean")
    second = shell.do(line.replace("tclean", "ptclean")), dict(shell.noted).get("ptclean")
    if second[1] is not None:
        assert {name: second[1].pop(name) for name in OWN} == OWN
    return first, (second[0].replace("ptclean", "tclean"), second[1])


def saved(path):
    """Return the assignments in a file that keeps parameters, and its last line."""
    *lines, last = path.read_text().splitlines()
    return lines, last


# inp


@settings(max_examples=60)
@given(values=some_values, odd=some_odd_value, width=st.integers(1, 200))
def test_inp_is_that_of_tclean(values, odd, width):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        shell = Shell(**{**values, **odd})
        expected = shell.do("tclean.inp()").splitlines()
        found = shell.do("ptclean.inp()").splitlines()
    assert expected[0].startswith("# tclean -- ")
    assert found[0] == f"# ptclean -- {DESCRIPTION.shortdescription}"
    assert found[1 : len(expected)] == expected[1:]
    names = [re.sub(r"\x1b\[\d+m", "", line)[:23].strip() for line in found[len(expected) :]]
    assert [name for name in names if name] == list(OWN)


def test_own_parameters_are_a_group(shell, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    shell["nworkers"] = 8
    shell["chanchunks"] = "many"
    lines = shell.do("ptclean.inp()").splitlines()[-3:]
    white = (
        "\x1b[1m\x1b[47mnworkers                =\x1b[0m \x1b[34m8                      \x1b[0m #"
    )
    assert lines[0].startswith(white)
    assert lines[1].startswith("   \x1b[92mchanchunks           =\x1b[0m \x1b[91m'many'")
    assert lines[2].startswith("   \x1b[92mmemory_limit         =\x1b[0m '0'   ")


# Calls


@pytest.mark.parametrize("line", ["tclean(**arguments)", "tclean()"])
@settings(max_examples=30)
@given(values=some_values, odd=some_odd_value)
def test_call_is_that_of_tclean(line, tmp_path_factory, values, odd):
    folder = tmp_path_factory.getbasetemp()
    (folder / "one.ms").mkdir(exist_ok=True)
    values = {"vis": "one.ms", **values, **odd}
    with contextlib.chdir(folder):
        shell = Shell(arguments=values, niter=5) if "arguments" in line else Shell(**values)
        expected, found = both(shell, line)
        assert found == expected
        lines, call = saved(folder / "ptclean.last")
        expected_lines, expected_call = saved(folder / "tclean.last")
    own = [f"{key:<20} = {value!r}" for key, value in OWN.items()]
    assert [each for each in lines if each not in own] == expected_lines
    assert set(own) < set(lines)
    for key, value in OWN.items():
        call = call.replace(f",{key}={value!r}", "")
    assert call == expected_call.replace("tclean", "ptclean")


def test_what_is_given_counts_and_what_is_set_does_not(shell):
    shell.update(niter=5, nworkers=3, specmode="cube", nchan=4)
    shell.do("print(ptclean('one.ms', usemask='pb', chanchunks=2, nchan=None))")
    noted = shell.noted["ptclean"]
    assert (noted["niter"], noted["specmode"], noted["nchan"]) == (0, "mfs", -1)
    assert (noted["pbmask"], noted["nworkers"], noted["chanchunks"]) == (0.2, 0, 2)
    shell.do("ptclean()")
    noted = shell.noted["ptclean"]
    assert (noted["niter"], noted["specmode"], noted["nchan"]) == (5, "cube", 4)
    assert (noted["outframe"], noted["nworkers"], noted["chanchunks"]) == ("", 3, -1)


@pytest.mark.parametrize(
    "line",
    [
        "tclean('nowhere.ms')",
        "tclean('one.ms', nosuch=1)",
        "tclean('one.ms', vis='one.ms')",
        "tclean('one.ms', niter='ten', robust=3, specmode='cubee')",
        "tclean(*[1] * 200)",
        "tclean('one.ms', *[None] * 91)",
    ],
)
def test_errors_are_those_of_tclean(shell, line):
    expected, found = both(shell, line)
    text = re.sub(r"from 1 to 93 (.*) but", r"from 1 to 96 \1 but", expected[0])
    assert found == (text, expected[1])


def test_log_is_that_of_tclean(shell, log):
    def new_lines(line, read):
        shell.do(line)
        lines = log().splitlines()[read:]
        plain = [re.sub(r"\d{4}-\d\d-\d\d[ T][\d:.]+|\s+|line \d+|File .*", " ", x) for x in lines]
        return [re.sub(" +", " ", x) for x in plain], read + len(lines)

    own = "".join(f", {key}={value!r}" for key, value in OWN.items())
    read = len(log().splitlines())
    for line in ("tclean(niter=3)", "tclean('nowhere.ms')"):
        expected, read = new_lines(line, read)
        found, read = new_lines(line.replace("tclean", "ptclean"), read)
        # A traceback tells of other functions.
        expected, found = ([x for x in lines if "+" not in x] for lines in (expected, found))
        expected = [x.replace("tclean", "ptclean").replace(" )", f"{own} )") for x in expected]
        assert [x.replace(" ", "") for x in found] == [x.replace(" ", "") for x in expected]
    assert any("Exception Reported: Error in ptclean" in x for x in found)


def test_values_are_kept_where_the_work_fails(shell, folder):
    def fail(_):
        assert (folder / "ptclean.pre").is_file()
        os.chdir("one.ms")
        raise OSError("disk full")

    shell["ptclean"] = ShellTask(DESCRIPTION, fail, everywhere=True)
    assert shell.do("ptclean(vis, niter=7)") == "OSError: disk full"
    assert sorted(os.listdir(folder)) == ["one.ms", "ptclean.last"]
    assert "niter                = 7\n" in (folder / "ptclean.last").read_text()


def test_a_folder_that_cannot_be_written_to_is_no_hindrance(shell, folder):
    (folder / "ptclean.pre").mkdir()
    shell.do("ptclean(vis)")
    assert shell.noted["ptclean"]["vis"] == "one.ms"
    assert sorted(os.listdir(folder)) == ["one.ms", "ptclean.pre"]
    assert shell.do("print(ptclean.tput('nowhere/file'))") == "False\n"


# default, tput and tget


def test_default_deletes_the_variables_of_all_parameters(shell):
    shell.update({each.name: 1 for each in DESCRIPTION.parameters}, other=2)
    shell.do("ptclean.set_global_defaults()")
    assert set(shell) == {"__casashell_state__", "tclean", "ptclean", "other", "__builtins__"}


def test_tget_brings_back_what_tput_saved(shell, folder):
    before = {"niter": 3, "cell": ["1arcsec", "2arcsec"], "nworkers": 2, "field": "a'b\n\u03b1"}
    shell.update(before)
    assert shell.do("print(ptclean.tput())") == "True\n"
    shell.do("ptclean.tput('file')")
    shell.do("tclean.tput('tclean.last')")
    for line in ("ptclean.tget()", "ptclean.tget('file')"):
        shell.do("ptclean.set_global_defaults()")
        assert shell.do(line) == ""
        assert {key: shell[key] for key in before} == before
    assert "__name__" not in shell
    expected, _ = saved(folder / "tclean.last")
    assert saved(folder / "ptclean.last")[0][: len(TCLEANS)] == expected

    shell.do("ptclean.set_global_defaults()")
    shell.do("ptclean.tget('tclean.last')")
    assert shell["niter"] == 3
    assert "nworkers" not in shell

    os.rename("ptclean.last", "ptclean.saved")
    shell["niter"] = 4
    shell.do("ptclean.tget()")
    assert shell["niter"] == 3


def test_tget_of_nothing_gives_defaults(shell):
    shell["niter"] = 4
    assert shell.do("ptclean.tget()").startswith("no file ptclean.last or ptclean.saved: ")
    assert "niter" not in shell


def test_what_has_no_notation_is_saved_as_nothing(shell, folder):
    shell["mask"] = object()
    shell.do("ptclean.tput()")
    assert "mask                 = None\n" in (folder / "ptclean.last").read_text()


def test_last_used_task_is_the_one_that_inp_means(shell):
    shell["inp"] = types.SimpleNamespace(state={"last": None})
    shell.do("ptclean.set_global_defaults()")
    assert shell["inp"].state["last"] is shell["ptclean"]


# One task in the shell and elsewhere


def test_outside_of_a_shell_it_is_a_task_of_casatasks(shell):
    del shell["__casashell_state__"]
    shell["ptclean"] = shell.task()
    shell.do("ptclean(vis, specmode='cube', usemask='pb')")
    assert shell.noted["ptclean"] == bind(
        DESCRIPTION, ["one.ms"], {"specmode": "cube", "usemask": "pb"}
    )
    assert "null value not allowed" in shell.do("ptclean(vis, mask=None)")
    assert "must be a path that exists" in shell.do("ptclean()")
    assert not os.path.exists("ptclean.last")
    for line in ("ptclean.inp()", "ptclean.tget()", "ptclean.tput()"):
        assert shell.do(line).startswith("RuntimeError: ptclean: CASA's shell is not running")


def test_in_a_script_arguments_are_those_of_casatasks_and_variables_those_of_the_shell(shell, log):
    shell["ptclean"] = shell.task()
    shell["niter"] = 5
    shell.do("ptclean(vis, specmode='cube', usemask='pb', weighting='briggs')")
    noted = shell.noted["ptclean"]
    assert (noted["pbmask"], noted["outframe"], noted["niter"]) == (0.0, "LSRK", 0)
    warnings = [line for line in log().splitlines() if "WARN" in line]
    assert len(warnings) == 1, "what means the same is not worth a warning"
    assert "pbmask=0.0 is taken" in warnings[0]
    assert "pbmask=0.2, give it, or use 'from ptclean.gotasks.ptclean" in warnings[0]

    shell.do("ptclean(vis, specmode='cube', usemask='pb', pbmask=0.0)")
    assert log().count("WARN") == 1
    shell.do("ptclean()")
    assert (shell.noted["ptclean"]["vis"], shell.noted["ptclean"]["niter"]) == ("one.ms", 5)


def test_at_the_prompt_it_is_a_task_of_the_shell(shell, monkeypatch):
    ipython = pytest.importorskip("IPython", reason="IPython is not installed")
    monkeypatch.setattr(ipython, "get_ipython", lambda: types.SimpleNamespace(user_ns=shell))
    shell["ptclean"] = shell.task()
    shell.do("ptclean(vis, specmode='cube', usemask='pb')")
    assert (shell.noted["ptclean"]["pbmask"], shell.noted["ptclean"]["outframe"]) == (0.2, "")


def test_tasks_of_the_package():
    gotask = inspect.getattr_static(
        __import__("ptclean.gotasks.ptclean").gotasks.ptclean, "ptclean"
    )
    assert gotask is not anywhere
    assert isinstance(anywhere, ShellTask)
    for task in (gotask, anywhere):
        assert pickle.loads(pickle.dumps(task)) is task
        assert {"inp", "tget", "tput", "set_global_defaults", "_info_group_"} <= set(dir(task))
    expected = inspect.signature(stock.tclean)
    found = inspect.signature(gotask)
    first = [found.parameters[name] for name in expected.parameters]
    assert str(found.replace(parameters=first)) == str(expected)
    assert list(found.parameters)[len(first) :] == list(OWN)
    assert inspect.signature(anywhere).parameters["pbmask"].default == 0.0


def test_taskhelp_is_told_once(monkeypatch):
    import casashell

    import ptclean

    monkeypatch.setattr(casashell, "extra_task_modules", [])
    show_in_taskhelp(ptclean)
    show_in_taskhelp(ptclean)
    assert casashell.extra_task_modules == [ptclean]
    names = [n for n in dir(ptclean) if hasattr(getattr(ptclean, n), "_info_group_")]
    assert names == ["ptclean"]
