# SPDX-License-Identifier: GPL-3.0-or-later
"""Copy channels from one image's file of pixels to another's, without CASA.

CASA's image tool takes eight times as long for it. casacore keeps the pixels of an image, and each
pixel mask, as one array in a file of tiles (its ``TiledCellStMan``): all tiles are of one size,
those at the ends of an axis padded; pixels within a tile, and tiles within the file, have the first
axis fastest; a mask is one bit a pixel. What `tiles` does not find to be laid out like this, it
leaves to others.

Nobody may have the images open, since casacore keeps tiles in memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .casa_io import open_table

#: Name of the column with the pixels, and that with the pixels of a mask's own table.
PIXELS = "map"
MASK = "PagedArray"

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

    def read(self, start: int, stop: int) -> Any:
        """Read channels.

        Returns
        -------
        numpy.ndarray
            Axes: channel, tiles of a layer (`in_layer`), third to first axis of a tile.
        """
        found = np.empty((stop - start, *self.in_layer, *self.tile[2::-1]), self.item)
        with open(self.path, "rb") as file:
            for channel, end in self._layers(start, stop):
                place = channel % self.tile[3]
                depth = end - channel
                if place == 0 and end in (self.shape[3], channel + self.tile[3]):
                    # What the last layer has beyond the last channel goes with it.
                    depth = self.tile[3]
                pieces = np.empty((*self.in_layer, depth, *self.tile[2::-1]), self.item)
                for offset, piece in self._pieces(pieces, channel):
                    file.seek(offset)
                    if file.readinto(memoryview(piece).cast("B")) != piece.nbytes:
                        raise OSError(f"{self.path} ends too early")
                found[channel - start : end - start] = np.moveaxis(pieces, 3, 0)[: end - channel]
        return found

    def write(self, first: int, channels: Any) -> None:
        """Write channels, with the axes that `read` gives, from `first` on."""
        with open(self.path, "r+b") as file:
            for channel, end in self._layers(first, first + len(channels)):
                pieces = np.moveaxis(channels[channel - first : end - first], 0, 3)
                for offset, piece in self._pieces(np.ascontiguousarray(pieces), channel):
                    file.seek(offset)
                    file.write(memoryview(piece).cast("B"))

    def _layers(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield, by layers of tiles, the first of some channels, and the one after the last."""
        while start < stop:
            end = min(stop, (start // self.tile[3] + 1) * self.tile[3])
            yield start, end
            start = end

    def _pieces(self, pieces: Any, channel: int) -> Iterator[tuple[int, Any]]:
        """Yield the parts of a layer that are together in the file, and where they are.

        Parameters
        ----------
        pieces : numpy.ndarray
            Axes: tiles of the layer, channel, third to first axis of a tile.
        channel : int
            The first of them.
        """
        layer, place = divmod(channel, self.tile[3])
        of_plane = math.prod(self.tile[:3]) * self.item.itemsize
        of_tile = of_plane * self.tile[3]
        begin = layer * math.prod(self.in_layer) * of_tile
        if pieces.shape[3] == self.tile[3]:
            yield begin, pieces
            return
        for number, index in enumerate(np.ndindex(*self.in_layer)):
            yield begin + number * of_tile + place * of_plane, pieces[index]


def tiles(table: str, column: str) -> Tiles | None:
    """Find the tiles of an image (`PIXELS`) or of the table of a mask (`MASK`).

    Returns
    -------
    Tiles or None
        None if the file is not as this module knows it.
    """
    try:
        with open_table(table, lock="usernoread") as tb:
            managers = tb.getdminfo()
            is_big_endian = tb.endianformat() == "big"
    except (OSError, RuntimeError):
        return None
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
    count = math.prod(-(-n // t) for n, t in zip(shape, tile, strict=True))
    if not os.path.isfile(path) or os.path.getsize(path) != count * bytes_of_tile:
        return None
    return Tiles(path, tuple(shape), tuple(tile), bits, is_big_endian)


def are_alike(source: Tiles, target: Tiles) -> bool:
    """Whether channels of one are channels of the other, apart from the order of their pixels."""
    return (
        source.shape[:3] == target.shape[:3]
        and source.bits == target.bits
        and source.is_big_endian == target.is_big_endian
    )


def copy_channels(source: Tiles, start: int, stop: int, target: Tiles, first: int) -> None:
    """Copy channels to those from `first` on of another array.

    Parameters
    ----------
    source, target : Tiles
        They are alike (`are_alike`).
    start, stop : int
        Channels of `source`; memory is taken for three times their pixels.
    first : int
        Channel of `target`.
    """
    channels = source.read(start, stop)
    if source.tile[:3] != target.tile[:3]:
        channels = _in_tiles(_in_planes(channels, source), target)
    target.write(first, channels)


def _in_planes(channels: Any, layout: Tiles) -> Any:
    """Order pixels in tiles as channel, third, second and first axis of the array."""
    padded = channels.transpose(0, 1, 4, 2, 5, 3, 6)
    sizes = [padded.shape[i] * padded.shape[i + 1] for i in (1, 3, 5)]
    planes = padded.reshape(len(channels), *sizes)
    return planes[:, *(slice(n) for n in layout.shape[2::-1])]


def _in_tiles(planes: Any, layout: Tiles) -> Any:
    """Undo `_in_planes`, for tiles that may be others."""
    sizes = list(zip(layout.in_layer, layout.tile[2::-1], strict=True))
    pad = [(0, c * t - n) for n, (c, t) in zip(planes.shape[1:], sizes, strict=True)]
    if any(after for _, after in pad):
        planes = np.pad(planes, [(0, 0), *pad])
    shape = [size for pair in sizes for size in pair]
    return planes.reshape(len(planes), *shape).transpose(0, 1, 3, 5, 2, 4, 6)
