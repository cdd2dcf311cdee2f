# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m ptclean``: recipes run as Python runs them, and what they call tclean is ptclean."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from casatasks import tclean

from ptclean import __version__
from ptclean.__main__ import main
from same_images import COMMON, assert_same_images

CUBE = COMMON | {"nchan": 4}

#: Begins each recipe: what Python gives a script, one line each time the script is run.
FIRST = """
import sys
print("first", sys.argv[1:], __name__, sys.path[0], __package__ or "", flush=True)
"""


@pytest.fixture(scope="module")
def reference(line_ms: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    name = str(tmp_path_factory.mktemp("tclean") / "cube")
    tclean(line_ms, imagename=name, **CUBE)
    return name


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a folder of its own, with a home of its own."""
    home = tmp_path / "home"
    home.mkdir()
    paths = [path for path in sys.path if path]
    environ = os.environ | {"HOME": str(home), "PYTHONPATH": os.pathsep.join(paths)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=500,
            check=False,
        )

    return run


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(FIRST + textwrap.dedent(text))
    return path


def log_of(folder: Path) -> str:
    (log,) = folder.glob("casa-*.log")
    return log.read_text()


# What is imaged


def test_script_images_on_workers(
    line_ms: str,
    reference: str,
    tmp_path: Path,
    python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """With options as defaults, which a call that gives the parameter does not take."""
    write(
        tmp_path / "scripts" / "recipe.py",
        f"""
        from casaconfig import config

        config.logfile = "casa-mine.log"
        from casatasks import *

        for name, own in (("three", {{"chanchunks": 3}}), ("two", {{}})):
            tclean(vis=sys.argv[1], imagename=name, **{CUBE!r}, **own)
        """,
    )
    options = ["--nworkers", "2", "--chanchunks", "2"]
    done = python("-m", "ptclean", "run", *options, "scripts/recipe.py", line_ms, "--nworkers", "9")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "scripts"
    arguments = [line_ms, "--nworkers", "9"]
    assert done.stdout.splitlines() == [f"first {arguments} __main__ {folder} "]
    text = log_of(tmp_path)
    chunks = [line.split("chunks  ")[1] for line in text.splitlines() if "chunks  " in line]
    assert [each.split(" channels")[0] for each in chunks] == ["2 of 1 to 3", "2 of 2"]
    for name in ("two", "three"):
        assert_same_images(reference, tmp_path / name)


#: Looks into a task as the job requests of the ALMA pipeline do.
JOBS = """
class Job:
    def __init__(self, task, **given):
        method = task.__call__
        names = method.__code__.co_varnames[: method.__code__.co_argcount]
        defaults = dict(zip(names[-len(method.__defaults__) :], method.__defaults__))
        assert set(names) - set(defaults) == {"self"}
        self.task = task
        self.given = {name: value for name, value in given.items() if name in names}
        print("job", type(task).__name__[1:], sorted(set(given) - set(self.given)), flush=True)

    def execute(self):
        return self.task(**self.given)
"""


def test_module_images_with_the_jobs_of_a_pipeline(
    line_ms: str,
    reference: str,
    tmp_path: Path,
    python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Without options a small cube is tclean's, which ptclean calls: tclean itself, not ptclean."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "jobs.py").write_text(JOBS)
    write(
        tmp_path / "package" / "imaging.py",
        f"""
        import casatasks
        from .jobs import Job

        for name, own in (("serial", {{}}), ("workers", {{"nworkers": 2}})):
            job = Job(casatasks.tclean, vis=sys.argv[1], imagename=name, heuristics=1, **own,
                      **{CUBE!r})
            print(job.execute()["iterdone"])
        """,
    )
    done = python("-m", "ptclean", "run", "-m", "package.imaging", line_ms)
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == f"first {[line_ms]} __main__ {tmp_path} package"
    assert lines[::2] == ["job tclean ['heuristics']"] * 2
    assert lines[1] == lines[3]
    text = log_of(tmp_path)
    assert text.count("Begin Task: tclean") == text.count("ptclean runs tclean serially") == 1
    assert text.count("Begin Task: ptclean") == 2
    for name in ("serial", "workers"):
        assert_same_images(reference, tmp_path / name)


@pytest.mark.skipif(not importlib.util.find_spec("casashell"), reason="there is no casashell")
def test_shell_images_on_workers(
    line_ms: str,
    reference: str,
    tmp_path: Path,
    python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """As most recipes are: tclean is there, with the defaults of the shell, and nothing imported.

    `outframe` and `perchanweightdensity` are given, since the shell has other defaults for them.
    """
    write(
        tmp_path / "recipe.py",
        f"""
        done = tclean(vis=sys.argv[-1], imagename="shell", **{CUBE!r}, outframe="LSRK")
        print(sorted(done)[0], tclean.__class__)
        try:
            tclean(vis="nowhere.ms")
        except AssertionError as error:
            print(error)
        inp("tclean")
        """,
    )
    options = ["--nworkers", "2", "--chanchunks", "2", "-m", "casashell", "--nologger", "--nogui"]
    done = python("-m", "ptclean", "run", *options, "-c", "recipe.py", line_ms)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("first ")]) == 1
    assert any("at least one element of" in line and "nowhere.ms" in line for line in lines)
    assert "# tclean -- Radio Interferometric Image Reconstruction" in lines
    assert "chunks  2 of 2 channels" in log_of(tmp_path)
    assert_same_images(reference, tmp_path / "shell")


def test_all_forms_of_import_give_one_task_that_looks_as_tclean(
    tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    write(
        tmp_path / "recipe.py",
        """
        import importlib, inspect, pickle
        import casatasks as cta
        from casatasks import tclean
        from casatasks import tclean as clean
        from casatasks.tclean import tclean as from_module
        import casatasks.tclean as module
        namespace = {}
        exec("from casatasks import *", namespace)
        found = [cta.tclean, clean, from_module, module, namespace["tclean"],
                 getattr(cta, "tclean"), importlib.import_module("casatasks.tclean").tclean]
        assert all(each is tclean for each in found), found
        importlib.reload(cta)
        assert type(cta.tclean).__call__.__defaults__[-3] == 5

        names = list(inspect.signature(tclean).parameters)
        assert names[:2] + names[-4:] == [
            "vis", "selectdata", "parallel", "nworkers", "chanchunks", "memory_limit"]
        assert inspect.signature(tclean).parameters["nworkers"].default == 5
        assert list(inspect.signature(tclean.__call__).parameters) == names
        assert "parameter descriptions" in tclean.__doc__
        assert tclean._info_group_ == "imaging"
        assert type(pickle.loads(pickle.dumps(tclean))).__name__ == "_tclean"

        from casatasks.private.task_tclean import tclean as private
        from casatasks.private import simutil
        from ptclean import ptclean, run
        assert tclean is not run.casa_tclean is simutil.tclean
        assert "schema" in run.casa_tclean.__call__.__code__.co_varnames

        wrong = [dict(nosuch=1), dict(vis="no.ms"), dict(vis=".", niter=None), dict(self=1),
                 dict(vis=".", interactive=0), dict(vis=".", nworkers="2")]
        for given in wrong:
            texts = []
            for task in (tclean, ptclean) if "nworkers" in given else (tclean, run.casa_tclean):
                try:
                    task(**given)
                except Exception as error:
                    texts.append((type(error), str(error)))
            assert texts[0] == texts[1], texts
            print(texts[0][0].__name__)
        """,
    )
    done = python("-m", "ptclean", "run", "--nworkers", "5", "recipe.py")
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.split()[-6:]
        == ["TypeError", *["AssertionError"] * 2, "TypeError"] + ["AssertionError"] * 2
    )


# As Python runs it

ENDS = {
    "nothing": ("", 0, ""),
    "number": ("sys.exit(3)", 3, ""),
    "text": ("sys.exit('given up')", 1, "given up\n"),
    "exception": ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
    "at exit": ("import atexit; atexit.register(lambda: print('over', sys.argv[1:]))", 0, ""),
    "thread": (
        "import threading, time\n"
        "def late():\n    time.sleep(0.3)\n    print(FIRST)\n"
        "FIRST = 'late'\n"
        "threading.Thread(target=late).start()",
        0,
        "",
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_recipe_ends_as_with_python(
    end: str, tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    text, code, message = ENDS[end]
    recipe = write(tmp_path / "folder" / "recipe.py", "")
    recipe.write_text(FIRST + "print(__file__, sys.argv[0])\n" + text)
    (tmp_path / "folder" / "link.py").symlink_to(recipe)
    recipe_and_arguments = ("folder/link.py", "--help", "-m", "x")
    plain = python(*recipe_and_arguments)
    done = python("-m", "ptclean", "run", *recipe_and_arguments)
    assert (plain.returncode, done.returncode) == (code, code)
    assert done.stdout == plain.stdout
    assert plain.stderr.endswith(message)
    assert done.stderr.endswith(message)


def test_module_that_does_not_exist(
    tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = python("-m", "ptclean", "run", "-m", "no_such_module")
    assert done.returncode == 1
    assert done.stderr.endswith("No module named no_such_module\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["run"], "there is no recipe: give a script, or -m and a module"),
        (["run", "--nworkers", "2"], "there is no recipe: give a script, or -m and a module"),
        (["run", "-m"], "there is no recipe: give a script, or -m and a module"),
        (["run", "nowhere.py"], "there is no recipe 'nowhere.py' in "),
        (["run", "--nworkers", "-1", "."], "nworkers=-1: nworkers is the number of tasks at once"),
        (["run", "--nworkers", "two", "."], "argument --nworkers: invalid int value: 'two'"),
        (["run", "--chanchunks", "0", "."], "chanchunks=0: chanchunks is the number of channels"),
        (["run", "--memory-limit", "5 apples", "."], "memory_limit='5 apples' cannot be read"),
        (["run", "--memory-limit", "1MB", "."], "one needs 256 MiB"),
        (["run", "--nwork", "2", "."], "unrecognized arguments: --nwork"),
        (["image"], "invalid choice: 'image'"),
    ],
    ids=" ".join,
)
def test_wrong_words_are_refused_before_anything_runs(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(words)
    assert refusal.value.code == 2
    assert message in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"ptclean {__version__} with casatasks 6.")
