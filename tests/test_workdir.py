# SPDX-License-Identifier: GPL-3.0-or-later
"""A work directory belongs to one run, and goes with it."""

import getpass
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ptclean.errors import ImageInUseError, ParameterError
from ptclean.keeping.workdir import make_folder, refuse_if_in_use, work_directory

ROOT = Path(__file__).resolve().parents[1]

HOLD = """
import sys
from ptclean.keeping.workdir import work_directory
with work_directory(sys.argv[1]) as path:
    open(f"{path}/left", "w").close()
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def imagename(tmp_path):
    return str(tmp_path / "images" / "line")


@pytest.fixture
def other_run(imagename):
    """Start another process that has the work directory."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, imagename]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def kept(directory):
    return sorted(os.listdir(directory))


def test_it_stands_beside_the_images_and_says_whose_it_is(imagename):
    with work_directory(imagename) as path:
        assert path == f"{imagename}.ptclean"
        owner = json.loads((Path(path) / "owner.json").read_text())
    assert owner.pop("since")
    assert owner.pop("started")
    assert owner == {
        "user": getpass.getuser(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def test_nothing_is_left_of_it(imagename):
    with work_directory(imagename) as path:
        os.makedirs(f"{path}/chunk-00000/core.psf")
    assert kept(os.path.dirname(imagename)) == []


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt(), SystemExit(1)])
def test_nothing_is_left_of_it_after_an_error(imagename, error):
    def fail():
        with work_directory(imagename) as path:
            os.mkdir(f"{path}/chunk-00000")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert kept(os.path.dirname(imagename)) == []


def test_a_worker_that_is_still_at_it_does_not_bring_it_back(imagename):
    """It makes folders by their paths, and writes into the one that it is in."""
    script = """
import os, sys, time
os.chdir(sys.argv[1])
print("ready", flush=True)
end = time.monotonic() + 0.5
while time.monotonic() < end:
    try:
        open(str(time.monotonic()), "w").close()
    except FileNotFoundError:
        break
"""
    with work_directory(imagename) as path:
        make_folder(f"{path}/chunk-00000")
        make_folder(f"{path}/chunk-00000")
        worker = subprocess.Popen(
            [sys.executable, "-c", script, f"{path}/chunk-00000"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert worker.stdout.readline() == "ready\n"
    with worker:
        assert kept(os.path.dirname(imagename)) == []
    with pytest.raises(FileNotFoundError):
        make_folder(f"{path}/chunk-00001")


def test_the_error_of_the_run_is_not_hidden_if_somebody_removed_it(imagename):
    def fail():
        with work_directory(imagename) as path:
            os.rename(path, f"{path}.gone")
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        fail()


def test_finished_images_beside_it_stay(imagename):
    with work_directory(imagename) as path:
        os.mkdir(f"{path}/cube.psf")
        os.rename(f"{path}/cube.psf", f"{imagename}.psf")
    assert kept(os.path.dirname(imagename)) == ["line.psf"]


def test_that_of_a_killed_run_is_taken_over_empty(imagename, other_run):
    other_run.kill()
    other_run.wait()
    assert kept(f"{imagename}.ptclean") == ["left", "owner.json"]
    with work_directory(imagename) as path:
        assert kept(path) == ["owner.json"]


def test_that_of_a_run_that_goes_on_is_refused(imagename, other_run):
    with pytest.raises(ImageInUseError) as caught:
        work_directory(imagename).__enter__()
    text = str(caught.value)
    where = f"{getpass.getuser()} on {socket.gethostname()}, process {other_run.pid}"
    assert f"{imagename}.ptclean" in text
    assert where in text
    assert kept(f"{imagename}.ptclean") == ["left", "owner.json"]


def test_a_second_run_in_this_process_is_refused(imagename):
    with work_directory(imagename) as path:
        with pytest.raises(ImageInUseError, match=f"process {os.getpid()}"):
            work_directory(imagename).__enter__()
        assert kept(path) == ["owner.json"]


def test_that_of_another_host_is_refused(imagename):
    """Whether a process lives there cannot be known here."""
    path = Path(f"{imagename}.ptclean")
    path.mkdir(parents=True)
    owner = {"user": "ada", "host": "node17.example", "pid": 2**22 + 1, "since": "2024-01-01"}
    (path / "owner.json").write_text(json.dumps(owner))
    with pytest.raises(ImageInUseError, match=r"ada on node17\.example"):
        work_directory(imagename).__enter__()
    assert kept(path) == ["owner.json"]


@pytest.mark.parametrize(
    "content", [None, "", "not JSON", "{}", "[]", '{"owner": "ada"}', '{"host": 1, "pid": "x"}']
)
def test_a_directory_that_is_not_ptcleans_is_refused_and_untouched(imagename, content):
    path = Path(f"{imagename}.ptclean")
    path.mkdir(parents=True)
    (path / "notes.txt").write_text("mine")
    if content is not None:
        (path / "owner.json").write_text(content)
    before = kept(path)
    with pytest.raises(ParameterError, match="another imagename") as caught:
        work_directory(imagename).__enter__()
    assert str(path) in str(caught.value)
    assert kept(path) == before
    assert (path / "notes.txt").read_text() == "mine"


def test_a_file_of_that_name_is_refused_and_untouched(imagename):
    path = Path(f"{imagename}.ptclean")
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(ParameterError, match="another imagename"):
        work_directory(imagename).__enter__()
    assert path.read_text() == "mine"


def test_of_many_runs_at_once_one_has_it(imagename):
    """The others are told that it is in use, even while it is being set up."""
    together, outcomes = threading.Barrier(8), []

    def enter():
        together.wait()
        try:
            with work_directory(imagename) as path:
                outcomes.append(path)
                together.wait()
        except (ImageInUseError, ParameterError) as error:
            outcomes.append(type(error))
            together.wait()

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=str) == [f"{imagename}.ptclean", *[ImageInUseError] * 7]


def test_runs_of_other_names_do_not_meet(tmp_path):
    with work_directory(str(tmp_path / "a")) as one, work_directory(str(tmp_path / "a.b")) as two:
        assert one != two
        assert kept(tmp_path) == ["a.b.ptclean", "a.ptclean"]


def test_work_that_is_kept_is_taken_over(imagename):
    def fail(**arguments):
        with work_directory(imagename, keeps=lambda error: True, **arguments) as path:
            Path(path, "manifest.json").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert kept(f"{imagename}.ptclean") == ["manifest.json"]
    refuse_if_in_use(imagename)
    with pytest.raises(KeyboardInterrupt):
        fail(goes_on=True)
    with work_directory(imagename, goes_on=True) as path:
        assert kept(path) == ["manifest.json", "owner.json"]
        with pytest.raises(ImageInUseError, match=f"process {os.getpid()}"):
            refuse_if_in_use(imagename)
    assert kept(os.path.dirname(imagename)) == []


def test_of_many_that_go_on_at_once_one_does(imagename):
    Path(f"{imagename}.ptclean").mkdir(parents=True)
    Path(f"{imagename}.ptclean/manifest.json").touch()
    together, outcomes = threading.Barrier(8), []

    def enter():
        together.wait()
        try:
            with work_directory(imagename, goes_on=True) as path:
                outcomes.append(path)
                together.wait()
        except ImageInUseError as error:
            outcomes.append(type(error))
            together.wait()

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=str) == [f"{imagename}.ptclean", *[ImageInUseError] * 7]


def test_a_number_that_was_given_again_is_not_its_process(imagename):
    path = Path(f"{imagename}.ptclean")
    with work_directory(imagename):
        owner = json.loads((path / "owner.json").read_text())
    path.mkdir()
    (path / "owner.json").write_text(json.dumps(owner | {"started": "boot-1"}))
    with work_directory(imagename):
        assert kept(path) == ["owner.json"]


def test_what_was_being_removed_goes_with_the_next_run(imagename):
    left = Path(f"{imagename}.ptclean.removed-abc")
    left.mkdir(parents=True)
    with work_directory(imagename):
        assert not left.exists()
