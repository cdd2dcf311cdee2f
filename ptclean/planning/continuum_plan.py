# SPDX-License-Identifier: GPL-3.0-or-later
"""What ptclean is to do with a call for a continuum image; as :mod:`ptclean.planning.cube_plan`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from casatools import ms as measurement_set

from ..call.own_parameters import OWN_PARAMETERS
from ..call.parameters import absolute_paths, check_deconvolution, imaging_records
from ..config import setting
from ..products import images
from ..products.casa_io import open_table
from ..records import Record
from . import memory
from .axis import CubeAxes, resolve_axes, summarize_data
from .checks import check_folder, check_parameters, check_products, check_size, is_image
from .continuum_scope import is_continued, reason_for_serial
from .iteration import check_iteration
from .memory import ImageSize, worker_memory
from .partition import Part, choose_parts, cut_rows, has_simultaneous_fields, have_all_times
from .plan import Plan
from .reasons import reason_in_access
from .sizing import USABLE_OF_LIMIT, Machine, tclean_seconds
from .space import continuum_space, outputs

_GIB = 2**30

#: Bytes for each pixel of each image that an imager holds between its steps (measured: 8 with the
#: standard gridder, 15 for two Taylor terms, 20 for a mosaic).
_IDLE = 20

#: Rows of a measurement set that are read at a time.
_ROWS_AT_ONCE = 1_000_000

#: What `ms.msselect` calls the entries of a selection record.
_SELECTION = {
    "spw": "spw",
    "field": "field",
    "timestr": "time",
    "uvdist": "uvdist",
    "antenna": "baseline",
    "scan": "scan",
    "obs": "observation",
    "state": "scanintent",
}


@dataclass(frozen=True)
class ContinuumPlan(Plan):
    """What ptclean is going to do for a continuum image.

    Attributes
    ----------
    parts : tuple of Part
        Rows of each part of the data; they depend on the data and the image alone.
    terms : int
        Taylor terms.
    ignores_chanchunks : bool
        Whether `chanchunks` is set, which has no meaning for one channel.
    """

    parts: tuple[Part, ...] = ()
    terms: int = 1
    ignores_chanchunks: bool = False

    def _table(self) -> list[tuple[str, str]]:
        nx, ny, npol, _ = self.shape or (0, 0, 0, 0)
        terms = f", {self.terms} Taylor terms" if self.terms > 1 else ""
        limit = "none" if self.memory_limit is None else f"{self.memory_limit / _GIB:.2f} GiB"
        rows = [part.nrows for part in self.parts]
        sizes = f"{min(rows)}" if len(set(rows)) == 1 else f"{min(rows)} to {max(rows)}"
        ignored = "; chanchunks has no meaning here" if self.ignores_chanchunks else ""
        rows_of_table = [
            ("image of", f"continuum, {nx} x {ny} pixels, {npol} Stokes{terms}"),
            ("axis", f"{self.start / 1e9:.9f} GHz, {self.width / 1e6:.6f} MHz wide, {self.frame}"),
            ("engine", f"{self.nworkers} worker{'s' * (self.nworkers != 1)}"),
            ("parts", f"{len(self.parts)} of {sizes} rows, for any number of workers{ignored}"),
            (
                "memory",
                f"{self.worker_memory / _GIB:.2f} GiB a worker, limit {limit}; "
                f"CASA plans with {self.casa_memory} MB",
            ),
            ("reads", f"{self.rows} rows; up to {self.read_bytes / _GIB:.2f} GiB a pass"),
        ]
        if self.existing:
            rows_of_table.append(("goes on", f"from the {', '.join(self.existing)} that exist"))
        return rows_of_table


def make_continuum_plan(
    parameters: dict[str, Any], machine: Machine, defaults: Mapping[str, Any]
) -> ContinuumPlan:
    """Plan a call with ``specmode='mfs'``.

    Parameters
    ----------
    parameters, machine, defaults
        As for :func:`ptclean.planning.cube_plan.make_plan`.

    Returns
    -------
    ContinuumPlan

    Raises
    ------
    ParameterError, RuntimeError, MemoryError
        As :func:`ptclean.planning.cube_plan.make_plan`.
    """
    own = {name: parameters[name] for name in OWN_PARAMETERS}
    tclean = {name: value for name, value in parameters.items() if name not in own}
    check_parameters(tclean)
    tclean = absolute_paths(tclean)
    imagename = tclean["imagename"]
    folder = os.path.dirname(imagename)
    existing = set(images.image_products(imagename)) if os.path.isdir(folder) else set()
    if reason := reason_for_serial(tclean, defaults, existing):
        return ContinuumPlan(imagename, serial=reason, parameters=tclean)
    check_folder(parameters["imagename"])
    check_products(tclean)
    # tclean does the same for mfs, and takes the old name for it.
    records = imaging_records(tclean | {"specmode": "mfs", "perchanweightdensity": False})
    axes = resolve_axes(records)
    records = replace(records, image={**records.image, "startmodel": tclean["startmodel"]})
    data = summarize_data(records)
    rows = {key: _selected_rows(records.selection[key]) for key in sorted(records.selection)}
    is_mtmfs = tclean["deconvolver"] == "mtmfs"
    terms = tclean["nterms"] if is_mtmfs else 1
    nx, ny, npol, _ = axes.shape
    if tclean["niter"] > 0 or tclean["restoration"]:
        check_deconvolution(records.named(imagename))
    if tclean["niter"] > 0:
        check_iteration(records.iteration)
    check_size(tclean["imsize"], nx, ny)
    size = ImageSize(nx, ny, npol, tclean["gridder"])
    visibilities = sum(
        number * _channels(records.selection[key]) for key, number in rows.items() if number
    )
    interleaved = any(":" in each["spw"] for each in records.selection.values())
    wanted = setting("continuum-parts") or choose_parts(
        visibilities, size.pixels * terms, interleaved=interleaved
    )
    known = {key: number for key, number in rows.items() if number is not None}
    parts = cut_rows(known, wanted, interleaved=interleaved)
    if None in rows.values() or not parts:
        reason = "there are no rows selected in a measurement set, which is tclean's to judge"
    else:
        reason = (
            reason_in_access(tclean)
            or _reason_in_files(axes, tclean, existing)
            or _reason_in_data(records.selection, len(parts), interleaved=interleaved)
        )
    if reason is None and own["nworkers"] == 0:
        seconds = tclean_seconds(
            replace(size, npol=npol * terms),
            1,
            round(visibilities),
            cleans=tclean["niter"] > 0,
        )
        reason = _reason_in_speed(seconds, machine.workers)
    if reason:
        return ContinuumPlan(imagename, serial=reason, parameters=tclean)
    nworkers, needed, warnings = _fit(size, terms, len(parts), machine, own["nworkers"], tclean)
    return ContinuumPlan(
        imagename,
        nworkers=nworkers,
        shape=axes.shape,
        start=axes.start,
        width=axes.width,
        frame=axes.frame,
        rows=sum(known.values()),
        read_bytes=data.bytes * (len(parts) if interleaved else 1),
        worker_memory=needed,
        memory_limit=machine.limit,
        casa_memory=memory.casa_budget(size, 1),
        warnings=(*warnings, *_cautions(tclean)),
        space=continuum_space(size, len(parts), terms, outputs(tclean)),
        parameters=tclean,
        records=records,
        coordinates=axes.coordinates,
        parts=parts,
        terms=terms,
        ignores_chanchunks=own["chanchunks"] != -1,
        existing=tuple(
            product
            for product in sorted(existing)
            # Models without terms are nothing to mtmfs, nor those with terms to the others.
            if is_continued(product) and (product == "mask" or is_mtmfs == (product != "model"))
        ),
    )


def fit_again(plan: ContinuumPlan, machine: Machine, nworkers: int) -> ContinuumPlan:
    """Fit the plan of a run that was begun earlier to the machine on which it goes on.

    Parameters
    ----------
    plan : ContinuumPlan
    machine : Machine
    nworkers : int
        ptclean's own parameter.

    Raises
    ------
    MemoryError
        If the image does not fit into a worker any more.
    """
    nx, ny, npol, _ = plan.shape or (1, 1, 1, 1)
    size = ImageSize(nx, ny, npol, plan.parameters["gridder"])
    fitting, needed, warnings = _fit(
        size, plan.terms, len(plan.parts), machine, nworkers, plan.parameters
    )
    return replace(
        plan,
        nworkers=fitting,
        worker_memory=needed,
        memory_limit=machine.limit,
        warnings=(*warnings, *_cautions(plan.parameters)),
    )


def _cautions(tclean: Mapping[str, Any]) -> tuple[str, ...]:
    """Warn of what the function of tclean's task warns of, though the images are made."""
    if tclean["deconvolver"] != "mtmfs":
        return ()
    cautions = []
    if tclean["pbcor"] and tclean["gridder"] in ("standard", "mosaic"):
        cautions.append(
            "pbcor=True divides all Taylor terms by one primary beam, without its change with "
            "frequency, which is right for narrow bands only; for wide ones use specmode='mvc', or "
            "conjbeams=True and wbawp=True with gridder='awproject'"
        )
    if tclean["gridder"] == "mosaic":
        cautions.append(
            "gridder='mosaic' leaves the primary beam's change with frequency in the data "
            "(conjbeams), so that deconvolver='mtmfs' takes some major cycles more to converge; "
            "consider specmode='mvc'"
        )
    return tuple(cautions)


def _reason_in_files(axes: CubeAxes, tclean: Record, existing: set[str]) -> str | None:
    """Say why tclean is to judge the files that there are."""
    for product in sorted(existing):
        name = f"{tclean['imagename']}.{product}"
        if not product.startswith("sumwt") and images.shape_and_coordinates(name)[0] != axes.shape:
            return f"{name} exists with another shape, and what that means is tclean's to say"
    model = tclean["startmodel"]
    for each in model if isinstance(model, list) else [model]:
        if each and not is_image(each):
            return f"startmodel={model!r}, which is no image"
    return None


def _reason_in_data(
    selection: Mapping[str, Record], parts: int, *, interleaved: bool
) -> str | None:
    """Say what in the data makes a part of the rows another thing than the same rows in tclean."""
    for each in selection.values():
        if has_simultaneous_fields(_times_and_fields(each)):
            return f"fields in {each['msname']} are observed at the same time, as by subarrays"
        if interleaved and not have_all_times(*_times_windows_fields(each), parts):
            return (
                f"spw={each['spw']!r} selects channels, which CASA widens by the Doppler shift "
                f"among the rows that it grids, and {parts} parts would not have the same times"
            )
    return None


def _reason_in_speed(seconds: float, workers: int) -> str | None:
    if seconds < setting("small-cube-seconds"):
        return (
            f"the image is small (about {seconds:.0f} s), starting workers would take longer than "
            "they save; nworkers makes it parallel all the same"
        )
    if workers == 1:
        return "there is one processor core; nworkers makes it parallel all the same"
    return None


def _fit(
    size: ImageSize,
    terms: int,
    parts: int,
    machine: Machine,
    nworkers: int,
    tclean: Record,
) -> tuple[int, int, tuple[str, ...]]:
    """Choose workers; returns their number, the bytes that each takes, and warnings."""
    wanted = min(nworkers or machine.workers, parts)
    usable = machine.room(wanted)
    fitting = wanted
    while fitting > 1 and _needs(size, terms, parts, fitting, tclean).all_workers > usable:
        fitting -= 1
    needs = _needs(size, terms, parts, fitting, tclean)
    needed = needs.worker
    if machine.limit is not None and needed > machine.limit * USABLE_OF_LIMIT:
        raise MemoryError(
            f"memory_limit={machine.limit / _GIB:.2f}GiB: an image of {size.nx} x {size.ny} pixels "
            f"takes {needed / _GIB:.2f} GiB of a worker, which may fill "
            f"{machine.limit * USABLE_OF_LIMIT / _GIB:.2f} GiB; give each worker at least "
            f"{needed / USABLE_OF_LIMIT / _GIB:.1f}GiB, or make a smaller image"
        )
    warnings: list[str] = []
    if needs.all_workers > usable:
        warnings.append(
            f"a worker takes {needed / _GIB:.2f} GiB, of {usable / _GIB:.2f} GiB that are free: "
            "the machine may run out of memory"
        )
    elif nworkers and fitting < wanted:
        warnings.append(
            f"nworkers={nworkers} do not fit into {usable / _GIB:.2f} GiB; {fitting} run at once. "
            "The images are the same"
        )
    return fitting, needed, tuple(warnings)


@dataclass(frozen=True)
class _Needs:
    """Memory of a run, in bytes.

    Attributes
    ----------
    held : int
        What a worker holds all the time: itself, and imagers of parts between their steps.
    gridding : int
        What it takes to grid a part, besides.
    cleaning : int
        What the minor cycle takes, in one worker while the others rest.
    nworkers : int
    """

    held: int
    gridding: int
    cleaning: int
    nworkers: int

    @property
    def worker(self) -> int:
        """Of one worker at its peak."""
        return self.held + max(self.gridding, self.cleaning)

    @property
    def all_workers(self) -> int:
        """Of all of them at their peak."""
        return self.nworkers * self.held + max(self.nworkers * self.gridding, self.cleaning)


def _needs(
    size: ImageSize, terms: int, parts: int, nworkers: int, tclean: Mapping[str, Any]
) -> _Needs:
    scales = len(tclean["scales"]) or 1
    # PSFs of all pairs of scales and of terms; and for each of these residuals and transforms.
    pairs = scales * (scales + 1) // 2 * terms * (terms + 1) // 2
    cleaning = size.nx * size.ny * (4 * pairs + 32 * scales * terms)
    return _Needs(
        held=memory.WORKER_BASE + _IDLE * size.pixels * terms * math.ceil(parts / nworkers),
        gridding=(worker_memory(size, 1) - memory.WORKER_BASE) * terms,
        cleaning=cleaning if tclean["niter"] > 0 else 0,
        nworkers=nworkers,
    )


def _selection_items(selection: Record) -> Record:
    return {key: selection[name] for name, key in _SELECTION.items() if selection.get(name)}


def _times_windows_fields(selection: Record) -> tuple[Any, Any, Any]:
    """Read times, data descriptions and fields of the selected rows."""
    tool = measurement_set()
    try:
        tool.open(selection["msname"])
        tool.msselect(_selection_items(selection))
        names = ("time", "data_desc_id", "field_id")
        columns = tool.getdata(list(names))
        return columns[names[0]], columns[names[1]], columns[names[2]]
    finally:
        tool.done()


def _selected_rows(selection: Record) -> int | None:
    """Count the rows that a selection takes; None where CASA's own selection refuses."""
    items = _selection_items(selection)
    tool = measurement_set()
    if not items:
        with open_table(selection["msname"]) as tb:
            return int(tb.nrows()) or None
    try:
        tool.open(selection["msname"])
        if not tool.msselect(items):
            return None
        return int(tool.nrow(selected=True)) or None
    except RuntimeError:
        return None
    finally:
        tool.done()


def _times_and_fields(selection: Record) -> Iterator[tuple[Any, Any]]:
    """Read times and fields of the selected fields, if there are several, piece by piece."""
    name, field = selection["msname"], selection.get("field", "")
    with open_table(f"{name}/FIELD") as tb:
        chosen = list(range(tb.nrows()))
    if field:
        chosen = [int(i) for i in measurement_set().msseltoindex(name, field=field)["field"]]
    if len(chosen) < 2:
        return
    with open_table(name) as tb:
        for start in range(0, tb.nrows(), _ROWS_AT_ONCE):
            fields = tb.getcol("FIELD_ID", start, _ROWS_AT_ONCE)
            times = tb.getcol("TIME", start, _ROWS_AT_ONCE)
            taken = np.isin(fields, chosen)
            yield times[taken], fields[taken]


def _channels(selection: Record) -> float:
    """Channels of a row, on average over the selected spectral windows."""
    name, spw = selection["msname"], selection.get("spw", "")
    if spw:
        ranges = measurement_set().msseltoindex(name, spw=spw)["channel"]
        windows = {int(window) for window, *_ in ranges}
        chosen = sum(int((last - first) // step + 1) for _, first, last, step in ranges)
        return chosen / max(1, len(windows))
    with open_table(f"{name}/SPECTRAL_WINDOW") as tb:
        return float(tb.getcol("NUM_CHAN").mean())
