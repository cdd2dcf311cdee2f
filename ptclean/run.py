# SPDX-License-Identifier: GPL-3.0-or-later
"""The task: from a call to its images, by ptclean's engine or by tclean itself."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from casatasks import tclean as casa_tclean
from casatasks.private.imagerhelpers.imager_base import PySynthesisImager
from casatasks.private.imagerhelpers.summary_minor import SummaryMinor

from . import logs
from .call.description import load
from .call.own_parameters import OWN_PARAMETERS, check_own_parameters
from .call.parameters import imager_parameters, saving_records
from .call.shell import ShellTask, show_in_taskhelp
from .call.task import bind, signature
from .config import check_settings, setting
from .imaging.assembly import history_lines, install
from .imaging.continuum import ContinuumImager
from .imaging.dirty_summary import DirtySummary
from .imaging.imager import ParallelCubeImager
from .imaging.independent import IndependentChunks
from .imaging.savemodel import (
    MODEL,
    NONE,
    SCALES,
    ModelsToSave,
    Saving,
    products_of,
    save,
)
from .keeping.disk import (
    available_space,
    failures_explained,
    has_colons,
    has_links,
    has_locks,
    require_space,
    require_writable,
)
from .keeping.fingerprint import unchanged_data
from .keeping.interruption import orderly_end
from .keeping.journal import Journal
from .keeping.manifest import make_manifest
from .keeping.resumption import find_leftover, keeps
from .keeping.workdir import work_directory
from .planning.axis import casa_memory, one_imager
from .planning.cleanmask import resolve
from .planning.continuum_plan import ContinuumPlan, make_continuum_plan
from .planning.continuum_scope import CONTINUUM
from .planning.cube_plan import make_plan
from .planning.plan import Plan
from .planning.scope import is_predicted
from .planning.sizing import Machine
from .products import images
from .records import Record
from .reporting import progress
from .reporting.events import Listener, Listeners
from .reporting.run_record import RunRecorder
from .reporting.run_report import keep_report
from .reporting.story import Story
from .workers.admission import Admission, needs_of
from .workers.apart import Surroundings
from .workers.cluster import DaskClusterManager, casa_config, cluster_for_run, machine_at_hand
from .workers.splitter import Admit, CubeSplitter
from .workers.worker import LogReader

_description = load()
_defaults = {each.name: each.default for each in _description.parameters}


def plan(*args: Any, **kwargs: Any) -> Plan:
    """Say what `ptclean` would do with the same arguments, without doing it.

    Parameters
    ----------
    *args, **kwargs
        Those of `ptclean`.

    Returns
    -------
    Plan
        Plain data that prints as a table.

    Raises
    ------
    TypeError, AssertionError, RuntimeError, ValueError
        As `ptclean` raises them, before it starts anything.
    """
    parameters = bind(_description, args, kwargs, function="plan")
    return _planned(parameters)


plan.__signature__ = signature(_description)  # type: ignore[attr-defined]


def run(parameters: dict[str, Any]) -> Record | None:
    """Do the work of the task.

    Parameters
    ----------
    parameters : dict
        All parameters, validated.

    Returns
    -------
    dict or None
        What tclean returns.
    """
    started = time.time()
    shown = progress.mode()
    log = LogReader(str(logs.casalog_path() or ""))
    # tclean is called with the paths that the user gave, the engine with absolute ones.
    tclean = {k: v for k, v in parameters.items() if k not in OWN_PARAMETERS}
    made = _planned(parameters)
    reason = None if made.serial else _reason_in_file_system(made)
    if reason:
        made = Plan(made.imagename, serial=reason, parameters=made.parameters)
    for line in str(made).splitlines():
        logs.post(line, "WARN" if line.startswith("warning") else "INFO")
    history = history_lines("ptclean", parameters)
    recorder = RunRecorder(made, parameters, _defaults, started)
    if made.serial:
        result = _run_serially(tclean, made, history)
    else:
        require_writable(made.imagename)
        if setting("check-space"):
            require_space(made.imagename, made.space, made.free_space)
        listeners = Listeners(
            recorder,
            Story(tenths=shown != "off", said=log.alarming()),
            progress.bar_for_run(made.nworkers),
        )
        try:
            result = _run_parallel(parameters, made, history, recorder, listeners)
        finally:
            listeners.close()
    recorder.end(result)
    keep_report(recorder.data)
    return result


def _planned(parameters: dict[str, Any]) -> Plan:
    """Make the plan of a call, or take that of the work that it goes on with."""
    leftover = find_leftover(parameters)
    if leftover:
        made = leftover.plan(parameters, _machine(parameters))
    else:
        with one_imager:
            made = _make_plan(parameters)
    return made if made.serial else replace(made, free_space=available_space(made.imagename))


def _reason_in_file_system(made: Plan) -> str | None:
    """Find out what a plan, which writes nothing, cannot know: are there locks, names, links."""
    folder = os.path.dirname(made.imagename)
    if not has_locks(folder):
        return (
            "several processes write images, which CASA locks, and the file system of "
            f"{folder} has no locks"
        )
    if not has_colons(folder):
        return (
            "CASA gives images names with colons, which workers make beside those of the run, and "
            f"the file system of {folder} takes none"
        )
    if made.standins and not made.resumes and not has_links(folder):
        return (
            "mosaics in chunks are imaged through links to the data, and the file system of "
            f"{folder} has no links"
        )
    return None


def _make_plan(parameters: dict[str, Any]) -> Plan:
    make = make_continuum_plan if parameters["specmode"] in CONTINUUM else make_plan
    return make(parameters, _machine(parameters), _defaults)


def _run_serially(tclean: dict[str, Any], made: Plan, history: list[str]) -> Record | None:
    logs.post(f"ptclean runs tclean serially: {made.serial}")
    result: Record | None = casa_tclean(**tclean)
    if os.path.isdir(os.path.dirname(made.imagename)):
        for product in images.image_products(made.imagename):
            images.set_history(
                f"{made.imagename}.{product}",
                "ptclean",
                [*history, f"ptclean ran tclean serially: {made.serial}"],
            )
    return result


def _run_parallel(
    parameters: dict[str, Any],
    made: Plan,
    history: list[str],
    recorder: RunRecorder,
    listener: Listener,
) -> Record:
    path = f"{made.imagename}.ptclean"
    goes_on = bool(made.resumes)
    with (
        orderly_end(),
        work_directory(
            made.imagename, goes_on=goes_on, keeps=lambda error: keeps(error, path)
        ) as directory,
        failures_explained(directory),
    ):
        if not goes_on:
            make_manifest(made).write(directory)
            if made.mask and made.shape:
                resolve(made.mask, made.shape, made.coordinates, directory, parameters["imagename"])
        with cluster_for_run(
            made.nworkers, parameters["memory_limit"], made.casa_memory
        ) as cluster:
            recorder.used_workers(cluster.worker_logs)
            admit = _admission(cluster, made, directory)
            imager = _engine(made)(made, cluster.client, directory, admit, listener)
            with unchanged_data(_data(made)):
                summary, products = imager.run(history)
            install(products, made.imagename)
            _save_model(imager.models, made, cluster, directory, admit, listener)
        for product in set(images.image_products(made.imagename)) - set(products):
            # tclean tells it to all images of that name, also to those that it left as they were.
            images.set_history(f"{made.imagename}.{product}", "ptclean", history)
        Journal(directory).put("installed", True)
    if imager.skipped:
        logs.post(f"{imager.skipped} major cycles of chunks were left out: no change of model")
    return _returned(summary, made)


def _engine(made: Plan) -> Callable[..., ParallelCubeImager | IndependentChunks | ContinuumImager]:
    """Choose what makes the images of a plan."""
    if isinstance(made, ContinuumPlan):
        return ContinuumImager
    return IndependentChunks if made.independent else ParallelCubeImager


def _data(made: Plan) -> list[str]:
    """Paths of the measurement sets."""
    vis = made.parameters["vis"]
    return [vis] if isinstance(vis, str) else list(vis)


def _admission(cluster: DaskClusterManager, made: Plan, directory: str) -> Admit | None:
    """Examine the workers, unless they are our own."""
    if cluster.owned:
        return None
    admission = Admission(cluster.client, needs_of(_data(made), directory, made.worker_memory))
    admission.examine_all()
    return admission.admit


def _save_model(
    models: ModelsToSave,
    made: Plan,
    cluster: DaskClusterManager,
    directory: str,
    admit: Admit | None,
    listener: Listener,
) -> None:
    """Write the model to the measurement sets, the images being complete and in their places."""
    parameters = made.parameters
    if parameters["savemodel"] == NONE:
        return
    changed = {}
    if isinstance(made, ContinuumPlan):
        # As tclean does.
        changed = {"specmode": "mfs", "perchanweightdensity": False}
    is_mtmfs = parameters["deconvolver"] == "mtmfs"
    products = {p: f"{made.imagename}.{p}" for p in images.image_products(made.imagename)}
    is_scaled = parameters["gridder"] == "mosaic" and not changed
    predicts = is_predicted(parameters)
    saving = Saving(
        savemodel=parameters["savemodel"],
        records=saving_records(parameters | changed, predicts=predicts),
        models=models.all(products_of(MODEL, products, terms=is_mtmfs)),
        scales=products_of(SCALES, products, terms=is_mtmfs) if is_scaled else {},
        predicts=predicts,
        directory=os.path.join(directory, "savemodel"),
        surroundings=Surroundings(
            name="savemodel",
            log_directory=str(cluster.log_directory),
            casarcfiles=os.environ.get("CASARCFILES"),
            casa_config=casa_config(),
        ),
    )
    save(saving, CubeSplitter(cluster.client, 1, listener, admit=admit))


def _returned(summary: Record | None, made: Plan) -> Record:
    """Give the summary the form in which tclean returns it."""
    if summary is None:
        arguments = imager_parameters(made.parameters, imagename=made.imagename)
        empty: Record = DirtySummary().construct_residual_dict(arguments)
        return empty
    # tclean's own, a method that makes no use of its object.
    summary["stopDescription"] = PySynthesisImager.getStopDescription(None, summary["stopcode"])
    summary["summaryminor"] = SummaryMinor.convertMatrix(
        summary["summaryminor"], made.parameters["fullsummary"]
    )
    return summary


def _machine(parameters: dict[str, Any]) -> Machine:
    """Find out what there is to work with."""
    check_settings()
    check_own_parameters({name: parameters[name] for name in OWN_PARAMETERS})
    machine = machine_at_hand(parameters["nworkers"], parameters["memory_limit"])
    # A budget that the user has given CASA holds for all workers together.
    return replace(machine, memory=min(machine.memory, casa_memory()))


ptclean = ShellTask(_description, run)
show_in_taskhelp(sys.modules[__package__])
