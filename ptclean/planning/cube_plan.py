# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan a call for a cube, before anything starts.

What comes of it is a :class:`ptclean.planning.plan.Plan`: what the engine is to do, or that tclean
runs, and why (:mod:`ptclean.planning.scope`, :mod:`ptclean.planning.reasons`). The data's
description is read, and CASA asked for the cube's axes. No cluster is started and nothing written
(but see Notes of :func:`make_plan`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..call.own_parameters import OWN_PARAMETERS
from ..call.parameters import absolute_paths, check_deconvolution, imaging_records
from ..config import setting
from ..records import ImagingRecords
from . import memory
from .axis import CubeAxes, SelectedData, observatory, resolve_axes, summarize_data
from .blocks import block_channels
from .checks import check_folder, check_parameters, check_products, check_size
from .chunks import Guards, guard_channels
from .cleanmask import CleanMask, clean_mask
from .continuing import PRODUCTS, starts_from_image
from .independence import reason_for_one_control, say_independence
from .iteration import check_iteration
from .memory import ImageSize
from .mosaic import FEWEST_CHANNELS
from .mosaic_plan import standins_for_mosaic
from .plan import Plan
from .reasons import (
    reason_in_access,
    reason_in_blocks,
    reason_in_data,
    reason_in_images,
    reason_in_sampling,
)
from .resampling import SpectralSampling, even_start, unlike, wants_one_above
from .scope import AUTOMASK, is_moving, reason_for_serial
from .sizing import Machine, size_run
from .space import cube_volume, outputs
from .standin import StandIn

_GIB = 2**30

#: Gridders whose major cycles are known to be the same where they grid parts of a chunk.
_IN_WINDOWS = ("standard", "wproject", "widefield")

#: Bytes of an imaging weight.
_WEIGHT = 4


def make_plan(parameters: dict[str, Any], machine: Machine, defaults: Mapping[str, Any]) -> Plan:
    """Plan a call.

    Parameters
    ----------
    parameters : dict
        All parameters of ptclean, validated, its own also by `check_own_parameters`, which comes
        before anybody can tell what there is to work with.
    machine : Machine
        What there is to work with.
    defaults : mapping
        Defaults of the parameters.

    Returns
    -------
    Plan

    Raises
    ------
    ParameterError
        For values that make no sense; names parameter, value and the way out.
    RuntimeError
        CASA's own, for data that do not exist; the same as tclean.
    MemoryError
        If a channel does not fit under the memory limit.

    Notes
    -----
    For a list of measurement sets of which only some have weights for each channel, CASA adds the
    missing column, as tclean does.
    """
    own = {name: parameters[name] for name in OWN_PARAMETERS}
    tclean = {name: value for name, value in parameters.items() if name not in own}
    check_parameters(tclean)
    tclean = absolute_paths(tclean)
    imagename = tclean["imagename"]
    existing = tuple(p for p in PRODUCTS if os.path.lexists(f"{imagename}.{p}"))
    others = tuple(p for p in ("prev.mask",) if os.path.lexists(f"{imagename}.{p}"))
    reason = reason_for_serial(tclean, defaults, existing + others)
    if reason:
        return Plan(imagename, serial=reason, parameters=tclean)
    check_folder(parameters["imagename"])
    check_products(tclean)
    records = imaging_records(tclean)
    axes = resolve_axes(records)
    position = observatory(axes.coordinates)
    if position:
        records = replace(records, image={**records.image, "obslocation_rec": position})
    data = summarize_data(records)
    if tclean["niter"] > 0 or tclean["restoration"]:
        check_deconvolution(records.named(imagename))
    if tclean["niter"] > 0:
        check_iteration(records.iteration)
    nx, ny, npol, nchan = axes.shape
    check_size(tclean["imsize"], nx, ny)
    cleans = tclean["niter"] > 0
    size = ImageSize(
        nx,
        ny,
        npol,
        tclean["gridder"],
        automasks=cleans and _automasks(tclean),
        scales=len(tclean["scales"]) if tclean["deconvolver"] == "multiscale" else 0,
    )
    mask = clean_mask(tclean, axes)
    sampling = _sampling(axes, data, tclean)
    reason = (
        reason_in_access(tclean)
        or reason_in_data(axes, data, size, own, tclean)
        or reason_in_images(axes, existing, tclean)
        or reason_in_sampling(sampling, tclean)
    )
    if reason:
        return Plan(imagename, serial=reason, parameters=tclean)
    standins: tuple[StandIn, ...] = ()
    if tclean["gridder"] == "mosaic":
        found = standins_for_mosaic(records, axes, tclean["interpolation"])
        if isinstance(found, str):
            return Plan(imagename, serial=found, parameters=tclean)
        standins = found
    has_model = "model" in existing or starts_from_image(tclean["startmodel"])
    degrids = cleans or (has_model and tclean["calcres"])
    fewest = FEWEST_CHANNELS if standins else 2
    guards = _guards(sampling, degrids=degrids, fewest=fewest)
    begins = not existing and not has_model and tclean["calcpsf"] and tclean["calcres"]
    # The residual of a single channel loses its pixel mask in a major cycle.
    in_windows = cleans and begins and nchan > 1 and tclean["gridder"] in _IN_WINDOWS
    to_noise = cleans and tclean["nsigma"] > 0
    in_blocks = to_noise or (cleans and _automasks(tclean))
    data_guards = _guards(sampling, degrids=False, fewest=fewest) if in_windows else None
    is_alone = cleans and setting("iteration-control") == "chunk"
    sizing = size_run(
        size,
        nchan,
        guards,
        machine,
        first_guards=None if is_alone else data_guards,
        nworkers=own["nworkers"],
        chanchunks=own["chanchunks"],
        cleans=cleans,
        rows=data.rows,
        data_bytes=data.bytes,
        block=block_channels(nx, ny, nchan) if in_blocks else None,
        whole_blocks=to_noise,
    )
    reason = reason_in_blocks(sizing, npol, machine, tclean) if to_noise else None
    if reason:
        return Plan(imagename, serial=reason, parameters=tclean)
    largest = max(chunk.gridded_channels for chunk in sizing.chunks)
    volume = cube_volume(
        size,
        sizing.chunks,
        outputs(tclean, mask.channels if mask else 0),
        weight_bytes_a_channel=_weight_bytes(data, axes, records),
        start_models=starts_from_image(tclean["startmodel"]),
        in_windows=in_windows,
    )
    is_alone = is_alone and len(sizing.chunks) > 1
    reason = reason_for_one_control(tclean, npol, begins=begins) if is_alone else None
    return Plan(
        imagename,
        nworkers=sizing.nworkers,
        chunks=sizing.chunks,
        guards=guards,
        data_guards=data_guards,
        shape=axes.shape,
        start=axes.start,
        width=axes.width,
        frame=axes.frame,
        rows=data.rows,
        read_bytes=data.bytes * len(sizing.chunks),
        passes=int(tclean["calcres"]),
        worker_memory=sizing.worker_memory,
        memory=sizing.memory,
        at_once=sizing.at_once,
        memory_limit=machine.limit,
        casa_memory=memory.casa_budget(size, largest),
        independent=is_alone and reason is None,
        mask=mask,
        warnings=(
            *sizing.warnings,
            *say_independence(is_alone=is_alone, reason=reason),
            *_memory_of_mask(mask, axes, machine),
            *_differences(tclean, sampling),
        ),
        existing=existing,
        space=volume.space,
        written_bytes=volume.written,
        written_bytes_a_cycle=volume.written_a_cycle,
        parameters=tclean,
        records=records,
        coordinates=axes.coordinates,
        standins=standins,
    )


def _guards(sampling: SpectralSampling, *, degrids: bool, fewest: int) -> Guards:
    """Say what guard channels are wanted: where models are degridded, and for the data alone."""
    return Guards(
        guard_channels(
            sampling.interpolation, sampling.data_widths[-1], sampling.width, degrids=degrids
        ),
        fewest=fewest,
        even=degrids and even_start(sampling),
        above=int(degrids and wants_one_above(sampling)),
    )


def _weight_bytes(data: SelectedData, axes: CubeAxes, records: ImagingRecords) -> int:
    """Bytes of the weights that CASA tabulates for each image channel and chunk.

    One number for each row and data channel
    (``BriggsCubeWeightor::makeScratchImagingWeightTable``).
    """
    if records.weighting["type"] in ("natural", "radial"):
        return 0
    narrowest = min(data.widths) if data.widths else abs(axes.width)
    channels = min(data.channels, max(1.0, abs(axes.width) / narrowest))
    return round(_WEIGHT * data.rows * channels)


def _automasks(tclean: dict[str, Any]) -> bool:
    return bool(tclean["usemask"] == AUTOMASK)


def _memory_of_mask(mask: CleanMask | None, axes: CubeAxes, machine: Machine) -> tuple[str, ...]:
    """Warn of a mask that takes more memory than there is, in one process, as it does in tclean."""
    needed = mask.memory(axes.shape) if mask else 0
    if needed <= machine.memory:
        return ()
    return (
        f"CASA needs about {needed / _GIB:.0f} GiB to bring the mask on to the grid of the cube, "
        f"and there are {machine.memory / _GIB:.0f}; a mask that is an image on that grid, or the "
        "same in all channels, needs next to none",
    )


def _differences(tclean: dict[str, Any], sampling: SpectralSampling) -> tuple[str, ...]:
    """Say in what the images may differ from tclean's; only what the user has asked for."""
    differences = []
    found = unlike(sampling)
    if is_moving(tclean["phasecenter"]):
        differences.append(
            "the images may differ from tclean's in their last digits: "
            f"phasecenter={tclean['phasecenter']!r} "
            "(ptclean.last-digits-in-chunks in Dask's configuration is set)"
        )
    if found:
        differences.append(
            "the images may differ from tclean's in their last digits, by up to 1e-7 of their "
            f"peak: {found.parameter}={tclean[found.parameter]!r}, {found.reason} "
            "(ptclean.last-digits-in-chunks in Dask's configuration is set)"
        )
    return tuple(differences)


def _sampling(axes: CubeAxes, data: SelectedData, tclean: dict[str, Any]) -> SpectralSampling:
    return SpectralSampling(
        interpolation=tclean["interpolation"],
        start=axes.start,
        width=axes.width,
        nchan=axes.nchan,
        frame=axes.frame,
        data_widths=data.widths,
        data_channels=data.channels,
    )
