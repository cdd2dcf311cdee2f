# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of a chunk's model, so that a minor cycle that was not completed can be undone.

CASA cleans into the model on disk. The worker that makes a cycle again, in the place of one that
has died in it, begins with the model as it was before.
"""

from __future__ import annotations

import os
import shutil

from ..keeping.durable import sync_tree
from .chunk_job import ChunkJob

_PREFIX = "model-"


class ModelCopies:
    """Copies of the core model, in the chunk's folder.

    Parameters
    ----------
    job : ChunkJob
    """

    def __init__(self, job: ChunkJob) -> None:
        self._job = job
        self._model = f"{job.core()}.model"
        self._hidden = f"{job.core()}.kept"

    def save(self, steps: int) -> None:
        """Keep a copy of the model as it is after `steps` steps; an empty one if there is none."""
        saved = self._path(steps)
        if os.path.isdir(saved):
            # By a worker that died in this cycle; the model has been restored from it.
            return
        if os.path.isdir(self._model):
            shutil.copytree(self._model, f"{saved}.new")
        else:
            os.mkdir(f"{saved}.new")
        sync_tree(f"{saved}.new")
        # A copy that is not complete never has the name of one that is.
        os.rename(f"{saved}.new", saved)
        for name in os.listdir(self._job.folder()):
            if name.startswith(_PREFIX) and name != os.path.basename(saved):
                shutil.rmtree(os.path.join(self._job.folder(), name))

    def restore(self, steps: int) -> list[str]:
        """Undo what a minor cycle did to the model.

        Parameters
        ----------
        steps : int
            Steps before that cycle.

        Returns
        -------
        list of str
            Names in the chunk's folder that are to be kept.
        """
        saved = self._path(steps)
        if not os.path.isdir(saved):
            # It had not begun.
            return []
        shutil.rmtree(self._model, ignore_errors=True)
        if os.listdir(saved):
            shutil.copytree(saved, self._model)
        return [os.path.basename(saved)]

    def hide(self) -> None:
        """Keep the model from CASA's imager, which would go on from it."""
        if self._job.gridded == self._job.core() and os.path.isdir(self._model):
            os.rename(self._model, self._hidden)

    def give_back(self) -> None:
        """Undo `hide`, also that of a worker that has died on the way."""
        if os.path.isdir(self._hidden):
            shutil.rmtree(self._model, ignore_errors=True)
            os.rename(self._hidden, self._model)

    def _path(self, steps: int) -> str:
        return os.path.join(self._job.folder(), f"{_PREFIX}{steps}")
