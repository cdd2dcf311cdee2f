# SPDX-License-Identifier: GPL-3.0-or-later
"""Write an image's file of pixels with the channels of others, without CASA.

CASA's image tool takes many times as long for it. casacore keeps the pixels of an image, and each
pixel mask, as one array in a file of tiles (its ``TiledCellStMan``): all tiles are of one size,
those at the ends of an axis padded; pixels within a tile, and tiles within the file, have the first
axis fastest; a mask is one bit a pixel. What `tiles` does not find to be laid out like this, it
leaves to others.

Nobody may have the images open, since casacore keeps tiles in memory.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .casa_io import open_table

#: Name of the column with the pixels, and that with the pixels of a mask's own table.
PIXELS = "map"
MASK = "PagedArray"

#: Bytes of tiles that are written at once: few enough for a processor's caches.
BLOCK_BYTES = 2**23

#: Bytes that are written at once, few, as by ``cp``: for more, Linux takes larger pieces of free
#: memory, which a virtual machine may have given back to its host (free page reporting), and then
#: waits for: 2 GiB took 5 s in pieces of 8 MiB, and half a second in these.
WRITE_BYTES = 2**17

#: Bits of a number that is copied as one item, and their types; eight bits of a mask are one.
_ITEMS = {1: np.uint8, 32: np.uint32, 64: np.uint64, 128: np.complex128}


@dataclass(frozen=True)
class Tiles:
    """An array of four axes, the last of them channels, in a file of tiles.

    Attributes
    ----------
    path : str
        The file.
    shape, tile : tuple of int
        Of the array and of a tile, in items.
    bits : int
        Bits of an element; an item of one bit has eight of them.
    is_big_endian : bool
    """

    path: str
    shape: tuple[int, ...]
    tile: tuple[int, ...]
    bits: int
    is_big_endian: bool

    @property
    def item(self) -> np.dtype[Any]:
        """Type of an item."""
        return np.dtype(_ITEMS[self.bits])

    @property
    def in_layer(self) -> tuple[int, ...]:
        """Tiles of a layer along third, second and first axis."""
        sizes = zip(self.shape[2::-1], self.tile[2::-1], strict=True)
        return tuple(-(-n // t) for n, t in sizes)

    @property
    def layers(self) -> int:
        """Layers of tiles along the fourth axis."""
        return -(-self.shape[3] // self.tile[3])

    @property
    def bytes_of_tile(self) -> int:
        """Size of a tile."""
        return math.prod(self.tile) * self.item.itemsize

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return self.layers * math.prod(self.in_layer) * self.bytes_of_tile

    def empty(self, rows: int) -> Any:
        """Make an array for rows of tiles along the first axis.

        Returns
        -------
        numpy.ndarray
            Axes: row, tile of the row, fourth to first axis of a tile.
        """
        return np.empty((rows, self.in_layer[2], *self.tile[::-1]), self.item)

    def offset(self, layer: int, stokes: int, row: int) -> int:
        """Bytes in the file before a row of tiles."""
        nz, ny, nx = self.in_layer
        return ((layer * nz + stokes) * ny + row) * nx * self.bytes_of_tile

    def read(self, file: BinaryIO, layer: int, stokes: int, rows: range) -> Any:
        """Read rows of tiles into an array as `empty` makes it."""
        found = self.empty(len(rows))
        file.seek(self.offset(layer, stokes, rows.start))
        if file.readinto(memoryview(found).cast("B")) != found.nbytes:  # type: ignore[attr-defined]
            raise OSError(f"{self.path} ends too early")
        return found


def tiles(table: str, column: str) -> Tiles | None:
    """Find the tiles of an image (`PIXELS`) or of the table of a mask (`MASK`).

    Returns
    -------
    Tiles or None
        None if the file is not as this module knows it.
    """
    try:
        with open_table(table, lock="usernoread") as tb:
            return tiles_of(tb, table, column)
    except (OSError, RuntimeError):
        return None


def tiles_of(tb: Any, table: str, column: str) -> Tiles | None:
    """Find the tiles, as `tiles` does, of a table that is open."""
    managers = tb.getdminfo()
    is_big_endian = tb.endianformat() == "big"
    found = [each for each in managers.values() if column in each["COLUMNS"]]
    if len(found) != 1 or found[0]["TYPE"] != "TiledCellStMan":
        return None
    specification = found[0]["SPEC"]
    cubes = list(specification["HYPERCUBES"].values())
    if len(cubes) != 1:
        return None
    shape, tile = ([int(n) for n in cubes[0][key]] for key in ("CubeShape", "TileShape"))
    if len(shape) != 4 or len(tile) != 4:
        return None
    bytes_of_tile = int(cubes[0]["BucketSize"])
    bits = bytes_of_tile * 8 // math.prod(tile)
    if bits == 1:
        if shape[0] % 8 or tile[0] % 8:
            return None
        shape[0], tile[0] = shape[0] // 8, tile[0] // 8
    if bits not in _ITEMS or math.prod(tile) * np.dtype(_ITEMS[bits]).itemsize != bytes_of_tile:
        return None
    path = os.path.join(table, f"table.f{specification['SEQNR']}_TSM0")
    made = Tiles(path, tuple(shape), tuple(tile), bits, is_big_endian)
    if not os.path.isfile(path) or os.path.getsize(path) != made.nbytes:
        return None
    return made


def are_alike(source: Tiles, target: Tiles) -> bool:
    """Whether channels of one are channels of the other, apart from the order of their pixels."""
    return (
        source.shape[:3] == target.shape[:3]
        and source.bits == target.bits
        and source.is_big_endian == target.is_big_endian
    )


def empty_out(array: Tiles) -> None:
    """Make all elements zero, and free the room that they take on disk."""
    # Not cut to nothing: ext4 writes such a file to disk as soon as it is closed.
    os.remove(array.path)
    write_zeros(array, array.path)


def write_zeros(array: Tiles, path: str) -> None:
    """Write a new file as long as that of an array, which takes no room on disk."""
    with open(path, "xb") as file:
        file.truncate(array.nbytes)


def join(
    sources: Sequence[tuple[Tiles | None, int]], target: Tiles, *, is_zero: bool = False
) -> None:
    """Write an array anew, from its first byte to its last, with the channels of others.

    Memory is that of some rows of tiles: `BLOCK_BYTES`, or one row if that is more, and what a
    source has there.

    Parameters
    ----------
    sources : sequence of tuple
        Arrays in the order of their channels, and how many channels each has; they are like
        `target` (`are_alike`). None stands for items of which all bits are set.
    target : Tiles
    is_zero : bool
        Whether all elements are zero now. Zeros are then not written: where there are none but
        them, as in most of a model, the file takes no room on disk if it took none before.

    Raises
    ------
    OSError
        If a source ends too early, or the disk is full.
    """
    nz, ny, nx = target.in_layer
    height = min(ny, max(1, BLOCK_BYTES // (nx * target.bytes_of_tile)))
    block = target.empty(height)
    with open(target.path, "r+b") as file:
        for layer in range(target.layers):
            channels = _elements(range(layer, layer + 1), 3, target)
            with contextlib.ExitStack() as stack:
                pieces = list(_pieces(sources, channels, stack))
                for stokes, row in itertools.product(range(nz), range(0, ny, height)):
                    rows = block[: ny - row]
                    # Tiles go beyond the ends of axes.
                    rows[...] = 0
                    for piece in pieces:
                        piece.put(rows, row, stokes, target)
                    if is_zero and not rows.reshape(-1).view(np.uint8).max():
                        continue
                    file.seek(target.offset(layer, stokes, row))
                    content = memoryview(rows).cast("B")
                    for start in range(0, len(content), WRITE_BYTES):
                        file.write(content[start : start + WRITE_BYTES])


def _elements(numbers: range, axis: int, array: Tiles) -> range:
    """Elements along an axis that consecutive tiles have."""
    tile = array.tile[axis]
    return range(numbers.start * tile, min(numbers.stop * tile, array.shape[axis]))


def _pieces(
    sources: Sequence[tuple[Tiles | None, int]], channels: range, files: contextlib.ExitStack
) -> Iterator[_Piece]:
    """Find what some channels of the whole consist of, and open it."""
    first = 0
    for source, count in sources:
        start, stop = max(first, channels.start), min(first + count, channels.stop)
        if start < stop:
            file = files.enter_context(open(source.path, "rb")) if source else None
            yield _Piece(source, file, first, range(start, stop))
        first += count


@dataclass(frozen=True)
class _Piece:
    """Channels of the whole that one source has.

    Attributes
    ----------
    source : Tiles or None
    file : file or None
        That of `source`.
    first : int
        Channel of the whole with which `source` begins.
    channels : range
        Channels of the whole, within one layer of tiles.
    """

    source: Tiles | None
    file: BinaryIO | None
    first: int
    channels: range

    def put(self, rows: Any, row: int, stokes: int, target: Tiles) -> None:
        """Put them into rows of tiles of `target`, of which `row` is the first."""
        if self.source is None or self.file is None:
            place = self.channels.start % target.tile[3]
            rows[:, :, place : place + len(self.channels)] = ~rows.dtype.type(0)
            return
        tile = self.source.tile
        lines = _elements(range(row, row + len(rows)), 1, target)
        planes = _elements(range(stokes, stokes + 1), 2, target)
        y = list(_runs(lines, target.tile[1], tile[1]))
        z = list(_runs(planes, target.tile[2], tile[2]))
        t = list(_runs(self.channels, target.tile[3], tile[3], self.first))
        needed = range(y[0].source_tile, y[-1].source_tile + 1)
        columns = _Columns.of(target.shape[0], target.tile[0], tile[0])
        into = columns.view(rows)
        for c, k in itertools.product(t, z):
            found = self.source.read(self.file, c.source_tile, k.source_tile, needed)
            source = columns.view(found)
            for j, (x, source_x) in itertools.product(y, columns.pairs):
                into[j.tile - row, *x[:-1], c.inside, k.inside, j.inside, x[-1]] = source[
                    j.source_tile - needed.start,
                    *source_x[:-1],
                    c.source_inside,
                    k.source_inside,
                    j.source_inside,
                    source_x[-1],
                ]


@dataclass(frozen=True)
class _Columns:
    """How the first axis of one array is copied to that of another, in as few steps as may be.

    Attributes
    ----------
    groups, unit : int
        If all tiles of the one are cut into as many of the other: the number of the larger, and
        the length of the smaller; 0 otherwise.
    pairs : list of tuple
        Indices for `view` of either: larger tile, smaller tile in it, elements.
    """

    groups: int
    unit: int
    pairs: list[tuple[tuple[Any, ...], tuple[Any, ...]]]

    @classmethod
    def of(cls, length: int, tile: int, source_tile: int) -> _Columns:
        """Compare the tiles of two arrays along an axis."""
        small, large = sorted((tile, source_tile))
        if length % large == 0 and large % small == 0:
            every = (slice(None),) * 3
            return cls(length // large, small, [(every, every)])
        runs = _runs(range(length), tile, source_tile)
        pairs = [((i.tile, 0, i.inside), (i.source_tile, 0, i.source_inside)) for i in runs]
        return cls(0, 0, pairs)

    def view(self, rows: Any) -> Any:
        """View rows of tiles.

        Returns
        -------
        numpy.ndarray
            Axes: row, larger tile, smaller tile in it, fourth to first axis of the smaller.
        """
        count, tiles_of_row, *inner, length = rows.shape
        groups, unit = self.groups or tiles_of_row, self.unit or length
        cut = rows.reshape(count, groups, tiles_of_row // groups, *inner, length // unit, unit)
        return cut.transpose(0, 1, 2, 6, 3, 4, 5, 7).reshape(count, groups, -1, *inner, unit)


class _Run(NamedTuple):
    """A part of an axis within one tile of each of two arrays: which tile, and where in it."""

    tile: int
    inside: slice
    source_tile: int
    source_inside: slice


def _runs(axis: range, tile: int, source_tile: int, first: int = 0) -> Iterator[_Run]:
    """Cut a part of an axis where tiles of either of two arrays end.

    Parameters
    ----------
    axis : range
        Elements of the one array.
    tile, source_tile : int
        Length of a tile of the one and of the other.
    first : int
        Element of the one with which the other begins.
    """
    at = axis.start
    while at < axis.stop:
        number, place = divmod(at, tile)
        source_number, source_place = divmod(at - first, source_tile)
        count = min(axis.stop - at, tile - place, source_tile - source_place)
        inside = slice(place, place + count)
        yield _Run(number, inside, source_number, slice(source_place, source_place + count))
        at += count
