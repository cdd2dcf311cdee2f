# SPDX-License-Identifier: GPL-3.0-or-later
"""Make line measurement sets that look like ALMA's, with a sky that is known exactly.

Antenna positions are those of real configurations (package ``casadata``), (u, v, w) and times come
from CASA's simulator, and the visibilities are computed here: each source is a point or a circular
Gaussian with a flat continuum and a line whose profile is exactly zero outside its own channels.

Covered: one spectral window, one or more pointings with a Gaussian primary beam, two or four
linear correlations, thermal noise, the tiling of the DATA column.

Not covered: calibration errors, flags, polarised sources, autocorrelations, sources that vary.

Use it from Python (`simulate`) or from the shell: ``python simulate_ms.py --help``.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import casadata
import numpy as np
from casatasks import mstransform
from casatools import measures, quanta, simulator, table

SPEED_OF_LIGHT = 299_792_458.0
ARCSEC = math.pi / (180 * 3600)
PHASE_CENTRE = ("J2000", "09h47m57.4", "13d16m43.5")
SIDEREAL_DAY = 86164.0905  # s
TRANSIT = "2021/07/15/18:43:00"  # UTC; the phase centre culminates at ALMA
CORRELATIONS = {2: "XX YY", 4: "XX XY YX YY"}
ROWS_AT_ONCE = 20_000


@dataclass(frozen=True)
class Source:
    """One unpolarised source.

    Attributes
    ----------
    east, north : float
        Offset from the phase centre of the first pointing, in arcsec on the sky (l, m).
    continuum : float
        Flux density of the continuum, in Jy, the same in all channels.
    line : float
        Flux density that the line adds at its peak, in Jy.
    centre : float
        Channel of the line's peak; need not be whole.
    width : float
        Number of channels between the line's two ends, twice its full width at half maximum.
    fwhm : float
        Full width at half maximum of the Gaussian brightness, in arcsec; 0 is a point.
    """

    east: float
    north: float
    continuum: float
    line: float
    centre: float
    width: float
    fwhm: float = 0.0

    def spectrum(self, nchan: int) -> np.ndarray:
        """Flux density in each channel, in Jy, shape (nchan,).

        The line is a raised cosine, so that channels outside of it hold the continuum alone.
        """
        offset = (np.arange(nchan) - self.centre) / self.width
        profile = np.where(np.abs(offset) < 0.5, np.cos(np.pi * offset) ** 2, 0.0)
        return self.continuum + self.line * profile


def make_sky(
    nchan: int,
    *,
    nsource: int,
    seed: int,
    line_fraction: float,
    continuum: float,
    radius: float,
    fwhm: float,
) -> list[Source]:
    """Draw the sources of a field.

    The first one is a point of 1 Jy at the phase centre with its line in the middle of the band,
    the second one a Gaussian; lines of the others are spread over the channels that have any.

    Parameters
    ----------
    nchan : int
        Number of channels.
    nsource : int
        Number of sources.
    seed : int
        Seed of the positions, fluxes and profiles.
    line_fraction : float
        Part of the channels, around the middle of the band, that lines may occupy: 0 to 1.
    continuum : float
        Continuum of each source as a fraction of its line's peak.
    radius : float
        Largest offset of a source from the phase centre along each axis, in arcsec.
    fwhm : float
        Full width at half maximum of the second source, in arcsec.

    Returns
    -------
    list of Source
    """
    rng = np.random.default_rng([seed, 1])
    middle = (nchan - 1) / 2
    span = max(line_fraction * nchan, 1.0)
    sources = []
    for number in range(nsource):
        east, north = rng.uniform(-radius, radius, 2).tolist()
        peak = rng.uniform(0.2, 0.8)
        width = span * rng.uniform(0.3, 0.6)
        centre = middle + rng.uniform(-0.5, 0.5) * (span - width)
        if number == 0:
            east, north, peak, width, centre = 0.0, 0.0, 1.0, span, middle
        line = peak if line_fraction > 0 else 0.0
        size = fwhm if number == 1 else 0.0
        sources.append(Source(east, north, continuum * peak, line, centre, width, size))
    return sources


def simulate(
    path: str | Path,
    *,
    nchan: int = 16,
    nint: int = 10,
    nant: int = 20,
    npol: int = 2,
    seed: int = 1,
    configuration: str = "alma.cycle8.5.cfg",
    freq: float = 267.5e9,
    width: float = 244.1e3,
    integration: float = 30.0,
    day: int = 0,
    hour: float = 0.0,
    pointings: int = 1,
    noise: float = 0.05,
    line_fraction: float = 0.5,
    continuum: float = 0.15,
    nsource: int = 4,
    sources: Sequence[Source] | None = None,
    tileshape: Sequence[int] | None = None,
    overwrite: bool = False,
) -> list[Source]:
    """Write a measurement set of an ALMA line observation.

    Equal arguments give equal data, bit for bit.

    Parameters
    ----------
    path : str or Path
        The measurement set to write.
    nchan : int
        Number of channels.
    nint : int
        Number of integrations on each pointing.
    nant : int
        Number of antennas, drawn from the configuration; at most all of them are taken.
    npol : {2, 4}
        Number of correlations: XX, YY or XX, XY, YX, YY.
    seed : int
        Seed of everything random: antennas, sources, noise.
    configuration : str
        File name of an ALMA or ACA configuration of ``casadata`` (``alma/simmos``).
    freq : float
        Frequency of the first channel, in Hz (TOPO).
    width : float
        Width of a channel, in Hz; negative: channels in descending order.
    integration : float
        Time of one integration, in s.
    day, hour : int, float
        Sidereal days and hours from `TRANSIT` to the middle of the observation. CASA keeps what it
        works out for an hour of observation, and uses it for whatever falls into the same hour, so
        that the last digit of frequencies depends on what was imaged before: sets that are used in
        one process, and compared to the last digit, want hours of their own.
    pointings : int
        Number of pointings: 1, or more for a mosaic, on a spiral half a primary beam apart.
    noise : float
        Standard deviation of the real and of the imaginary part of a visibility, in Jy.
    line_fraction : float
        Part of the channels, around the middle of the band, that hold line emission: 0 to 1.
    continuum : float
        Continuum of each source as a fraction of its line's peak.
    nsource : int
        Number of sources.
    sources : sequence of Source, optional
        The sky; drawn by `make_sky` otherwise.
    tileshape : sequence of three int, optional
        Tiles of the columns DATA and FLAG: correlations, channels, rows. CASA's choice otherwise.
    overwrite : bool
        Replace a measurement set of this name.

    Returns
    -------
    list of Source
        The sky that is in the data.

    Raises
    ------
    FileExistsError
        If `path` exists and `overwrite` is false.
    ValueError
        If an argument has no meaning.
    """
    path = Path(path).absolute()
    if npol not in CORRELATIONS:
        raise ValueError(f"npol is 2 (XX, YY) or 4 (XX, XY, YX, YY), not {npol}")
    if min(nchan, nint, pointings) < 1 or nant < 2:
        raise ValueError("nchan, nint and pointings are at least 1, nant at least 2")
    if not 0 <= line_fraction <= 1:
        raise ValueError(f"line_fraction is between 0 and 1, not {line_fraction}")
    if tileshape is not None and (len(tileshape) != 3 or min(tileshape) < 1):
        raise ValueError(f"tileshape is correlations, channels, rows, not {tileshape}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name, or pass overwrite=True")

    antennas = read_configuration(configuration, nant, seed)
    beam = primary_beam_fwhm(freq, antennas["diameter"].min())
    if sources is None:
        radius = 0.1 * beam if pointings == 1 else 0.5 * beam
        sources = make_sky(
            nchan,
            nsource=nsource,
            seed=seed,
            line_fraction=line_fraction,
            continuum=continuum,
            radius=radius,
            fwhm=0.02 * beam,
        )
    sources = list(sources)

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".simulate-", dir=path.parent) as scratch:
        raw = Path(scratch) / "raw.ms"
        offsets = spiral(pointings, 0.5 * beam)
        middle = day * SIDEREAL_DAY + hour * 3600
        _observe(raw, antennas, offsets, nchan, npol, freq, width, nint, integration, middle)
        _fill(raw, sources, antennas["diameter"].min(), noise, seed)
        # The simulator stores UVW incrementally, which doubles the cost of imaging: copying the
        # set once gives it the storage managers that real data have.
        final = Path(scratch) / "final.ms"
        mstransform(vis=str(raw), outputvis=str(final), datacolumn="data")
        if tileshape is not None:
            whole = final
            final = Path(scratch) / "tiled.ms"
            retile(whole, final, tileshape)
        if path.exists():
            shutil.rmtree(path)
        final.rename(path)
    return sources


def retile(source: Path, target: Path, tileshape: Sequence[int]) -> None:
    """Copy a measurement set, with tiles of `tileshape` in its columns DATA and FLAG.

    (mstransform takes a ``tileshape``, but DATA comes out in CASA's own one: 6.7.0 and 6.7.6.)
    """
    with open_table(source) as tb:
        managers = tb.getdminfo()
        for manager in managers.values():
            if {"DATA", "FLAG"}.intersection(manager["COLUMNS"]):
                manager["SPEC"]["DEFAULTTILESHAPE"] = np.array(tileshape)
                del manager["SPEC"]["HYPERCUBES"]
        tb.copy(str(target), deep=True, valuecopy=True, dminfo=managers).close()


def read_configuration(name: str, nant: int, seed: int) -> dict[str, np.ndarray]:
    """Read `nant` antennas of a configuration: x, y, z and diameter in m, and the pads' names."""
    file = Path(casadata.datapath) / "alma" / "simmos" / name
    lines = file.read_text().splitlines()
    if not any("coordsys=LOC" in line for line in lines):
        raise ValueError(f"{name}: not in local coordinates, take an ALMA or ACA configuration")
    rows = [line.split()[:5] for line in lines if line.strip() and not line.startswith("#")]
    chosen = np.random.default_rng([seed, 0]).permutation(len(rows))[:nant]
    x, y, z, diameter, pad = np.array(rows)[np.sort(chosen)].T
    numbers = {"x": x, "y": y, "z": z, "diameter": diameter}
    return {key: column.astype(float) for key, column in numbers.items()} | {"pad": pad}


def primary_beam_fwhm(freq: float, diameter: float) -> float:
    """Full width at half maximum of the primary beam, in arcsec; `freq` in Hz, `diameter` in m."""
    return 1.13 * SPEED_OF_LIGHT / freq / diameter / ARCSEC


def spiral(number: int, spacing: float) -> np.ndarray:
    """Offsets of `number` pointings from the first one, shape (number, 2), in units of `spacing`.

    Points of Vogel's spiral: neighbours are about one spacing apart, whatever their number.
    """
    index = np.arange(number)
    radius = spacing * np.sqrt(index)
    angle = index * math.pi * (3 - math.sqrt(5))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


@contextmanager
def open_table(path: Path, nomodify: bool = True) -> Iterator[Any]:
    """Open a CASA table, and close it whatever happens."""
    tb = table()
    tb.open(str(path), nomodify=nomodify)
    try:
        yield tb
    finally:
        tb.close()


def _observe(
    path: Path,
    antennas: dict[str, np.ndarray],
    offsets: np.ndarray,
    nchan: int,
    npol: int,
    freq: float,
    width: float,
    nint: int,
    integration: float,
    middle: float,
) -> None:
    """Write a measurement set with everything but the visibilities."""
    sm, me, qa = simulator(), measures(), quanta()
    centre = me.direction(*PHASE_CENTRE)
    sm.open(str(path))
    try:
        sm.setconfig(
            telescopename="ALMA",
            x=antennas["x"],
            y=antennas["y"],
            z=antennas["z"],
            dishdiameter=antennas["diameter"],
            mount=["alt-az"],
            antname=antennas["pad"].tolist(),
            padname=antennas["pad"].tolist(),
            coordsystem="local",
            referencelocation=me.observatory("ALMA"),
        )
        sm.setspwindow(
            spwname="line",
            freq=f"{freq}Hz",
            deltafreq=f"{width}Hz",
            freqresolution=f"{abs(width)}Hz",
            nchannels=nchan,
            refcode="TOPO",
            stokes=CORRELATIONS[npol],
        )
        sm.setfeed("perfect X Y", pol=[""])
        sm.setauto(0.0)
        sm.setlimits(0.001, "10deg")
        names = [f"pointing{number}" for number in range(len(offsets))]
        for name, (east, north) in zip(names, offsets, strict=True):
            direction = me.shift(
                centre,
                offset=qa.quantity(math.hypot(east, north), "arcsec"),
                pa=qa.quantity(math.degrees(math.atan2(east, north)), "deg"),
            )
            sm.setfield(sourcename=name, sourcedirection=direction)
        sm.settimes(
            integrationtime=f"{integration}s",
            usehourangle=False,
            referencetime=me.epoch("UTC", TRANSIT),
        )
        time = middle - integration * nint * len(names) / 2
        for name in names:
            end = time + integration * nint
            sm.observe(sourcename=name, spwname="line", starttime=f"{time}s", stoptime=f"{end}s")
            time = end
    finally:
        sm.close()
        me.done()


def _fill(path: Path, sources: Sequence[Source], diameter: float, noise: float, seed: int) -> None:
    """Put visibilities, weights and cleared flags into a measurement set."""
    rng = np.random.default_rng([seed, 2])
    with open_table(path / "SPECTRAL_WINDOW") as tb:
        freq = tb.getcell("CHAN_FREQ", 0)
    with open_table(path / "FIELD") as tb:
        pointing = tb.getcol("PHASE_DIR")[:, 0, :]
    sigma = noise if noise > 0 else 1.0
    with open_table(path, nomodify=False) as tb:
        derived = {"MODEL_DATA", "CORRECTED_DATA"}.intersection(tb.colnames())
        if derived:
            tb.removecols(sorted(derived))
        npol = tb.getcell("DATA", 0).shape[0]
        nrow = tb.nrows()
        for start in range(0, nrow, ROWS_AT_ONCE):
            count = min(ROWS_AT_ONCE, nrow - start)
            uvw = tb.getcol("UVW", start, count)
            field = tb.getcol("FIELD_ID", start, count)
            shape = (npol, freq.size, count)
            data = rng.normal(0, noise, shape) + 1j * rng.normal(0, noise, shape)
            model = _visibilities(sources, uvw, freq, pointing[:, field], pointing[:, 0], diameter)
            data[0] += model
            data[-1] += model
            tb.putcol("DATA", data, start, count)
            tb.putcol("FLAG", np.zeros(shape, bool), start, count)
            tb.putcol("FLAG_ROW", np.zeros(count, bool), start, count)
            tb.putcol("SIGMA", np.full((npol, count), sigma), start, count)
            tb.putcol("WEIGHT", np.full((npol, count), sigma**-2), start, count)


def _visibilities(
    sources: Sequence[Source],
    uvw: np.ndarray,
    freq: np.ndarray,
    pointing: np.ndarray,
    centre: np.ndarray,
    diameter: float,
) -> np.ndarray:
    """Compute the visibilities of unpolarised sources.

    Parameters
    ----------
    sources : sequence of Source
        The sky.
    uvw : ndarray, shape (3, nrow)
        Baselines in m, as the simulator writes them.
    freq : ndarray, shape (nchan,)
        Frequencies in Hz.
    pointing : ndarray, shape (2, nrow)
        Right ascension and declination of the phase and pointing centre, in rad.
    centre : ndarray, shape (2,)
        The direction that the sources' offsets are counted from, in rad.
    diameter : float
        Diameter of a dish, in m.

    Returns
    -------
    ndarray of complex, shape (nchan, nrow)
        Visibilities in Jy.
    """
    wavenumber = 2 * np.pi * freq[:, None] / SPEED_OF_LIGHT
    baseline = np.hypot(uvw[0], uvw[1])
    result = np.zeros((freq.size, uvw.shape[1]), complex)
    for source in sources:
        ra, dec = _offset_direction(centre, source.east * ARCSEC, source.north * ARCSEC)
        ra0, dec0 = pointing
        l = np.cos(dec) * np.sin(ra - ra0)  # noqa: E741
        m = np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(ra - ra0)
        n = np.sqrt(1 - l**2 - m**2)
        # FWHM 1.13 lambda/D; ln 2 makes it a half at half of that.
        beam = 1.13 * SPEED_OF_LIGHT / freq[:, None] / diameter
        attenuation = np.exp(-4 * np.log(2) * (l**2 + m**2) / beam**2)
        # Transform of a Gaussian of this width on the sky.
        visibility = np.exp(
            -((wavenumber * baseline * source.fwhm * ARCSEC) ** 2) / (16 * np.log(2))
        )
        phase = wavenumber * (uvw[0] * l + uvw[1] * m + uvw[2] * (n - 1))
        spectrum = source.spectrum(freq.size)[:, None]
        result += spectrum * attenuation * visibility * np.exp(1j * phase)
    return result


def _offset_direction(centre: np.ndarray, l: float, m: float) -> tuple[float, float]:  # noqa: E741
    """Right ascension and declination, in rad, of direction cosines (l, m) around `centre`."""
    ra0, dec0 = centre
    n = math.sqrt(1 - l**2 - m**2)
    ra = ra0 + math.atan2(l, n * math.cos(dec0) - m * math.sin(dec0))
    dec = math.asin(m * math.cos(dec0) + n * math.sin(dec0))
    return ra, dec


def main(argv: Sequence[str] | None = None) -> None:
    """Run `simulate` with options from the command line."""
    parser = argparse.ArgumentParser(
        description=simulate.__doc__.splitlines()[0] if simulate.__doc__ else None,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("path", help="the measurement set to write")
    parser.add_argument("--nchan", type=int, default=16, help="number of channels")
    parser.add_argument("--nint", type=int, default=10, help="integrations on each pointing")
    parser.add_argument("--nant", type=int, default=20, help="number of antennas")
    parser.add_argument("--npol", type=int, default=2, choices=sorted(CORRELATIONS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--configuration", default="alma.cycle8.5.cfg", help="of casadata")
    parser.add_argument("--freq", type=float, default=267.5e9, help="first channel, in Hz")
    parser.add_argument("--width", type=float, default=244.1e3, help="of a channel, in Hz")
    parser.add_argument("--integration", type=float, default=30.0, help="in s")
    parser.add_argument("--pointings", type=int, default=1, help="more than 1: a mosaic")
    parser.add_argument("--noise", type=float, default=0.05, help="of a visibility, in Jy")
    parser.add_argument("--line-fraction", type=float, default=0.5, help="channels with line")
    parser.add_argument("--continuum", type=float, default=0.15, help="fraction of the line")
    parser.add_argument("--nsource", type=int, default=4, help="number of sources")
    parser.add_argument("--tileshape", type=int, nargs=3, metavar=("NPOL", "NCHAN", "NROW"))
    parser.add_argument("--overwrite", action="store_true")
    options = vars(parser.parse_args(argv))
    path = options.pop("path")
    for source in simulate(path, **options):
        print(source)
    print(path)


if __name__ == "__main__":
    main()
