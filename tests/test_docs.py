# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation is built, its code is run or read, and it lacks nothing that can be listed."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest
import yaml

import ptclean.errors
from ptclean.config import check_settings, variable
from ptclean.planning import continuum_scope, scope
from ptclean.run import plan

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
NAMES = [page.name for page in PAGES]

needs_sphinx = pytest.mark.skipif(
    importlib.util.find_spec("sphinx") is None, reason="there is no Sphinx"
)

#: Functions that say why a call is tclean's, besides those with `reason` in their names.
SAY_WHY = {"standins_for_mosaic", "unlike"}


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced code of a language, also where it is indented."""
    fence = re.compile(rf"^([ ]*)```{re.escape(language)}\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(code) for _, code in fence.findall(page.read_text("utf-8"))]


def plain(text: str) -> str:
    """Return a text without line breaks and marks, to look for phrases in."""
    return re.sub(r"\s+", " ", text.replace("`", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as ``make docs`` does, in a process of its own."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "--nitpicky", "--quiet"]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, "-d", str(folder / "doctrees"), str(DOCS), str(folder / "html")],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {"doctrees", "html"}, "a log was left"
    return folder / "html"


@needs_sphinx
def test_site_is_complete(site: Path) -> None:
    for page in PAGES:
        assert (site / f"{page.stem}.html").stat().st_size > 0
    settings = (site / "settings.html").read_text("utf-8")
    for key, value in yaml.safe_load((ROOT / "ptclean" / "ptclean.yaml").read_text())[
        "ptclean"
    ].items():
        assert f'id="{key}"' in settings
        assert variable(key) in settings
        assert json.dumps(value).strip('"') in settings
    api = (site / "api.html").read_text("utf-8")
    for name in ("nworkers", "chanchunks", "memory_limit", "DaskClusterManager", "ChunkError"):
        assert f"{name}" in api


@needs_sphinx
def test_site_is_of_one_piece(site: Path) -> None:
    """Nothing that a browser would fetch from elsewhere: it is read on machines without a net."""
    for page in site.glob("*.html"):
        text = page.read_text("utf-8")
        fetched = re.findall(r"""<(?:script|link|img)\b[^>]*?(?:src|href)=["'](.*?)["']""", text)
        assert not [url for url in fetched if url.startswith(("http", "//"))], page.name


def test_every_setting_says_when_to_touch_it() -> None:
    text = (ROOT / "ptclean" / "ptclean.yaml").read_text("utf-8")
    for comment, key in re.findall(r"((?:  #[^\n]*\n)+)  ([a-z-]+):", text):
        assert "Touch it" in comment, key


@pytest.mark.parametrize("name", NAMES)
def test_python_blocks(name: str) -> None:
    """They are Python, and call the tasks with parameters that these have."""
    own = inspect.signature(plan).parameters
    for code in blocks(DOCS / name, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in ("ptclean", "tclean", "plan"):
                    assert {k.arg for k in node.keywords if k.arg} <= set(own), code
            if isinstance(node, ast.ImportFrom) and node.module == "ptclean":
                for each in node.names:
                    assert hasattr(ptclean, each.name), code


@pytest.mark.parametrize("name", NAMES)
def test_yaml_blocks(name: str) -> None:
    for code in blocks(DOCS / name, "yaml"):
        with dask.config.set(yaml.safe_load(code)):
            check_settings()


@pytest.mark.parametrize("name", NAMES)
def test_examples_at_the_prompt(name: str) -> None:
    """What stands behind ``>>>`` prints what stands below it."""
    code = "\n".join(blocks(DOCS / name, "pycon"))
    test = doctest.DocTestParser().get_doctest(code, {}, name, name, 0)
    report: list[str] = []
    assert not doctest.DocTestRunner(verbose=False).run(test, out=report.append).failed, report


@pytest.mark.parametrize("name", NAMES)
def test_settings_that_are_named(name: str) -> None:
    """A variable of the environment in a page is that of a setting."""
    settings = yaml.safe_load((ROOT / "ptclean" / "ptclean.yaml").read_text())["ptclean"]
    known = {variable(key) for key in settings}
    assert set(re.findall(r"DASK_PTCLEAN_\w+", (DOCS / name).read_text("utf-8"))) <= known


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named(name: str) -> None:
    """An example that a page names is there."""
    for path in re.findall(r"\bexamples/\w+\.\w+", (DOCS / name).read_text("utf-8")):
        assert (ROOT / path).is_file(), path


def test_every_error_is_explained() -> None:
    page = (DOCS / "errors.md").read_text("utf-8")
    classes = [
        name
        for name, each in vars(ptclean.errors).items()
        if isinstance(each, type) and issubclass(each, Exception)
    ]
    assert len(classes) > 4
    assert not [name for name in classes if f"`{name}`" not in page]


def test_every_reason_is_explained() -> None:
    """Each phrase with which the log says why tclean runs serially is in the page of errors."""
    page = plain((DOCS / "errors.md").read_text("utf-8"))
    phrases = {phrase for path in (ROOT / "ptclean").rglob("*.py") for phrase in reasons(path)}
    assert len(phrases) > 20
    missing = sorted(phrase for phrase in phrases if plain(phrase) not in page)
    assert not missing, "docs/errors.md does not explain:\n" + "\n".join(missing)


def test_no_reason_is_explained_that_there_is_not() -> None:
    page = (DOCS / "errors.md").read_text("utf-8")
    section = page.partition("## Runs tclean serially")[2].partition("## Warnings")[0]
    phrases = {plain(each) for path in (ROOT / "ptclean").rglob("*.py") for each in reasons(path)}
    terms = re.findall(r"^(`.*)\n: ", section, re.MULTILINE)
    spans = [span for term in terms for span in re.findall(r"`(.*?)`", term)]
    assert len(spans) > 20
    assert not [span for span in spans if not any(phrase in span for phrase in phrases)]


def test_messages_that_are_quoted() -> None:
    """Those of errors and warnings, with dots for what differs, are in the code as quoted."""
    page = (DOCS / "errors.md").read_text("utf-8")
    errors, _, rest = page.partition("## Runs tclean serially")
    warnings = rest.partition("## Warnings")[2]
    quoted = re.findall(r"^ *(?:- |For )?`([^`]*)`(?=:|\n: )", errors, re.MULTILINE)
    quoted += re.findall(r"^`([^`]*)`\n: ", warnings, re.MULTILINE)
    quoted = [quote for quote in quoted if " " in quote]
    assert len(quoted) > 12
    code = [text for path in (ROOT / "ptclean").rglob("*.py") for text in texts_in(path)]
    for quote in quoted:
        parts = [part.strip() for part in re.split(r"\.\.\.+", quote) if len(part.strip()) > 3]
        assert any(all(part in text for part in parts) for text in code), quote


@needs_sphinx
def test_every_parameter_that_may_be_a_reason_is_named(site: Path) -> None:
    """Those whose value alone is the reason."""
    page = (site / "errors.html").read_text("utf-8")
    names = {rule.parameter for rule in scope._RULES}
    for module in (scope, continuum_scope):
        names |= {*module._KNOWN, *module._UNSET}
    assert not [name for name in sorted(names) if f">{name}<" not in page]


def texts_in(path: Path) -> Iterator[str]:
    """Find the texts of a module; what is put into them is left out."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield plain(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [each.value for each in node.values if isinstance(each, ast.Constant)]
            yield plain("...".join(map(str, parts)))


def reasons(path: Path) -> Iterator[str]:
    """Find the texts with which a module says why a call is tclean's: their longest fixed parts."""
    for function in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(function, ast.FunctionDef):
            continue
        says_why = "reason" in function.name or function.name in SAY_WHY
        for node in ast.walk(function):
            texts: list[Any] = []
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "reason":
                texts = [node.value]
            elif isinstance(node, ast.Return) and says_why:
                texts = [node.value]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Unlike":
                texts = [node.args[1]]
            for text in texts:
                if fixed := _longest_fixed(text):
                    yield fixed


def _longest_fixed(text: ast.expr) -> str:
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        return text.value
    if isinstance(text, ast.JoinedStr):
        parts = [each.value for each in text.values if isinstance(each, ast.Constant)]
        longest = max(map(str, parts), key=len, default="")
        return longest.strip(" ,;='()") if len(longest) > 8 else ""
    return ""
