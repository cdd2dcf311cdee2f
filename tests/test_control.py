# SPDX-License-Identifier: GPL-3.0-or-later
"""The iteration control gets what one deconvolver with the whole cube would report."""

import threading

import casatasks
import numpy as np
import pytest
from casatasks.private.imagerhelpers.input_parameters import ImagerParameters
from casatasks.private.imagerhelpers.summary_minor import SummaryMinor
from casatools import synthesisdeconvolver
from hypothesis import given
from hypothesis import strategies as st

from ptclean.imaging.control import (
    IterationControl,
    changed_channels,
    idle_again,
    join_execution,
    join_initialization,
    unchanged,
    with_noise_of,
)
from ptclean.planning.blocks import block_channels
from ptclean.products import images

#: Names of the rows of CASA's tables of minor cycles; their number depends on the version.
ROWS = {full: SummaryMinor.getRowDescriptionsOldOrder(full) for full in (False, True)}
ITERATIONS, CHANNEL = (ROWS[False].index(name) for name in ("iterDone", "chan"))
ITERATIONS_BEFORE = ROWS[True].index("startIterDone")


def before(peak, masksum, **changes):
    """Return a record as a deconvolver gives it before its minor cycle."""
    record = {
        "madrms": 0.01,
        "masksum": float(masksum),
        "maxpsfsidelobe": 0.2,
        "nsigmathreshold": 0.0,
        "peakresidual": float(peak),
        "peakresidualnomask": float(peak),
    }
    return record | changes


def after(iterations, *, full=False, peak=0.1, updated=True):
    """Return a record as a deconvolver gives it after its minor cycle, one column a channel."""
    summary = np.zeros((len(ROWS[full]), len(iterations)))
    summary[ITERATIONS] = iterations
    summary[CHANNEL] = np.arange(len(iterations))
    return {
        "iterdone": sum(iterations),
        "maxcycleiterdone": max(iterations),
        "peakresidual": peak,
        "updatedmodelflag": updated,
        "summaryminor": summary,
    }


# Records before a minor cycle


def test_largest_of_each_number_counts():
    joined = join_initialization(
        [
            before(1.0, 100, maxpsfsidelobe=0.3, madrms=0.01),
            before(2.0, 50, nsigmathreshold=0.5, madrms=0.02),
        ]
    )
    assert joined == before(2.0, 150, maxpsfsidelobe=0.3, madrms=0.02, nsigmathreshold=0.5)


def test_peak_outside_an_empty_mask_does_not_count():
    joined = join_initialization([before(9.0, 0), before(1.0, 100), before(2.0, 10)])
    assert joined["peakresidual"] == 2.0
    assert joined["peakresidualnomask"] == 9.0
    assert joined["masksum"] == 110


def test_peak_counts_if_all_masks_are_empty():
    joined = join_initialization([before(3.0, 0), before(9.0, 0)])
    assert (joined["peakresidual"], joined["masksum"]) == (9.0, 0.0)


@pytest.mark.parametrize("masksums", [(-1, -1), (-1, 100), (0, -1), (100, -1, 0)])
def test_mask_that_did_not_change_leaves_the_sum_unknown(masksums):
    joined = join_initialization([before(1.0, masksum) for masksum in masksums])
    assert joined["masksum"] == -1


def test_a_single_record_and_the_records_given_stay_what_they_are():
    records = [before(1.0, 10), before(2.0, 0)]
    join_initialization(records)
    assert records == [before(1.0, 10), before(2.0, 0)]
    assert join_initialization(records[:1]) == records[0]


@given(st.lists(st.tuples(st.floats(0, 10), st.sampled_from([-1, 0, 5, 20])), min_size=1))
def test_order_of_the_chunks_does_not_matter(chunks):
    records = [before(peak, masksum) for peak, masksum in chunks]
    assert join_initialization(records) == join_initialization(records[::-1])


def test_chunk_that_was_left_out_reports_its_mask_as_casa_does():
    assert unchanged(before(1.0, 100)) == before(1.0, -1)
    assert unchanged(before(1.0, -1)) == before(1.0, -1)
    assert unchanged(before(1.0, 0)) == before(1.0, 0)


def test_noise_that_a_minor_cycle_has_told_counts():
    assert with_noise_of(before(1.0, 5), {"iterdone": 1, "nsigmathreshold": 0.5}) == before(
        1.0, 5, nsigmathreshold=0.5
    )
    assert with_noise_of(before(1.0, 5), {"iterdone": 1}) == before(1.0, 5)


# Records after a minor cycle


def test_channels_with_iterations_are_those_that_changed():
    assert changed_channels(after([0, 7, 0, 2]), 4) == {1, 3}
    assert changed_channels(after([0, 0]), 2) == set()
    assert changed_channels(after([0, 0, 3, 0]), 2) == {1}  # two planes a channel


def test_iterations_that_no_channel_accounts_for_may_be_of_any():
    assert changed_channels({**after([0, 7]), "iterdone": 8}, 2) == {0, 1}
    assert changed_channels(after([1, 0, 0]), 2) == {0, 1}


def idle(peaks):
    record = after([0] * len(peaks), peak=max(peaks), updated=False)
    record["summaryminor"][1] = peaks
    return record


def test_cycle_without_iterations_is_told_beforehand():
    """Only the threshold in the record is another; seen in CASA's."""
    told = idle_again(idle([0.1, 0.3]), controls := {"cyclethreshold": 0.4})
    assert told["iterdone"] == 0
    assert told["summaryminor"][3].tolist() == [0.4, 0.4]
    expected = idle([0.1, 0.3])["summaryminor"]
    expected[3] = controls["cyclethreshold"]
    assert np.array_equal(told["summaryminor"], expected)


@pytest.mark.parametrize(
    "record",
    [
        None,
        idle([0.1, 0.4]),
        idle([0.1, 0.5]),
        idle([float("nan"), 0.1]),
        idle([0.1]),
        {**idle([0.1, 0.2]), "peakresidual": 0.5},
        {**idle([0.1, 0.2]), "nsigmathreshold": 0.0},
        after([0, 0], full=True),
    ],
)
def test_cycle_that_may_see_iterations_is_run(record):
    assert idle_again(record, {"cyclethreshold": 0.4}) is None


def test_iterations_add_up_over_the_cube():
    joined = join_execution(
        [after([5, 7], peak=0.1), after([0], peak=0.3, updated=False), after([4], peak=0.2)],
        [0, 2, 3],
    )
    assert (joined["iterdone"], joined["maxcycleiterdone"], joined["peakresidual"]) == (16, 7, 0.3)
    assert joined["updatedmodelflag"] is True


def test_model_is_unchanged_only_if_it_is_in_all_chunks():
    records = [after([0], updated=False), after([0], updated=False)]
    assert join_execution(records, [0, 1])["updatedmodelflag"] is False


def test_channels_count_from_the_start_of_the_cube():
    records = [after([5, 7]), after([1, 2, 3])]
    joined = join_execution(records, [0, 2])["summaryminor"]
    assert joined[CHANNEL].tolist() == [0, 1, 2, 3, 4]
    assert joined[ITERATIONS].tolist() == [5, 7, 1, 2, 3]
    assert records[1]["summaryminor"][CHANNEL].tolist() == [0, 1, 2]


def test_full_summary_counts_on_from_channel_to_channel():
    joined = join_execution([after([5, 7], full=True), after([1, 2], full=True)], [0, 2])
    assert joined["summaryminor"][ITERATIONS_BEFORE].tolist() == [0, 5, 12, 13]


@pytest.mark.parametrize(
    ("block", "counts"),
    [(1, [0, 0, 0, 0, 0]), (2, [0, 5, 0, 1, 0]), (3, [0, 5, 12, 0, 2]), (10, [0, 5, 12, 13, 15])],
)
def test_full_summary_begins_anew_with_each_of_casas_blocks(block, counts):
    records = [after([5], full=True), after([7, 1, 2], full=True), after([3], full=True)]
    joined = join_execution(records, [0, 1, 4], block=block)
    assert joined["summaryminor"][ITERATIONS_BEFORE].tolist() == counts


def test_summary_has_as_many_first_channels_as_records():
    with pytest.raises(ValueError, match="zip"):
        join_execution([after([5]), after([7])], [0])


@pytest.mark.parametrize(
    ("side", "nchan", "block"), [(256, 64, 64), (512, 64, 30), (1024, 64, 10), (8000, 64, 10)]
)
def test_blocks_are_those_in_casas_log(side, nchan, block):
    assert block_channels(side, side, nchan) == block
    assert block_channels(side, side, 3) == 3


# Records of CASA's deconvolvers


def equal(one, other):
    """Tell whether records are equal; their tables as numbers, whatever their type."""
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("fullsummary", [False, True])
@pytest.mark.parametrize("pieces", [[slice(0, 3), slice(3, 5)], [slice(0, 4), slice(4, 5)]])
def test_joined_records_are_those_of_one_deconvolver(
    line_ms, tmp_path, monkeypatch, fullsummary, pieces
):
    monkeypatch.chdir(tmp_path)
    cube = {"specmode": "cube", "imsize": 48, "cell": "0.1arcsec", "start": 5, "nchan": 5}
    cube["fullsummary"] = fullsummary
    casatasks.tclean(line_ms, imagename="whole", restoration=False, **cube)
    for index, channels in enumerate(pieces):
        for product in ("psf", "residual", "pb", "sumwt"):
            images.cut(f"whole.{product}", f"{index}.{product}", channels)

    def deconvolve(name):
        arguments = ImagerParameters(line_ms, imagename=name, deconvolver="hogbom", **cube)
        tool = synthesisdeconvolver()
        try:
            tool.setupdeconvolution(decpars=arguments.getDecPars()["0"])
            tool.initminorcycle()
            tool.setupmask()
            first = tool.initminorcycle()
            controls = {"cycleniter": 40, "cyclethreshold": 0.05, "loopgain": 0.1}
            controls |= {"nsigma": 0.0, "thresholdreached": False}
            return first, tool.executeminorcycle(controls)
        finally:
            tool.done()

    first, executed = deconvolve("whole")
    firsts, executions = zip(*(deconvolve(str(index)) for index in range(2)), strict=True)
    assert executed["iterdone"] > 40
    assert equal(join_initialization(firsts), first)
    starts = [channels.start for channels in pieces]
    assert equal(join_execution(executions, starts, block=block_channels(48, 48, 5)), executed)


# CASA's iteration control


def iteration(**parameters):
    parameters = {"niter": 100, "threshold": "0.01Jy"} | parameters
    return ImagerParameters(msname="", imagename="x", specmode="cube", **parameters).getIterPars()


def chunks(*records):
    """Return records with the table that CASA wants to see, empty before a minor cycle."""
    return [record | {"summaryminor": np.zeros((len(ROWS[False]), 0))} for record in records]


def clean_until_stopped(control):
    """Go through tclean's order with two chunks; three iterations a cycle halve the peak."""
    control.end_major_cycle(clean=False)
    peak = 1.0
    records = chunks(before(peak, 64), before(5.0, 0))
    while not control.has_converged(records):
        control.minor_cycle_controls()
        peak /= 2
        assert control.end_minor_cycle([after([2], peak=peak), after([1])], [0, 1]) == 3
        control.end_major_cycle()
        records = chunks(before(peak, -1), before(5.0, 0))
    return control.summary()


def test_clean_stops_at_niter():
    with IterationControl(iteration(niter=6)) as control:
        summary = clean_until_stopped(control)
    assert (control.stopcode, control.major_cycles, summary["iterdone"]) == (1, 2, 6)


def test_clean_stops_at_nmajor():
    with IterationControl(iteration(nmajor=1)) as control:
        clean_until_stopped(control)
    assert (control.stopcode, control.major_cycles) == (9, 1)


def test_clean_stops_at_the_threshold_by_the_peaks_within_masks():
    with IterationControl(iteration(threshold="2Jy")) as control:
        summary = clean_until_stopped(control)
    assert (control.stopcode, summary["iterdone"]) == (2, 0)


def test_clean_stops_without_a_mask():
    with IterationControl(iteration()) as control:
        assert control.has_converged(chunks(before(5.0, 0), before(3.0, 0)))
    assert control.stopcode == 7


def test_threshold_of_the_cycle_is_that_of_the_worst_sidelobe():
    with IterationControl(iteration(cyclefactor=1.5)) as control:
        strong, uneven = before(1.0, 64, maxpsfsidelobe=0.1), before(0.5, 64, maxpsfsidelobe=0.4)
        control.has_converged(chunks(strong, uneven))
        assert control.minor_cycle_controls()["cyclethreshold"] == pytest.approx(0.6)


def test_the_next_clean_begins_from_nothing():
    for _ in range(2):
        with IterationControl(iteration(niter=6)) as control:
            assert clean_until_stopped(control)["iterdone"] == 6


def test_other_cleans_wait_for_their_turn():
    inside, leave, order = threading.Event(), threading.Event(), []

    def first():
        with IterationControl(iteration()):
            inside.set()
            leave.wait(30)
            order.append("first")

    def second():
        with IterationControl(iteration(niter=6)) as control:
            order.append("second")
            order.append(clean_until_stopped(control)["iterdone"])

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(30)
    threads[1].start()
    threads[1].join(0.2)
    assert order == []
    leave.set()
    for thread in threads:
        thread.join(30)
    assert order == ["first", "second", 6]


def enters_soon():
    """Tell whether a clean can begin, without waiting for ever."""
    entered = threading.Event()

    def enter():
        with IterationControl(iteration()):
            entered.set()

    threading.Thread(target=enter, daemon=True).start()
    return entered.wait(30)


def test_error_during_a_clean_lets_the_next_one_in():
    with pytest.raises(OSError, match="disk full"), IterationControl(iteration()):
        raise OSError("disk full")
    assert enters_soon()


def test_error_at_the_start_lets_the_next_one_in():
    with pytest.raises(RuntimeError), IterationControl({"niter": "many"}):
        pass
    assert enters_soon()
