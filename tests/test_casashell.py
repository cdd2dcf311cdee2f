# SPDX-License-Identifier: GPL-3.0-or-later
"""A casashell that runs, with a user at its prompt: what is typed, and what then is on the screen.

The user types through a pseudo-terminal. What takes many combinations of parameters to find out is
in ``test_shell.py``, without a shell.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from casatasks import tclean

from killing import wait_until
from same_images import assert_same_images

pytest.importorskip("casashell", reason="casashell is not installed")
pexpect = pytest.importorskip("pexpect", reason="pexpect is not installed")

ROOT = Path(__file__).resolve().parents[1]

#: A cube of two chunks, made in a second.
CUBE: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 64,
    "cell": "0.15arcsec",
    "start": 4,
    "nchan": 4,
    "niter": 30,
}
OWN = {"nworkers": 2, "chanchunks": 2}

#: The line that the documentation has for startup.py; the rest says what belongs to which command.
STARTUP = """
from ptclean.gotasks.ptclean import ptclean

_events = get_ipython().events
_events.register("pre_run_cell", lambda info: print("<output>", flush=True))
_events.register("post_run_cell", lambda info: print("<end of output>", flush=True))
"""

#: A script as users write them, which counts how often its first line runs.
SCRIPT = """
with open({marker!r}, "a") as file: file.write("the first line ran\\n")
from ptclean import ptclean as tclean
result = tclean({vis!r}, imagename={name!r}, **{arguments!r})
"""


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Shell:
    """A user at the prompt of casashell.

    Parameters
    ----------
    folder : Path
        Its working directory, where its logs and caches are as well.
    """

    def __init__(self, folder: Path) -> None:
        (folder / "startup.py").write_text(STARTUP)
        options = ["--nologger", "--nogui", "--agg", "--colors", "NoColor"]
        options += ["--configfile", str(ROOT / "examples" / "casasiteconfig.py")]
        options += ["--startupfile", "startup.py", "--cachedir", "cache", "--logfile", "casa.log"]
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path])),
            "TERM": "xterm",
            # The user does not answer questions of the screen, and reads help in one piece.
            "PROMPT_TOOLKIT_NO_CPR": "1",
            "PAGER": "cat",
        }
        environ.pop("COLUMNS", None)
        self.folder = folder
        self.screen = pexpect.spawn(
            sys.executable,
            ["-m", "casashell", *options],
            cwd=str(folder),
            env=environ,
            encoding="utf-8",
            dimensions=(50, 100),
            timeout=90,
            # What runs the tests in the background may have it ignored.
            preexec_fn=_heed_interrupts,
        )
        self.screen.expect_exact("CASA <1>:")

    def types(self, line: str, seconds: float = 120) -> str:
        """Type a line and a return; what is printed until the next prompt."""
        self.screen.send(line + "\r")
        self.screen.expect_exact("<output>\r\n", timeout=seconds)
        return self.ends(seconds)

    def ends(self, seconds: float = 120) -> str:
        """Wait for the next prompt; what is printed until then."""
        self.screen.expect_exact("<end of output>", timeout=seconds)
        printed = str(self.screen.before).replace("\r\n", "\n").replace("\x1b[?2004l", "")
        self.screen.expect(r"CASA <\d+>:", timeout=seconds)
        return printed

    def value(self, expression: str) -> str:
        """Return how an expression prints."""
        return self.types(f"print(repr(({expression})))").rstrip("\n")

    def close(self) -> None:
        """Leave by the word that users leave by."""
        self.screen.send("exit\r")
        self.screen.expect(pexpect.EOF, timeout=30)
        self.screen.close()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("casashell"))
    children = psutil.Process(shell.screen.pid).children
    try:
        yield shell
        left = children(recursive=True)
        shell.close()
    finally:
        shell.screen.close(force=True)
    assert not psutil.wait_procs(left, timeout=10)[1]


@pytest.fixture(scope="module")
def reference(line_ms: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    name = str(tmp_path_factory.mktemp("tclean") / "cube")
    tclean(line_ms, imagename=name, **CUBE)
    return name


def test_inp_and_help(shell: Shell) -> None:
    for width in (200, 100, 70):
        shell.screen.setwinsize(50, width)
        for state in ("default(tclean)", "specmode='cube'; usemask='pb'; niter='ten'; vis='no.ms'"):
            shell.types(state)
            expected = shell.types("inp tclean").splitlines()[1:]
            lines = shell.types("inp ptclean").splitlines()[1:]
            assert len(expected) > 40
            assert lines[: len(expected)] == expected
            names = re.findall(r"(?:nworkers|chanchunks|memory_limit) +=", "\n".join(lines))
            assert len(names) == 3
    assert shell.types("inp('ptclean')").splitlines()[1:] == lines
    assert shell.types("inp").splitlines()[1:] == lines
    shell.types("default('ptclean')")
    assert shell.value("[n for n in ('vis', 'niter', 'usemask') if n in globals()]") == "[]"

    listed = shell.types("taskhelp").partition("Extra tasks")[2]
    assert "ptclean : tclean on many Dask workers" in listed
    text = shell.types("help ptclean")
    assert "ptclean ---- tclean on many Dask workers" in text
    assert re.search(r"^ +chanchunks +Number of image channels per chunk", text, re.MULTILINE)
    assert re.search(r"^ +vis +Name\(s\) of input visibility file", text, re.MULTILINE)
    text = shell.types("ptclean?")
    assert "memory_limit=None" in text
    assert "ptclean ---- tclean on many Dask workers" in text


def test_completion_and_errors(shell: Shell) -> None:
    shell.screen.send("ptclean(vis='nowhere.ms', memory_l\t")
    shell.screen.expect_exact("imit=")
    assert "must be a path that exists" in shell.types("'1GiB')")
    for call in ("tclean('nowhere.ms')", "tclean(nosuch=1)", "tclean(niter='ten')"):
        expected = shell.types(call).strip().splitlines()[-1]
        found = shell.types(call.replace("tclean", "ptclean")).strip().splitlines()[-1]
        assert re.match(r"(Assertion|Type)Error: ", expected)
        assert found == expected.replace("_tclean", "_ptclean")


def test_variables_go_and_saved_values(shell: Shell, line_ms: str, reference: str) -> None:
    values = {"vis": line_ms, "imagename": "go", **CUBE, **OWN}
    shell.types("default ptclean")
    for name, value in values.items():
        shell.types(f"{name} = {value!r}")
    lines = shell.types("inp")
    assert "nchan                = 4 " in re.sub(r"\x1b\[\d+m", "", lines)
    shell.types("saveinputs('ptclean', 'mine')")
    shell.types("tput tclean")
    assert (shell.folder / "tclean.last").is_file()
    shell.types("default ptclean")

    shell.types("tget(ptclean, 'mine')")
    assert shell.value("imagename, nworkers") == "('go', 2)"
    shell.types("result = go()")
    assert shell.value("result['iterdone'] > 0") == "True"
    assert_same_images(reference, shell.folder / "go")
    assert "engine  2 workers" in (shell.folder / "casa.log").read_text()

    shell.types("imagename = 'call'; niter = nworkers = 0; chanchunks = -1")
    shell.types("ptclean()")
    assert (shell.folder / "call.image").is_dir()
    shell.types("default(ptclean)")
    shell.types("tget ptclean")
    assert shell.value("imagename, niter, outframe") == "('call', 0, '')"
    shell.types("tget(ptclean, 'tclean.last')")
    assert shell.value("imagename, niter") == "('go', 30)"
    shell.types("default('ptclean')")


def test_plain_import_at_the_prompt(shell: Shell, line_ms: str) -> None:
    expected = shell.types("inp ptclean")
    shell.types("from ptclean import ptclean")
    assert shell.types("inp ptclean") == expected
    for task in ("tclean", "ptclean"):
        shell.types(f"{task}(vis='nowhere.ms', specmode='cube', usemask='pb')")
        saved = (shell.folder / f"{task}.last").read_text()
        assert "\npbmask               = 0.2\n" in saved
    shell.types("default ptclean")
    shell.types(f"vis = {line_ms!r}; imagename = 'dirty'; datacolumn = 'data'; cell = '1arcsec'")
    shell.types("go")
    assert (shell.folder / "dirty.image").is_dir()
    shell.types("default ptclean")


@pytest.mark.parametrize("way", ["execfile({!r})", "%run {}"])
def test_script(way: str, shell: Shell, line_ms: str, reference: str) -> None:
    name = way.partition("(")[0].strip("%{} ")
    script = shell.folder / f"{name}.py"
    script.write_text(
        SCRIPT.format(marker=f"{name}.ran", vis=line_ms, name=name, arguments={**CUBE, **OWN})
    )
    shell.types(way.format(script.name))
    assert shell.value("result['iterdone'] > 0") == "True"
    assert_same_images(reference, shell.folder / name)
    assert (shell.folder / f"{name}.ran").read_text() == "the first line ran\n"


def test_ctrl_c_returns_to_the_prompt(shell: Shell, line_ms: str, reference: str) -> None:
    log = shell.folder / "casa.log"
    shell.types("from ptclean import DaskClusterManager")
    shell.types("manager = DaskClusterManager(nworkers=2).start()")
    long = {**CUBE, "imsize": 256, "niter": 1_000_000, "threshold": "1uJy", **OWN}
    before = log.read_text().count("engine  2 workers")
    shell.screen.send(f"ptclean({line_ms!r}, imagename='long', **{long!r})\r")
    wait_until(lambda: log.read_text().count("engine  2 workers") > before, seconds=120)
    time.sleep(1)
    shell.screen.sendintr()
    assert "KeyboardInterrupt" in shell.ends()
    # But for work that the same call would go on with, if there is any yet.
    assert {path.name for path in shell.folder.glob("*long*")} <= {"long.ptclean"}

    shell.types(f"ptclean({line_ms!r}, imagename='after', **{ ({**CUBE, **OWN})!r})")
    assert_same_images(reference, shell.folder / "after")
    # CASA ends a worker at whose work it finds its folder gone; the nanny starts it anew.
    shell.types("manager.client.wait_for_workers(2)")
    assert shell.value("len(manager.client.run(os.getpid))") == "2"
    shell.types("manager.close()")
