# SPDX-License-Identifier: GPL-3.0-or-later
"""Time the assembling of a cube's products, in turn with ``cp -r`` of the chunks' images.

    python benchmarks/assembling.py --imsize 512 --channels 512 --chunk 16 --folder /a/disk

prints a line for each round, then the median of the ratios, with the smallest and the largest, and
by how much the memory of a worker grew in assembling. Assembling ends with all on disk, ``cp``
does not; it is timed without and with a ``sync`` after it. The products are those of a cleaned
cube; they are made chunk by chunk, by CASA, of noise, but for the mask, which is one all over, and
the model: some pixels in a quarter of the channels. Two processes assemble, as workers would.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from casatools import image
from compare import spread

from ptclean.imaging.assembly import Assembly, assemble, assemble_all
from ptclean.products import images
from ptclean.reporting.events import Listener

PRODUCTS = ["image", "mask", "model", "pb", "psf", "residual"]

#: Of these, some have a pixel mask.
MASKED = {"image", "pb", "residual"}


def make_plane(product: str, imsize: int, *, in_line: bool) -> Any:
    """Make the pixels of a channel, with all four axes."""
    shape = (imsize, imsize, 1, 1)
    if product == "mask":
        return np.ones(shape)
    noise = np.random.default_rng(1).normal(size=shape)
    if product != "model":
        return noise
    # About one in a thousand.
    return np.where(noise > 3, noise, 0) if in_line else np.zeros(shape)


def make_part(path: Path, product: str, imsize: int, in_line: Sequence[bool]) -> None:
    """Make a chunk's image; for each of its channels is said whether it is one of the line."""
    im = image()
    im.fromshape(str(path), [imsize, imsize, 1, len(in_line)])
    planes = {kind: make_plane(product, imsize, in_line=kind) for kind in (False, True)}
    for channel, kind in enumerate(in_line):
        im.putchunk(planes[kind], blc=[0, 0, 0, channel])
    if product in MASKED:
        im.calcmask("T", name="mask0")
    im.setrestoringbeam("1arcsec", "1arcsec", "0deg")
    im.done()


def make_parts(folder: Path, imsize: int, channels: int, chunk: int) -> dict[str, Assembly]:
    """Make the images of all chunks, and say how they are put together."""
    line = range(3 * channels // 8, 5 * channels // 8)
    chunks = [range(channels)[start : start + chunk] for start in range(0, channels, chunk)]
    made = {}
    for product in PRODUCTS:
        parts = [folder / f"{number:04d}.{product}" for number in range(len(chunks))]
        for part, numbers in zip(parts, chunks, strict=True):
            make_part(part, product, imsize, [number in line for number in numbers])
        _, coordinates = images.shape_and_coordinates(str(parts[0]))
        made[product] = Assembly(
            target=str(folder.parent / f"cube.{product}"),
            parts=tuple(map(str, parts)),
            coordinates=coordinates,
            history=(),
            exact=False,
            single_beam=False,
        )
    return made


def grown(assembly: Assembly) -> int:
    """Assemble a product; returns by how much the process's peak of memory grew, in bytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assemble(assembly)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--imsize", type=int, default=512)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None, help="for the images; a disk with room")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as name,
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as workers,
    ):
        folder = Path(name)
        parts = folder / "parts"
        parts.mkdir()
        made = make_parts(parts, options.imsize, options.channels, options.chunk)
        shape = (options.imsize, options.imsize, 1, options.channels)
        growths: list[int] = []

        def on_workers(function: Any, arguments: list[Any], _: Any = None) -> None:
            if function is assemble:
                growths.append(max(workers.map(grown, arguments)))
            else:
                list(workers.map(function, arguments))

        # Workers start, and have CASA loaded.
        assemble_all(made, shape, on_workers, Listener())
        ratios: dict[str, list[float]] = {"cp -r": [], "cp -r and sync": []}
        for number in range(options.rounds):
            for each in made.values():
                shutil.rmtree(each.target)
            subprocess.run(["sync"], check=True)
            started = time.perf_counter()
            subprocess.run(["cp", "-r", parts, folder / "copy"], check=True)
            copied = time.perf_counter() - started
            subprocess.run(["sync"], check=True)
            synced = time.perf_counter() - started
            shutil.rmtree(folder / "copy")
            subprocess.run(["sync"], check=True)
            started = time.perf_counter()
            assemble_all(made, shape, on_workers, Listener())
            assembled = time.perf_counter() - started
            ratios["cp -r"].append(assembled / copied)
            ratios["cp -r and sync"].append(assembled / synced)
            times = f"cp -r {copied:.2f} s, with sync {synced:.2f} s, assembling {assembled:.2f} s"
            print(f"round {number + 1}: {times}", flush=True)
    for what, each in ratios.items():
        print(f"{spread(each)} times the time of {what}")
    print(f"a worker's peak of memory grew by {max(growths) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
