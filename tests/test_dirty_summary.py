# SPDX-License-Identifier: GPL-3.0-or-later
"""What is returned of images that were not cleaned is what CASA's task says, to the last bit.

Whole calls are compared in ``test_equality.py``; here are images that those do not make.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from casatasks.private.imagerhelpers.imager_return_dict import ImagingDict
from casatools import image

from ptclean.imaging import dirty_summary
from ptclean.imaging.dirty_summary import DirtySummary

#: No multiple of a tile along any axis.
SHAPE = (70, 45, 2, 37)


def make(path: Path, kind: str = "f", *, ones: bool = False) -> None:
    values = np.random.default_rng(len(path.name)).normal(size=SHAPE)
    im = image()
    im.fromarray(str(path), (values > 1).astype(float) if ones else values, type=kind)
    im.close()


def arguments(prefix: Path, *, full: bool, mask: str = "") -> SimpleNamespace:
    return SimpleNamespace(
        allimpars={"0": {"imagename": str(prefix)}},
        alldecpars={"0": {"mask": mask, "fullsummary": full, "interactive": 0}},
        getAllPars=lambda: {"cyclefactor": 1.0, "threshold": 0.0},
    )


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("products", [[], ["model"], ["mask"], ["model", "mask"]])
def test_it_is_casas(tmp_path: Path, products: list[str], full: bool) -> None:
    prefix = tmp_path / "cube"
    for product in ["residual", *products]:
        make(Path(f"{prefix}.{product}"), ones=product == "mask")
    given = arguments(prefix, full=full)
    summary = DirtySummary()
    found = summary.construct_residual_dict(given)
    assert summary.is_own
    assert repr(found) == repr(ImagingDict().construct_residual_dict(given))
    peaks = {found["summaryminor"][0][c][s]["peakRes"][0] for c in range(37) for s in range(2)}
    assert len(peaks) > 70


def test_mask_of_another_name(tmp_path: Path) -> None:
    prefix = tmp_path / "cube"
    make(Path(f"{prefix}.residual"))
    make(tmp_path / "own.mask", ones=True)
    given = arguments(prefix, full=True, mask=str(tmp_path / "own.mask"))
    summary = DirtySummary()
    found = summary.construct_residual_dict(given)
    assert summary.is_own
    assert repr(found) == repr(ImagingDict().construct_residual_dict(given))


def test_double_precision(tmp_path: Path) -> None:
    prefix = tmp_path / "cube"
    make(Path(f"{prefix}.residual"), "d")
    given = arguments(prefix, full=False)
    summary = DirtySummary()
    found = summary.construct_residual_dict(given)
    assert summary.is_own
    assert repr(found) == repr(ImagingDict().construct_residual_dict(given))


def test_images_that_are_no_tables_are_left_to_casa(tmp_path: Path) -> None:
    prefix = tmp_path / "cube"
    make(tmp_path / "image")
    im = image()
    im.open(str(tmp_path / "image"))
    im.tofits(f"{prefix}.residual")
    im.close()
    given = arguments(prefix, full=False)
    summary = DirtySummary()
    found = summary.construct_residual_dict(given)
    assert summary.is_own is False
    assert repr(found) == repr(ImagingDict().construct_residual_dict(given))


def test_what_differs_is_left_to_casa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = tmp_path / "cube"
    make(Path(f"{prefix}.residual"))
    given = arguments(prefix, full=False)
    monkeypatch.setattr(dirty_summary, "plane", lambda *_: np.zeros((70, 45)))
    summary = DirtySummary()
    found = summary.construct_residual_dict(given)
    assert summary.is_own is False
    assert repr(found) == repr(ImagingDict().construct_residual_dict(given))


def test_no_residual(tmp_path: Path) -> None:
    given = arguments(tmp_path / "cube", full=False)
    found = DirtySummary().construct_residual_dict(given)
    assert repr(found) == repr(ImagingDict().construct_residual_dict(given))
