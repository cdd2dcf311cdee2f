# SPDX-License-Identifier: GPL-3.0-or-later
"""Add up the parts of a continuum image and deconvolve it, inside one worker.

Here are all of tclean's tools for the image as a whole, as tclean has them, but that the gridding
is done elsewhere (:mod:`ptclean.imaging.part_imager`): a normaliser gathers the parts' images,
adding them in the order of the parts, and scatters the model. A second normaliser, which knows of
no parts, does what tclean's does; the primary beam is made from all data, since it is the sum of
all fields'.

The steps are `WholeImage.open`, `sum_density` or `make_density` where the weights depend on the
density, `begin`, then `scatter_model` and `gather` before and after each gridding, `minor` between
them, and `finish`.

When the worker that has the tools dies, or the driver, another attempt goes on from the images of
the former one (`take_over`): from the model as the last minor cycle left it, and from the parts'
residuals, which are added up again. With automasks, and with ``asp``, the deconvolver has a state
that cannot be had from disk: the clean then begins anew.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from casatools import synthesisdeconvolver, synthesisimager, synthesisnormalizer

from ..keeping.durable import sync_directory, sync_tree, write_bytes
from ..planning.axis import select_and_define
from ..products.casa_io import copy_table, flush, open_table
from ..records import Record
from .at_work import run_step
from .part_imager import ContinuumJob, PartImager, PartJob, is_gridded, is_start, sync_images

#: What a normaliser that makes an image writes into its miscellaneous information, and the imager,
#: which makes PSF and residual in tclean, does not; images that are made later take it over.
_GATHERED_KEYWORD = "useweightimage"


#: Name in the folder of the image as a whole: it has been taken over from a former attempt.
_TAKEN_OVER = "taken-over"

#: Name, before a number of steps, of the folder with the model as it was after them.
_SAVED = "model-after-"

#: Images of the whole that `WholeImage.begin` makes, and that nothing changes after it.
_OF_BEGIN = ("psf", "pb", "sumwt", "weight")


class StateLostError(Exception):
    """The worker that had the image as a whole is gone: another attempt is to be made."""


class WholeImage:
    """CASA's tools for the image as a whole.

    Parameters
    ----------
    job : ContinuumJob

    Attributes
    ----------
    steps : int
        Steps that are complete.
    """

    def __init__(self, job: ContinuumJob) -> None:
        self.job = job
        self.steps = 0
        self._records = job.records.named(os.path.join(job.directory, "whole", "whole"))
        self._imager: Any = None
        self._adder: Any = None
        self._normalizer: Any = None
        self._deconvolver: Any = None

    def open(self) -> None:
        """Select all data and define the image."""
        folder = os.path.dirname(self._prefix)
        shutil.rmtree(folder, ignore_errors=True)
        os.mkdir(folder)
        os.mkdir(self._scratch)
        for product, path in self.job.continued:
            shutil.copytree(path, f"{self._prefix}.{product}")
        with self._step():
            records = self._records
            # Found anew, the frequency may differ in its last bit: conversions between frames go
            # by what the process has converted before.
            records.image["csys"] = copy.deepcopy(self.job.coordinates)
            self._imager = synthesisimager()
            select_and_define(self._imager, records)
            self._imager.normalizerinfo(records.normalization)
            self._open_tools()
            self._save_model()

    def sum_density(self) -> None:
        """Add up the density of the parts' data in the uv plane."""
        with self._step():
            # Under another name than the image's: CASA makes a PSF of the density's shape with it.
            adder = self._adding_normalizer(os.path.join(self._scratch, "density"))
            adder.gatherweightdensity()
            made = adder.scatterweightdensity()
            adder.done()
            self._set_robustness(made)
            self._place_density(made)

    def make_density(self) -> None:
        """Find the density of all data, where it cannot be had from the parts."""
        with self._step():
            self._imager.setweighting(**self._records.weighting)
            self._place_density(self._imager.getweightdensity())

    def begin(self) -> None:
        """Make PSF and primary beam of the whole."""
        with self._step():
            self._adder.gatherpsfweight()
            self._remove_keyword("psf")
            self._normalizer.gatherpsfweight()
            self._normalizer.dividepsfbyweight()
            self._normalizer.divideweightbysumwt()
            if self._deconvolver is not None:
                self._deconvolver.checkrestoringbeam()
            self._imager.makepb()
            self._normalizer.normalizeprimarybeam()
            sync_tree(os.path.dirname(self._prefix))

    def scatter_model(self) -> None:
        """Give the parts the model, if there is one."""
        with self._step():
            self._normalizer.dividemodelbyweight()
            self._adder.scattermodel()
            for part in self.job.parts:
                sync_images(os.path.dirname(self.job.prefix(part)), is_start)

    def gather(self, *, first: bool) -> list[Record]:
        """Make the residual of the whole, and set up its mask.

        Parameters
        ----------
        first : bool
            Whether it is the first one.

        Returns
        -------
        list of dict
            The deconvolver's initialization records: if it is the first residual before the mask is
            set up, and after; empty if there are no minor cycles.
        """
        with self._step():
            self._add_residuals()
            if not self.job.cleans:
                return []
            before = [self._deconvolver.initminorcycle()] if first else []
            self._deconvolver.setupmask()
            if first and os.path.isdir(self._mask):
                sync_tree(self._mask)
            return [*before, self._deconvolver.initminorcycle()]

    def _add_residuals(self) -> None:
        self._adder.gatherresidual()
        self._remove_keyword("residual")
        self._normalizer.gatherresidual()
        self._normalizer.divideresidualbyweight()
        self._normalizer.multiplymodelbyweight()

    def keep_model(self, *, number: int) -> dict[str, str]:
        """Copy the model as it is, if there is one.

        Parameters
        ----------
        number : int
            Of the copy; one of that number is replaced.

        Returns
        -------
        dict
            The copies by product, 'model' or one for each Taylor term.
        """
        with self._step():
            # Not in the directory of an attempt: it is wanted whatever becomes of that.
            folder = os.path.join(os.path.dirname(self.job.directory), f"kept-{number}")
            shutil.rmtree(folder, ignore_errors=True)
            kept = {}
            for product, path in self._models().items():
                kept[product] = os.path.join(folder, product)
                shutil.copytree(path, kept[product])
            return kept

    def minor(self, *, controls: Record) -> Record:
        """Run a minor cycle.

        Parameters
        ----------
        controls : dict
            Record of the iteration control.

        Returns
        -------
        dict
            The deconvolver's execution record.
        """
        with self._step():
            record: Record = self._deconvolver.executeminorcycle(iterbotrecord=controls)
            if "auto" in self._records.deconvolution["usemask"] and os.path.isdir(self._mask):
                shutil.rmtree(self._former_mask, ignore_errors=True)
                shutil.copytree(self._mask, self._former_mask)
            self._save_model()
            return record

    def set_up_mask(self) -> list[Record]:
        """Set up the mask where no major cycle came in between; as `gather`."""
        with self._step():
            self._deconvolver.setupmask()
            return [self._deconvolver.initminorcycle()]

    def finish(self, *, revert_mask: bool) -> list[str]:
        """Restore, if wanted, and close the tools.

        Parameters
        ----------
        revert_mask : bool
            Whether automasking made a mask that was not used, since the clean came to its end.

        Returns
        -------
        list of str
            Extensions of the images that were made.
        """
        with self._step():
            if revert_mask and os.path.isdir(self._former_mask):
                shutil.rmtree(self._mask)
                os.rename(self._former_mask, self._mask)
            if self.job.restores:
                self._deconvolver.restore()
                if self.job.corrects:
                    self._deconvolver.pbcor()
            self.close()
            sync_tree(os.path.dirname(self._prefix))
            return list(self._products())

    def recover(self, steps: int, next_step: str) -> None:
        """Go on with images that have been taken over.

        Parameters
        ----------
        steps : int
            Steps that are complete, `begin` among them.
        next_step : str

        Raises
        ------
        StateLostError
            If they have not been: the worker that had them has died.
        """
        taken_over = os.path.join(os.path.dirname(self._prefix), _TAKEN_OVER)
        if not os.path.exists(taken_over):
            raise StateLostError(f"{steps} steps are done, but the tools are gone at {next_step}")
        os.remove(taken_over)
        os.mkdir(self._scratch)
        with contextlib.chdir(self._scratch):
            # What these say is in the images.
            said = {"startmodel": ""} | ({"mask": ""} if os.path.isdir(self._mask) else {})
            self._open_tools(**said)
            if self._deconvolver is not None:
                self._deconvolver.checkrestoringbeam()
            if next_step != "scatter_model":
                self._normalizer.dividemodelbyweight()
            if next_step not in ("scatter_model", "gather"):
                self._add_residuals()
                if self.job.cleans:
                    self._deconvolver.setupmask()
                    self._deconvolver.initminorcycle()
        self.steps = steps

    def close(self) -> None:
        """Close CASA's tools; the images stay."""
        for tool in (self._deconvolver, self._normalizer, self._adder, self._imager):
            if tool is not None:
                tool.done()
        self._deconvolver = self._normalizer = self._adder = self._imager = None

    @property
    def _prefix(self) -> str:
        return str(self._records.image["imagename"])

    @property
    def _scratch(self) -> str:
        return os.path.join(os.path.dirname(self._prefix), "scratch")

    @property
    def _mask(self) -> str:
        return f"{self._prefix}.mask"

    @property
    def _former_mask(self) -> str:
        return f"{self._prefix}.prev.mask"

    @contextlib.contextmanager
    def _step(self) -> Iterator[None]:
        with contextlib.chdir(self._scratch):
            yield
        self.steps += 1

    def _open_tools(self, **changes: Any) -> None:
        """Open all tools but the imager, the deconvolver with changes of its parameters."""
        self._adder = self._adding_normalizer(self._prefix)
        self._normalizer = synthesisnormalizer()
        self._normalizer.setupnormalizer(normpars=self._records.normalization)
        if self.job.cleans or self.job.restores:
            self._deconvolver = synthesisdeconvolver()
            self._deconvolver.setupdeconvolution(decpars=self._records.deconvolution | changes)

    def _save_model(self) -> None:
        """Keep the model as the step leaves it that is about to be complete, and the one before."""
        if not self.job.keeps_state:
            return
        directory = self.job.directory
        former = sorted(_saved_models(directory))
        saved = os.path.join(directory, f"{_SAVED}{self.steps + 1}")
        # By a worker that died in this step.
        shutil.rmtree(saved, ignore_errors=True)
        os.mkdir(saved)
        for path in self._models().values():
            shutil.copytree(path, os.path.join(saved, os.path.basename(path)))
        sync_tree(saved)
        sync_directory(directory)
        for steps in former[:-1]:
            shutil.rmtree(os.path.join(directory, f"{_SAVED}{steps}"))

    def _adding_normalizer(self, prefix: str) -> Any:
        parts = [self.job.prefix(part) for part in self.job.parts]
        adder = synthesisnormalizer()
        adder.setupnormalizer(
            normpars={
                **self._records.normalization,
                "imagename": prefix,
                "partimagenames": parts,
            }
        )
        return adder

    def _remove_keyword(self, gathered: str) -> None:
        for product, path in self._products().items():
            if product.split(".")[0] == gathered:
                with open_table(path, write=True) as tb:
                    info = tb.getkeyword("miscinfo")
                    if info.pop(_GATHERED_KEYWORD, None) is not None:
                        tb.putkeyword("miscinfo", info)

    def _set_robustness(self, density: str) -> None:
        """Write the scale of briggs weights that follows from the density of all data.

        The normaliser makes it of the parts', and it is not a number where a part is flagged
        altogether. The same sums as in ``VisImagingWeight::setWeightDensity``.
        """
        weighting = self._records.weighting
        if weighting["rmode"] != "norm" or weighting["type"] != "briggs":
            return
        with open_table(density, write=True) as tb:
            cells = tb.getcell("map", 0).astype(np.float64)
            info = tb.getkeyword("miscinfo")
            mean = np.square(cells).sum() / cells.sum()
            scale = np.square(5 * 10.0 ** -weighting["robust"]) / mean
            info["f2"] = np.array([np.float32(scale)], dtype=info["f2"].dtype)
            tb.putkeyword("miscinfo", info)

    def _place_density(self, made: str) -> None:
        assert self.job.density is not None
        shutil.move(made, self.job.density)

    def _models(self) -> dict[str, str]:
        """Paths of the models, by product, which are on disk as they are."""
        models = {
            product: path
            for product, path in self._products().items()
            if product.split(".")[0] == "model"
        }
        for path in models.values():
            flush(path)
        return models

    def _products(self) -> dict[str, str]:
        folder, name = os.path.split(self._prefix)
        return {
            entry.removeprefix(f"{name}."): os.path.join(folder, entry)
            for entry in sorted(os.listdir(folder))
            if entry.startswith(f"{name}.")
        }


def _saved_models(directory: str) -> list[int]:
    """Numbers of steps after which there is a copy of the model."""
    names = os.listdir(directory)
    return [int(name.removeprefix(_SAVED)) for name in names if name.startswith(_SAVED)]


def take_over(
    former: str, job: ContinuumJob, names: Sequence[str], major_cycles: Sequence[int]
) -> None:
    """Take the images of a former attempt into a new one, but for those that are made anew.

    A worker of the former attempt may still be at the step that comes next: what that writes is
    left alone.

    Parameters
    ----------
    former : str
        Directory of the former attempt.
    job : ContinuumJob
        Of the new one, whose directory is empty.
    names : sequence of str
        Steps of the image as a whole that are complete, `begin` among them.
    major_cycles : sequence of int
        Major cycles that are complete, of each part.
    """
    directory = job.directory
    whole = os.path.join(directory, "whole")
    os.mkdir(whole)
    for name in os.listdir(os.path.join(former, "whole")):
        if name.removeprefix("whole.").split(".")[0] in _OF_BEGIN:
            copy_table(os.path.join(former, "whole", name), os.path.join(whole, name))
    if "gather" in names:
        masks = [os.path.join(former, "whole", "whole.mask")]
    else:
        masks = [path for product, path in job.continued if product == "mask"]
    for path in filter(os.path.isdir, masks):
        copy_table(path, os.path.join(whole, "whole.mask"))
    last = max(number for number, name in enumerate(names, 1) if name in ("open", "minor"))
    saved = os.path.join(former, f"{_SAVED}{last}")
    for name in os.listdir(saved):
        copy_table(os.path.join(saved, name), os.path.join(whole, name))
    copy_table(saved, os.path.join(directory, f"{_SAVED}{last}"))
    if job.density is not None:
        density = os.path.relpath(job.density, directory)
        copy_table(os.path.join(former, density), job.density)
    models = names.count("scatter_model")
    for part, cycles in zip(job.parts, major_cycles, strict=True):
        folder = os.path.dirname(job.prefix(part))
        of_former = os.path.join(former, os.path.relpath(folder, directory))
        os.mkdir(folder)
        is_wanted = is_start if cycles < models else is_gridded
        for name in filter(is_wanted, os.listdir(of_former)):
            copy_table(os.path.join(of_former, name), os.path.join(folder, name))
    sync_tree(directory)
    write_bytes(os.path.join(whole, _TAKEN_OVER), b"")


def step(job: PartJob | ContinuumJob, steps: int, name: str, arguments: Record) -> Any:
    """Run one step of a part or of the whole; the function that workers execute."""
    make = WholeImage if isinstance(job, ContinuumJob) else PartImager
    return run_step(make, job, steps, name, arguments)
