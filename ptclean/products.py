# SPDX-License-Identifier: GPL-3.0-or-later
"""From the images of the chunks to the images that tclean leaves.

Each product is assembled in the work directory; only when all are complete do they replace
whatever stood under their names.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import casatools

from . import images
from .chunk_imager import IMAGER_PRODUCTS, ChunkJob


def assemble_products(jobs: Sequence[ChunkJob], imagename: str, history: Sequence[str]) -> None:
    """Assemble the chunks' images and put them under their names.

    Parameters
    ----------
    jobs : sequence of ChunkJob
        In the order of their channels.
    imagename : str
        Absolute prefix of the names.
    history : sequence of str
        Lines for the images' history.
    """
    directory = jobs[0].directory
    products = list(images.image_products(jobs[0].core()))
    for product in products:
        target = os.path.join(directory, f"cube.{product}")
        parts = [f"{job.core()}.{product}" for job in jobs]
        images.assemble(
            target,
            parts,
            jobs[0].coordinates,
            exact=product in IMAGER_PRODUCTS,
            single_beam=product.startswith("image") and jobs[0].has_one_beam,
        )
        images.set_history(target, "ptclean", history)
    for product in products:
        _replace(os.path.join(directory, f"cube.{product}"), f"{imagename}.{product}")


def _replace(new: str, final: str) -> None:
    """Move an image to its name; one that has that name is kept until then."""
    old = f"{new}.old"
    if os.path.lexists(final):
        os.rename(final, old)
    os.rename(new, final)
    shutil.rmtree(old, ignore_errors=True)


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
    version = ".".join(str(n) for n in casatools.version())
    lines = [f"taskname={task}", f"version: CASAtools {version}"]
    for name, value in parameters.items():
        text = f'"{value}"' if isinstance(value, str) else f"{value}"
        lines.append(f"{name:<11} = {text}")
    return lines
