# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a run: what is kept and where, what it says, and what a browser makes of the page.

Large runs are made up, by the events that a real one would tell of.
"""

from __future__ import annotations

import glob
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from casatasks import exportfits, rmtables, tclean
from casatools import image
from hypothesis import given
from hypothesis import strategies as st

from made_up_run import made_up_run
from ptclean import DaskClusterManager, ptclean, report
from ptclean.errors import ParameterError
from ptclean.planning.plan import Plan
from ptclean.reporting import pictures
from ptclean.reporting.report_page import page
from ptclean.reporting.run_record import FILE, RunRecorder, from_ranges, keep, load, ranges
from ptclean.reporting.run_report import Report, keep_report, page_path
from ptclean.reporting.run_sums import (
    gridded_chunks,
    phase_rows,
    seconds_of_pieces,
    timeline,
    worker_rows,
)

CUBE: dict[str, Any] = {
    "datacolumn": "data",
    "specmode": "cube",
    "imsize": 64,
    "cell": "0.15arcsec",
    "start": 4,
    "nchan": 6,
    "weighting": "briggs",
    "niter": 100,
    "threshold": "20mJy",
}

#: What stands in a page must not be taken for its markup.
ODD_NAME = '/data/<b>line & "co"</b>'


class _Page(HTMLParser):
    """Checks that each element is closed, in order, and collects texts and references."""

    empty = frozenset({"meta", "link", "path", "image", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.references: list[str] = []
        self.pictures = 0
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.empty:
            self.open.append(tag)
        self.pictures += tag == "svg"
        self.references += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page_of(data: dict[str, Any], folder: Path) -> str:
    path = Report(data).html(folder / "page.html")
    assert path == str(folder / "page.html")
    return Path(path).read_text("utf-8")


# What is kept.


@pytest.fixture(scope="module")
def cube(
    line_ms: str, cluster: DaskClusterManager, tmp_path_factory: pytest.TempPathFactory
) -> str:
    name = str(tmp_path_factory.mktemp("cube") / "cube")
    ptclean(line_ms, imagename=name, nworkers=2, chanchunks=2, **CUBE)
    return name


def test_report_of_a_cube(cube: str, cluster: DaskClusterManager) -> None:
    found = report(cube)
    data = found.data
    first, *cycles = data["cycles"]
    assert first["peak"] > first["threshold"] == 0.02
    assert sum(cycle["iterations"] for cycle in cycles) == data["iterdone"] >= 100
    for cycle in cycles:
        assert sum(cycle["channel_iterations"]) == cycle["iterations"]
        assert len(cycle["channel_peaks"]) == 6
        # The minor cycle ends below its threshold, or at the limit of iterations.
        assert max(cycle["channel_peaks"]) < first["peak"]
    assert set(data["workers"]) == {"worker-0", "worker-1"}
    for name in data["workers"]:
        assert data["logs"][name] == str(cluster.worker_logs[name])
    of_chunks = ["begin", "minor", "major", "finish"]
    assert data["steps"] == [*of_chunks, "remove_spent", "make_empty", "assemble"]
    names, seconds = seconds_of_pieces(data)
    assert names == ["begin", "minor", "major", "finish"]
    assert seconds.shape == (4, 3)
    assert (seconds > 0).all()
    assert min(data["tasks"]["memory"]) > 50
    text = str(found)
    for part in (
        cube,
        "2 workers, 3 chunks",
        f"{data['iterdone']} iterations",
        "chunks  3 of 2 channels",
        "major cycle",
        str(cluster.worker_logs["worker-0"]),
        "niter=100",
        f"numpy {np.__version__}",
    ):
        assert part in text
    assert "usemask" not in text, "parameters that were not given are not repeated"


def test_it_is_among_no_names_of_images(cube: str, tmp_path: Path) -> None:
    """It comes along when images are moved, goes when they are removed, and is in nobody's way."""
    for product in Path(cube).parent.glob("cube.*"):
        assert product.is_dir()
        shutil.copytree(product, tmp_path / product.name)
    copied = str(tmp_path / "cube")
    assert report(copied).data == report(cube).data
    for name in glob.glob(f"{copied}*"):
        exportfits(name, str(tmp_path / f"{Path(name).name}.fits"))
        os.remove(tmp_path / f"{Path(name).name}.fits")
    ia = image()
    ia.open(f"{copied}.sumwt")
    ia.rename(f"{copied}2.sumwt")
    ia.done()
    assert report(f"{copied}2").data == report(cube).data
    rmtables(f"{copied}*")
    assert not list(tmp_path.iterdir())


def test_tclean_goes_on_from_images_that_hold_a_report(
    line_ms: str, cube: str, tmp_path: Path
) -> None:
    for product in Path(cube).parent.glob("cube.*"):
        shutil.copytree(product, tmp_path / product.name)
    tclean(line_ms, imagename=str(tmp_path / "cube"), **CUBE)
    assert report(str(tmp_path / "cube")).data == report(cube).data


def test_where_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "cube.psf").mkdir()
    for name in ("cube", "nothing", "no folder/cube"):
        with pytest.raises(FileNotFoundError, match=r"imagename='.*give the imagename of a run"):
            report(str(tmp_path / name))


def test_of_another_version(tmp_path: Path) -> None:
    data = made_up_run(imagename=str(tmp_path / "cube"))
    (tmp_path / "cube.sumwt").mkdir()
    (tmp_path / "cube.sumwt" / "table.info").write_text("")
    (tmp_path / "cube.sumwt" / "table.dat").write_text("")
    path = keep(data | {"format": 99}, str(tmp_path / "cube"))
    assert path == str(tmp_path / "cube.sumwt" / FILE)
    with pytest.raises(ParameterError, match="another version"):
        load(str(tmp_path / "cube"))


def test_serial_run_says_so(line_ms: str, tmp_path: Path) -> None:
    name = str(tmp_path / "cube")
    result = ptclean(line_ms, imagename=name, **CUBE)
    found = report(name)
    assert "the cube is small" in str(found)
    assert found.data["iterdone"] == result["iterdone"]
    cycles = found.data["cycles"]
    assert sum(cycle["iterations"] for cycle in cycles) == result["iterdone"]
    assert len(cycles) == result["nmajordone"] - 1
    assert len(cycles[0]["channel_peaks"]) == 6
    text = page_of(found.data, tmp_path)
    assert "there were no chunks and no workers" in text
    assert "What each worker was at" not in text


def test_continuum(
    line_ms: str, cluster: DaskClusterManager, tmp_path: Path, log: Callable[[], str]
) -> None:
    name = str(tmp_path / "mfs")
    arguments = {
        key: value for key, value in CUBE.items() if key not in ("start", "nchan", "specmode")
    }
    ptclean(line_ms, imagename=name, specmode="mfs", nworkers=2, **arguments)
    data = report(name).data
    parts = data["pieces"]
    assert data["continuum"]
    names, seconds = seconds_of_pieces(data)
    assert "major" in names
    assert "minor" not in names, "that is a step of the image as a whole"
    assert seconds.shape[1] == parts >= 2
    assert len(data["cycles"][1]["channel_peaks"]) == 1
    text = page_of(data, tmp_path)
    assert f"2 workers, {parts} parts" in text
    assert "Time of each part" in text
    for cycle in data["cycles"][1:]:
        assert f"Minor cycle {cycle['number']}: {cycle['iterations']} iterations" in log()


def test_dirty_cube_of_one_chunk(line_ms: str, cluster: DaskClusterManager, tmp_path: Path) -> None:
    name = str(tmp_path / "dirty")
    page = tmp_path / "pages"
    page.mkdir()
    with dask.config.set({"ptclean.report": str(page)}):
        ptclean(line_ms, imagename=name, nworkers=1, **CUBE | {"niter": 0, "nchan": 1})
    data = report(name).data
    assert data["cycles"] == []
    assert "stopDescription" not in data or data["stopDescription"]
    text = (page / "dirty-ptclean.html").read_text()
    assert "Peak residual of each channel" not in text
    assert "What each worker was at" in text


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, None),
        (False, None),
        (True, "/data/line-ptclean.html"),
        ("/pages/", "/pages/line-ptclean.html"),
        ("/", "/line-ptclean.html"),
        ("/tmp/one.html", "/tmp/one.html"),
    ],
)
def test_where_the_page_is_written(wanted: Any, expected: str | None) -> None:
    assert page_path(wanted, "/data/line") == expected


def test_page_that_cannot_be_written_is_no_failure(tmp_path: Path, log: Callable[[], str]) -> None:
    data = made_up_run(imagename=str(tmp_path / "cube"))
    with dask.config.set({"ptclean.report": str(tmp_path / "no folder" / "page.html")}):
        keep_report(data)
    assert "could not be written" in log()
    assert "no folder" in log()


@given(st.sets(st.integers(0, 300)))
def test_ranges(numbers: set[int]) -> None:
    assert from_ranges(ranges(numbers)) == sorted(numbers)


# What the page shows.


@pytest.mark.parametrize(
    "size",
    [
        {},
        {"channels": 1, "chunks": 1, "workers": 1, "cycles": 1},
        {"channels": 4000, "chunks": 400, "workers": 64, "cycles": 40},
        {"channels": 4000, "chunks": 4000, "workers": 300, "cycles": 4},
        {"channels": 16, "chunks": 8, "workers": 2, "cycles": 700},
    ],
)
def test_page_is_small_and_needs_nothing_else(size: dict[str, int], tmp_path: Path) -> None:
    text = page_of(made_up_run(**size), tmp_path)
    assert len(text.encode()) < 500_000
    parsed = _Page(text)
    assert parsed.pictures >= 3
    assert all(reference.startswith("data:") for reference in parsed.references)
    assert "http" not in text
    assert "<script" not in text


def test_what_users_write_is_text(tmp_path: Path) -> None:
    data = made_up_run(imagename=ODD_NAME, field="</pre><script>alert(1)</script>")
    data["stopDescription"] = data["plan"] = data["workers"][0] = "<i>odd</i>"
    text = page_of(data, tmp_path)
    assert "<i>odd" not in text
    assert "<b>line" not in text
    assert "<script" not in text
    texts = _Page(text).texts
    assert ODD_NAME in texts
    assert any("field='</pre><script>alert(1)</script>'" in each for each in texts)
    assert "srcdoc=" in Report(data)._repr_html_()
    assert "<script" not in Report(data)._repr_html_()


def test_sums() -> None:
    data = made_up_run(channels=40, chunks=10, workers=12, cycles=2)
    _, seconds = seconds_of_pieces(data)
    assert seconds.sum() == pytest.approx(sum(data["tasks"]["seconds"]))
    begin = sum(
        each
        for each, step in zip(data["tasks"]["seconds"], data["tasks"]["step"], strict=True)
        if data["steps"][step] == "begin"
    )
    share = begin / (12 * data["phases"][0]["seconds"])
    assert 0.1 < share < 1
    assert phase_rows(data)[1][-1] == f"{share:.0%}"
    rows = worker_rows(data)
    assert [row[0] for row in rows[1:]] == [f"worker-{i}" for i in range(len(data["workers"]))]
    chunks = gridded_chunks(data)
    assert (chunks == 1).sum(axis=1).tolist() == [
        len(from_ranges(cycle["gridded"])) for cycle in data["cycles"] if cycle["gridded"]
    ]
    assert (chunks == 2).any()
    line = timeline(data, 1000)
    busy = (line > 0).sum() / 1000 * data["seconds"]
    assert busy == pytest.approx(sum(data["tasks"]["seconds"]), rel=0.05)


def test_images_without_a_number_in_them(tmp_path: Path) -> None:
    """Of blank channels CASA may say anything."""
    data = made_up_run()
    for cycle in data["cycles"][1:]:
        cycle["channel_peaks"][:3] = [math.nan, math.inf, -1.0]
        cycle["peak"] = math.nan
    text = page_of(data, tmp_path)
    assert "nan" not in re.sub(r"<td>nan</td>|<dd>nan ", "", text)
    assert "nan" in str(Report(data))


def test_what_tclean_returns_may_be_anything() -> None:
    recorder = RunRecorder(Plan("/data/line", serial="interactive=True"), {}, {}, 0.0)
    recorder.end({"iterdone": np.int64(3), "summaryminor": {0: {0: "odd"}}, "stopcode": [1]})
    assert recorder.data["iterdone"] == 3
    assert recorder.data["cycles"] == []
    assert "interactive=True" in page(recorder.data)


def test_values_that_never_were_positive() -> None:
    assert pictures.heat([[0.0, 0.0]], x="x", y="y", unit="") == ""
    assert pictures.curves([], x="x", y="y") == ""
    assert pictures.bars([], x="x", y="y") == ""


def test_png_is_read_by_others(tmp_path: Path) -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    palette = [(0, 0, 0, 0), (255, 0, 0, 255), (0, 102, 255, 255)]
    path = tmp_path / "small.png"
    path.write_bytes(pictures.png(indices, palette))
    assert np.array_equal(np.round(plt.imread(path) * 255), np.array(palette)[indices])


def test_run_that_fails_changes_no_report(
    line_ms: str, cube: str, cluster: DaskClusterManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("made up")

    before = report(cube).data
    monkeypatch.setattr("ptclean.run.ParallelCubeImager.run", fail)
    with (
        dask.config.set({"ptclean.report": True}),
        pytest.raises(RuntimeError, match="made up"),
    ):
        ptclean(line_ms, imagename=cube, nworkers=2, chanchunks=3, **CUBE)
    assert report(cube).data == before
    assert not os.path.exists(f"{cube}-ptclean.html")


# In a browser.


@pytest.fixture(scope="module")
def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("there is no Chromium; Debian and Ubuntu have it as the package chromium")


def browse(browser: str, profile: Path, page: Path, *options: str) -> subprocess.CompletedProcess:
    """Open a page in a browser without a window, a network, or a profile of the user's."""
    return subprocess.run(
        [
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-breakpad",
            "--enable-logging=stderr",
            "--log-level=0",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}",
            "--window-size=1100,3600",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("dark", [False, True])
def test_browser_draws_the_page(browser: str, dark: bool, tmp_path: Path) -> None:
    """All pictures are drawn, in their colours, on a light or dark ground, without complaints."""
    plt = pytest.importorskip("matplotlib.pyplot")
    data = made_up_run(imagename=ODD_NAME, channels=400, chunks=40, workers=16, cycles=8)
    page = Path(Report(data).html(tmp_path / "page.html"))
    # The browser's own verdict on each picture, in the title: has it been decoded, has it an area?
    page.write_text(
        page.read_text("utf-8").replace(
            "</body>",
            "<script>addEventListener('load', async () => {"
            "const images = [...document.querySelectorAll('image')];"
            "const sizes = await Promise.all(images.map(async each => {"
            "const copy = new Image(); copy.src = each.href.baseVal; await copy.decode();"
            "return copy.naturalWidth * copy.naturalHeight}));"
            "const areas = [...document.querySelectorAll('svg')].map(each => {"
            "const box = each.getBoundingClientRect(); return box.width * box.height});"
            "const dark = matchMedia('(prefers-color-scheme: dark)').matches;"
            "document.title = JSON.stringify([sizes, areas, document.body.scrollWidth, dark])"
            "})</script></body>",
        ),
        "utf-8",
    )
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    dumped = browse(
        browser, tmp_path / "profile", page, scheme, "--virtual-time-budget=5000", "--dump-dom"
    )
    assert "CONSOLE" not in dumped.stderr, dumped.stderr
    title = re.search(r"<title>(.*?)</title>", dumped.stdout)
    assert title, dumped.stdout[:500]
    sizes, areas, width, is_dark = json.loads(title[1])
    assert is_dark is dark
    assert len(sizes) == 4
    assert all(size > 1 for size in sizes)
    assert len(areas) == 7
    assert all(area > 10_000 for area in areas)
    assert width <= 1100, "the page is wider than the window"

    shot = tmp_path / "page.png"
    browse(browser, tmp_path / "profile", page, scheme, f"--screenshot={shot}")
    pixels = plt.imread(shot)[..., :3]
    corner = pixels[5, 5]
    assert bool(corner.mean() < 0.3) == dark
    for colour in pictures.COLOURS[:3]:
        wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        assert (np.abs(pixels - wanted).max(axis=2) < 0.02).sum() > 1000, f"no {colour}"


def test_browser_complains_where_there_is_cause(browser: str, tmp_path: Path) -> None:
    """So that its silence says something."""
    page = tmp_path / "page.html"
    page.write_text("<!DOCTYPE html><title>x</title><script>throw Error('made up')</script>")
    seen = browse(browser, tmp_path / "profile", page, "--virtual-time-budget=1000", "--dump-dom")
    assert "CONSOLE" in seen.stderr
