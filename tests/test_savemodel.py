# SPDX-License-Identifier: GPL-3.0-or-later
"""tclean's `savemodel`: what ptclean leaves in the measurement sets is what tclean leaves there."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.config
import numpy as np
import psutil
import pytest
from casatasks import clearcal, tclean
from casatools import table

from ptclean import plan, ptclean
from ptclean.call.description import load
from ptclean.call.parameters import saving_records
from ptclean.errors import SaveModelError, TaskError
from ptclean.imaging.savemodel import ModelsToSave
from ptclean.planning.scope import is_predicted, reason_for_serial
from ptclean.workers.apart import Surroundings, run_apart
from same_images import COMMON, assert_same_images, assert_same_return, pieces
from simulated import simulate

PARAMETERS = {each.name: each.default for each in load().parameters}

CUBE = COMMON | {"imsize": 64, "start": 4, "nchan": 5, "pbcor": False}

AUTOMASK: dict[str, Any] = {
    "usemask": "auto-multithresh",
    "sidelobethreshold": 2.0,
    "noisethreshold": 4.25,
    "lownoisethreshold": 1.5,
    "minbeamfrac": 0.3,
    "cell": "0.11arcsec",
    "niter": 300,
    "pbcor": False,
}

pytestmark = pytest.mark.usefixtures("cluster")


def assert_same_model(
    vis: str | list[str], folder: Path, *, chanchunks: int = 3, **arguments: Any
) -> tuple[list[str], dict[str, Any]]:
    """Image with tclean and with ptclean, each on copies of the data, and compare everything.

    Returns
    -------
    tuple
        The measurement sets that tclean has written to, and what it returned.
    """
    sets = [vis] if isinstance(vis, str) else vis
    copies: dict[str, list[str]] = {}
    for task in ("tclean", "ptclean"):
        copies[task] = [str(folder / f"{task}-{i}.ms") for i in range(len(sets))]
        for source, target in zip(sets, copies[task], strict=True):
            shutil.copytree(source, target)
    own = {"nworkers": 2, "chanchunks": chanchunks}
    theirs, ours = (copies[task] if len(sets) > 1 else copies[task][0] for task in copies)
    made = plan(vis=ours, imagename=str(folder / "ptclean"), **own, **arguments)
    assert made.serial is None, f"not in chunks: {made.serial}"
    expected = tclean(vis=theirs, imagename=str(folder / "tclean"), **arguments)
    if arguments["specmode"] == "cube":
        assert pieces(folder / "tclean") == 1
    found = ptclean(vis=ours, imagename=str(folder / "ptclean"), **own, **arguments)
    assert_same_images(folder / "tclean", folder / "ptclean")
    assert_same_return(expected, found)
    for one, other in zip(copies["tclean"], copies["ptclean"], strict=True):
        assert_same_measurement_set(one, other)
    return copies["tclean"], expected


def assert_same_measurement_set(expected: str, found: str) -> None:
    """Assert that two measurement sets have the same tables, with the same in them."""
    names = [sorted(name for name in subtables(path)) for path in (expected, found)]
    assert names[0] == names[1]
    for name in ["", *names[0]]:
        for (what, one), (what_too, other) in zip(
            contents(os.path.join(expected, name), expected),
            contents(os.path.join(found, name), found),
            strict=True,
        ):
            assert what == what_too
            assert_same(one, other, f"{name}:{what}")


def subtables(path: str) -> Iterator[str]:
    return (e.name for e in os.scandir(path) if os.path.isfile(os.path.join(e, "table.dat")))


def contents(path: str, root: str) -> Iterator[tuple[str, Any]]:
    """Names of columns and keywords of a table, and what they hold; not where the table is."""
    tb = table()
    assert tb.open(path)
    try:
        yield "keywords", {k: str(v).replace(root, "") for k, v in tb.getkeywords().items()}
        for column in tb.colnames():
            yield f"{column} is", tb.getcoldesc(column)
            rows = [i for i in range(tb.nrows()) if tb.iscelldefined(column, i)]
            yield f"{column} has", rows
            if tb.isvarcol(column) or "record" in str(tb.coldatatype(column)):
                yield column, [placeless(tb.getcell(column, row), root) for row in rows]
            elif rows:
                yield column, tb.getcol(column)
    finally:
        tb.close()


def placeless(value: Any, root: str) -> Any:
    """Replace names of images of virtual models, which are new in each run, by the images."""
    if isinstance(value, dict):
        # CASA never sets the number of antennas.
        return {key: placeless(v, root) for key, v in value.items() if key != "nantenna"}
    if isinstance(value, str) and value.startswith(root):
        tb = table()
        assert tb.open(value)
        try:
            return {"pixels": tb.getcell("map", 0), "coordinates": tb.getkeyword("coords")}
        finally:
            tb.close()
    return value


def assert_same(expected: Any, found: Any, where: str) -> None:
    if isinstance(expected, dict):
        assert set(expected) == set(found), where
        for key, value in expected.items():
            assert_same(value, found[key], f"{where}[{key!r}]")
    elif isinstance(expected, list):
        assert len(expected) == len(found), where
        for i, value in enumerate(expected):
            assert_same(value, found[i], f"{where}[{i}]")
    else:
        assert np.array_equal(expected, found), where


def model_data(path: str) -> Any:
    tb = table()
    assert tb.open(path)
    try:
        return tb.getcol("MODEL_DATA")
    finally:
        tb.close()


def virtual_models(path: str) -> int:
    """How many models a virtual one is the sum of."""
    tb = table()
    assert tb.open(f"{path}/SOURCE")
    try:
        return int(tb.getcell("SOURCE_MODEL", 0)["numft"])
    finally:
        tb.close()


@pytest.fixture(scope="module")
def used_ms(line_ms: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Data with a model column that is in use, and with rows that are flagged altogether."""
    path = str(tmp_path_factory.mktemp("used") / "used.ms")
    shutil.copytree(line_ms, path)
    clearcal(path, addmodel=True)
    tb = table()
    assert tb.open(path, nomodify=False)
    flags = tb.getcol("FLAG")
    flags[..., :190] = True
    tb.putcol("FLAG", flags)
    tb.putcol("FLAG_ROW", flags.all(axis=(0, 1)))
    tb.putcol("MODEL_DATA", tb.getcol("MODEL_DATA") * 7)
    tb.close()
    return path


def test_column(line_ms: str, tmp_path: Path, log: Callable[[], str]) -> None:
    (ms,), _ = assert_same_model(line_ms, tmp_path, savemodel="modelcolumn", **CUBE)
    assert len(np.unique(model_data(ms))) > 1000
    assert "writing 1 model" in log()


def test_column_of_chunks_of_one_channel(used_ms: str, tmp_path: Path) -> None:
    arguments = CUBE | {"deconvolver": "clark", "interpolation": "nearest"}
    (ms,), _ = assert_same_model(
        used_ms, tmp_path, chanchunks=1, savemodel="modelcolumn", **arguments
    )
    model = model_data(ms)
    assert np.all(model[..., :190] == 7)
    assert not np.any(model[:, 6, 190:] == 7)


def test_virtual_model_is_the_sum_of_all_last_cycles(
    line_ms: str, tmp_path: Path, log: Callable[[], str]
) -> None:
    (ms,), returned = assert_same_model(line_ms, tmp_path, savemodel="virtual", **CUBE)
    number = virtual_models(ms)
    assert 1 < number < returned["nmajordone"]
    assert f"the virtual model is the sum of {number} models" in log()


@pytest.mark.parametrize("savemodel", ["modelcolumn", "virtual"])
def test_automasks(savemodel: str, used_ms: str, tmp_path: Path) -> None:
    arguments = COMMON | AUTOMASK
    (ms,), _ = assert_same_model(used_ms, tmp_path, savemodel=savemodel, **arguments)
    if savemodel == "virtual":
        assert virtual_models(ms) == 1
    else:
        # Of flagged rows as well.
        assert not np.any(model_data(ms) == 7)


def test_last_cycle_that_nobody_took_for_it(used_ms: str, tmp_path: Path) -> None:
    """With nmajor the first residual is the only cycle that is taken for the last one."""
    (ms,), _ = assert_same_model(used_ms, tmp_path, savemodel="modelcolumn", **CUBE | {"nmajor": 1})
    assert np.all(model_data(ms)[:, 6, 190:] == 0)


def test_going_on(used_ms: str, tmp_path: Path) -> None:
    """The model that is there belongs to the first residual, which counts as a last cycle."""
    first = CUBE | {"niter": 200}
    assert_same_model(used_ms, tmp_path, savemodel="modelcolumn", **first)
    for path in tmp_path.glob("*.ms"):
        shutil.rmtree(path)
    (ms,), _ = assert_same_model(
        used_ms, tmp_path, savemodel="virtual", calcpsf=False, **CUBE | {"niter": 400}
    )
    assert virtual_models(ms) > 1


def test_dirty_cube(used_ms: str, tmp_path: Path) -> None:
    arguments = CUBE | {"niter": 0, "restoration": False}
    assert_same_model(used_ms, tmp_path, savemodel="virtual", **arguments)


def test_startmodel(used_ms: str, line_ms: str, tmp_path: Path) -> None:
    tclean(vis=line_ms, imagename=str(tmp_path / "start"), **CUBE | {"niter": 100})
    arguments = CUBE | {"niter": 0, "startmodel": str(tmp_path / "start.model")}
    (ms,), _ = assert_same_model(used_ms, tmp_path, savemodel="modelcolumn", **arguments)
    assert len(np.unique(model_data(ms))) > 1000


def test_several_measurement_sets(line_ms: str, used_ms: str, tmp_path: Path) -> None:
    arguments = CUBE | {"niter": 200, "spw": ["0", "0:2~12"]}
    first, second = assert_same_model(
        [line_ms, used_ms], tmp_path, savemodel="modelcolumn", **arguments
    )[0]
    assert not np.array_equal(model_data(first), model_data(second))


def test_wproject(line_ms: str, tmp_path: Path) -> None:
    arguments = CUBE | {"gridder": "wproject", "wprojplanes": 4, "niter": 100}
    assert_same_model(line_ms, tmp_path, savemodel="modelcolumn", **arguments)


@pytest.fixture(scope="module")
def two_pointings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two pointings, 12 channels of 5 MHz, some above the highest of those imaged."""
    path = tmp_path_factory.mktemp("two") / "two.ms"
    simulate(path, pointings=2, nchan=12, nant=8, nint=2, width=5e6, hour=4.8)
    return str(path)


def test_mosaic(two_pointings: str, tmp_path: Path) -> None:
    """The model is divided by the weights of the mosaic, which a major cycle does not make."""
    arguments: dict[str, Any] = {
        "datacolumn": "data",
        "specmode": "cube",
        "gridder": "mosaic",
        "imsize": 64,
        "cell": "0.2arcsec",
        "start": "267.5225GHz",
        "width": "5.003MHz",
        "nchan": 10,
        "niter": 60,
    }
    (ms,), _ = assert_same_model(
        two_pointings, tmp_path, chanchunks=5, savemodel="modelcolumn", **arguments
    )
    assert len(np.unique(model_data(ms))) > 100


#: Continuum images that are tclean's bit for bit if they are gridded in one part.
MFS: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "mfs",
    "imsize": 80,
    "cell": "0.1arcsec",
    "niter": 60,
    "threshold": "2mJy",
}

CONTINUUM: dict[str, dict[str, Any]] = {
    "column": {"savemodel": "modelcolumn", "nmajor": 2},
    "virtual": {"savemodel": "virtual", "threshold": "60mJy", "niter": 10_000},
    "terms": {"savemodel": "modelcolumn", "deconvolver": "mtmfs", "nterms": 2},
    "masks": {"savemodel": "modelcolumn"} | AUTOMASK | {"niter": 60},
    "dirty": {"savemodel": "modelcolumn", "niter": 0},
}


@pytest.mark.parametrize("case", CONTINUUM)
def test_continuum(case: str, used_ms: str, tmp_path: Path) -> None:
    with dask.config.set({"ptclean.continuum-parts": 1}):
        assert_same_model(used_ms, tmp_path, chanchunks=-1, **MFS | CONTINUUM[case])


def test_continuum_mosaic(two_pointings: str, tmp_path: Path) -> None:
    arguments = MFS | {"gridder": "mosaic", "cell": "0.2arcsec", "phasecenter": 0, "niter": 20}
    with dask.config.set({"ptclean.continuum-parts": 1}):
        assert_same_model(
            two_pointings, tmp_path, chanchunks=-1, savemodel="modelcolumn", **arguments
        )


def test_continuum_in_parts(line_ms: str, tmp_path: Path) -> None:
    """Within the rounding that the model itself has."""
    models = []
    for name, task, own in (("tclean", tclean, {}), ("ptclean", ptclean, {"nworkers": 2})):
        ms = str(tmp_path / f"{name}.ms")
        shutil.copytree(line_ms, ms)
        assert plan(ms, imagename=ms, nworkers=2, savemodel="modelcolumn", **MFS).serial is None
        task(ms, imagename=ms[:-3], savemodel="modelcolumn", **MFS, **own)
        models.append(model_data(ms))
    expected, found = models
    assert len(np.unique(expected)) > 1000
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def test_failure_leaves_images_and_says_how_to_go_on(
    line_ms: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ms, name = str(tmp_path / "line.ms"), str(tmp_path / "cube")
    shutil.copytree(line_ms, ms)

    def elsewhere(parameters: dict[str, Any], *, predicts: bool) -> Any:
        records = saving_records(parameters, predicts=predicts)
        nowhere = {**records.selection["ms0"], "msname": f"{ms}/nowhere.ms"}
        return dataclasses.replace(records, selection={"ms0": nowhere})

    monkeypatch.setattr("ptclean.run.saving_records", elsewhere)
    arguments = CUBE | {"niter": 20, "savemodel": "modelcolumn"}
    with pytest.raises(SaveModelError, match="images are complete"):
        ptclean(ms, imagename=name, nworkers=2, chanchunks=4, **arguments)
    assert (tmp_path / "cube.image").is_dir()
    assert not (tmp_path / "cube.ptclean").exists()
    assert_same_measurement_set(line_ms, ms)


def test_model_is_written_last(
    line_ms: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clean that fails leaves the measurement set as it was."""
    ms, name = str(tmp_path / "line.ms"), str(tmp_path / "cube")
    shutil.copytree(line_ms, ms)

    def refuse(*args: Any) -> None:
        raise RuntimeError("no more images")

    monkeypatch.setattr("ptclean.run.install", refuse)
    arguments = CUBE | {"niter": 20, "savemodel": "modelcolumn"}
    with pytest.raises(RuntimeError, match="no more images"):
        ptclean(ms, imagename=name, nworkers=2, chanchunks=4, **arguments)
    assert_same_measurement_set(line_ms, ms)


@pytest.mark.parametrize("savemodel", ["modelcolumn", "virtual"])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"niter": 0, "calcres": False}, "of a model that there is"),
        ({"gridder": "mosaic"} | AUTOMASK, "of a mosaic"),
        ({"gridder": "mosaic", "nsigma": 3.0}, "of a mosaic"),
    ],
)
def test_what_is_left_to_tclean(savemodel: str, changes: dict[str, Any], reason: str) -> None:
    parameters = PARAMETERS | CUBE | changes | {"savemodel": savemodel}
    assert str(reason_for_serial(parameters, PARAMETERS)).startswith(f"savemodel={savemodel!r} ")
    assert reason in str(reason_for_serial(parameters, PARAMETERS))


def test_data_that_cannot_be_written_to(
    line_ms: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tclean says so before it begins, not after hours."""
    arguments = {"imagename": str(tmp_path / "cube"), "nworkers": 2} | CUBE
    monkeypatch.setattr("ptclean.planning.reasons.os.access", lambda path, mode: False)
    made = plan(line_ms, savemodel="modelcolumn", **arguments)
    assert made.serial == f"savemodel='modelcolumn', and {line_ms} cannot be written to"
    assert plan(line_ms, **arguments).serial is None


def test_models_that_are_kept() -> None:
    parameters = PARAMETERS | {"niter": 10, "savemodel": "modelcolumn"}
    column, virtual = (
        ModelsToSave(parameters | {"savemodel": s}) for s in ("modelcolumn", "virtual")
    )
    for models in (column, virtual):
        models.major_cycle(lastcycle=True)
        assert models.wants_copy
        assert models.keep({}) == []
        models.major_cycle(lastcycle=False)
        assert not models.wants_copy
    assert column.all({"model": "final"}) == ({},)
    assert virtual.all({"model": "final"}) == ()
    for models in (column, virtual):
        models.major_cycle(lastcycle=True)
    assert column.keep({"model": "first"}) == [{}]
    assert virtual.keep({"model": "first"}) == []
    for models in (column, virtual):
        models.major_cycle(lastcycle=True)
    assert column.all({"model": "final"}) == ({"model": "final"},)
    assert virtual.all({"model": "final"}) == ({"model": "first"}, {"model": "final"})


def test_models_of_other_calls() -> None:
    nothing = ModelsToSave(PARAMETERS | {"niter": 10, "savemodel": "none"})
    nothing.major_cycle(lastcycle=True)
    assert not nothing.wants_copy
    predicted = ModelsToSave(
        PARAMETERS | {"niter": 10, "savemodel": "virtual", "usemask": "auto-multithresh"}
    )
    predicted.major_cycle(lastcycle=True)
    assert not predicted.wants_copy
    assert predicted.all({"model": "final"}) == ({"model": "final"},)
    assert not is_predicted(PARAMETERS | {"niter": 0, "usemask": "auto-multithresh"})
    assert is_predicted(PARAMETERS | {"niter": 1, "nsigma": 3.0})


def test_process_apart_dies_with_its_worker(tmp_path: Path) -> None:
    """Else two processes would write when the task is tried again elsewhere."""
    script = (
        "import time; from ptclean.workers.apart import Surroundings, run_apart;"
        f"run_apart(Surroundings('sleeper', {str(tmp_path)!r}), time.sleep, 600)"
    )
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    worker = subprocess.Popen([sys.executable, "-c", script], env=environ, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        log = tmp_path / "sleeper.log"
        while not (children := psutil.Process(worker.pid).children()) or not log.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        worker.kill()
        worker.wait()
    gone, alive = psutil.wait_procs(children, timeout=60)
    assert gone
    assert not alive


def test_process_apart_tells_what_happened(tmp_path: Path) -> None:
    surroundings = Surroundings("apart", str(tmp_path))
    outcome = run_apart(surroundings, os.path.basename, "/a/b")
    assert (outcome.value, outcome.worker) == ("b", "apart")
    with pytest.raises(TaskError, match="ValueError"):
        run_apart(surroundings, int, "x")
    with pytest.raises(RuntimeError, match="the process apart ended with code 7"):
        run_apart(surroundings, os._exit, 7)
