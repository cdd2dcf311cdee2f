# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casatasks import tclean

import simulate_ms
from compare_images import open_image
from simulate_ms import Source, make_sky, open_table, primary_beam_fwhm, spiral

# A day of their own: the other tests compare to the last digit, in this process too.
simulate = partial(simulate_ms.simulate, day=3)

SMALL = {"nchan": 8, "nint": 2, "nant": 6}
POINT = Source(east=0.0, north=0.0, continuum=0.2, line=1.0, centre=4.0, width=4.0)


def read(path: Path | str, column: str, subtable: str = "") -> Any:
    with open_table(Path(path) / subtable) as tb:
        return tb.getcol(column)


def data_manager(path: Path, column: str) -> dict[str, Any]:
    with open_table(path) as tb:
        return next(m for m in tb.getdminfo().values() if column in m["COLUMNS"])


@pytest.mark.parametrize("column", ["DATA", "UVW", "TIME", "WEIGHT", "FLAG"])
def test_equal_options_give_equal_data(tmp_path, column):
    simulate(tmp_path / "a.ms", **SMALL)
    simulate(tmp_path / "b.ms", **SMALL)
    assert np.array_equal(read(tmp_path / "a.ms", column), read(tmp_path / "b.ms", column))


def test_another_seed_gives_other_data(tmp_path):
    first = simulate(tmp_path / "a.ms", **SMALL)
    second = simulate(tmp_path / "b.ms", **SMALL, seed=2)
    assert first != second
    assert not np.array_equal(read(tmp_path / "a.ms", "DATA"), read(tmp_path / "b.ms", "DATA"))


@pytest.mark.parametrize("npol", [2, 4])
def test_shape(tmp_path, npol):
    simulate(tmp_path / "a.ms", **SMALL, npol=npol)
    assert read(tmp_path / "a.ms", "DATA").shape == (npol, 8, 2 * 6 * 5 // 2)
    assert not read(tmp_path / "a.ms", "FLAG").any()


def test_uvw_is_not_stored_incrementally(tmp_path):
    simulate(tmp_path / "a.ms", **SMALL)
    assert data_manager(tmp_path / "a.ms", "UVW")["TYPE"] != "IncrementalStMan"


@pytest.mark.parametrize("column", ["DATA", "FLAG"])
def test_tileshape(tmp_path, column):
    simulate(tmp_path / "a.ms", **SMALL, tileshape=[2, 4, 7])
    cubes = data_manager(tmp_path / "a.ms", column)["SPEC"]["HYPERCUBES"]
    assert [list(cube["TileShape"]) for cube in cubes.values()] == [[2, 4, 7]]


def test_tiles_do_not_change_the_data(tmp_path):
    simulate(tmp_path / "a.ms", **SMALL)
    simulate(tmp_path / "b.ms", **SMALL, tileshape=[1, 2, 16])
    assert np.array_equal(read(tmp_path / "a.ms", "DATA"), read(tmp_path / "b.ms", "DATA"))


@pytest.mark.parametrize("width", [1e6, -1e6])
def test_frequencies(tmp_path, width):
    simulate(tmp_path / "a.ms", **SMALL, freq=100e9, width=width)
    freq = read(tmp_path / "a.ms", "CHAN_FREQ", "SPECTRAL_WINDOW")[:, 0]
    np.testing.assert_allclose(freq, 100e9 + width * np.arange(8), rtol=1e-12)


def test_spectrum_of_a_source_at_the_phase_centre(tmp_path):
    simulate(tmp_path / "a.ms", **SMALL, noise=0, sources=[POINT])
    data = read(tmp_path / "a.ms", "DATA")
    expected = [0.2, 0.2, 0.2, 0.7, 1.2, 0.7, 0.2, 0.2]
    np.testing.assert_allclose(data, np.broadcast_to(expected, (2, 12 * 5 // 2, 8)).swapaxes(1, 2))


def test_noise(tmp_path):
    simulate(tmp_path / "a.ms", nchan=64, nint=4, nant=20, npol=4, noise=0.3, sources=[])
    data = read(tmp_path / "a.ms", "DATA")
    assert np.std(data.real) == pytest.approx(0.3, rel=0.01)
    assert np.std(data.imag) == pytest.approx(0.3, rel=0.01)
    np.testing.assert_allclose(read(tmp_path / "a.ms", "SIGMA"), 0.3, rtol=1e-6)
    np.testing.assert_allclose(read(tmp_path / "a.ms", "WEIGHT"), 0.3**-2, rtol=1e-6)


def test_image_shows_the_source_where_it_is(tmp_path):
    source = Source(east=1.2, north=-0.7, continuum=0.5, line=0, centre=0, width=1)
    simulate(tmp_path / "a.ms", nchan=2, nant=20, nint=2, noise=0, sources=[source])
    tclean(
        vis=str(tmp_path / "a.ms"),
        imagename=str(tmp_path / "image"),
        specmode="cube",
        outframe="TOPO",
        imsize=128,
        cell="0.05arcsec",
        restoration=False,
    )
    with open_image(tmp_path / "image.residual") as ia:
        pixels = ia.getchunk()[:, :, 0, 0]
    # East is to the left, where pixel numbers fall.
    assert np.unravel_index(pixels.argmax(), pixels.shape) == (64 - 24, 64 - 14)
    beam = primary_beam_fwhm(267.5e9, 12.0)
    offset = np.hypot(1.2, 0.7)
    assert pixels.max() == pytest.approx(0.5 * 2 ** -((2 * offset / beam) ** 2), rel=1e-3)


def test_primary_beam_dims_a_source_in_other_pointings(tmp_path):
    simulate(tmp_path / "a.ms", **SMALL, pointings=3, noise=0, sources=[POINT])
    flux = np.abs(read(tmp_path / "a.ms", "DATA"))[0, 0]
    field = read(tmp_path / "a.ms", "FIELD_ID")
    beam = primary_beam_fwhm(267.5e9, 12.0)
    for number, offset in enumerate(np.hypot(*spiral(3, 0.5 * beam).T)):
        expected = 0.2 * 2 ** -((2 * offset / beam) ** 2)
        assert flux[field == number] == pytest.approx(expected, rel=1e-3)


def test_extended_source_fades_with_the_baseline(tmp_path):
    source = Source(east=0, north=0, continuum=1, line=0, centre=0, width=1, fwhm=1.0)
    simulate(tmp_path / "a.ms", **SMALL, noise=0, sources=[source])
    flux = np.abs(read(tmp_path / "a.ms", "DATA"))[0, 0]
    u, v, _ = read(tmp_path / "a.ms", "UVW") * 267.5e9 / 299_792_458
    radius = np.pi * np.hypot(u, v) * np.radians(1 / 3600)
    np.testing.assert_allclose(flux, np.exp(-(radius**2) / (4 * np.log(2))), atol=1e-6)


@pytest.mark.parametrize(("fraction", "channels"), [(0.0, 0), (0.25, 4), (0.5, 8), (1.0, 16)])
def test_line_fraction(fraction, channels):
    sky = make_sky(
        16, nsource=5, seed=3, line_fraction=fraction, continuum=0.1, radius=1.0, fwhm=0.1
    )
    line = np.array([source.spectrum(16) - source.continuum for source in sky])
    assert line.any(axis=0).sum() == channels
    outside = np.abs(np.arange(16) - 7.5) > channels / 2
    assert not line[:, outside].any()


@pytest.mark.parametrize(
    "wrong",
    [{"npol": 1}, {"nchan": 0}, {"nant": 1}, {"line_fraction": 1.5}, {"tileshape": [2, 4]}],
)
def test_arguments_without_meaning(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        simulate(tmp_path / "a.ms", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_existing_data_are_kept(tmp_path):
    (tmp_path / "a.ms").mkdir()
    (tmp_path / "a.ms" / "precious").touch()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        simulate(tmp_path / "a.ms")
    assert (tmp_path / "a.ms" / "precious").exists()


def test_configuration_in_other_coordinates(tmp_path):
    with pytest.raises(ValueError, match=r"vla\.a\.cfg.*ALMA"):
        simulate(tmp_path / "a.ms", configuration="vla.a.cfg")
