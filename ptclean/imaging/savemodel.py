# SPDX-License-Identifier: GPL-3.0-or-later
"""tclean's `savemodel`: write the model into the measurement sets, once, after the clean.

tclean lets a major cycle write the model that it is given when the cycle is known to be the last.
That is asked before the cycle; the residual may turn out to be above the threshold once more, and
further cycles follow. The first residual counts as a last cycle as well, since no peak is known
then. So the column has the model of the last cycle of which that was said, which need not be the
model image; and a virtual model is the sum of the models of all of them (``putModel`` adds to
what is there: ``PySynthesisImager.runMajorCycle``, ``SynthesisImagerVi2::runMajorCycle``,
``VisModelData``). With automasking tclean predicts the final model once, in another way
(``SynthesisImagerVi2::predictModel``): it writes to all selected channels, and to flagged rows.

Here the same steps of the same tools are taken on the same models, in one process that has CASA's
memory budget as the user has it (:mod:`ptclean.workers.apart`), with natural weights: what is
predicted does not depend on them. Until then nothing of the measurement sets is changed.

Covers which models are written, and how. Does not cover when they are kept on the way: that is
:mod:`ptclean.imaging.imager`'s and :mod:`ptclean.imaging.continuum`'s.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from casatools import synthesisimager, synthesisnormalizer
from distributed import KilledWorker
from distributed.scheduler import NoValidWorkerError, NoWorkerError

from .. import logs
from ..errors import SaveModelError, TaskError
from ..planning.axis import select
from ..planning.scope import is_predicted
from ..products.casa_io import open_table
from ..records import ImagingRecords, Record
from ..workers.apart import Surroundings, run_apart
from ..workers.splitter import CubeSplitter

#: Value of tclean's `savemodel` with which nothing is written.
NONE = "none"

#: Images of a model by product: 'model', or one for each Taylor term. Empty for no model.
Model = Mapping[str, str]

MODEL = ("model",)

#: Products besides the model that a major cycle has: those that say how a mosaic's model is scaled
#: and where its residual is masked.
SCALES = ("weight", "sumwt", "pb")


class ModelsToSave:
    """The models that tclean would write, collected on the way.

    Parameters
    ----------
    parameters : mapping
        tclean's.

    Attributes
    ----------
    wants_copy : bool
        Whether the model as it is now will be wanted, and is to be kept if it is to change.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._predicts = is_predicted(parameters)
        self._collects = parameters["savemodel"] != NONE and not self._predicts
        self._adds_up = parameters["savemodel"] == "virtual"
        self._kept: list[Model] = []
        self.wants_copy = False

    def major_cycle(self, *, lastcycle: bool) -> None:
        """Note a major cycle, with tclean's control of that name."""
        self.wants_copy = self._collects and lastcycle

    def keep(self, model: Model) -> list[Model]:
        """Keep the model of the last major cycle.

        Parameters
        ----------
        model : mapping of str
            Images that are not changed any more.

        Returns
        -------
        list of mapping
            Models that are not wanted any more.
        """
        self.wants_copy = False
        if not self._adds_up:
            former, self._kept = self._kept, [model]
            return former
        if model:
            self._kept.append(model)
        return []

    def state(self) -> Record:
        """Return what `go_on` takes up, as plain data."""
        return {"kept": [dict(model) for model in self._kept], "wants_copy": self.wants_copy}

    def go_on(self, state: Record) -> None:
        """Take up the state of an earlier driver."""
        self._kept, self.wants_copy = state["kept"], state["wants_copy"]

    def all(self, final: Model) -> tuple[Model, ...]:
        """Return the models to write, in order, given the one at the end."""
        if self.wants_copy or self._predicts:
            self.keep(final)
        return tuple(self._kept)


@dataclass(frozen=True)
class Saving:
    """What is to be written; plain data.

    Attributes
    ----------
    savemodel : str
        tclean's, 'modelcolumn' or 'virtual'.
    records : ImagingRecords
        Of the whole image, with tclean's selections for `savemodel`.
    models : tuple of mapping
        The models to write, in order; with a virtual model each adds to those before.
    scales : mapping of str
        Images besides the model, by product, that major cycles have and do not make.
    predicts : bool
        See :func:`ptclean.planning.scope.is_predicted`.
    directory : str
        Directory to make, for what CASA writes besides.
    surroundings : Surroundings
    """

    savemodel: str
    records: ImagingRecords
    models: tuple[Model, ...]
    scales: Mapping[str, str]
    predicts: bool
    directory: str
    surroundings: Surroundings


def products_of(
    kinds: Collection[str], products: Mapping[str, str], *, terms: bool
) -> dict[str, str]:
    """Choose products of some kinds.

    Parameters
    ----------
    kinds : collection of str
        Such as `MODEL`.
    products : mapping of str
        Images by product.
    terms : bool
        Whether those of Taylor terms are meant, or those without.

    Returns
    -------
    dict
        Of the same form.
    """
    return {
        name: path
        for name, path in products.items()
        if name.split(".")[0] in kinds and terms == (".tt" in name)
    }


def save(saving: Saving, splitter: CubeSplitter) -> None:
    """Have one worker write the models, and wait.

    Raises
    ------
    SaveModelError
        If it fails; says what there is, and how to go on.
    """
    measurement_sets = [str(each["msname"]) for each in saving.records.selection.values()]
    models = f"{len(saving.models)} model{'s' * (len(saving.models) != 1)}"
    logs.post(
        f"savemodel={saving.savemodel!r}: writing {models} to {', '.join(measurement_sets)}, in "
        "one process; until now nothing of it was changed"
    )
    if len(saving.models) > 1:
        logs.post(
            "tclean took each of several major cycles for the last one, and the virtual model is "
            f"the sum of {models}, as it is in tclean; savemodel='modelcolumn' keeps the last one",
            "WARN",
        )
    started = time.monotonic()
    try:
        (outcome,) = splitter.map(write_apart, [saving])
    except (TaskError, KilledWorker, NoValidWorkerError, NoWorkerError) as error:
        raise SaveModelError(saving.savemodel, measurement_sets, str(error)) from error
    logs.forward_warnings(outcome.value)
    if outcome.value.value > 1:
        logs.post(
            f"CASA has written the model in {outcome.value.value} pieces of the cube, as its "
            "memory budget asks for, and as it does for tclean; channels next to the cuts may "
            "depend on that",
            "WARN",
        )
    logs.post(f"Phase saving the model: {time.monotonic() - started:.1f} s")


def write_apart(saving: Saving) -> Any:
    """Write the models from a fresh process; the function that a worker executes."""
    return run_apart(saving.surroundings, write, saving)


def write(saving: Saving) -> int:
    """Write the models, in this process.

    Parameters
    ----------
    saving : Saving

    Returns
    -------
    int
        Largest number of pieces into which CASA has cut the cube.
    """
    shutil.rmtree(saving.directory, ignore_errors=True)
    os.mkdir(saving.directory)
    pieces = 1
    if not saving.models:
        # tclean selects the data all the same, which makes the column, or clears the model.
        imager = synthesisimager()
        select(imager, saving.records)
        imager.done()
    for index, model in enumerate(saving.models):
        prefix = os.path.join(saving.directory, f"{index}", "image")
        os.mkdir(os.path.dirname(prefix))
        # CASA works on copies: it scales the model, and makes a residual.
        for product, path in {**saving.scales, **model}.items():
            shutil.copytree(path, f"{prefix}.{product}")
        records = saving.records.named(prefix)
        if index > 0:
            # The first one has cleared what there was.
            selection = {k: {**v, "incrmodel": True} for k, v in records.selection.items()}
            records = ImagingRecords(**{**records.__dict__, "selection": selection})
        _write_one(records, has_model=bool(model), predicts=saving.predicts)
        pieces = max(pieces, _pieces(f"{prefix}.residual"))
        shutil.rmtree(os.path.dirname(prefix))
    return pieces


def _write_one(records: ImagingRecords, *, has_model: bool, predicts: bool) -> None:
    """Run a major cycle that writes the model, or predict it, in tclean's order of calls."""
    imager, normalizer = synthesisimager(), synthesisnormalizer()
    try:
        select(imager, records)
        imager.defineimage(records.image, records.gridding)
        imager.normalizerinfo(records.normalization)
        normalizer.setupnormalizer(normpars=records.normalization)
        if _makes_scales(records) and not predicts:
            imager.setweighting(**records.weighting)
            imager.makepsf()
            normalizer.gatherpsfweight()
            normalizer.dividepsfbyweight()
            normalizer.divideweightbysumwt()
        elif not predicts:
            imager.setweighting(**_natural(records.weighting))
        if has_model and (predicts or not _is_cube(records)):
            normalizer.dividemodelbyweight()
            normalizer.scattermodel()
        if predicts:
            imager.predictmodel()
        else:
            imager.executemajorcycle(
                controls={"lastcycle": True, "usemask": records.deconvolution["usemask"]}
            )
    finally:
        normalizer.done()
        imager.done()


def _makes_scales(records: ImagingRecords) -> bool:
    """Tell whether the model is scaled by weights that only the imager that made them knows.

    Those of a cube's mosaic are read from disk (``SynthesisImagerVi2::loadMosaicSensitivity``).
    """
    return bool(records.gridding["gridder"] == "mosaic" and not _is_cube(records))


def _is_cube(records: ImagingRecords) -> bool:
    """Tell whether CASA scales the model in its major cycle (``PySynthesisImager``)."""
    return bool(records.image["specmode"] != "mfs" and records.image["deconvolver"] != "mtmfs")


def _natural(weighting: Record) -> Record:
    return {**weighting, "type": "natural", "uvtaper": []}


def _pieces(image: str) -> int:
    """Pieces into which CASA has cut a cube, by an image that it has just made."""
    if not os.path.isdir(image):
        return 1
    with open_table(image) as tb:
        return int(tb.getkeyword("miscinfo").get("chnchnks", 1))
