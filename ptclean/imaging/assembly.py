# SPDX-License-Identifier: GPL-3.0-or-later
"""From the images of the chunks to the images that tclean leaves.

Each product is assembled in the work directory, by a worker, when what only the cycles needed is
gone; only when all are complete do they replace whatever stood under their names.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from casatools import ctsys

from ..keeping.disk import require_room
from ..keeping.durable import sync_directory, sync_tree
from ..keeping.interruption import held
from ..products import images
from ..products.images import WEIGHT_DENSITY
from ..records import Record
from ..reporting.events import Listener, Phase, Task, told
from .chunk_job import IMAGER_PRODUCTS, SPENT, ChunkJob


@dataclass(frozen=True)
class Assembly:
    """How one product of the cube is put together; plain data.

    Attributes
    ----------
    target : str
        Image to make.
    parts : tuple of str
        The chunks' images, in the order of their channels.
    coordinates : dict
        Coordinate record of the cube.
    history : tuple of str
        Lines for the image's history.
    exact, single_beam, known
        See :func:`ptclean.products.images.assemble`.
    copied : bool
        Whether the image has no channels of its own, and is a copy of the first part.
    earlier : str or None
        Image whose pixels the new ones replace, and of which the rest is kept.
    empty : str
        Image of zeros to begin with, if it has the product's shape; ``''`` for none.
    """

    target: str
    parts: tuple[str, ...]
    coordinates: Record
    history: tuple[str, ...]
    exact: bool
    single_beam: bool
    copied: bool = False
    known: Record | None = None
    earlier: str | None = None
    empty: str = ""


def assemblies(jobs: Sequence[ChunkJob], history: Sequence[str]) -> dict[str, Assembly]:
    """Find out what there is to assemble, when all chunks are finished.

    Parameters
    ----------
    jobs : sequence of ChunkJob
        In the order of their channels.
    history : sequence of str
        Lines for the images' history.

    Returns
    -------
    dict
        An assembly for each product that was written to.
    """
    first, cube = jobs[0], jobs[0].cube
    left = cube.beginning.leaves(cleans=cube.cleans, restores=cube.restores, corrects=cube.corrects)
    made = {
        product: Assembly(
            target=os.path.join(cube.directory, f"cube.{product}"),
            parts=tuple(f"{job.core()}.{product}" for job in jobs),
            coordinates=cube.coordinates,
            history=tuple(history),
            exact=product in IMAGER_PRODUCTS,
            single_beam=product.startswith("image") and first.has_one_beam,
            known=_known_of_model(first) if product == "model" and len(jobs) > 1 else None,
            earlier=cube.beginning.images.get(product),
        )
        for product in images.image_products(first.core())
        if product not in left and product != WEIGHT_DENSITY
    }
    density = f"{first.gridded}.{WEIGHT_DENSITY}"
    if os.path.isdir(density):
        target = os.path.join(cube.directory, f"cube.{WEIGHT_DENSITY}")
        made[WEIGHT_DENSITY] = Assembly(
            target, (density,), cube.coordinates, tuple(history), False, False, copied=True
        )
    return made


def assembly_of_model(jobs: Sequence[ChunkJob], target: str) -> Assembly:
    """Say how the model of a cube is put together as it is between two cycles."""
    first = jobs[0]
    return Assembly(
        target=target,
        parts=tuple(f"{job.core()}.model" for job in jobs),
        coordinates=first.cube.coordinates,
        history=(),
        exact=False,
        single_beam=False,
        known=_known_of_model(first) if len(jobs) > 1 else None,
    )


def _known_of_model(job: ChunkJob) -> Record:
    """Keywords of a cube's model, of which that of one channel of several Stokes planes has none.

    CASA makes the latter plane by plane (``SIImageStore::getSubImageStore``).
    """
    mask, gridding = f"{job.core()}.mask", "useweightimage"
    info = images.misc_info(mask) if os.path.isdir(mask) else {}
    return {"units": "Jy/pixel", "miscinfo": {k: v for k, v in info.items() if k == gridding}}


def assemble(assembly: Assembly) -> None:
    """Assemble one product.

    Raises
    ------
    OSError
        If the disk is full after it.
    """
    # Of a worker that died at it.
    shutil.rmtree(assembly.target, ignore_errors=True)
    if assembly.copied:
        shutil.copytree(assembly.parts[0], assembly.target)
    else:
        images.assemble(
            assembly.target,
            assembly.parts,
            assembly.coordinates,
            exact=assembly.exact,
            single_beam=assembly.single_beam,
            known=assembly.known,
            earlier=assembly.earlier,
            empty=assembly.empty,
        )
    images.set_history(assembly.target, "ptclean", assembly.history)
    require_room(os.path.dirname(assembly.target))
    sync_tree(assembly.target)


def remove_spent(folders: Sequence[str]) -> None:
    """Remove the images of finished chunks that cycles alone need: room for those of the cube.

    Parameters
    ----------
    folders : sequence of str
        The chunks'.
    """
    for folder in folders:
        for name in os.listdir(folder):
            # The density of the weights is the cube's.
            if name.split(".")[0] in SPENT and name != f"gridded.{WEIGHT_DENSITY}":
                shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def assemble_all(
    made: Mapping[str, Assembly],
    shape: tuple[int, ...],
    on_workers: Callable[..., Any],
    listener: Listener,
) -> dict[str, str]:
    """Assemble all products.

    Parameters
    ----------
    made : mapping
        Outcome of `assemblies`.
    shape : tuple of int
        Of the cube, and so of most products.
    on_workers : callable
        Calls a function with each of some arguments, of which tasks tell what they are
        (:meth:`ptclean.workers.splitter.CubeSplitter.map`).
    listener : Listener

    Returns
    -------
    dict of str
        The image of each product.
    """
    tasks = tuple(Task("assemble", index, 1) for index in range(len(made)))
    with (
        _begun(list(made.values()), shape, on_workers) as begun,
        told(listener, Phase("assembling", tasks, len(made), unit="products")),
    ):
        on_workers(assemble, begun, tasks)
    return {product: each.target for product, each in made.items()}


@contextlib.contextmanager
def _begun(
    made: list[Assembly], shape: tuple[int, ...], on_workers: Callable[..., Any]
) -> Iterator[list[Assembly]]:
    """Let products begin with copies of one image of zeros, which CASA has to write once only."""
    new = next((each for each in made if not each.copied and not each.earlier), None)
    if new is None:
        yield made
        return
    empty = os.path.join(os.path.dirname(new.target), "empty")
    try:
        on_workers(make_empty, [EmptyImage(empty, shape, new.coordinates)])
        yield [replace(each, empty=empty) for each in made]
    finally:
        shutil.rmtree(empty, ignore_errors=True)


@dataclass(frozen=True)
class EmptyImage:
    """An image of zeros that is to be made; plain data."""

    target: str
    shape: tuple[int, ...]
    coordinates: Record


def make_empty(empty: EmptyImage) -> None:
    """Make the image of zeros with which products begin."""
    # Of a worker that died at it.
    shutil.rmtree(empty.target, ignore_errors=True)
    images.make_empty(empty.target, empty.shape, empty.coordinates, exact=False)


def install(made: Mapping[str, str], imagename: str) -> None:
    """Put images under their names, in the place of earlier ones.

    May be called again if the process ended on the way: what is in its place stays there.

    Parameters
    ----------
    made : mapping of str
        The image of each product.
    imagename : str
        Absolute prefix of the names.
    """
    with held():
        for product, image in made.items():
            _replace(image, f"{imagename}.{product}")
        sync_directory(os.path.dirname(imagename))
    for image in made.values():
        shutil.rmtree(f"{image}.old", ignore_errors=True)


def _replace(new: str, final: str) -> None:
    """Move an image to its name; one that has that name is kept until all are in place."""
    if not os.path.lexists(new):
        # A former driver has done it.
        return
    if os.path.lexists(final):
        os.rename(final, f"{new}.old")
    os.rename(new, final)


def history_lines(task: str, parameters: Mapping[str, Any]) -> list[str]:
    """Lines for an image's history, in the form of CASA's tasks.

    Parameters
    ----------
    task : str
        Name of the task.
    parameters : mapping
        Its parameters.

    Returns
    -------
    list of str
        As ``casatasks.private.cleanhelper.write_task_history`` writes them.
    """
    version = f"{ctsys.version_string()} {ctsys.version_desc()}"
    lines = [f"taskname={task}", f"version: {version}"]
    for name, value in parameters.items():
        text = f'"{value}"' if isinstance(value, str) else f"{value}"
        lines.append(f"{name:<11} = {text}")
    return lines
