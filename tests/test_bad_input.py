# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input is refused before anything starts: with tclean's own verdict, or a clearer one, and
nothing is changed on disk.

Every call asks for workers, so that it is ptclean's engine that is asked. What a task says of its
arguments without looking at data is in ``test_words.py``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask.config
import pytest
from casatasks import tclean

from ptclean import DaskClusterManager, plan, ptclean
from ptclean.errors import DiskError, ImageInUseError, ParameterError, WorkerStartError
from ptclean.keeping.workdir import work_directory
from simulated import simulate

BASE: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 32,
    "cell": "0.3arcsec",
    "niter": 5,
    "imagename": "im",
}


@dataclass(frozen=True)
class Case:
    """Bad input.

    Attributes
    ----------
    changes : dict
        Of the arguments of a good call.
    message : str or None
        What ptclean says, a regular expression; None for the verdict of tclean.
    kind : type
        Of the exception, where there is a message.
    files, folders : tuple of str
        What there is before the call; files say hello.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    message: str | None = None
    kind: type[Exception] = ParameterError
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


def mfs(**changes: Any) -> dict[str, Any]:
    return {"specmode": "mfs", **changes}


def mtmfs(**changes: Any) -> dict[str, Any]:
    return mfs(deconvolver="mtmfs", **changes)


NAN = float("nan")

CASES: dict[str, Case] = {
    # ptclean's own parameters
    "nworkers negative": Case({"nworkers": -1}, "nworkers=-1: .*use nworkers=0"),
    "nworkers a float": Case({"nworkers": 2.0}, "nworkers.*cInt", AssertionError),
    "nworkers nan": Case({"nworkers": NAN}, "nworkers.*cInt", AssertionError),
    "nworkers a text": Case({"nworkers": "2"}, "nworkers.*cInt", AssertionError),
    "nworkers nothing": Case({"nworkers": None}, "nworkers.*null", AssertionError),
    "nworkers a list": Case({"nworkers": [2]}, "nworkers.*cInt", AssertionError),
    "chanchunks 0": Case({"chanchunks": 0}, "chanchunks=0: .*use chanchunks=-1"),
    "chanchunks -2": Case({"chanchunks": -2}, "chanchunks=-2: .*use chanchunks=-1"),
    "chanchunks a text": Case({"chanchunks": "auto"}, "chanchunks.*cInt", AssertionError),
    "chanchunks a float": Case({"chanchunks": 1.5}, "chanchunks.*cInt", AssertionError),
    "memory_limit a number": Case({"memory_limit": 16}, "memory_limit.*cStr", AssertionError),
    "memory_limit nothing": Case({"memory_limit": None}, "memory_limit.*null", AssertionError),
    "memory_limit no unit": Case(
        {"memory_limit": "5 apples"},
        "memory_limit='5 apples' cannot be read.*for example",
        ValueError,
    ),
    "memory_limit negative": Case(
        {"memory_limit": "-1GiB"}, "memory_limit='-1GiB' is not an amount.*use", ValueError
    ),
    "memory_limit nan": Case({"memory_limit": "nan"}, "memory_limit='nan' is not an", ValueError),
    "memory_limit infinite": Case({"memory_limit": "inf"}, "memory_limit='inf' is not", ValueError),
    "memory_limit tiny": Case({"memory_limit": "1MB"}, "memory_limit='1MB' gives.*256", ValueError),
    "memory_limit a tiny part": Case({"memory_limit": "1e-6"}, "use a larger limit", ValueError),
    "memory_limit too small": Case(
        {"memory_limit": "300MiB", "imsize": 1024}, "memory_limit=.*at least", MemoryError
    ),
    # Measurement sets
    "vis missing": Case({"vis": "no.ms"}),
    "vis missing in a list": Case({"vis": ["MS", "no.ms"]}),
    "vis empty": Case({"vis": ""}),
    "vis an empty list": Case({"vis": []}),
    "vis a file": Case({"vis": "f.ms"}, files=("f.ms",)),
    "vis a folder": Case({"vis": "d.ms"}, folders=("d.ms",)),
    "vis a folder, mfs": Case(mfs(vis="d.ms"), folders=("d.ms",)),
    "vis another table": Case({"vis": "MS/ANTENNA"}),
    "vis with a folder": Case({"vis": ["MS", "d.ms"]}, folders=("d.ms",)),
    "vis twice": Case({"vis": ["MS", "MS"]}),
    # Selections that select nothing
    "field of no name": Case({"field": "nosuch"}),
    "field of no number": Case({"field": "99"}),
    "field, mfs": Case(mfs(field="nosuch")),
    "fields for one vis": Case({"field": ["0", "0"]}),
    "spw of no number": Case({"spw": "9"}),
    "spw, mfs": Case(mfs(spw="9")),
    "spw syntax": Case({"spw": "0:a~b"}),
    "antenna of no name": Case({"antenna": "ZZ99"}),
    "antenna syntax": Case({"antenna": "&&&"}),
    "antennas for one vis": Case({"antenna": ["0", "1"]}),
    "scan of no number": Case({"scan": "99"}),
    "observation a number": Case({"observation": 7}),
    "observation syntax": Case({"observation": "x"}),
    "intent of no name": Case({"intent": "NOSUCH"}),
    "timerange elsewhere": Case({"timerange": "2001/01/01/00:00:00~2001/01/02/00:00:00"}),
    "timerange syntax": Case({"timerange": "yesterday"}),
    "uvrange elsewhere": Case({"uvrange": ">1000000km"}),
    "uvrange syntax": Case({"uvrange": "foo"}),
    # Names of images
    "imagename empty": Case({"imagename": ""}, "imagename='': .*it is needed"),
    "imagename a number": Case({"imagename": 5}, "imagename=5: .*one name"),
    "imagename a list": Case(mfs(imagename=["im"]), r"imagename=\['im'\]: .*one name"),
    "imagename with a null": Case({"imagename": "a\0b"}, "null characters"),
    "imagename in no folder": Case({"imagename": "a/b/im"}),
    "imagename in no folder, mfs": Case(mfs(imagename="a/b/im")),
    "imagename below a file": Case({"imagename": "f/im"}, files=("f",)),
    "imagename far below a file": Case({"imagename": "f/g/im"}, files=("f",)),
    "imagename too long": Case({"imagename": "a" * 300}, "imagename='.*too long.*use another"),
    "imagename where nothing is": Case(
        {"imagename": "/proc/im"}, "imagename='/proc/im': .*cannot be written to", DiskError
    ),
    "imagename taken": Case(
        {}, "imagename=.*im.ptclean for its work.*move it away", folders=("im.ptclean",)
    ),
    **{
        f"{product} no image, {mode['specmode']}": Case(
            mode, rf"imagename=.*im\.{product} exists, but is none; move it away", **made
        )
        for mode in ({"specmode": "cube"}, {"specmode": "mfs"})
        for product, made in (
            ("psf", {"files": ("im.psf",)}),
            ("pb", {"folders": ("im.pb",)}),
            ("residual", {"folders": ("im.residual",)}),
            ("model", {"folders": ("im.model",)}),
            ("mask", {"files": ("im.mask",)}),
            ("image", {"folders": ("im.image",)}),
        )
    },
    # Size and place
    "imsize 0": Case({"imsize": 0}),
    "imsize negative": Case({"imsize": [32, -1]}),
    "imsize empty": Case({"imsize": []}),
    "imsize of three": Case({"imsize": [32, 32, 32]}),
    "imsize too small": Case({"imsize": 5}, "imsize=5: .*at least imsize=6"),
    "imsize too small, mfs": Case(mfs(imsize=[32, 1]), r"imsize=\[32, 1\]: .*at least imsize=6"),
    "cell 0": Case({"cell": "0arcsec"}),
    "cell no quantity": Case({"cell": "foo"}),
    "cell empty": Case({"cell": ""}),
    "cell of three": Case(mfs(cell=["1arcsec"] * 3)),
    "phasecenter no place": Case({"phasecenter": "J2000 foo bar"}),
    "phasecenter no frame": Case({"phasecenter": "J1999 10h0m0 10d0m0"}),
    "phasecenter no field": Case({"phasecenter": 99}),
    "projection": Case({"projection": "FOO"}),
    # Axes
    "start a float": Case({"start": 1.5}),
    "start a list": Case({"start": ["1", "2"]}),
    "start and width of other kinds": Case({"start": "267.5GHz", "width": "1km/s"}),
    "start a channel, width a frequency": Case({"start": 1, "width": "1MHz"}),
    "nchan 0": Case({"nchan": 0}, "nchan=0: .*use nchan=-1"),
    "nchan negative": Case({"nchan": -2}, "nchan=-2: .*use nchan=-1"),
    "outframe": Case({"outframe": "FOO"}),
    "restfreq": Case({"restfreq": "foo"}),
    "reffreq": Case(mtmfs(reffreq="foo")),
    # Weights
    "noise": Case({"weighting": "briggsabs", "noise": "foo"}),
    "uvtaper": Case({"uvtaper": ["foo"]}),
    "uvtaper of four": Case({"uvtaper": ["1klambda"] * 4}),
    "uvtaper, mfs": Case(mfs(uvtaper=["foo"])),
    "taper of one channel": Case(
        {"weighting": "briggsbwtaper", "nchan": 1}, "weighting='briggsbwtaper': .*more channels"
    ),
    "taper, mfs": Case(mfs(weighting="briggsbwtaper")),
    "taper with pixels": Case({"weighting": "briggsbwtaper", "npixels": 3}),
    # Gridding
    "facets 0": Case({"facets": 0}),
    "wprojplanes 0": Case({"gridder": "wproject", "wprojplanes": 0}),
    "conjbeams with mvc": Case(
        mtmfs() | {"specmode": "mvc", "gridder": "mosaic", "conjbeams": True}
    ),
    "beams of mvc": Case(mtmfs() | {"specmode": "mvc", "gridder": "awproject", "wbawp": False}),
    "outlierfile missing": Case({"outlierfile": "no.txt"}),
    # Cleaning
    "mtmfs for cubes": Case({"deconvolver": "mtmfs"}),
    "mtmfs for cubes of data": Case({"deconvolver": "mtmfs", "specmode": "cubedata"}),
    "mvc without mtmfs": Case({"specmode": "mvc"}),
    "mvc with one term": Case(mtmfs(nterms=1) | {"specmode": "mvc"}),
    "nterms 0": Case(mtmfs(nterms=0), "nterms=0: .*use nterms=2"),
    "nterms negative": Case(mtmfs(nterms=-1), "nterms=-1: .*use nterms=2"),
    "nmajor": Case({"nmajor": -2}),
    "threshold no quantity": Case({"threshold": "foo"}),
    "threshold a list": Case({"threshold": ["1mJy"]}),
    "threshold, mfs": Case(mfs(threshold="foo")),
    "scales negative": Case({"deconvolver": "multiscale", "scales": [-1]}, "scales=.*use 0"),
    "scales nan, mfs": Case(mtmfs(scales=[NAN]), "scales=.*use 0"),
    "psfcutoff, mfs": Case(mfs(psfcutoff=1.0), "psfcutoff=1.0: .*psfcutoff=0.35"),
    "psfcutoff, mtmfs": Case(mtmfs(psfcutoff=2.0), "psfcutoff=2.0: .*psfcutoff=0.35"),
    "pbmask": Case({"usemask": "pb", "pbmask": 7.0}),
    "restoringbeam": Case({"restoringbeam": "foo"}),
    "restoringbeam, mfs": Case(mfs(restoringbeam="foo")),
    "restoringbeam wider than long": Case({"restoringbeam": ["1arcsec", "2arcsec", "3deg"]}),
    # Masks and models
    "mask missing": Case({"mask": "no.mask"}, "mask='no.mask': .*nor a region such as"),
    "mask missing in a list": Case(
        {"mask": ["circle[[16pix,16pix],3pix]", "no.mask"]}, "mask='no.mask': .*nor a region"
    ),
    "mask missing, mfs": Case(mfs(mask="no.mask"), "mask='no.mask': .*nor a region such as"),
    "startmodel missing": Case({"startmodel": "no.model"}),
    "startmodel missing, mfs": Case(mfs(startmodel="no.model")),
    "startmodel a number": Case({"startmodel": 5}),
    "startmodel two": Case({"startmodel": ["a", "b"]}),
    "startmodel a file": Case({"startmodel": "f.model"}, files=("f.model",)),
    "startmodel a folder": Case({"startmodel": "d.model"}, folders=("d.model",)),
}


@pytest.fixture(scope="module")
def ms(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tiny") / "tiny.ms"
    simulate(path, nchan=4, nant=6, nint=2, hour=6.0)
    return str(path)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: DaskClusterManager) -> DaskClusterManager:
        pytest.fail("a cluster was about to start")

    monkeypatch.setattr(DaskClusterManager, "__enter__", start)


def contents(*folders: str | Path) -> dict[str, int]:
    """Return all files and folders with the times of their last change, but for CASA's locks."""
    found = {}
    for folder in folders:
        for path in [Path(folder), *Path(folder).rglob("*")]:
            if path.name != "table.lock":
                found[str(path)] = path.lstat().st_mtime_ns
    return found


@contextlib.contextmanager
def unchanged(*folders: str | Path) -> Iterator[None]:
    before = contents(*folders)
    yield
    assert contents(*folders) == before


@contextlib.contextmanager
def inside(folder: Path, case: Case) -> Iterator[None]:
    """Be in a new folder with what there is before a call."""
    folder.mkdir()
    for name in case.folders:
        (folder / name).mkdir()
    for name in case.files:
        (folder / name).write_text("hello")
    with contextlib.chdir(folder):
        yield


def verdict(task: Any, folder: Path, arguments: dict[str, Any]) -> tuple[str, str]:
    """Return what a task says: type and text, without what differs from call to call."""
    try:
        returned = task(**arguments)
    except Exception as error:
        text = str(error).replace(f"{folder}/", "")
        return type(error).__name__, re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", text)
    assert returned is None, "it was taken"
    return "nothing", ""


def warnings_of(text: str) -> list[str]:
    """Return what the log warns of, without times and tasks."""
    lines = [line.split("\t", 3) for line in text.splitlines()]
    return [
        line[3] for line in lines if len(line) == 4 and line[1] == "WARN" and "tclean" in line[2]
    ]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input(case: Case, ms: str, tmp_path: Path, log: Callable[[], str]) -> None:
    arguments = BASE | {"vis": ms} | case.changes
    arguments["vis"] = _with_ms(arguments["vis"], ms)
    own = {"nworkers": 2} | arguments
    if case.message is not None:
        with (
            inside(tmp_path / "ptclean", case),
            unchanged(tmp_path / "ptclean", ms),
            pytest.raises(case.kind, match=f"(?s){case.message}"),
        ):
            ptclean(**own)
        return
    verdicts, warned = [], []
    for name, task, given in (("tclean", tclean, arguments), ("ptclean", ptclean, own)):
        folder = tmp_path / name
        said = len(log())
        with inside(folder, case), unchanged(folder, ms):
            verdicts.append(verdict(task, folder, given))
        warned.append(warnings_of(log()[said:]))
    assert verdicts[0] == verdicts[1]
    if verdicts[0] == ("nothing", ""):
        assert warned[0] == warned[1] != []


def _with_ms(vis: Any, ms: str) -> Any:
    if isinstance(vis, list):
        return [_with_ms(each, ms) for each in vis]
    return re.sub("^MS", ms, vis)


def test_there_are_so_many_cases() -> None:
    assert len(CASES) > 100


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (mtmfs(pbcor=True), ["pbcor"]),
        (mtmfs(gridder="mosaic"), ["mosaic"]),
        (mtmfs(gridder="mosaic", pbcor=True), ["pbcor", "mosaic"]),
        (mtmfs(), []),
        (mfs(gridder="mosaic", pbcor=True), []),
    ],
    ids=str,
)
def test_what_tclean_warns_of(
    changes: dict[str, Any], words: list[str], ms: str, tmp_path: Path, log: Callable[[], str]
) -> None:
    """Of what makes sense in some cases only; here in words of our own."""
    arguments = BASE | {"vis": ms, "niter": 0, "restoration": False} | changes
    made = plan(**arguments | {"imagename": str(tmp_path / "im"), "nworkers": 2})
    assert made.serial is None
    assert len(made.warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, made.warnings, strict=True))
    said = len(log())
    tclean(**arguments | {"imagename": str(tmp_path / "im")})
    warned = [each for each in warnings_of(log()[said:]) if "specmode" in each]
    assert len(warned) == len(words)


def test_plan_refuses_as_the_task_does(ms: str, tmp_path: Path) -> None:
    for name in ("nworkers negative", "imsize too small", "mask missing", "threshold no quantity"):
        arguments = BASE | {"vis": ms, "imagename": str(tmp_path / "im"), "nworkers": 2}
        with unchanged(tmp_path), pytest.raises(RuntimeError) as refusal:
            plan(**arguments | CASES[name].changes)
        assert re.search(CASES[name].message or "Illegal input units", str(refusal.value))


def test_note_says_what_to_do_about_a_folder(ms: str, tmp_path: Path) -> None:
    name = str(tmp_path / "a" / "b" / "im")
    with pytest.raises(FileNotFoundError) as refusal:
        ptclean(**BASE | {"vis": ms, "imagename": name, "nworkers": 2})
    (note,) = refusal.value.__notes__
    assert note.startswith(f"imagename={name!r} ")
    assert "first, or use another imagename" in note


def test_image_in_use(ms: str, tmp_path: Path) -> None:
    name = str(tmp_path / "im")
    with (
        work_directory(name),
        unchanged(tmp_path, ms),
        pytest.raises(ImageInUseError, match=r"Wait for it, or give this one another imagename"),
    ):
        ptclean(**BASE | {"vis": ms, "imagename": name, "nworkers": 2})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
@pytest.mark.parametrize("closed", ["vis", "folder"])
def test_what_may_not_be_read_or_written(closed: str, ms: str, tmp_path: Path) -> None:
    vis, folder = tmp_path / "closed.ms", tmp_path / "folder"
    vis.mkdir()
    folder.mkdir()
    path = vis if closed == "vis" else folder
    path.chmod(0o500 if closed == "folder" else 0)
    given = str(vis) if closed == "vis" else ms
    try:
        with pytest.raises(RuntimeError, match=str(path)):
            ptclean(**BASE | {"vis": given, "imagename": str(folder / "im"), "nworkers": 2})
    finally:
        path.chmod(0o700)


def test_home_in_a_name_is_what_tclean_takes_it_for(
    ms: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though tclean makes a folder of the name ``~`` as well."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with inside(tmp_path / "elsewhere", Case()):
        for name in ("~/im", "$HOME/im", "${HOME}/im"):
            made = plan(**BASE | {"vis": ms, "imagename": name, "nworkers": 2})
            assert made.imagename == str(tmp_path / "im")
        tclean(**BASE | {"vis": ms, "imagename": "~/im", "niter": 0, "restoration": False})
    assert (tmp_path / "im.psf").is_dir()


# Settings and environment

SETTINGS: dict[str, tuple[Any, str]] = {
    "start-timeout": ("soon", "is a time, such as 2m"),
    "stop-timeout": (None, "is a time, such as 3s"),
    "comm-timeout": (-3, "is a time, such as 1h"),
    "allowed-failures": (2.5, "is a number of times, such as 2"),
    "small-cube-seconds": ("few", "is a number of seconds, such as 10"),
    "continuum-parts": (0, "is a number of parts, such as 8, or null"),
    "last-digits-in-chunks": ("maybe", "is true or false"),
    "iteration-control": ("channel", "is cube or chunk"),
    "log-directory": (5, "is the name of a folder, or null"),
    "local-directory": ("", "is the name of a folder, or null"),
    "last-digit-in-chunks": (True, "is unknown; did you mean ptclean.last-digits-in-chunks?"),
    "start-time-out": ("5m", "is unknown; did you mean ptclean.start-timeout?"),
}


@pytest.mark.parametrize("key", SETTINGS)
def test_setting(key: str, ms: str, tmp_path: Path) -> None:
    value, message = SETTINGS[key]
    expected = re.escape(f"ptclean.{key}={value!r}: ptclean.{key} {message}")
    with (
        dask.config.set({f"ptclean.{key}": value}),
        unchanged(tmp_path),
        pytest.raises(ParameterError, match=f"{expected}.*Set it in"),
    ):
        ptclean(**BASE | {"vis": ms, "imagename": str(tmp_path / "im"), "nworkers": 2})


def test_settings_that_are_none(ms: str, tmp_path: Path) -> None:
    with dask.config.set({"ptclean": 5}), pytest.raises(ParameterError, match="ptclean=5: "):
        plan(**BASE | {"vis": ms, "imagename": str(tmp_path / "im")})


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1:1"])
def test_address_of_no_scheduler(
    address: str, ms: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
    with (
        dask.config.set({"ptclean.start-timeout": "1s"}),
        unchanged(tmp_path),
        pytest.raises(WorkerStartError, match=f"{address}.*DASK_SCHEDULER_ADDRESS"),
    ):
        ptclean(**BASE | {"vis": ms, "imagename": str(tmp_path / "im"), "nworkers": 2})
