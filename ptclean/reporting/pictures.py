# SPDX-License-Identifier: GPL-3.0-or-later
"""Small pictures as SVG, for a page that needs nothing else; pure.

Curves and bars are paths; what has a value for each of thousands of channels is an image of one
pixel for each, which is small however much it shows. Colours of lines and texts are left to the
page (``--line``, ``--dim``, ``--grid``), so that they suit a light and a dark one.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

#: Inner width of a picture, and so the largest number of columns that can be told apart.
WIDTH = 860
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 10, 40

#: Colours that colour-blind readers tell apart, on light and dark ground (Paul Tol, "bright"), and
#: some more for what is rare.
COLOURS = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999"),
    *("#e69f00", "#9467bd", "#8c564b", "#44aa99", "#d0a0c0"),
)

#: From few to much, even to the eye (matplotlib's viridis, at nine places).
_SCALE = (
    (68, 1, 84),
    (71, 45, 123),
    (59, 82, 139),
    (44, 114, 142),
    (33, 145, 140),
    (40, 174, 128),
    (94, 201, 98),
    (173, 220, 48),
    (253, 231, 37),
)

#: Pixels of no value.
_NOTHING = 0


@dataclass(frozen=True)
class Series:
    """Values with a name and a colour; as a curve, without dots if it is dashed."""

    name: str
    colour: str
    values: Sequence[float]
    dashed: bool = False


def curves(series: Sequence[Series], *, x: str, y: str, first: int = 1) -> str:
    """Draw positive values over their numbers, from `first` on, on a logarithmic axis."""
    height = 220
    known = [value for each in series for value in each.values if 0 < value < math.inf]
    if not known:
        return ""
    low, high = min(known), max(known)
    # A decade is not needed where all values are close.
    low, high = low / 1.2, high * 1.2
    ticks = _log_ticks(low, high)
    number = max(len(each.values) for each in series)
    span = max(number - 1, 1)

    def at(i: int, value: float) -> tuple[float, float]:
        return WIDTH * i / span, height * (1 - math.log(value / low) / math.log(high / low))

    body = [_grid_line(at(0, tick)[1], _text_of(tick)) for tick in ticks]
    body += [
        _x_label(at(n - first, low)[0], height, f"{n}")
        for n in _whole_ticks(first, first + number - 1)
    ]
    for each in series:
        points = [at(i, value) for i, value in enumerate(each.values) if 0 < value < math.inf]
        path = "".join(f"{'L' if i else 'M'}{px:.1f} {py:.1f}" for i, (px, py) in enumerate(points))
        dashes = ' stroke-dasharray="7 5"' if each.dashed else ""
        body.append(
            f'<path d="{path}" fill="none" stroke="{each.colour}" stroke-width="2"{dashes}/>'
        )
        if number <= 100 and not each.dashed:
            dots = "".join(
                f"M{px - 3:.1f} {py:.1f}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0" for px, py in points
            )
            body.append(f'<path d="{dots}" fill="{each.colour}"/>')
    return _picture("".join(body), height, x, y, series)


def bars(
    series: Sequence[Series], *, x: str, y: str, limit: float | None = None, limit_name: str = ""
) -> str:
    """Draw values on top of each other, one bar for each position from 0 on.

    Where there are more positions than can be told apart, a bar is the tallest of its neighbours.
    `limit` is a line across.
    """
    height = 180
    values = np.array([each.values for each in series], dtype=float)
    number = values.shape[1] if values.ndim == 2 else 0
    if not number:
        return ""
    values, groups = _tallest_of_groups(values, WIDTH // 2)
    top = max(float(values.sum(axis=0).max()), limit or 0.0) or 1.0
    ticks = _ticks(top)
    top = max(top * 1.02, ticks[-1])
    step = WIDTH / values.shape[1]
    gap = 1.0 if step >= 4 else 0.0
    body = [_grid_line(height * (1 - tick / top), _text_of(tick)) for tick in ticks]
    body += [
        _x_label((n / groups + 0.5) * step, height, f"{n}") for n in _whole_ticks(0, number - 1)
    ]
    base = np.zeros(values.shape[1])
    for each, row in zip(series, values, strict=True):
        path = []
        for i, value in enumerate(row):
            if value > 0:
                bottom = height * (1 - base[i] / top)
                path.append(
                    f"M{i * step:.1f} {bottom:.1f}h{step - gap:.1f}"
                    f"v{-height * value / top:.1f}h{gap - step:.1f}z"
                )
        base += row
        body.append(f'<path d="{"".join(path)}" fill="{each.colour}"/>')
    if limit:
        at = height * (1 - limit / top)
        body.append(
            f'<path d="M0 {at:.1f}H{WIDTH}" class="limit"/>'
            f'<text x="{WIDTH - 4}" y="{at - 5:.1f}" text-anchor="end">{escape(limit_name)}</text>'
        )
    return _picture("".join(body), height, x, y, series if len(series) > 1 else ())


def heat(rows: Sequence[Sequence[float]], *, x: str, y: str, unit: str, first_row: int = 1) -> str:
    """Draw positive values in colour, on a logarithmic scale; what is not positive stays empty."""
    values = np.array(rows, dtype=float)
    values[~np.isfinite(values)] = 0.0
    if values.ndim != 2 or not (values > 0).any():
        return ""
    number_of_rows, number = values.shape
    values, _ = _largest_of_groups(values, WIDTH)
    values, _ = _largest_of_groups(values.T, 400)
    values = values.T
    low, high = float(values[values > 0].min()), float(values.max())
    scale = np.log(high / low) or 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        colour = 1 + np.clip(np.log(values / low) / scale, 0, 1) * 254
    indices = np.where(values > 0, np.nan_to_num(colour, neginf=0.0), _NOTHING).astype(np.uint8)
    height = _row_height(number_of_rows)
    legend = _scale_legend(_text_of(low), _text_of(high), unit)
    body = _image(indices, _heat_palette(), height)
    body += _row_labels(number_of_rows, height, first_row)
    body += _column_labels(number, height)
    return _picture(body, height, x, y, (), legend)


def classes(
    indices: NDArray[np.uint8],
    names: Sequence[tuple[str, str]],
    *,
    x: str,
    y: str,
    x_range: tuple[float, float] | None = None,
    marks: Sequence[float] = (),
    first_row: int = 0,
    row_names: Sequence[str] = (),
) -> str:
    """Draw what each pixel is, by colours.

    Parameters
    ----------
    indices : ndarray of uint8
        Rows and columns; 0 is nothing, n the name n - 1.
    names : sequence of (str, str)
        Name and colour.
    x, y : str
        What is along the axes.
    x_range : (float, float), optional
        Values at the left and the right edge; by default columns are numbered.
    marks : sequence of float
        Values of x at which there is a line.
    first_row : int
        Number of the first row.
    row_names : sequence of str
        Names of the rows, in the place of numbers, if there is room for them.
    """
    number_of_rows, number = indices.shape
    height = _row_height(number_of_rows)
    palette = [(0, 0, 0, 0), *((*_rgb(colour), 255) for _, colour in names)]
    body = _image(indices, palette, height)
    if row_names and height / number_of_rows >= 11:
        y = ""
        body += "".join(
            f'<text x="-8" y="{(i + 0.5) * height / number_of_rows + 4:.1f}" text-anchor="end">'
            f"{escape(_shortened(name, 11))}</text>"
            for i, name in enumerate(row_names)
        )
    else:
        body += _row_labels(number_of_rows, height, first_row)
    if x_range is None:
        body += _column_labels(number, height)
    else:
        low, high = x_range
        span = (high - low) or 1.0
        body += "".join(
            f'<path d="M{WIDTH * (mark - low) / span:.1f} 0V{height}" class="mark"/>'
            for mark in marks
        )
        body += "".join(
            _x_label(WIDTH * (tick - low) / span, height, _text_of(tick)) for tick in _ticks(high)
        )
    legend = [Series(name, colour, ()) for name, colour in names]
    return _picture(body, height, x, y, legend)


def png(indices: NDArray[np.uint8], palette: Sequence[tuple[int, int, int, int]]) -> bytes:
    """Write an image of at most 256 colours (PNG, W3C; colour type 3).

    Parameters
    ----------
    indices : ndarray of uint8
        Rows and columns, the first row at the top.
    palette : sequence of (red, green, blue, opacity)
        0 to 255 each.
    """
    height, width = indices.shape
    # Each row begins with the number of its filter, here none.
    raw = np.zeros((height, width + 1), dtype=np.uint8)
    raw[:, 1:] = indices
    colours = b"".join(bytes(entry[:3]) for entry in palette)
    opacities = bytes(entry[3] for entry in palette)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            (b"PLTE", colours),
            (b"tRNS", opacities),
            (b"IDAT", zlib.compress(raw.tobytes(), 9)),
            (b"IEND", b""),
        )
    )


def _picture(
    body: str, height: float, x: str, y: str, series: Sequence[Series], legend: str = ""
) -> str:
    names = "".join(
        f'<span><i style="background:{each.colour}"></i>{escape(each.name)}</span>'
        for each in series
    )
    legend = legend or names
    full_width, full_height = _LEFT + WIDTH + _RIGHT, _TOP + height + _BOTTOM
    return (
        f'<figure><svg viewBox="0 0 {full_width} {full_height:g}" role="img" '
        f'aria-label="{escape(y or "rows")} over {escape(x)}">'
        f'<g transform="translate({_LEFT} {_TOP})">{body}'
        f'<path d="M0 0V{height:g}H{WIDTH}" class="axis"/>'
        f'<text x="{WIDTH / 2}" y="{height + 35:g}" text-anchor="middle">{escape(x)}</text>'
        f'<text transform="translate({8 - _LEFT + 8} {height / 2:g}) rotate(-90)" '
        f'text-anchor="middle">{escape(y)}</text>'
        f"</g></svg><figcaption>{legend}</figcaption></figure>"
    )


def _image(
    indices: NDArray[np.uint8], palette: Sequence[tuple[int, int, int, int]], height: float
) -> str:
    data = base64.b64encode(png(indices, palette)).decode()
    return (
        f'<image width="{WIDTH}" height="{height:g}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
    )


def _heat_palette() -> list[tuple[int, int, int, int]]:
    places = np.linspace(0, len(_SCALE) - 1, 255)
    colours = [
        np.interp(places, np.arange(len(_SCALE)), [entry[i] for entry in _SCALE]) for i in range(3)
    ]
    return [
        (0, 0, 0, 0),
        *((int(r), int(g), int(b), 255) for r, g, b in zip(*colours, strict=True)),
    ]


def _scale_legend(low: str, high: str, unit: str) -> str:
    stops = ",".join(f"rgb({r},{g},{b})" for r, g, b in _SCALE)
    return (
        f'<span>{escape(low)} <b style="background:linear-gradient(90deg,{stops})"></b> '
        f"{escape(high)} {escape(unit)}</span>"
    )


def _row_height(rows: int) -> float:
    """Height of all rows: each can be seen, and all are not too much."""
    return float(min(max(rows * 14, 28), max(240, min(rows, 400))))


def _row_labels(rows: int, height: float, first: int) -> str:
    at_most = max(1, int(height // 13))
    return "".join(
        f'<text x="-8" y="{(n - first + 0.5) * height / rows + 4:.1f}" text-anchor="end">{n}</text>'
        for n in _whole_ticks(first, first + rows - 1, at_most)
    )


def _column_labels(number: int, height: float) -> str:
    return "".join(
        _x_label((n + 0.5) * WIDTH / number, height, f"{n}") for n in _whole_ticks(0, number - 1)
    )


def _grid_line(at: float, text: str) -> str:
    return (
        f'<path d="M0 {at:.1f}H{WIDTH}" class="grid"/>'
        f'<text x="-8" y="{at + 4:.1f}" text-anchor="end">{text}</text>'
    )


def _x_label(at: float, height: float, text: str) -> str:
    return f'<text x="{at:.1f}" y="{height + 17:g}" text-anchor="middle">{text}</text>'


def _tallest_of_groups(values: NDArray[np.float64], most: int) -> tuple[NDArray[np.float64], int]:
    """Keep of neighbouring columns that of the largest sum; returns how many neighbours."""
    number = values.shape[1]
    group = -(-number // most)
    starts = range(0, number, group)
    heights = values.sum(axis=0)
    kept = [start + int(np.argmax(heights[start : start + group])) for start in starts]
    return values[:, kept], group


def _largest_of_groups(values: NDArray[np.float64], most: int) -> tuple[NDArray[np.float64], int]:
    """Join neighbours along the last axis until they are few enough; returns how many each."""
    number = values.shape[-1]
    group = -(-number // most)
    if group == 1:
        return values, 1
    padding = -number % group
    padded = np.pad(values, ((0, 0), (0, padding)), constant_values=-np.inf)
    return padded.reshape(values.shape[0], -1, group).max(axis=2), group


def _ticks(top: float) -> list[float]:
    """Choose round numbers from 0 to at most `top`, about five."""
    raw = top / 5
    power = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    return [i * step for i in range(int(top / step + 1e-9) + 1)]


def _whole_ticks(first: int, last: int, at_most: int = 12) -> list[int]:
    """Choose whole numbers, round ones if there are many."""
    step = 1
    while (last - first) // step + 1 > at_most:
        step = next(n for n in _round_numbers() if n > step)
    return [n for n in range(first, last + 1) if n % step == 0 or step == 1]


def _round_numbers() -> list[int]:
    return [factor * 10**power for power in range(10) for factor in (1, 2, 5)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Choose 1, 2, 5 and so on, or powers of ten if those are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
        if len(found) <= 8:
            break
    return found if len(found) > 1 else [low, high]


def _text_of(value: float) -> str:
    return f"{value:.3g}"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
