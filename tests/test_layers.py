# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages import in one direction: that in which data go, from the call to the images."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PTCLEAN = Path(__file__).resolve().parents[1] / "ptclean"

#: Each may import those before it, and the modules of the folder ``ptclean`` itself but `ABOVE`.
PACKAGES = (
    "call",
    "products",
    "planning",
    "reporting",
    "workers",
    "keeping",
    "imaging",
)

#: Modules of the folder ``ptclean`` that use the packages; the others are used by them.
ABOVE = ("__init__", "__main__", "recipe", "run")


def imported(path: Path) -> Iterator[str]:
    """Packages and modules of the folder ``ptclean`` that a module imports, wherever it does."""
    module = ("ptclean", *path.relative_to(PTCLEAN).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = module[: -node.level] if node.level else ()
            full = (*base, *(node.module.split(".") if node.module else ()))
            for each in [full] if len(full) > 1 else [(*full, name.name) for name in node.names]:
                if each[0] == "ptclean":
                    yield each[1]
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("ptclean."):
                    yield name.name.split(".")[1]


def of_package(package: str) -> list[Path]:
    return sorted((PTCLEAN / package).rglob("*.py"))


def test_all_packages_are_told() -> None:
    found = {path.name for path in PTCLEAN.iterdir() if list(path.glob("*.py"))}
    assert found - {"gotasks"} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_from_those_before(package: str) -> None:
    later = {*PACKAGES[PACKAGES.index(package) + 1 :], *ABOVE}
    found = {(path.name, name) for path in of_package(package) for name in imported(path)}
    assert len(found) > 1
    assert not {(path, name) for path, name in found if name in later}


def test_single_modules_import_no_package() -> None:
    modules = [path for path in PTCLEAN.glob("*.py") if path.stem not in ABOVE]
    found = {(path.name, name) for path in modules for name in imported(path)}
    assert found
    assert not {(path, name) for path, name in found if name in (*PACKAGES, *ABOVE)}


def test_imports_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_layers.PTCLEAN", tmp_path)
    path = tmp_path / "imaging" / "module.py"
    path.parent.mkdir()
    path.write_text(
        "import os\n"
        "import ptclean.run\n"
        "from .. import logs\n"
        "from ..planning.axis import select\n"
        "from . import window\n"
        "def later():\n"
        "    from ptclean.workers import worker\n"
    )
    assert set(imported(path)) == {"run", "logs", "planning", "imaging", "workers"}


@pytest.mark.parametrize("module", ["chunk_imager", "whole_image"])
def test_what_workers_import_is_without_casatasks(module: str, tmp_path: Path) -> None:
    """It takes ten times as long to import as casatools."""
    code = f"import sys, ptclean.imaging.{module}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    path = {"PYTHONPATH": str(PTCLEAN.parent)}
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | path, capture_output=True, text=True, check=True
    )
    imported_modules = done.stdout.split()
    assert "casatools" in imported_modules
    assert "casatasks" not in imported_modules
