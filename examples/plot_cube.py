# SPDX-License-Identifier: GPL-3.0-or-later
"""Draw a spectral line cube: integrated line, velocity field, spectrum and channel maps.

Reads the ``.image`` of a run, and its ``.image.pbcor`` for what is measured in flux. Noise and the
mask of the moments come from the ``.image``, where the noise does not depend on the position.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from scipy import ndimage

from compare_images import open_image

SPEED_OF_LIGHT = 299_792.458  # km/s
INK = "#1b2233"
FAINT = "#8a93a6"
FLUX_MAP = "magma"
VELOCITY_MAP = "RdYlBu_r"
PANELS = 20
COLUMNS = 10


@dataclass(frozen=True)
class Cube:
    """The first Stokes plane of a cube, ready for drawing.

    Attributes
    ----------
    flat, sky : ndarray, shape (ny, nx, nchan)
        Brightness without and with correction for the primary beam, in mJy/beam; NaN: masked.
    velocity : ndarray, shape (nchan,)
        Radio velocity in km/s; a frequency offset in MHz where the image has no rest frequency.
    axis_label : str
        What `velocity` is, with its unit.
    offset : tuple of float
        Edges of the image: left, right, bottom, top, in arcmin or arcsec from its centre.
    angle_unit : str
        Unit of `offset` and `beams`.
    beams : ndarray, shape (nchan, 3)
        Major and minor axis in `angle_unit`, and position angle in degrees.
    beam_area : ndarray, shape (nchan,)
        Area of the beam in pixels.
    rms : float
        Noise of `flat`, in mJy/beam.
    centre : str
        Direction of the centre.
    """

    flat: np.ndarray
    sky: np.ndarray
    velocity: np.ndarray
    axis_label: str
    offset: tuple[float, float, float, float]
    angle_unit: str
    beams: np.ndarray
    beam_area: np.ndarray
    rms: float
    centre: str


def read_cube(imagename: str | Path) -> Cube:
    """Read the cube of a run of tclean or ptclean; `imagename` as it was given there."""
    with open_image(f"{imagename}.image") as ia:
        flat = _plane(ia)
        cs = ia.coordsys()
        record = cs.torecord()
        nx, ny = flat.shape[1], flat.shape[0]
        nchan = flat.shape[2]
        frequency = np.array(
            [cs.toworld([0, 0, 0, channel], "n")["numeric"][3] for channel in range(nchan)]
        )
        rest = cs.restfrequency()["value"]
        centre = cs.toworld([nx // 2, ny // 2, 0, 0], "s")["string"][:2]
        frame = record.get("spectral2", {}).get("system", "")
        increment = np.degrees(np.abs(cs.increment(type="direction")["numeric"][:2]))
        beams = _beams(ia.restoringbeam(), nchan)
        cs.done()
    sky = flat
    if Path(f"{imagename}.image.pbcor").is_dir():
        with open_image(f"{imagename}.image.pbcor") as ia:
            sky = _plane(ia)

    if np.size(rest) and np.ravel(rest)[0] > 0:
        velocity = (1 - frequency / np.ravel(rest)[0]) * SPEED_OF_LIGHT
        label = f"Velocity ({frame}, radio) [km/s]"
    else:
        velocity = (frequency - frequency.mean()) / 1e6
        label = f"Frequency - {frequency.mean() / 1e9:.6f} GHz [MHz]"
    unit, scale = ("arcmin", 60.0) if increment[1] * ny > 5 / 60 else ("arcsec", 3600.0)
    half_x, half_y = nx / 2 * increment[0] * scale, ny / 2 * increment[1] * scale
    area = np.pi / (4 * np.log(2)) * beams[:, 0] * beams[:, 1] / 3600**2 / increment.prod()
    beams[:, :2] *= scale / 3600
    return Cube(
        flat=flat,
        sky=sky,
        velocity=velocity,
        axis_label=label,
        offset=(half_x, -half_x, -half_y, half_y),
        angle_unit=unit,
        beams=beams,
        beam_area=area,
        rms=1.4826 * float(np.nanmedian(np.abs(flat - np.nanmedian(flat)))),
        centre=f"{_sexagesimal(centre[0], 'hms')}  {_sexagesimal(centre[1], 'dms')}",
    )


def plot_cube(imagename: str | Path, png: str | Path, title: str, subtitle: str = "") -> None:
    """Draw a cube into a file.

    Parameters
    ----------
    imagename : str or Path
        As it was given to tclean or ptclean.
    png : str or Path
        The file to write.
    title, subtitle : str
        What stands on top.
    """
    cube = read_cube(imagename)
    emission = find_emission(cube)
    style: Any = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.linewidth": 0.8,
    }
    with plt.rc_context(style):
        figure = plt.figure(figsize=(14, 8.6), dpi=130, facecolor="white")
        figure.text(0.055, 0.958, title, size=19, weight="bold", va="center")
        figure.text(0.055, 0.919, subtitle, size=10.5, color=FAINT, va="center")
        colours = _velocity_norm(cube, emission)
        view = _view(cube, emission)
        maps = [figure.add_axes((left, 0.455, 0.2457, 0.40)) for left in (0.055, 0.395)]
        _draw_moments(figure, maps, cube, emission, colours, view)
        _draw_spectrum(figure.add_axes((0.75, 0.455, 0.225, 0.40)), cube, emission, colours)
        _draw_channels(figure, cube, emission, colours, view)
        figure.savefig(png)
        plt.close(figure)


def find_emission(cube: Cube) -> np.ndarray:
    """Tell where the line is: bool, shape of the cube.

    Patches above three times the noise that peak above five times the noise and fill two beams or
    more, since smaller ones are mostly noise; and around them what is above 1.5 times the noise
    within a beam.
    """
    flat = np.nan_to_num(cube.flat)
    area = float(np.median(cube.beam_area))
    patches, _ = ndimage.label(flat > 3 * cube.rms)
    real = np.bincount(patches.ravel()) > 2 * area
    bright = np.zeros_like(real)
    bright[patches[flat > 5 * cube.rms]] = True
    bright[0] = False
    on_the_sky = ndimage.generate_binary_structure(2, 1)[:, :, np.newaxis]
    reach = max(1, round(area**0.5))
    emission: np.ndarray = ndimage.binary_dilation(
        (real & bright)[patches], on_the_sky, iterations=reach, mask=flat > 1.5 * cube.rms
    )
    return emission


def _draw_moments(
    figure: Figure,
    axes: list[Axes],
    cube: Cube,
    emission: np.ndarray,
    colours: Normalize,
    view: tuple[float, float, float, float],
) -> None:
    """Draw the integrated line and its mean velocity."""
    step = abs(float(np.median(np.diff(cube.velocity)))) if cube.velocity.size > 1 else 1.0
    line = np.where(emission, np.nan_to_num(cube.sky), 0.0)
    moment0 = line.sum(axis=2) * step
    seen = emission.any(axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        moment1 = np.where(seen, (line * cube.velocity).sum(axis=2) / line.sum(axis=2), np.nan)
    unit = cube.axis_label.rpartition("[")[2].rstrip("]")
    brightness = moment0 / 1e3
    names = ("Integrated line", "Mean velocity" if unit == "km/s" else "Mean frequency")
    images = (brightness, moment1)
    norms = (PowerNorm(0.6, 0, max(float(brightness.max()), 1e-9)), colours)
    labels = (f"Jy/beam {unit}", unit)
    for ax, name, pixels, norm, colour_map, label in zip(
        axes, names, images, norms, (FLUX_MAP, VELOCITY_MAP), labels, strict=True
    ):
        drawn = ax.imshow(
            pixels,
            origin="lower",
            extent=cube.offset,
            norm=norm,
            cmap=colour_map,
            aspect="equal",
            interpolation="nearest" if colour_map == VELOCITY_MAP else "bicubic",
        )
        _zoom(ax, view)
        ax.set_title(name, loc="left", weight="bold", size=11)
        ax.set_xlabel(f"East offset [{cube.angle_unit}]")
        ax.set_ylabel(f"North offset [{cube.angle_unit}]")
        dark = colour_map == FLUX_MAP
        ax.set_facecolor("#000004" if dark else "#f3f4f7")
        _draw_beam(ax, cube.beams[len(cube.beams) // 2], view, "white" if dark else INK)
        box = ax.get_position()
        side = figure.add_axes((box.x1 + 0.006, box.y0, 0.009, box.height))
        bar = figure.colorbar(drawn, cax=side)
        bar.set_label(label)
        bar.outline.set_visible(False)
    peak = float(brightness.max())
    if peak > 0:
        x = np.linspace(cube.offset[0], cube.offset[1], brightness.shape[1] * 2 + 1)[1::2]
        y = np.linspace(cube.offset[2], cube.offset[3], brightness.shape[0] * 2 + 1)[1::2]
        levels = peak * np.array([0.1, 0.3, 0.5, 0.7, 0.9])
        axes[1].contour(x, y, brightness, levels=levels, colors=INK, linewidths=0.5, alpha=0.6)


def _draw_spectrum(ax: Axes, cube: Cube, emission: np.ndarray, colours: Normalize) -> None:
    """Draw the flux density within the outline of the line, against velocity."""
    outline = emission.any(axis=2)
    pixels = np.nan_to_num(cube.sky)[outline]
    flux = pixels.sum(axis=0) / cube.beam_area / 1e3
    step = abs(float(np.median(np.diff(cube.velocity)))) if cube.velocity.size > 1 else 1.0
    ax.bar(
        cube.velocity,
        flux,
        width=step * 1.02,
        color=plt.get_cmap(VELOCITY_MAP)(colours(cube.velocity)),
        alpha=0.85,
    )
    ax.step(cube.velocity, flux, where="mid", color=INK, linewidth=1.1)
    ax.axhline(0, color=INK, linewidth=0.6)
    ax.set_xlim(cube.velocity.min() - step, cube.velocity.max() + step)
    ax.set_title("Spectrum", loc="left", weight="bold", size=11)
    ax.set_xlabel(cube.axis_label)
    ax.set_ylabel("Flux density [Jy]")
    ax.spines[["top", "right"]].set_visible(False)
    unit = cube.axis_label.rpartition("[")[2].rstrip("]")
    ax.text(
        0.98,
        0.97,
        f"{flux.sum() * step:.1f} Jy {unit}",
        transform=ax.transAxes,
        ha="right",
        va="top",
        size=11,
        weight="bold",
    )


def _draw_channels(
    figure: Figure,
    cube: Cube,
    emission: np.ndarray,
    colours: Normalize,
    view: tuple[float, float, float, float],
) -> None:
    """Draw channel maps with one scale, each labelled with its velocity."""
    channels = _pick_channels(emission)
    rows = -(-len(channels) // COLUMNS)
    grid = figure.add_gridspec(
        rows, COLUMNS, left=0.055, right=0.925, top=0.33, bottom=0.04, wspace=0.05, hspace=0.05
    )
    peak = max(float(np.nanmax(cube.flat)), 5 * cube.rms)
    norm = PowerNorm(0.7, -cube.rms, peak)
    drawn = None
    for number, channel in enumerate(channels):
        ax = figure.add_subplot(grid[divmod(number, COLUMNS)])
        drawn = ax.imshow(
            cube.flat[..., channel],
            origin="lower",
            extent=cube.offset,
            norm=norm,
            cmap=FLUX_MAP,
            aspect="equal",
            interpolation="bicubic",
        )
        _zoom(ax, view)
        ax.set_facecolor("#000004")
        ax.set_xticks([])
        ax.set_yticks([])
        colour = plt.get_cmap(VELOCITY_MAP)(float(colours(cube.velocity[channel])))
        for spine in ax.spines.values():
            spine.set(color=colour, linewidth=1.6)
        ax.text(
            0.05,
            0.94,
            f"{cube.velocity[channel]:.1f}",
            transform=ax.transAxes,
            color="white",
            size=8.5,
            va="top",
            weight="bold",
        )
        _draw_beam(ax, cube.beams[channel], view, "white")
    unit = cube.axis_label.rpartition("[")[2].rstrip("]")
    figure.text(0.055, 0.355, "Channel maps", size=11, weight="bold", va="center")
    figure.text(
        0.155,
        0.355,
        f"{unit} in each corner, frame in the colour of the spectrum; noise {cube.rms:.2g} "
        f"mJy/beam; centre {cube.centre}",
        size=9.5,
        color=FAINT,
        va="center",
    )
    if drawn is not None:
        bar = figure.colorbar(drawn, cax=figure.add_axes((0.936, 0.04, 0.009, 0.29)))
        bar.set_label("mJy/beam")
        bar.outline.set_visible(False)


def _draw_beam(
    ax: Axes, beam: np.ndarray, view: tuple[float, float, float, float], colour: str
) -> None:
    """Draw the synthesised beam into the lower left corner."""
    major, minor, angle = beam
    left, right, bottom, top = view
    margin = 0.06 * (top - bottom) + major / 2
    centre = (left - margin * np.sign(left - right), bottom + margin)
    # The position angle goes from north through east, and east is on the left.
    ellipse = Ellipse(centre, minor, major, angle=angle, fc=colour, ec="none", alpha=0.85)
    ax.add_patch(ellipse)


def _zoom(ax: Axes, view: tuple[float, float, float, float]) -> None:
    ax.set_xlim(view[0], view[1])
    ax.set_ylim(view[2], view[3])


def _view(cube: Cube, emission: np.ndarray) -> tuple[float, float, float, float]:
    """Edges of a square around the line, or of the whole image where there is none."""
    seen = emission.any(axis=2)
    left, right, bottom, top = cube.offset
    if not seen.any():
        return cube.offset
    y, x = np.nonzero(seen)
    # Single noise peaks far out shall not widen the view.
    (x0, x1), (y0, y1) = np.percentile(x, (0.5, 99.5)), np.percentile(y, (0.5, 99.5))
    ny, nx = seen.shape
    half = min(0.7 * max(x1 - x0, y1 - y0, 0.08 * nx), nx / 2, ny / 2)
    middle_x = float(np.clip((x0 + x1 + 1) / 2, half, nx - half))
    middle_y = float(np.clip((y0 + y1 + 1) / 2, half, ny - half))
    per_x, per_y = (right - left) / nx, (top - bottom) / ny
    return (
        left + (middle_x - half) * per_x,
        left + (middle_x + half) * per_x,
        bottom + (middle_y - half) * per_y,
        bottom + (middle_y + half) * per_y,
    )


def _velocity_norm(cube: Cube, emission: np.ndarray) -> Normalize:
    """Scale of the velocity colours: the channels that hold line."""
    used = emission.any(axis=(0, 1))
    values = cube.velocity[used] if used.any() else cube.velocity
    low, high = float(values.min()), float(values.max())
    return Normalize(low, high if high > low else low + 1, clip=True)


def _pick_channels(emission: np.ndarray) -> list[int]:
    """Choose up to `PANELS` channels, evenly over those that hold line."""
    used = np.flatnonzero(emission.any(axis=(0, 1)))
    nchan = emission.shape[2]
    first, last = (int(used[0]), int(used[-1])) if used.size else (0, nchan - 1)
    number = min(PANELS, nchan)
    shortage = number - (last - first + 1)
    if shortage > 0:
        first = max(0, min(first - shortage // 2, nchan - number))
        last = first + number - 1
    return [round(c) for c in np.linspace(first, last, number)]


def _plane(ia: Any) -> np.ndarray:
    """First Stokes plane in mJy/beam, shape (ny, nx, nchan), NaN where masked."""
    pixels = ia.getchunk()[:, :, 0, :].astype(float)
    mask = ia.getchunk(getmask=True)[:, :, 0, :]
    return np.where(mask, pixels, np.nan).transpose(1, 0, 2) * 1e3


def _beams(record: dict[str, Any], nchan: int) -> np.ndarray:
    """Major and minor axis in arcsec and position angle in degrees, shape (nchan, 3)."""
    per_channel = record.get("beams")
    if per_channel is None:
        beams = [record] * nchan
    else:
        beams = [per_channel[f"*{channel}"]["*0"] for channel in range(nchan)]
    keys = ("major", "minor", "positionangle")
    return np.array([[beam[key]["value"] for key in keys] for beam in beams])


def _sexagesimal(text: str, units: str) -> str:
    """Turn ``15:22:00.00000000`` or ``+05.04.00.00000000`` into ``15h22m00.0s`` and so on."""
    if units == "hms":
        parts, marks = text.split(":"), "hms"
    else:
        parts, marks = text.split(".", 2), "°'\""
    parts[2] = f"{float(parts[2]):04.1f}"
    return "".join(part + mark for part, mark in zip(parts, marks, strict=True))
