# SPDX-License-Identifier: GPL-3.0-or-later
"""Measurement sets for the tests, and a scratch directory for what CASA writes beside them."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from ptclean import DaskClusterManager

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

# CASA reads this when it is first imported, which the test modules do.
os.environ.setdefault("CASASITECONFIG", str(ROOT / "examples" / "casasiteconfig.py"))

# With more threads CASA's clark cleans otherwise in the last digits, tclean's as well as anybody's.
os.environ["OMP_NUM_THREADS"] = "1"

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

_scratch = pytest.StashKey[tuple[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Move to a scratch directory: CASA opens a log in the directory where it is imported."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        # Here nothing is imported: pytest-xdist's processes do that, each in a scratch of its own.
        return
    scratch = tempfile.mkdtemp(prefix="ptclean-tests-")
    config.stash[_scratch] = (os.getcwd(), scratch)
    os.chdir(scratch)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Return, and remove the scratch directory."""
    if _scratch not in config.stash:
        return
    back, scratch = config.stash[_scratch]
    os.chdir(back)
    shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(scope="session")
def line_ms(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four sources with lines in the middle half of 16 channels; 20 antennas, two correlations."""
    from simulated import simulate

    path = tmp_path_factory.mktemp("line") / "line.ms"
    simulate(path)
    return str(path)


@pytest.fixture(scope="session")
def mosaic_ms(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four pointings, half a primary beam apart, 12 channels, 12 antennas."""
    from simulated import simulate

    path = tmp_path_factory.mktemp("mosaic") / "mosaic.ms"
    simulate(path, pointings=4, nchan=12, nant=12, nint=4, hour=-1.2)
    return str(path)


@pytest.fixture(scope="session")
def fullpol_ms(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four correlations, 8 channels, 10 antennas."""
    from simulated import simulate

    path = tmp_path_factory.mktemp("fullpol") / "fullpol.ms"
    simulate(path, npol=4, nchan=8, nant=10, nint=4, hour=2.4)
    return str(path)


@pytest.fixture(scope="session")
def wide_ms(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Continuum sources in 8 channels of 2 GHz."""
    from simulated import simulate

    path = tmp_path_factory.mktemp("wide") / "wide.ms"
    simulate(
        path, width=2e9, freq=250e9, nchan=8, continuum=1.0, line_fraction=0.0, day=-1, hour=2.4
    )
    return str(path)


@pytest.fixture(scope="session")
def ngc5921_ms(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The VLA's HI observation of NGC 5921, calibrated, its continuum subtracted."""
    from ngc5921 import calibrate

    vis, _ = calibrate(tmp_path_factory.mktemp("ngc5921"))
    return str(vis)


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Unpack real measurement sets that are not part of the project, by name.

    ``shared_data("antennae_north_co32")`` returns the path of the measurement set; the test is
    skipped where the data are missing.
    """
    unpacked: dict[str, str] = {}

    def unpack(name: str) -> str:
        archive = SHARED_DATA / f"{name}.ms.tgz"
        if not archive.is_file():
            pytest.skip(f"there is no {archive}")
        if name not in unpacked:
            folder = tmp_path_factory.mktemp(name)
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
            (ms,) = folder.iterdir()
            unpacked[name] = str(ms)
        return unpacked[name]

    return unpack


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskClusterManager]:
    """Two workers, used by every call of ptclean in the module."""
    from ptclean import DaskClusterManager

    with DaskClusterManager(nworkers=2) as manager:
        yield manager


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """What CASA logs during the test."""
    from casatasks import casalog

    before = casalog.logfile()
    path = tmp_path / "casa.log"
    casalog.setlogfile(str(path))
    yield path.read_text
    casalog.setlogfile(before)
