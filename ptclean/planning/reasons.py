# SPDX-License-Identifier: GPL-3.0-or-later
"""Why tclean images a cube that ptclean's engine would take by its parameters.

The parameters alone are :mod:`ptclean.planning.scope`'s. Here they meet the cube's axes, the data,
the images that there are, and the size of the chunks. Each function returns a clause for the log,
or None.
"""

from __future__ import annotations

import os
from typing import Any

from ..call.parameters import is_name_kept
from ..config import setting
from ..errors import ParameterError
from ..products import images
from . import memory
from .axis import CubeAxes, SelectedData, casa_memory, observatory, same_axes
from .checks import is_image
from .continuing import startmodel_path
from .memory import ImageSize
from .resampling import SpectralSampling, unlike
from .scope import AUTOMASK, is_moving
from .sizing import Machine, Sizing, tclean_seconds
from .weighting import weighs_each_channel

_GIB = 2**30


def reason_in_access(tclean: dict[str, Any]) -> str | None:
    """Say that tclean is to judge data that cannot be written to; it does so before it begins."""
    if tclean["savemodel"] == "none":
        return None
    vis = tclean["vis"]
    for each in vis if isinstance(vis, list) else [vis]:
        if not os.access(os.path.join(each, "table.dat"), os.W_OK):
            return f"savemodel={tclean['savemodel']!r}, and {each} cannot be written to"
    return None


def reason_in_data(
    axes: CubeAxes,
    data: SelectedData,
    size: ImageSize,
    own: dict[str, Any],
    tclean: dict[str, Any],
) -> str | None:
    """Say why a cube that the engine knows is tclean's all the same, its axes being known."""
    if not axes.linear:
        return (
            f"veltype={tclean['veltype']!r}, whose channels are not equally spaced in frequency: "
            "CASA resamples data with the width of the first two"
        )
    if is_moving(tclean["phasecenter"]):
        moving = f"phasecenter={tclean['phasecenter']!r}, "
        if observatory(axes.coordinates) is None:
            return f"{moving}seen from an observatory that CASA does not know"
        if not setting("last-digits-in-chunks"):
            return (
                f"{moving}whose place depends in CASA, by rounding, on what a process did before; "
                "if images within 1e-7 of tclean's will do, set ptclean.last-digits-in-chunks in "
                "Dask's configuration"
            )
    if tclean["weighting"] == "briggsbwtaper" and axes.nchan == 1:
        raise ParameterError(
            "weighting",
            tclean["weighting"],
            "tapers with the bandwidth of the cube, which one channel does not have, and tclean "
            "fails in the middle; use weighting='briggs' or more channels",
        )
    if data.confusing and weighs_each_channel(tclean):
        return (
            f"weighting={tclean['weighting']!r}, for each channel, of measurement sets of which "
            "the last has more channels in a window than another: CASA may read the weights of "
            "one with the channels of the other; perchanweightdensity=False does not"
        )
    if tclean["usemask"] == AUTOMASK and axes.nchan == 1:
        return f"usemask={AUTOMASK!r} for one channel, which leaves nothing to share"
    if tclean["usemask"] == AUTOMASK and axes.shape[2] != 1:
        return f"usemask={AUTOMASK!r} for several Stokes planes"
    chosen_here = own["nworkers"] == 0 and own["chanchunks"] == -1
    seconds = tclean_seconds(size, axes.nchan, data.rows, cleans=tclean["niter"] > 0)
    fits = memory.casa_requirement(size, axes.nchan) < casa_memory() * memory.USABLE
    if chosen_here and fits and seconds < setting("small-cube-seconds"):
        return (
            f"the cube is small (about {seconds:.0f} s), starting workers would take longer than "
            "they save; nworkers or chanchunks make it parallel all the same"
        )
    return None


def reason_in_images(
    axes: CubeAxes, existing: tuple[str, ...], tclean: dict[str, Any]
) -> str | None:
    """Say why a cube is tclean's for the images that there are: earlier ones, and `startmodel`."""
    if not tclean["restart"] and not is_name_kept(tclean["imagename"]):
        return f"restart=False, and there are images {tclean['imagename']}*"
    for product in existing:
        name = f"{tclean['imagename']}.{product}"
        shape = (1, 1, *axes.shape[2:]) if product == "sumwt" else axes.shape
        try:
            found, coordinates = images.shape_and_coordinates(name)
        except (OSError, RuntimeError):
            return f"{name} exists, and what it means is tclean's to say"
        if found != shape:
            return f"{name} exists with another shape, and what that means is tclean's to say"
        if not same_axes(axes.coordinates, coordinates):
            return f"{name} exists with other axes, and what that means is tclean's to say"
    model = startmodel_path(tclean["startmodel"])
    if model is not None and not is_image(model):
        return f"startmodel={model!r}, which is no image"
    return None


def reason_in_sampling(sampling: SpectralSampling, tclean: dict[str, Any]) -> str | None:
    """Say why a cube must be resampled as a whole, and so is tclean's."""
    found = unlike(sampling)
    if found is None or (found.slight and setting("last-digits-in-chunks")):
        return None
    reason = f"{found.parameter}={tclean[found.parameter]!r}, {found.reason}"
    if found.slight:
        reason += (
            "; if images within 1e-7 of tclean's will do, set ptclean.last-digits-in-chunks in "
            "Dask's configuration"
        )
    return reason


def reason_in_blocks(
    sizing: Sizing, npol: int, machine: Machine, tclean: dict[str, Any]
) -> str | None:
    """Say why a cube that is cleaned down to its noise is tclean's.

    CASA begins to clean a channel with the n-sigma threshold of the channel before
    (``SDAlgorithmBase::deconvolve``, ``SIMinorCycleController::majorCycleRequired``), and begins
    anew with each of its blocks of channels (``CubeMinorCycleAlgorithm::task``).
    """
    together = (
        f"nsigma={tclean['nsigma']!r}, with which a channel begins with the noise of the channel "
        "before"
    )
    if npol > 1:
        return f"{together}, and a Stokes plane with that of the plane before"
    if len(sizing.chunks) == 1:
        return f"{together}: CASA cleans all channels of images of this size one after the other"
    available = machine.room(1)
    if sizing.worker_memory > available:
        return (
            f"{together}: the channels that CASA cleans one after the other take "
            f"{sizing.worker_memory / _GIB:.2f} GiB of a worker, and there are "
            f"{available / _GIB:.2f}"
        )
    return None
