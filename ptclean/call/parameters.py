# SPDX-License-Identifier: GPL-3.0-or-later
"""From tclean's parameters to the records that CASA's synthesis tools take.

tclean translates its parameters with `casatasks.private.imagerhelpers.input_parameters`; the same
class is used here, so that whatever CASA is installed does the translation. It runs once, in the
user's process; workers get its records as plain dictionaries, with names and channels of their own.

What tclean does with the parameters before that class (renaming some, forcing others) is repeated
here, in :func:`imaging_records`.
"""

from __future__ import annotations

import copy
import os
from typing import Any

from casatasks.private.imagerhelpers.input_parameters import ImagerParameters
from casatools import synthesisdeconvolver

from ..records import ImagingRecords

Parameters = dict[str, Any]

#: What `ImagerParameters` calls the parameters that it calls otherwise than tclean does.
_RENAMED = {
    "vis": "msname",
    "timerange": "timestr",
    "uvrange": "uvdist",
    "observation": "obs",
    "intent": "state",
    "gain": "loopgain",
    "smallscalebias": "scalebias",
}

#: Gridders for which tclean leaves `mosweight` as it is; for others it sets it to False.
_MOSAIC_WEIGHTS = ("mosaic", "awp2")

_PATHS = ("imagename", "mask", "startmodel", "outlierfile", "vptable", "cfcache")


def absolute_paths(parameters: Parameters) -> Parameters:
    """Return the parameters with every path in them absolute.

    Workers run in directories of their own; a relative mask was once silently lost that way.
    Strings that are no paths (regions as masks) stay as they are.
    """
    result = dict(parameters)
    vis = parameters["vis"]
    result["vis"] = (
        [os.path.abspath(v) for v in vis] if isinstance(vis, list) else (os.path.abspath(vis))
    )
    for name in _PATHS:
        result[name] = _absolute(parameters[name], always=name == "imagename")
    return result


def _absolute(value: Any, *, always: bool = False) -> Any:
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    if isinstance(value, str) and always:
        value = os.path.expandvars(os.path.expanduser(value))
    elif isinstance(value, str) and os.path.exists(expanded(value)):
        value = expanded(value)
    if isinstance(value, str) and value and (always or os.path.exists(value)):
        # A trailing slash is not part of CASA's image names, but abspath would drop it.
        return os.path.abspath(value) + ("/" if value.endswith("/") and always else "")
    return value


def expanded(path: str) -> str:
    """Put in what stands for other directories, as CASA does (``casacore::Path``).

    A name that exists as it stands is left as it is.
    """
    return path if os.path.exists(path) else os.path.expandvars(os.path.expanduser(path))


def imaging_records(parameters: Parameters) -> ImagingRecords:
    """Translate tclean's parameters into records.

    Parameters
    ----------
    parameters : dict
        tclean's parameters, validated, with absolute paths.

    Returns
    -------
    ImagingRecords
        Under a placeholder name: see `ImagingRecords.named`. Without `startmodel` and
        `savemodel`, which concern the whole cube and not its chunks.

    Raises
    ------
    Exception
        Whatever `ImagerParameters` raises for parameters that contradict each other; the same as
        tclean.
    """
    arguments = imager_parameters(
        parameters, imagename="ptclean", startmodel="", savemodel="none", restart=True
    )
    return _records(arguments)


def saving_records(parameters: Parameters, *, predicts: bool) -> ImagingRecords:
    """Translate tclean's parameters into the records with which it writes the model.

    Parameters
    ----------
    parameters : dict
        tclean's parameters, validated, with absolute paths.
    predicts : bool
        Whether tclean does so after the clean (:func:`ptclean.planning.scope.is_predicted`), with
        selections that it did not have before.

    Returns
    -------
    ImagingRecords
        As from `imaging_records`, but that the selections are open for writing.
    """
    arguments = imager_parameters(parameters, imagename="ptclean", startmodel="", restart=True)
    if predicts:
        arguments.resetParameters()
    return _records(arguments)


def _records(arguments: ImagerParameters) -> ImagingRecords:
    return ImagingRecords(
        selection=arguments.getSelPars(),
        image=arguments.getImagePars()["0"],
        gridding=arguments.getGridPars()["0"],
        weighting=arguments.getWeightPars(),
        normalization=arguments.getNormPars()["0"],
        deconvolution=arguments.getDecPars()["0"],
        iteration=arguments.getIterPars(),
    )


def check_deconvolution(records: ImagingRecords) -> None:
    """Have CASA look at what it would be told to deconvolve and to restore with.

    tclean does so before it makes any image.

    Raises
    ------
    RuntimeError
        CASA's own, the same as tclean's, for parameters that make no sense to it.
    """
    deconvolver = synthesisdeconvolver()
    try:
        deconvolver.setupdeconvolution(decpars=records.deconvolution)
    finally:
        deconvolver.done()


def imager_parameters(parameters: Parameters, **changes: Any) -> ImagerParameters:
    """Make CASA's own parameter object as tclean makes it.

    Parameters
    ----------
    parameters : dict
        tclean's parameters.
    **changes
        Values that replace tclean's, under `ImagerParameters`' names.

    Returns
    -------
    ImagerParameters
    """
    renamed = {_RENAMED.get(name, name): copy.deepcopy(value) for name, value in parameters.items()}
    if renamed["gridder"] not in _MOSAIC_WEIGHTS:
        renamed["mosweight"] = False
    # tclean's own chanchunks (CAS-13400) has nothing to do with ptclean's.
    renamed["chanchunks"] = 1
    renamed["parallel"] = False
    renamed.update(changes)
    known = ImagerParameters.__init__.__code__.co_varnames
    return ImagerParameters(**{name: value for name, value in renamed.items() if name in known})


def is_name_kept(imagename: str) -> bool:
    """Tell whether tclean with ``restart=False`` makes images of the name that it is given.

    Parameters
    ----------
    imagename : str
        Absolute.

    Returns
    -------
    bool
        False where images of that name, or of that name with a number, make it choose another.
    """
    if not os.path.isdir(os.path.dirname(imagename)):
        return True
    # A method that makes no use of its object.
    names: dict[str, str] = ImagerParameters.incrementImageNameList(None, {"0": imagename})
    return names["0"] == imagename
