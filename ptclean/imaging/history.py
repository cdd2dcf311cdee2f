# SPDX-License-Identifier: GPL-3.0-or-later
"""What the steps of a chunk were given, on disk: enough to go through them again.

Only for chunks whose tools hold a state that cannot be read (:mod:`ptclean.imaging.automask`).
Models are kept as their components, which are few. Each step is a file of numpy's arrays
(``.npz``), the text of its arguments (:mod:`ptclean.keeping.encoding`) among them.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..keeping.durable import write_bytes
from ..keeping.encoding import decode, encode
from ..keeping.workdir import make_folder
from ..products import images
from ..products.casa_io import open_image
from ..records import Record

#: Of each channel: positions of the components in the plane, raveled, and their values.
Components = list[tuple[NDArray[np.int64], NDArray[np.float64]]]

_SUFFIX = ".npz"


@dataclass(frozen=True)
class Entry:
    """One step.

    Attributes
    ----------
    name : str
    arguments : dict
    model : list or None
        Components of the gridded model, of a step that grids.
    """

    name: str
    arguments: Record
    model: Components | None = None


class History:
    """Steps of a chunk.

    Parameters
    ----------
    folder : str
        Where they are kept; made if need be.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def add(self, step: int, entry: Entry) -> None:
        """Keep what the step of a number was given, in the place of what was kept before."""
        make_folder(self._folder)
        # A file that is not complete never has the name of one that is.
        write_bytes(os.path.join(self._folder, f"{step:06d}{_SUFFIX}"), _to_bytes(entry))

    def before(self, step: int) -> list[Entry]:
        """Return what was kept of the steps before a number, in order."""
        if not os.path.isdir(self._folder):
            return []
        entries = []
        for name in sorted(os.listdir(self._folder)):
            number = name.removesuffix(_SUFFIX)
            if name.endswith(_SUFFIX) and number.isdigit() and int(number) < step:
                with open(os.path.join(self._folder, name), "rb") as f:
                    entries.append(_from_bytes(f.read()))
        return entries


def _to_bytes(entry: Entry) -> bytes:
    text = json.dumps(
        {
            "name": entry.name,
            "arguments": encode(entry.arguments),
            "channels": None if entry.model is None else len(entry.model),
        }
    )
    arrays: dict[str, Any] = {"entry": np.frombuffer(text.encode(), dtype=np.uint8)}
    for channel, (where, values) in enumerate(entry.model or ()):
        arrays |= {f"where-{channel}": where, f"values-{channel}": values}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _from_bytes(content: bytes) -> Entry:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        told = json.loads(arrays["entry"].tobytes())
        model = None
        if told["channels"] is not None:
            model = [(arrays[f"where-{i}"], arrays[f"values-{i}"]) for i in range(told["channels"])]
    return Entry(told["name"], decode(told["arguments"]), model)


def components(model: str) -> Components:
    """Read the components of a model image with one Stokes plane."""
    found = []
    with open_image(model) as im:
        nx, ny, _, nchan = (int(n) for n in im.shape())
        for channel in range(nchan):
            plane = im.getchunk([0, 0, 0, channel], [nx - 1, ny - 1, 0, channel]).ravel()
            where = np.flatnonzero(plane)
            found.append((where, plane[where]))
    return found


def write_model(found: Components, template: str, target: str) -> None:
    """Write components into a model image, which is made with the axes of `template` if need be."""
    if not os.path.isdir(target):
        images.empty_model(template, target)
    with open_image(target) as im:
        nx, ny = (int(n) for n in im.shape()[:2])
        for channel, (where, values) in enumerate(found):
            plane: NDArray[Any] = np.zeros(nx * ny)
            plane[where] = values
            im.putchunk(plane.reshape(nx, ny, 1, 1), blc=[0, 0, 0, channel])
