# SPDX-License-Identifier: GPL-3.0-or-later
"""What ptclean is going to do with a call: made before anything starts, printed, and then followed.

The plan reads the data's description and asks CASA for the cube's axes. It starts no cluster and
writes nothing (but see Notes of :func:`make_plan`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..call.own_parameters import OWN_PARAMETERS
from ..call.parameters import absolute_paths, check_deconvolution, imaging_records, is_name_kept
from ..config import setting
from ..errors import ParameterError
from ..imaging.control import block_channels, check_iteration
from ..keeping import disk
from ..products import images
from ..records import ImagingRecords
from . import memory
from .axis import (
    CubeAxes,
    SelectedData,
    casa_memory,
    observatory,
    resolve_axes,
    same_axes,
    summarize_data,
)
from .checks import check_folder, check_parameters, check_products, check_size, is_image
from .chunks import Chunk, Guards, guard_channels
from .cleanmask import CleanMask, clean_mask
from .continuing import PRODUCTS, startmodel_path, starts_from_image
from .memory import AtOnce, ImageSize, StepMemory
from .mosaic import FEWEST_CHANNELS
from .mosaic_plan import standins_for_mosaic
from .resampling import SpectralSampling, even_start, unlike, wants_one_above
from .scope import AUTOMASK, is_moving, reason_for_serial
from .sizing import Machine, Sizing, size_run, tclean_seconds
from .space import Outputs, cube_volume
from .standin import StandIn
from .weighting import weighs_each_channel

_GIB = 2**30

#: Gridders whose major cycles are known to be the same where they grid parts of a chunk.
_IN_WINDOWS = ("standard", "wproject", "widefield")

#: What the steps are called whose memory is told apart.
_STEPS = {
    "first": "the first pass",
    "major": "major cycles",
    "masks": "masking",
    "minor": "minor cycles",
}

#: Bytes of an imaging weight.
_WEIGHT = 4


@dataclass(frozen=True)
class Plan:
    """What ptclean is going to do.

    Attributes
    ----------
    imagename : str
        Absolute.
    serial : str or None
        Why tclean itself runs, in this process; None if ptclean's engine does. If it is set, the
        attributes below it are None or empty.
    nworkers : int
        Workers.
    chunks : tuple of Chunk
        Core and guard channels of each chunk.
    guards : Guards
        Of chunks.
    data_guards : Guards or None
        Of chunks where they are first gridded, if major cycles then grid parts of them alone.
    shape : tuple of int or None
        (nx, ny, npol, nchan) of the cube.
    start, width : float
        Frequency of the first channel, and channel increment, in Hz.
    frame : str
        Frame of the frequencies.
    rows : int
        Rows of the measurement sets.
    read_bytes : int
        Bytes of visibilities that all chunks together read in one pass, if each reads all of them
        (as it does where the tiles of the data column span the band).
    passes : int
        Passes over the visibilities before the first minor cycle. Each major cycle is one more, of
        the chunks with emission alone. (Measured, 6.7.0: those for weights and PSF read none.)
    written_bytes, written_bytes_a_cycle : int
        Bytes of images that are written, in the first pass and at the end, and in each cycle if
        there is emission in all channels; 0 for continuum images, where nobody has counted.
    worker_memory : int
        Bytes that a worker takes at its peak.
    memory : StepMemory or None
        The same for each kind of step.
    at_once : AtOnce or None
        Tasks of each kind of step that run at once.
    memory_limit : int or None
        Bytes at which Dask kills a worker, or None.
    casa_memory : int
        MB that CASA is told it may plan with in each worker.
    independent : bool
        Whether each chunk is cleaned by itself (``ptclean.iteration-control``).
    mask : CleanMask or None
        What is to be made of the user's clean mask.
    warnings : tuple of str
    standins : tuple of StandIn
        What chunks read their data through, where that is not the measurement sets themselves.
    existing : tuple of str
        Extensions of the images of an earlier run, from which this one goes on.
    space, free_space : int
        Bytes that the run takes on the file system of its images until it is over, and those that
        are free there.
    resumes : str
        Where a run that did not come to its end is gone on with; empty for a new one.
    """

    imagename: str
    serial: str | None = None
    nworkers: int = 1
    chunks: tuple[Chunk, ...] = ()
    guards: Guards = field(default_factory=Guards)
    data_guards: Guards | None = None
    shape: tuple[int, int, int, int] | None = None
    start: float = 0.0
    width: float = 0.0
    frame: str = ""
    rows: int = 0
    read_bytes: int = 0
    passes: int = 1
    written_bytes: int = 0
    written_bytes_a_cycle: int = 0
    worker_memory: int = 0
    memory: StepMemory | None = None
    at_once: AtOnce | None = None
    memory_limit: int | None = None
    casa_memory: int = 0
    independent: bool = False
    mask: CleanMask | None = None
    warnings: tuple[str, ...] = ()
    existing: tuple[str, ...] = ()
    space: int = 0
    free_space: int = 0
    resumes: str = ""
    parameters: dict[str, Any] = field(default_factory=dict, repr=False)
    records: ImagingRecords | None = field(default=None, repr=False)
    coordinates: dict[str, Any] = field(default_factory=dict, repr=False)
    standins: tuple[StandIn, ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, without the records for CASA's tools."""
        plain = asdict(self)
        for name in ("parameters", "records", "coordinates", "standins"):
            del plain[name]
        return plain

    def __str__(self) -> str:
        rows = [("image", self.imagename)]
        if self.shape is None:
            rows.append(("engine", f"tclean, serially: {self.serial}"))
        else:
            if self.resumes:
                rows.append(("resumes", self.resumes))
            rows += self._table()
            rows.append(
                (
                    "space",
                    f"{self.space / _GIB:.3g} GiB until the run is over; "
                    f"{self.free_space / _GIB:.3g} GiB are free",
                )
            )
        rows += [("warning", warning) for warning in self.warnings]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)

    def _table(self) -> list[tuple[str, str]]:
        nx, ny, npol, nchan = self.shape or (0, 0, 0, 0)
        sizes = [chunk.channels for chunk in self.chunks]
        channels = f"{min(sizes)}" if len(set(sizes)) == 1 else f"{min(sizes)} to {max(sizes)}"
        guard = self.guards.sides
        guards = f"{guard} guard channel{'s' * (guard != 1)} on either side"
        limit = "none" if self.memory_limit is None else f"{self.memory_limit / _GIB:.2f} GiB"
        return [
            ("cube", f"{nx} x {ny} pixels, {npol} Stokes, {nchan} channels"),
            (
                "axis",
                f"{self.start / 1e9:.9f} GHz, {self.width / 1e3:+.6f} kHz a channel, {self.frame}",
            ),
            ("engine", self._engine()),
            ("chunks", f"{len(self.chunks)} of {channels} channels, {guards}"),
            (
                "memory",
                f"{self.worker_memory / _GIB:.2f} GiB a worker, limit {limit}; "
                f"CASA plans with {self.casa_memory} MB",
            ),
            (
                "reads",
                f"{self.rows} rows; up to {self.read_bytes / _GIB:.2f} GiB a pass, over all "
                f"chunks; {self._passes()}",
            ),
            ("writes", self._writes()),
        ]

    @property
    def _has_cycles(self) -> bool:
        return bool(self.parameters.get("niter"))

    def _passes(self) -> str:
        text = f"{self.passes} pass{'es' * (self.passes != 1)}"
        return text + ", and one for each major cycle" * self._has_cycles

    def _writes(self) -> str:
        text = f"{self.written_bytes / _GIB:.3g} GiB of images"
        if self._has_cycles:
            text += f", and up to {self.written_bytes_a_cycle / _GIB:.3g} GiB in each cycle"
        return text

    def _engine(self) -> str:
        text = f"{self.nworkers} worker{'s' * (self.nworkers != 1)}"
        counts = asdict(self.at_once) if self.at_once else {}
        fewer = [
            f"{counts[name]} in {step}"
            for name, step in _STEPS.items()
            if counts.get(name, self.nworkers) < self.nworkers
        ]
        if fewer:
            text += f", of which memory lets fewer work at once: {', '.join(fewer)}"
        return text


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
        or _reason_in_data(axes, data, size, own, tclean)
        or _reason_in_images(axes, existing, tclean)
        or _reason_in_sampling(sampling, tclean)
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
    reason = _reason_in_blocks(sizing, npol, machine, tclean) if to_noise else None
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
            *_independence(is_alone, reason),
            *_memory_of_mask(mask, axes, machine),
            *_differences(tclean, sampling),
        ),
        existing=existing,
        space=volume.space,
        written_bytes=volume.written,
        written_bytes_a_cycle=volume.written_a_cycle,
        free_space=available_space(imagename),
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


def _reason_in_blocks(
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


def reason_for_one_control(tclean: Mapping[str, Any], npol: int, *, begins: bool) -> str | None:
    """Say why chunks cannot be cleaned each by itself.

    Parameters
    ----------
    tclean : mapping
        tclean's parameters.
    npol : int
        Stokes planes of the cube.
    begins : bool
        Whether the clean begins with nothing: no earlier images, no model.

    Returns
    -------
    str or None
        A clause; None if they can.
    """
    if not begins:
        return "the clean goes on from earlier images or a model"
    if npol > 1:
        return "cycles of several Stokes planes are counted over the cube"
    if tclean["restoringbeam"] in ("common", ["common"]):
        return "restoringbeam='common' is the cube's"
    if tclean["weighting"] == "briggsbwtaper":
        return "weighting='briggsbwtaper' tapers by the bandwidth of the cube"
    if tclean["savemodel"] != "none":
        return f"savemodel={tclean['savemodel']!r} goes by the cycles of the cube"
    return None


def _independence(is_alone: bool, reason: str | None) -> tuple[str, ...]:
    if not is_alone:
        return ()
    if reason:
        return (f"ptclean.iteration-control: chunk is of no effect, since {reason}",)
    return (
        "each chunk is cleaned by itself (ptclean.iteration-control in Dask's configuration is "
        "'chunk'): the images are not tclean's, and depend on chanchunks; niter and nmajor hold "
        "for each chunk",
    )


def reason_in_access(tclean: dict[str, Any]) -> str | None:
    """Say that tclean is to judge data that cannot be written to; it does so before it begins."""
    if tclean["savemodel"] == "none":
        return None
    vis = tclean["vis"]
    for each in vis if isinstance(vis, list) else [vis]:
        if not os.access(os.path.join(each, "table.dat"), os.W_OK):
            return f"savemodel={tclean['savemodel']!r}, and {each} cannot be written to"
    return None


def outputs(tclean: Mapping[str, Any], mask_channels: int = 0) -> Outputs:
    """Say what a call makes, for the estimate of disk space."""
    cleans = tclean["niter"] > 0
    return Outputs(
        cleans=cleans,
        restores=bool(tclean["restoration"]),
        corrects=bool(tclean["pbcor"]),
        automasks=cleans and tclean["usemask"] == AUTOMASK,
        mask_channels=mask_channels,
    )


def available_space(imagename: str) -> int:
    """Bytes that are free for a run, with those that the work of a former one takes."""
    return disk.free_bytes(imagename) + disk.used_bytes(f"{imagename}.ptclean")


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


def _reason_in_images(
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


def _reason_in_sampling(sampling: SpectralSampling, tclean: dict[str, Any]) -> str | None:
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


def _reason_in_data(
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
    if _automasks(tclean) and axes.nchan == 1:
        return f"usemask={AUTOMASK!r} for one channel, which leaves nothing to share"
    if _automasks(tclean) and axes.shape[2] != 1:
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
