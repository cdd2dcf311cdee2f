# SPDX-License-Identifier: GPL-3.0-or-later
"""Scripts as users have them, run in all the ways in which users run scripts.

Each makes a cube on two workers, in a process of its own, and has no ``if __name__ == "__main__"``.
Workers that were started as Python's multiprocessing starts processes would run the script once
more, each of them. Scripts at the prompt of CASA's shell are in ``test_casashell.py``.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from casatasks import tclean

from same_images import assert_same_images

ROOT = Path(__file__).resolve().parents[1]
MARK = "PTCLEAN_TEST_SCRIPT"

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

FIRST_LINE = 'with open("ran", "a") as file: file.write("the first line ran\\n")\n'
ARGUMENTS = f'"../line.ms", imagename="cube", nworkers=2, chanchunks=2, **{CUBE!r}'

#: Forms in which scripts come by tclean, with the name swapped.
FORMS = {
    "name": f"from ptclean import ptclean as tclean\ntclean({ARGUMENTS})\n",
    "module": f"import ptclean\nptclean.ptclean({ARGUMENTS})\n",
    "alias": f"import ptclean as cta\nresult = cta.ptclean({ARGUMENTS})\n",
    # A module beside the script, which is found by a path that the script adds.
    "helper": f"""
        import sys
        sys.path.insert(0, "lib")
        from helper import image
        image({ARGUMENTS})
        """,
    "shell": f"from ptclean.gotasks.ptclean import ptclean as tclean\ntclean({ARGUMENTS})\n",
    "variables": f"""
        from ptclean import ptclean
        default("ptclean")
        vis = "../line.ms"; imagename = "cube"; nworkers = chanchunks = 2
        {"; ".join(f"{name} = {value!r}" for name, value in CUBE.items())}
        ptclean()
        """,
    # Nothing is imported: startup.py has taken ptclean for the shell's tclean.
    "untouched": f"tclean({ARGUMENTS})\n",
}

HELPER = "from ptclean import ptclean as tclean\ndef image(*args, **kw): tclean(*args, **kw)\n"

NOTEBOOK = """
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3")
try:
    for cell in open("script.py").read().split("\\n# %%\\n"):
        reply = client.execute_interactive(cell, timeout=120)
        assert reply["content"]["status"] == "ok", reply["content"]
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=False)
"""


@pytest.fixture(scope="module")
def place(line_ms: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with line.ms and tclean's image of it."""
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "line.ms").symlink_to(line_ms)
    tclean(line_ms, imagename=str(folder / "tclean"), **CUBE)
    return folder


def casashell(startup: str = "") -> list[str]:
    """Return the command of a shell that leaves the user's own files alone."""
    pytest.importorskip("casashell", reason="casashell is not installed")
    options = ["--nologger", "--nogui", "--agg", "--cachedir", "cache"]
    options += ["--configfile", str(ROOT / "examples" / "casasiteconfig.py")]
    options += ["--startupfile", startup] if startup else ["--nostartupfile"]
    return [sys.executable, "-m", "casashell", *options, "-c", "script.py"]


def ways(way: str) -> list[str]:
    """Return the command that runs script.py in a way, as far as what that needs is installed."""
    match way:
        case "python script.py":
            return [sys.executable, "script.py"]
        case "python < script.py":
            return [sys.executable]
        case "python -c":
            return [sys.executable, "-c", Path("script.py").read_text()]
        case "python -m":
            return [sys.executable, "-m", "script"]
        case "ipython script.py":
            pytest.importorskip("IPython", reason="IPython is not installed")
            Path("ipython").mkdir()
            return [sys.executable, "-m", "IPython", "--ipython-dir=ipython", "script.py"]
        case "notebook":
            if importlib.util.find_spec("ipykernel") is None:
                pytest.skip("ipykernel is not installed")
            return [sys.executable, "-c", NOTEBOOK]
        case "casashell -c":
            return casashell()
        case "casashell -c with startup.py":
            Path("startup.py").write_text(FORMS["shell"].splitlines()[0] + "\n")
            return casashell("startup.py")
        case _:
            raise ValueError(way)


def marked(mark: str) -> list[psutil.Process]:
    """Find the processes that a script started, and their own, by their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.parametrize(
    ("way", "form"),
    [
        ("python script.py", "name"),
        ("python < script.py", "module"),
        ("python -c", "alias"),
        ("python -m", "helper"),
        ("ipython script.py", "name"),
        ("notebook", "module"),
        ("casashell -c", "name"),
        ("casashell -c", "variables"),
        ("casashell -c with startup.py", "untouched"),
    ],
)
def test_script(way: str, form: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place / f"{way} {form}".replace(" ", "-").replace("<", "from")
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "helper.py").write_text(HELPER)
    cells = f"\n{'# %%' if way == 'notebook' else ''}\n"
    (folder / "script.py").write_text(FIRST_LINE + cells + textwrap.dedent(FORMS[form]))
    monkeypatch.chdir(folder)
    mark = str(folder)
    environ = {
        **os.environ,
        MARK: mark,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        "IPYTHONDIR": "ipython",
        "JUPYTER_PLATFORM_DIRS": "1",
    }
    with open("script.py") as script:
        done = subprocess.run(
            ways(way),
            stdin=script if "<" in way else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environ,
            timeout=240,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "ran").read_text() == "the first line ran\n", "run more than once"
    assert_same_images(place / "tclean", folder / "cube")
    logs = "".join(each.read_text() for each in folder.glob("casa*.log"))
    assert "engine  2 workers" in logs
    end = time.monotonic() + 10
    while marked(mark):
        assert time.monotonic() < end, f"still running: {marked(mark)}"
        time.sleep(0.1)
