# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine takes what is known to give tclean's cube; all else is tclean's, with the reason."""

import inspect

import casatasks
import pytest

from ptclean.call.description import load
from ptclean.planning.scope import reason_for_serial

DEFAULTS = {p.name: p.default for p in inspect.signature(casatasks.tclean).parameters.values()}
CUBE = DEFAULTS | {"vis": "line.ms", "imagename": "/images/line", "specmode": "cube"}

#: The values, of those that tclean's description lists, that the engine takes.
TAKEN = {
    "specmode": {"cube", "cubedata", "cubesource"},
    "gridder": {"standard", "mosaic", "wproject", "widefield"},
    "deconvolver": {"hogbom", "clark", "clarkstokes", "multiscale"},
    "usemask": {"user", "pb", "auto-multithresh"},
    "weighting": {
        "natural",
        "uniform",
        "superuniform",
        "radial",
        "briggs",
        "briggsabs",
        "briggsbwtaper",
    },
    "interpolation": {"nearest", "linear", "cubic"},
    "savemodel": {"none", "modelcolumn", "virtual"},
}

OTHER_THAN_DEFAULT = [
    ("interactive", True),
    ("interactive", 1),
    ("startmodel", ["old.model", "other.model"]),
    ("outlierfile", "outliers.txt"),
    ("psfphasecenter", "J2000 09h47m57.4 13d16m43.5"),
    ("vptable", "vp.tab"),
    ("facets", 2),
    ("conjbeams", True),
    ("reffreq", "1GHz"),
    ("nmajor", -2),
    ("niter", -1),
    ("phasecenter", "my_ephemeris.tab"),
]


def test_tcleans_defaults_are_a_continuum_image_and_so_tcleans():
    assert reason_for_serial(DEFAULTS, DEFAULTS) == "specmode='mfs'"


def test_cube_with_tcleans_defaults_is_taken():
    assert reason_for_serial(CUBE, DEFAULTS) is None


@pytest.mark.parametrize("name", TAKEN)
def test_of_the_values_that_tclean_lists_those_known_are_taken(name):
    (parameter,) = (p for p in load().parameters if p.name == name)
    assert parameter.allowed
    reasons = {
        value: reason_for_serial(CUBE | {name: value}, DEFAULTS) for value in parameter.allowed
    }
    assert {value for value, reason in reasons.items() if reason is None} == TAKEN[name]
    serial = {value: reason for value, reason in reasons.items() if reason is not None}
    assert all(reason.startswith(f"{name}={value!r}") for value, reason in serial.items())


@pytest.mark.parametrize(("name", "value"), OTHER_THAN_DEFAULT)
def test_value_that_is_not_known_runs_serially_and_is_named(name, value):
    assert reason_for_serial(CUBE | {name: value}, DEFAULTS) == f"{name}={value!r}"


@pytest.mark.parametrize("name", TAKEN)
def test_value_of_a_future_tclean_runs_serially(name):
    assert reason_for_serial(CUBE | {name: "new"}, DEFAULTS) == f"{name}='new'"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("niter", 1000),
        ("nmajor", 0),
        ("threshold", "1mJy"),
        ("nsigma", 3.0),
        ("robust", -2.0),
        ("uvtaper", ["1arcsec"]),
        ("stokes", "IQUV"),
        ("imsize", [100, 140]),
        ("start", "1.4GHz"),
        ("outframe", "BARY"),
        ("pblimit", -0.2),
        ("scales", [0, 5]),
        ("restoration", False),
        ("pbcor", True),
        ("fullsummary", True),
        ("interactive", 0),
        ("mask", []),
        ("mask", [""]),
        ("restoringbeam", ""),
        ("restoringbeam", "common"),
        ("restoringbeam", ["1arcsec", "1arcsec", "0deg"]),
        ("npixels", 3),
        ("perchanweightdensity", False),
        ("normtype", "flatsky"),
        ("mask", "circle[[64pix,64pix],10pix], range=[1chan,5chan]"),
        ("mask", ["an image", "box[[1pix,1pix],[9pix,9pix]], corr=[Q]"]),
        ("startmodel", []),
        ("startmodel", "old.model"),
        ("startmodel", ["old.model"]),
        ("restart", False),
        ("phasecenter", 3),
        ("phasecenter", "3"),
        ("phasecenter", " "),
        ("phasecenter", "J2000 09h47m57.4 13d16m43.5"),
        ("phasecenter", "ICRS 2.56rad  0.23rad"),
    ],
)
def test_value_that_is_known_is_taken(name, value):
    assert reason_for_serial(CUBE | {name: value}, DEFAULTS) is None


def test_nsigma_is_tcleans_where_the_noise_depends_on_masks():
    cleaned = CUBE | {"niter": 10, "nsigma": 3.0}
    assert reason_for_serial(cleaned, DEFAULTS) is None
    automasked = cleaned | {"usemask": "auto-multithresh"}
    assert str(reason_for_serial(automasked, DEFAULTS)).startswith("nsigma=3.0 with usemask=")
    assert reason_for_serial(automasked | {"niter": 0}, DEFAULTS) is None
    slow = cleaned | {"fastnoise": False}
    assert reason_for_serial(slow, DEFAULTS) is None
    assert str(reason_for_serial(slow, DEFAULTS, ("mask",))).startswith("nsigma=3.0 with fastnoise")
    assert reason_for_serial(cleaned, DEFAULTS, ("mask",)) is None


def test_parameter_of_a_future_tclean_is_taken_at_its_default_only():
    defaults = DEFAULTS | {"novelty": False}
    assert reason_for_serial(CUBE | {"novelty": False}, defaults) is None
    assert reason_for_serial(CUBE | {"novelty": True}, defaults) == "novelty=True"


@pytest.mark.parametrize("product", ["model", "mask", "prev.mask"])
def test_images_that_automasking_goes_on_from_are_a_reason(product):
    automasked = CUBE | {"usemask": "auto-multithresh"}
    reason = reason_for_serial(automasked, DEFAULTS, {"image", product})
    assert reason.startswith(f"/images/line.{product} exists")
    if product == "prev.mask":
        assert reason_for_serial(CUBE, DEFAULTS, {product}) is None


def test_images_that_are_made_anew_are_none():
    assert (
        reason_for_serial(CUBE, DEFAULTS, {"image", "psf", "pb", "residual", "image.pbcor"}) is None
    )
