# SPDX-License-Identifier: GPL-3.0-or-later
"""Spectral axes: frames, modes, interpolations, channels wider and finer than the data's, and
data that do not fill the cube.

Real CASA images the same visibilities serially and in chunks; everything must be equal. What cannot
be equal is tclean's, and the log names the parameter.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import casadata
import dask
import numpy as np
import pytest
from casatasks import concat, flagdata, tclean
from casatools import ms, table

from ptclean import plan, ptclean
from ptclean.planning.resampling import SpectralSampling, even_start, unlike, wants_one_above
from same_images import COMMON, assert_same_as_tclean, assert_same_images, pixels
from simulated import simulate

pytestmark = pytest.mark.usefixtures("cluster")

#: A cube that takes tclean half a second: some hundred iterations, three to seven major cycles.
SMALL: dict[str, Any] = COMMON | {
    "imsize": 64,
    "niter": 60,
    "pbcor": False,
    "restoration": False,
}


PARALLEL: dict[str, int] = {"nworkers": 2, "chanchunks": 3}


@pytest.fixture(scope="module")
def few_ms(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twelve channels of 244.1 kHz from 267.5 GHz, few visibilities."""
    path = tmp_path_factory.mktemp("few") / "few.ms"
    simulate(path, nant=10, nint=4, nchan=12, day=1, hour=2.4)
    return str(path)


@pytest.fixture(scope="module")
def many_ms(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Forty channels in descending order, of which CASA selects those for the image at hand."""
    path = tmp_path_factory.mktemp("many") / "many.ms"
    simulate(path, nant=10, nint=4, nchan=40, width=-244.1e3, day=1, hour=-2.4)
    return str(path)


@pytest.fixture(scope="module")
def moving_ms(few_ms: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A field with an ephemeris: it moves by 0.1 arcsec in the two minutes of the observation."""
    folder = tmp_path_factory.mktemp("moving")
    vis = folder / "moving.ms"
    shutil.copytree(few_ms, vis)
    ephemeris = folder / "mover.tab"
    write_ephemeris(ephemeris)
    tool = ms()
    tool.open(str(vis), nomodify=False)
    assert tool.addephemeris(id=0, ephemerisname=str(ephemeris), comment="moves", field=[0])
    tool.close()
    with opened(vis / "FIELD") as tb:
        # From here on they are offsets from the ephemeris.
        for column in ("PHASE_DIR", "DELAY_DIR", "REFERENCE_DIR"):
            tb.putcell(column, 0, np.zeros((2, 1)))
    return str(vis)


def write_ephemeris(path: Path) -> None:
    """Write an ephemeris that passes the simulated field at its transit, made of Titan's."""
    titan = sorted(Path(casadata.datapath, "ephemerides", "JPL-Horizons").glob("Titan*"))[0]
    with opened(titan, write=False) as tb:
        tb.copy(str(path), deep=True, valuecopy=True).close()
    with opened(path) as tb:
        tb.removerows(list(range(30, tb.nrows())))
        days = 59400.0 + np.arange(30)
        since_transit = days - 59410.78
        tb.putcol("MJD", days)
        tb.putcol("RA", 146.989167 + 0.03 * since_transit)
        tb.putcol("DEC", 13.27875 + 0.01 * since_transit)
        tb.putcol("Rho", np.full(30, 9.0))
        tb.putcol("RadVel", 0.002 + 1e-4 * since_transit)
        tb.putkeyword("posrefsys", "ICRF/J2000.0")
        tb.putkeyword("MJD0", 59399.0)
        for name, day in (("earliest", days[0]), ("latest", days[-1])):
            epoch = tb.getkeyword(name)
            epoch["m0"]["value"] = float(day)
            tb.putkeyword(name, epoch)


class opened:
    """A table, open for a block of code."""

    def __init__(self, path: Path, *, write: bool = True) -> None:
        self.tb = table()
        self.tb.open(str(path), nomodify=not write)

    def __enter__(self) -> Any:
        return self.tb

    def __exit__(self, *exc_info: object) -> None:
        self.tb.close()


# Modes of the spectral axis


@pytest.mark.parametrize("chanchunks", [1, 3, 7])
def test_cubedata(chanchunks: int, few_ms: str, tmp_path: Path) -> None:
    """The data's own frequencies; all blank if they are taken for LSRK."""
    arguments = SMALL | {"specmode": "cubedata"}
    returned = assert_same_as_tclean(few_ms, tmp_path, chanchunks=chanchunks, **arguments)
    assert returned["iterdone"] > 0
    assert (pixels(tmp_path / "ptclean.sumwt") > 0).all()


CUBEDATA: dict[str, dict[str, Any]] = {
    "all": {"start": "", "nchan": -1},
    "strings": {"start": "267.4945GHz", "width": "0.4MHz", "nchan": 6},
    "velocities": {"start": "-1km/s", "width": "0.4km/s", "restfreq": "267.4945GHz"},
}


@pytest.mark.parametrize("case", CUBEDATA)
def test_cubedata_in_other_calls(case: str, many_ms: str, tmp_path: Path) -> None:
    arguments = SMALL | {"specmode": "cubedata", "niter": 40} | CUBEDATA[case]
    assert_same_as_tclean(many_ms, tmp_path, chanchunks=6, **arguments)


@pytest.mark.parametrize("specmode", ["cube", "cubesource", "cubedata"])
def test_field_that_moves(
    specmode: str, moving_ms: str, tmp_path: Path, log: Callable[[], str]
) -> None:
    """tclean's own images depend in the last digit on what its process did before: serial.

    In chunks, if the user wants them, within that digit; all blank or far off if the observatory
    or the frame of the data were lost.
    """
    arguments = SMALL | {"specmode": specmode, "phasecenter": "TRACKFIELD"}
    returned = tclean(moving_ms, imagename=str(tmp_path / "tclean"), **arguments)
    assert returned["iterdone"] > 0
    with dask.config.set({"ptclean.last-digits-in-chunks": True}):
        ptclean(moving_ms, imagename=str(tmp_path / "chunks"), **PARALLEL, **arguments)
    assert "ptclean runs tclean serially" not in log()
    for product in ("psf", "residual", "model"):
        expected, found = (pixels(tmp_path / f"{n}.{product}") for n in ("tclean", "chunks"))
        assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
    ptclean(moving_ms, imagename=str(tmp_path / "serial"), **PARALLEL, **arguments)
    assert "tclean serially: phasecenter='TRACKFIELD'" in log()


def test_data_not_in_topo_are_refused_as_by_tclean(
    shared_data: Callable[[str], str], tmp_path: Path
) -> None:
    """tclean tracks sources in topocentric data only."""
    vis = shared_data("antennae_north_ephem")
    arguments = SMALL | {"phasecenter": "TRACKFIELD", "start": "", "nchan": 3, "field": "0"}
    with pytest.raises(RuntimeError, match="Error in making PSF"):
        tclean(vis, imagename=str(tmp_path / "tclean"), **arguments)
    with pytest.raises(RuntimeError, match="Error in making PSF"):
        ptclean(vis, imagename=str(tmp_path / "ptclean"), nworkers=2, **arguments)


# Channels

AXES: dict[str, dict[str, Any]] = {
    "velocities up": {"start": "-6km/s", "width": "0.3km/s"},
    "velocities down": {"start": "-3km/s", "width": "-0.3km/s"},
    "velocity, no width": {"start": "-3km/s", "width": ""},
    "width alone": {"start": "", "width": "0.3MHz"},
    "quantities": {
        "start": {"unit": "km/s", "value": -5.0},
        "width": {"unit": "km/s", "value": 0.3},
    },
    "down": {"start": 9, "width": -1},
    "one and a half": {"start": "267.501123456789GHz", "width": "0.370001234MHz"},
    "three and a bit": {"start": "267.5007GHz", "width": "0.768MHz", "nchan": 4},
    "several rest frequencies": {"restfreq": ["267.5GHz", "267.6GHz"]},
    "nearest, wide": {"interpolation": "nearest", "width": 2, "start": ""},
    "nearest, another frame": {"interpolation": "nearest", "outframe": "BARY"},
}


@pytest.mark.parametrize("case", AXES)
def test_axes(case: str, few_ms: str, tmp_path: Path) -> None:
    arguments = SMALL | {"nchan": 5, "restfreq": "267.5GHz", "niter": 40} | AXES[case]
    returned = assert_same_as_tclean(few_ms, tmp_path, chanchunks=2, **arguments)
    assert returned["iterdone"] > 0


@pytest.mark.parametrize("chanchunks", [1, 4])
@pytest.mark.parametrize("interpolation", ["nearest", "linear", "cubic"])
def test_interpolation(interpolation: str, chanchunks: int, many_ms: str, tmp_path: Path) -> None:
    """CASA selects data for each chunk; the edges of what it selects must not be felt."""
    arguments = SMALL | {"interpolation": interpolation, "start": 12, "nchan": 8}
    assert_same_as_tclean(many_ms, tmp_path, chanchunks=chanchunks, **arguments)


def test_cubic_without_models(many_ms: str, tmp_path: Path) -> None:
    arguments = SMALL | {"interpolation": "cubic", "start": 12, "nchan": 6, "niter": 0}
    assert_same_as_tclean(many_ms, tmp_path, chanchunks=1, **arguments)


@pytest.mark.parametrize("niter", [0, 40])
def test_channels_finer_than_the_data(niter: int, few_ms: str, tmp_path: Path) -> None:
    """tclean refuses them, unless the first measurement set's are not."""
    coarse = tmp_path / "coarse.ms"
    simulate(coarse, nant=8, nint=3, nchan=6, seed=2, width=3.4 * 244.1e3, day=1, hour=2.4)
    arguments = SMALL | {"start": "", "nchan": -1, "niter": niter}
    assert_same_as_tclean([few_ms, str(coarse)], tmp_path, chanchunks=2, **arguments)


def test_interpolation_makes_a_difference(few_ms: str, tmp_path: Path) -> None:
    """Otherwise the tests above would compare equals."""
    made = {}
    for interpolation in ("nearest", "linear", "cubic"):
        arguments = SMALL | {"interpolation": interpolation, "niter": 0}
        arguments |= {"start": "267.5011GHz", "nchan": 5}
        tclean(few_ms, imagename=str(tmp_path / interpolation), **arguments)
        made[interpolation] = pixels(tmp_path / f"{interpolation}.residual")
    assert not np.array_equal(made["nearest"], made["linear"])
    assert not np.array_equal(made["linear"], made["cubic"])


SERIAL: dict[str, dict[str, Any]] = {
    "width='0.83MHz'": {"start": "267.5007GHz", "width": "0.83MHz"},
    "outframe='BARY'": {"outframe": "BARY"},
    "veltype='optical'": {"veltype": "optical"},
}


@pytest.mark.parametrize("reason", SERIAL)
def test_what_depends_on_where_the_cube_begins_is_tcleans(
    reason: str, few_ms: str, tmp_path: Path, log: Callable[[], str]
) -> None:
    arguments = SMALL | {"nchan": 4} | SERIAL[reason]
    tclean(few_ms, imagename=str(tmp_path / "tclean"), **arguments)
    ptclean(few_ms, imagename=str(tmp_path / "ptclean"), nworkers=2, **arguments)
    assert_same_images(tmp_path / "tclean", tmp_path / "ptclean")
    (line,) = [line for line in log().splitlines() if "ptclean runs tclean serially" in line]
    assert reason in line


def test_last_digits_are_the_users_choice(few_ms: str, tmp_path: Path) -> None:
    """Wide channels in chunks, if the user wants them: within 1e-7 of the peak, with a warning."""
    arguments = SMALL | SERIAL["width='0.83MHz'"] | {"nchan": 4, "niter": 0}
    tclean(few_ms, imagename=str(tmp_path / "tclean"), **arguments)
    with dask.config.set({"ptclean.last-digits-in-chunks": True}):
        arguments |= {"imagename": str(tmp_path / "ptclean"), "nworkers": 2, "chanchunks": 1}
        assert any("last digits" in warning for warning in plan(few_ms, **arguments).warnings)
        ptclean(few_ms, **arguments)
    expected, found = (pixels(tmp_path / f"{name}.residual") for name in ("tclean", "ptclean"))
    assert np.abs(found - expected).max() <= 2e-7 * np.abs(expected).max()


def test_whole_numbers_of_data_channels_are_tcleans(many_ms: str, tmp_path: Path) -> None:
    """CASA finds one more or less by the channels it looks at: 17 % of a weight were seen."""
    arguments = SMALL | {"start": "", "nchan": -1, "width": 2, "imagename": str(tmp_path / "cube")}
    with dask.config.set({"ptclean.last-digits-in-chunks": True}):
        made = plan(many_ms, nworkers=2, **arguments)
    assert made.serial is not None
    assert made.serial.startswith("width=2, a whole number of data channels")


# Data that do not fill the cube


def test_image_wider_than_the_data(many_ms: str, tmp_path: Path) -> None:
    """Chunks at the end of the data, for which CASA selects what it then cannot read."""
    arguments = SMALL | {"start": "267.484GHz", "width": "0.37MHz", "nchan": 42, "niter": 40}
    assert_same_as_tclean(many_ms, tmp_path, chanchunks=6, **arguments)
    weights = pixels(tmp_path / "ptclean.sumwt").ravel()
    assert 0 < np.count_nonzero(weights) < weights.size


def test_spectral_windows_with_gaps(tmp_path: Path) -> None:
    parts = [str(tmp_path / f"part{i}.ms") for i in range(2)]
    for i, part in enumerate(parts):
        simulate(part, nant=8, nint=3, nchan=5, freq=267.5e9 + i * 9 * 244.1e3, day=-1, hour=1.2)
    vis = str(tmp_path / "windows.ms")
    concat(vis=parts, concatvis=vis)
    arguments = SMALL | {"start": "", "nchan": -1, "niter": 40}
    assert_same_as_tclean(vis, tmp_path, chanchunks=5, **arguments)
    weights = pixels(tmp_path / "ptclean.sumwt").ravel()
    assert 0 < np.count_nonzero(weights) < weights.size


@pytest.fixture(scope="module")
def flagged_ms(few_ms: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Channels without data at the edge and within, an antenna, and a correlation flagged."""
    vis = str(tmp_path_factory.mktemp("flagged") / "flagged.ms")
    shutil.copytree(few_ms, vis)
    flagdata(vis, spw="0:0~1;6", flagbackup=False)
    flagdata(vis, antenna="2", flagbackup=False)
    flagdata(vis, antenna="0&1", spw="0:4", correlation="XX", flagbackup=False)
    return vis


@pytest.mark.parametrize("chanchunks", [1, 4])
def test_flags(chanchunks: int, flagged_ms: str, tmp_path: Path) -> None:
    arguments = SMALL | {"start": "", "nchan": -1}
    assert_same_as_tclean(flagged_ms, tmp_path, chanchunks=chanchunks, **arguments)
    assert 0 < np.count_nonzero(pixels(tmp_path / "ptclean.sumwt")) < 12


def test_all_flagged(few_ms: str, tmp_path: Path) -> None:
    vis = str(tmp_path / "flagged.ms")
    shutil.copytree(few_ms, vis)
    flagdata(vis, flagbackup=False)
    returned = assert_same_as_tclean(vis, tmp_path, **SMALL)
    assert returned["stopcode"] == 2
    assert not pixels(tmp_path / "ptclean.residual").any()


SHARED: dict[str, tuple[list[str], dict[str, Any]]] = {
    "fields by number": (["antennae_north_co32"], {"field": "0,1", "cell": "0.3arcsec"}),
    "fields by name": (["antennae_north_co32"], {"field": "NGC*", "cell": "0.3arcsec"}),
    "list": (["askap_vela_a", "askap_vela_b"], {"cell": "10arcsec"}),
    "selection": (
        ["day2_tdem0003_j1008"],
        {"cell": "3arcsec", "spw": "0:10~24", "antenna": "!1", "uvrange": ">100m"},
    ),
}


@pytest.mark.parametrize("case", SHARED)
def test_real_data(case: str, shared_data: Callable[[str], str], tmp_path: Path) -> None:
    names, arguments = SHARED[case]
    vis = [shared_data(name) for name in names]
    assert_same_as_tclean(
        vis if len(vis) > 1 else vis[0],
        tmp_path,
        **SMALL | {"start": "", "nchan": -1} | arguments,
    )


def test_ngc5921_in_chunks_of_one_channel(ngc5921_ms: str, tmp_path: Path) -> None:
    """Descending channels, on a grid that is wider than the band."""
    arguments = SMALL | {
        "cell": "30arcsec",
        "start": "1425km/s",
        "width": "10km/s",
        "nchan": 8,
        "restfreq": "1420.405751786MHz",
        "threshold": "8mJy",
    }
    assert_same_as_tclean(ngc5921_ms, tmp_path, chanchunks=1, **arguments)


def test_all_channels_in_one_chunk(few_ms: str, tmp_path: Path) -> None:
    arguments = SMALL | {"start": "", "nchan": -1}
    assert_same_as_tclean(few_ms, tmp_path, chanchunks=12, nworkers=1, **arguments)


# What resampling depends on, without CASA

KHZ = 1e3


def sampling(**changes: Any) -> SpectralSampling:
    values: dict[str, Any] = {
        "interpolation": "linear",
        "start": 267.5e9,
        "width": 244.0 * KHZ,
        "nchan": 100,
        "frame": "LSRK",
        "data_widths": (244.0 * KHZ,),
        "data_channels": 128,
    }
    return SpectralSampling(**values | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"width": -244.0 * KHZ},
        {"interpolation": "cubic"},
        {"interpolation": "nearest", "width": 1000.3 * KHZ},
        {"interpolation": "nearest", "frame": "BARY"},
        {"width": 366.0 * KHZ},
        {"width": 768.0 * KHZ},  # a third of it is a whole number of Hz
        {"frame": "Undefined"},
        {"frame": "REST"},
        {"nchan": 1, "width": 1000.3 * KHZ},
        {"frame": "BARY", "width": 100.0 * KHZ},  # no image channel wider than the data's
        {"width": 488.0 * KHZ, "data_channels": 16},
    ],
)
def test_alike(changes: dict[str, Any]) -> None:
    assert unlike(sampling(**changes)) is None


@pytest.mark.parametrize(
    ("changes", "parameter", "slight"),
    [
        ({"width": 1000.3 * KHZ / 3}, "width", True),
        ({"width": 732.05 * KHZ}, "width", False),  # about three data channels
        ({"width": 830.0 * KHZ}, "width", True),  # a third of it is not a whole number
        ({"width": 488.0 * KHZ}, "width", False),
        ({"frame": "BARY"}, "outframe", True),
        ({"frame": "TOPO", "width": 300.0 * KHZ}, "outframe", True),
        ({"interpolation": "cubic", "nchan": 3}, "interpolation", False),
        ({"data_widths": (61.0 * KHZ, 244.0 * KHZ)}, "width", False),
    ],
)
def test_unlike(changes: dict[str, Any], parameter: str, slight: bool) -> None:
    found = unlike(sampling(**changes))
    assert found is not None
    assert (found.parameter, found.slight) == (parameter, slight)


def test_frequencies_that_are_sums_without_rounding() -> None:
    unit = float(np.spacing(267.5e9))
    assert sampling(width=3 * unit * 2**30).exact(3)
    assert not sampling(width=3 * unit * 2**30 + unit).exact(3)
    assert not sampling(start=1e9 / 3, width=-1e5, nchan=2).exact(3)


def test_guards_for_models() -> None:
    unit = float(np.spacing(267.5e9))
    odd = 244.0 * KHZ + unit
    assert even_start(sampling(width=odd))
    assert not even_start(sampling())
    assert not even_start(sampling(width=odd, interpolation="nearest"))
    assert wants_one_above(sampling())
    assert not wants_one_above(sampling(width=366.0 * KHZ))
