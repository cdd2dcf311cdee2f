# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m ptclean xml``: the complete description, for those who read descriptions of tasks."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import casatasks
import pytest
from casatasks.private import casaxmlutil

from ptclean import ptclean
from ptclean.call.description import load, parse

OWN: dict[str, Any] = {"nworkers": 0, "chanchunks": -1, "memory_limit": "0"}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What is printed; nothing else is left behind."""
    folder = tmp_path_factory.mktemp("xml")
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-m", "ptclean", "xml"],
        cwd=folder,
        env=environ,
        capture_output=True,
        check=True,
    )
    assert list(folder.iterdir()) == []
    return done.stdout


def test_it_is_well_formed_and_complete(printed: bytes) -> None:
    root = ET.fromstring(printed)
    (task,) = root.findall("{*}task")
    assert task.get("name") == "ptclean"
    names = [each.get("name") for each in task.findall("{*}input/{*}param")]
    assert names == list(inspect.signature(ptclean).parameters)
    for each in task.findall("{*}input/{*}param"):
        assert each.findtext("{*}description"), each.get("name")


def test_it_is_read_as_the_description_of_the_task(printed: bytes) -> None:
    assert parse(printed) == load()


def test_casas_own_reader_finds_what_it_finds_in_tclean(
    printed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader with which some of CASA's tasks take defaults and constraints from their XML."""
    read = getattr(casaxmlutil, "__load_xml")
    values, places, code = read("tclean")
    (tmp_path / "__xml__").mkdir()
    (tmp_path / "__xml__" / "ptclean.xml").write_bytes(printed)
    monkeypatch.setattr(casatasks, "__path__", [str(tmp_path)])
    own_values, own_places, own_code = read("ptclean")
    assert own_values == [*values, *OWN.values()]
    assert list(own_places) == [*places, *OWN]
    # Behind tclean's rules stands ours, that shows a group of its own.
    assert own_code.startswith(code)
    assert all(name in own_code.removeprefix(code) for name in OWN)
    assert "pbmask" in code
