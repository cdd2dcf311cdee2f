# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rows, correlations and columns are imaged, on to what images: in chunks as by tclean.

Real CASA images the same visibilities serially and in chunks; everything must be equal.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casatasks import concat, flagdata, mstransform, tclean
from casatools import table

from ptclean import plan, ptclean
from ptclean.planning.weighting import confuses_channels
from same_images import COMMON, assert_same_as_tclean, assert_same_images
from simulated import simulate

pytestmark = pytest.mark.usefixtures("cluster")

#: A cube of seven channels, in chunks of three, that is cleaned a little.
SMALL: dict[str, Any] = COMMON | {
    "imsize": 64,
    "niter": 20,
    "pbcor": False,
    "restoration": False,
}


@pytest.fixture(scope="module")
def night_ms(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two fields of four integrations each, in scans, observations and intents of their own.

    With rows of autocorrelations, a corrected column and a model column, each of its own.
    """
    path = tmp_path_factory.mktemp("night") / "night.ms"
    simulate(path, pointings=2, nchan=12, nant=10, nint=4, day=3, hour=1.2)
    tb = table()
    tb.open(str(path), nomodify=False)
    data, uvw = tb.getcol("DATA"), tb.getcol("UVW")
    first, second = tb.getcol("ANTENNA1"), tb.getcol("ANTENNA2")
    # One baseline in forty-five is told to be an antenna with itself.
    auto = np.arange(tb.nrows()) % 45 == 7
    second[auto], uvw[:, auto] = first[auto], 0
    tb.putcol("ANTENNA2", second)
    tb.putcol("UVW", uvw)
    times = np.unique(tb.getcol("TIME"), return_inverse=True)[1]
    tb.putcol("SCAN_NUMBER", 1 + times // 2)
    later = times % 4 > 1
    tb.putcol("OBSERVATION_ID", later.astype(int))
    tb.putcol("STATE_ID", later.astype(int))
    for name, column in (("CORRECTED_DATA", 1.5 * data), ("MODEL_DATA", 0.25 * data)):
        description = tb.getcoldesc("DATA")
        manager = {"NAME": name.lower(), "TYPE": "TiledShapeStMan", "SPEC": {}}
        tb.addcols({name: description}, manager)
        tb.putcol(name, column)
    tb.close()
    tb.open(f"{path}/OBSERVATION", nomodify=False)
    tb.copyrows(f"{path}/OBSERVATION", nrow=1)
    tb.close()
    tb.open(f"{path}/STATE", nomodify=False)
    tb.addrows(2 - tb.nrows())
    tb.putcol("OBS_MODE", ["OBSERVE_TARGET#ON_SOURCE", "CALIBRATE_PHASE#ON_SOURCE"])
    tb.close()
    return str(path)


ROWS: dict[str, dict[str, Any]] = {
    "time and field": {"timerange": ">18:42:00", "field": "0"},
    "fields of all, and a scan": {"field": ["0~1"], "scan": "1~3"},
    "observation": {"observation": "1", "field": "pointing*"},
    "intent": {"intent": "*TARGET*"},
    "antennas with themselves": {"antenna": "*&&*", "field": "1"},
    "antennas and uv range": {"antenna": "0~7", "uvrange": "50~400m", "field": "0"},
    "channels in pieces": {"spw": "0:1~4;6~11", "start": "", "nchan": -1, "field": "0"},
    "frequencies": {"spw": "0:267.5005~267.502GHz", "start": "", "nchan": -1, "field": "0"},
    "selectdata off": {"selectdata": False, "timerange": ">18:45:00", "field": ""},
    "corrected": {"datacolumn": "corrected", "field": "0"},
}


@pytest.mark.parametrize("case", ROWS)
def test_rows(case: str, night_ms: str, tmp_path: Path) -> None:
    """At the data's own frequencies: in LSRK their last digit depends on the first epoch of all
    that a process has read, which is another one with each selection.
    """
    arguments = SMALL | {"specmode": "cubedata"} | ROWS[case]
    returned = assert_same_as_tclean(night_ms, tmp_path, **arguments)
    assert returned["iterdone"] > 0


IMAGES: dict[str, dict[str, Any]] = {
    "number of a field": {"phasecenter": 1, "field": "0,1"},
    "ICRS": {"phasecenter": "ICRS 09h47m57.45s 13d16m43.9s", "projection": "TAN"},
    "B1950, other pixels": {
        "phasecenter": "B1950 09h45m15.1s 13d30m44.5s",
        "imsize": [80, 54],
        "cell": ["0.1arcsec", "0.13arcsec"],
    },
    "another projection": {"projection": "NCP", "cell": ["0.12arcsec"], "imsize": [64]},
}


@pytest.mark.parametrize("case", IMAGES)
def test_images(case: str, night_ms: str, tmp_path: Path) -> None:
    assert_same_as_tclean(night_ms, tmp_path, **SMALL | {"field": "0", "niter": 10} | IMAGES[case])


def test_one_and_four_correlations(tmp_path: Path) -> None:
    """Rows of both in one measurement set, and a list of which each has its own selections."""
    four, one, both = (str(tmp_path / f"{name}.ms") for name in ("four", "one", "both"))
    simulate(four, npol=4, nchan=10, nant=8, nint=3, day=3, hour=2.4)
    mstransform(four, one, datacolumn="data", correlation="XX", antenna="0~5")
    concat([four, one], concatvis=both)
    assert_same_as_tclean(both, tmp_path, **SMALL | {"stokes": "I"})
    assert_same_as_tclean(both, folder(tmp_path, "XX"), **SMALL | {"stokes": "XX", "niter": 10})
    each = {"spw": ["0", "0:2~8"], "antenna": ["", "0~3"], "field": ["0", ""], "scan": ["", "1"]}
    assert_same_as_tclean([four, one], folder(tmp_path, "list"), **SMALL | each)


def test_antennas_and_channels_that_are_flagged(night_ms: str, tmp_path: Path) -> None:
    """An antenna all the time, channels of one field only, whole rows."""
    vis = str(tmp_path / "flagged.ms")
    shutil.copytree(night_ms, vis)
    flagdata(vis, antenna="3", flagbackup=False)
    flagdata(vis, spw="0:0~4", field="1", flagbackup=False)
    flagdata(vis, scan="2", flagbackup=False)
    arguments = SMALL | {"field": "0,1", "start": "", "nchan": -1, "niter": 0}
    assert_same_as_tclean(vis, tmp_path, chanchunks=4, **arguments)


def test_lists_whose_last_has_more_channels(tmp_path: Path) -> None:
    """Chunks of two channels crash CASA here, and so does tclean with such a cube."""
    few, coarse = (str(tmp_path / f"{name}.ms") for name in ("few", "coarse"))
    simulate(few, nant=8, nint=2, nchan=12, day=2, hour=-1.2)
    simulate(coarse, nant=8, nint=2, nchan=6, seed=2, width=3.4 * 244.1e3, day=-1)
    own = {"imagename": str(tmp_path / "cube"), "nworkers": 2, "chanchunks": 2}
    arguments = SMALL | own | {"start": "", "nchan": -1, "niter": 0}
    for vis in ([few, coarse], [coarse, few]):
        # tclean sorts them by time.
        reason = plan(vis, **arguments).serial
        assert reason is not None
        assert reason.startswith("weighting='briggs', for each channel, of measurement sets")
    for changes in ({"weighting": "natural"}, {"perchanweightdensity": False}):
        assert plan([few, coarse], **arguments | changes).serial is None
    one_each = {"weighting": "natural", "start": "", "nchan": -1, "niter": 0}
    assert_same_as_tclean([few, coarse], tmp_path, chanchunks=2, **SMALL | one_each)


@pytest.mark.parametrize(
    ("windows", "selected", "confusing"),
    [
        ([[12]], [0], False),
        ([[12], [12]], [0], False),
        ([[12], [6]], [0], False),
        ([[6], [12]], [0], True),
        ([[6, 12], [12, 12]], [1], False),
        ([[12], [12, 6]], [1], True),
        ([[6], [12], [12]], [0], True),
    ],
)
def test_order_of_measurement_sets(
    windows: list[list[int]], selected: list[int], confusing: bool
) -> None:
    assert confuses_channels(windows, selected) is confusing


def test_names_and_places(night_ms: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative names with spaces, in a folder, one call after the other and from two threads."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(night_ms, "the night.ms")
    folder(tmp_path, "some images")
    arguments = SMALL | {"field": "0", "niter": 10}
    tclean("the night.ms", imagename="some images/by tclean", **arguments)

    def image(name: str) -> None:
        ptclean("the night.ms", imagename=name, nworkers=2, chanchunks=4, **arguments)

    image("some images/one")
    threads = [threading.Thread(target=image, args=(name,)) for name in ("two", "./other two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("some images/one", "two", "other two"):
        assert_same_images(tmp_path / "some images/by tclean", tmp_path / name)


def folder(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir()
    return made
