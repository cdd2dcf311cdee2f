# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings in Dask's configuration: misspelt ones and those of a wrong type are errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask.config
import pytest

import ptclean.config
from ptclean.config import check_settings, kind, setting
from ptclean.errors import ParameterError

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS: dict[str, Any] = ptclean.config._defaults["ptclean"]

WRONG = [
    ("log-directory", 5),
    ("local-directory", ""),
    ("start-timeout", "5 parsecs"),
    ("start-timeout", -1),
    ("start-timeout", float("inf")),
    ("stop-timeout", None),
    ("comm-timeout", True),
    ("allowed-failures", -1),
    ("allowed-failures", "two"),
    ("allowed-failures", 1.5),
    ("small-cube-seconds", "10"),
    ("small-cube-seconds", True),
    ("small-cube-seconds", float("nan")),
    ("continuum-parts", 0),
    ("continuum-parts", "4"),
    ("last-digits-in-chunks", "yes"),
    ("last-digits-in-chunks", 1),
    ("iteration-control", "chunks"),
    ("iteration-control", None),
]
RIGHT = [
    ("log-directory", "/scratch/logs"),
    ("start-timeout", 90),
    ("start-timeout", "1h"),
    ("allowed-failures", 0),
    ("small-cube-seconds", 0.5),
    ("continuum-parts", 1),
    ("last-digits-in-chunks", True),
    ("iteration-control", "chunk"),
]


def test_defaults_are_of_their_own_kind() -> None:
    """A new setting whose default is null wants an entry in the table of kinds."""
    check_settings()
    assert all(kind(key).text for key in DEFAULTS)


@pytest.mark.parametrize("key", DEFAULTS)
def test_every_setting_is_used(key: str) -> None:
    """A key that nothing reads would be a promise that nobody keeps."""
    modules = [path for path in (ROOT / "ptclean").rglob("*.py") if path.name != "config.py"]
    assert any(re.search(rf"""setting\(\s*["']{key}["']""", p.read_text()) for p in modules)


@pytest.mark.parametrize(("key", "value"), RIGHT)
def test_right_value(key: str, value: Any) -> None:
    with dask.config.set({f"ptclean.{key}": value}):
        check_settings()
        assert setting(key) == value


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_wrong_value(key: str, value: Any) -> None:
    """Both when all are checked and when the one is used; the message has key, value, way out."""
    with dask.config.set({f"ptclean.{key}": value}):
        for use in (check_settings, lambda: setting(key)):
            with pytest.raises(ParameterError, match="Set it in ") as e:
                use()
            assert f"ptclean.{key}={value!r}" in str(e.value)
            assert kind(key).text in str(e.value)
        assert setting(key, "given") == "given"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("start-timout", "start-timeout"),
        ("start_time_out", "start-timeout"),
        ("allowed-failure", "allowed-failures"),
        ("last-digit-in-chunks", "last-digits-in-chunks"),
    ],
)
def test_misspelt_key(key: str, meant: str) -> None:
    with (
        dask.config.set({f"ptclean.{key}": 1}),
        pytest.raises(ParameterError, match=rf"did you mean ptclean\.{meant}\?"),
    ):
        check_settings()


def test_no_settings_at_all() -> None:
    """A file with ``ptclean: true`` in it."""
    with (
        dask.config.set({"ptclean": True}),
        pytest.raises(ParameterError, match=r"ptclean=True: .*has keys"),
    ):
        check_settings()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DASK_PTCLEAN__START_TIMEOUT", "5m", "'5m'"),
        ("DASK_PTCLEAN__LAST_DIGITS_IN_CHUNKS", "true", "True"),
        ("DASK_PTCLEAN__CONTINUUM_PARTS", "null", "None"),
        ("DASK_PTCLEAN__START_TIMOUT", "5m", "did you mean ptclean.start-timeout"),
        ("DASK_PTCLEAN_START_TIMEOUT", "5m", "did you mean ptclean.start-timeout"),
        ("DASK_PTCLEAN__ALLOWED_FAILURES", "many", "a number of times, such as 2"),
    ],
)
def test_environment(name: str, value: str, expected: str) -> None:
    """Dask reads it when it is imported, so another process does."""
    key = name.removeprefix("DASK_PTCLEAN__").lower().replace("_", "-")
    script = (
        "from ptclean.config import check_settings, setting\n"
        "try:\n"
        "    check_settings()\n"
        f"    print(repr(setting({key!r})))\n"
        "except ValueError as error:\n"
        "    print(error)"
    )
    environ = {k: v for k, v in os.environ.items() if not k.startswith("DASK_")} | {name: value}
    environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True
    )
    assert expected in done.stdout


def test_run_is_not_planned(line_ms: str, tmp_path: Path) -> None:
    """Before anything is started or written."""
    from ptclean import plan
    from ptclean import ptclean as task

    call: dict[str, Any] = {
        "vis": line_ms,
        "imagename": str(tmp_path / "cube"),
        "specmode": "cube",
        "datacolumn": "data",
        "nworkers": 2,
    }
    with dask.config.set({"ptclean.start-timout": "5m"}):
        for use in (plan, task):
            with pytest.raises(ParameterError, match="did you mean"):
                use(**call)
    assert not list(tmp_path.iterdir())
