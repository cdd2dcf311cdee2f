# SPDX-License-Identifier: GPL-3.0-or-later
"""Full and read-only disks, and data that change: what is there stays, and the error says why.

Real file systems of a few megabytes, where the tests may mount some. Quotas and file systems of
other kinds are in `test_file_systems`. Not covered: those of other hosts, which say the same in the
same way (`errno`).
"""

import errno
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import dask
import pytest
from casatools import table
from distributed.scheduler import NoValidWorkerError
from hypothesis import given
from hypothesis import strategies as st

from ptclean import logs, plan, ptclean, run
from ptclean.errors import DataChangedError, DiskError, ImageInUseError
from ptclean.imaging.chunk_job import SPENT
from ptclean.imaging.imager import ParallelCubeImager
from ptclean.keeping import disk
from ptclean.keeping.fingerprint import differences, fingerprint, unchanged_data
from ptclean.planning.chunks import Guards, cut
from ptclean.planning.memory import ImageSize
from ptclean.planning.space import Outputs, continuum_space, cube_volume
from same_images import COMMON, assert_same_images

OWN = {"nworkers": 2, "chanchunks": 3}
CALL = {**COMMON, **OWN, "threshold": "60mJy"}


@pytest.fixture
def mounted(tmp_path):
    """Mount file systems of a size, in the memory; ``mounted("4m")`` returns the folder."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting file systems takes root's rights")
    folders = []

    def mount(size, *options):
        folder = tmp_path / f"disk-{len(folders)}"
        folder.mkdir()
        words = ",".join([f"size={size}", *options])
        command = ["mount", "-t", "tmpfs", "-o", words, "ptclean-test", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"file systems cannot be mounted here: {done.stderr}")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        # A worker that was killed may have it open for a moment.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder, *options):
    subprocess.run(["mount", "-o", ",".join(["remount", *options]), str(folder)], check=True)


def note_work(patch, look):
    """Return a list of what `look` will find in a run's directory after its cycles, and its end."""
    found = []
    install, make_chunks = run.install, ParallelCubeImager.make_chunks

    def before_installing(made, imagename):
        found.append(look(f"{imagename}.ptclean"))
        install(made, imagename)

    def after_cycles(self):
        summary = make_chunks(self)
        found.append(look(self._directory))
        return summary

    patch.setattr(run, "install", before_installing)
    patch.setattr(ParallelCubeImager, "make_chunks", after_cycles)
    return found


@pytest.fixture(scope="module")
def reference(cluster, line_ms, tmp_path_factory):
    """What an undisturbed run makes: prefix of its images, and the most bytes that it took."""
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        taken = note_work(patch, disk.used_bytes)
        ptclean(vis=line_ms, imagename=str(folder / "line"), **CALL)
    return folder / "line", max(taken)


def kept(folder):
    """All files with what they hold, but for the work that the same call would go on with."""
    work = Path(folder) / "line.ptclean"
    files = [p for p in sorted(Path(folder).rglob("*")) if p.is_file()]
    return {p: p.read_bytes() for p in files if not p.is_relative_to(work)}


# A disk that fills up.


@pytest.fixture
def unchecked():
    """Do not refuse a run for the space that it takes."""
    with dask.config.set({"ptclean.check-space": False}):
        yield


@pytest.mark.parametrize("part", [0.3, 0.75, 0.97])
def test_a_disk_that_fills_up(cluster, mounted, reference, line_ms, part, unchecked):
    """In the first step, while cleaning, and when the products are put together."""
    expected, taken = reference
    folder = mounted(f"{int(part * taken) // 1024}k")
    (folder / "line.psf").mkdir()
    (folder / "line.psf" / "earlier").write_text("not an image, but somebody's")
    (folder / "line.psf").rename(folder / "kept")
    before = kept(folder)
    with pytest.raises(DiskError, match=r"(?s)file system of .* is full .*MiB.*another file sys"):
        ptclean(vis=line_ms, imagename=str(folder / "line"), **CALL)
    assert kept(folder) == before
    remount(folder, "size=64m")
    ptclean(vis=line_ms, imagename=str(folder / "line"), **CALL)
    assert_same_images(expected, folder / "line")


def test_images_of_a_former_run_stay(cluster, mounted, reference, line_ms, unchecked):
    expected, taken = reference
    folder = mounted("64m")
    for image in expected.parent.glob("line.*"):
        shutil.copytree(image, folder / image.name)
    before = kept(folder)
    remount(folder, f"size={(disk.used_bytes(str(folder)) + taken // 2) // 1024}k")
    with pytest.raises(DiskError, match="is full"):
        ptclean(vis=line_ms, imagename=str(folder / "line"), **CALL | {"niter": 200_000})
    assert kept(folder) == before


# Before anything is started.


@pytest.fixture
def no_workers(monkeypatch):
    """Fail if a cluster is started."""

    def refuse(*args):
        raise AssertionError("workers were started")

    monkeypatch.setattr(run, "cluster_for_run", refuse)


def test_a_run_that_will_not_fit_is_refused(no_workers, mounted, line_ms):
    folder = mounted("3m")
    call = {"vis": line_ms, "imagename": str(folder / "line"), **CALL}
    made = plan(**call)
    assert made.space > made.free_space
    assert made.free_space == 3 * 2**20
    with pytest.raises(DiskError) as caught:
        ptclean(**call)
    text = str(caught.value)
    assert f"imagename='{folder}/line'" in text
    assert f"about {made.space / 2**30:.3g} GiB" in text
    assert f"{made.free_space / 2**30:.3g} GiB are free" in text
    assert "ptclean.check-space" in text
    assert kept(folder) == {}
    assert list(folder.iterdir()) == []


def test_a_disk_that_is_read_only(no_workers, mounted, line_ms):
    folder = mounted("64m")
    (folder / "line.notes").write_text("kept")
    remount(folder, "ro")
    with pytest.raises(DiskError, match=r"imagename=.*is mounted for reading alone"):
        ptclean(vis=line_ms, imagename=str(folder / "line"), **CALL)
    assert [p.name for p in folder.iterdir()] == ["line.notes"]


def test_the_plan_says_what_it_takes(line_ms, tmp_path):
    made = plan(vis=line_ms, imagename=str(tmp_path / "line"), **CALL)
    (row,) = (line for line in str(made).splitlines() if line.startswith("space "))
    assert row.split()[1:3] == [f"{made.space / 2**30:.3g}", "GiB"]
    assert made.as_dict()["space"] == made.space


# The estimate.


def test_the_estimate_is_an_upper_bound_and_not_far_off(reference, line_ms, tmp_path):
    _, taken = reference
    made = plan(vis=line_ms, imagename=str(tmp_path / "line"), **CALL)
    assert taken <= made.space <= 2 * taken


@pytest.mark.parametrize(
    ("arguments", "least"),
    [
        # No mask is found, and so no channel is gridded with a model.
        ({"usemask": "auto-multithresh"}, 0.5),
        ({"niter": 0}, 0.6),
        ({"mask": "circle[[40pix,40pix],30pix]"}, 0.6),
        ({"specmode": "mfs"}, 0.6),
    ],
)
def test_the_estimate_of_other_calls(cluster, line_ms, tmp_path, monkeypatch, arguments, least):
    call = {"vis": line_ms, "imagename": str(tmp_path / "line"), **CALL, "imsize": 192}
    call |= {"niter": 50, **arguments}
    taken = note_work(monkeypatch, disk.used_bytes)
    made = plan(**call)
    assert made.serial is None
    ptclean(**call)
    assert least * made.space <= max(taken) <= made.space


def test_what_cycles_alone_need_makes_room_for_the_cube(cluster, line_ms, tmp_path, monkeypatch):
    call = {"vis": line_ms, "imagename": str(tmp_path / "line"), **CALL, "imsize": 192}
    call |= {"weighting": "uniform", "perchanweightdensity": False}
    found = note_work(monkeypatch, names)
    ptclean(**call)
    after_cycles, at_the_end = found
    assert {"window.psf", "window.residual", "core.psf"} <= set(after_cycles)
    left = {name for name in at_the_end if not name.startswith("core.")}
    assert {name for name in left if name.split(".")[0] in SPENT} == {"gridded.gridwt"}
    assert "core.psf" in at_the_end


def names(directory):
    """Names of the images in all folders of chunks."""
    found = Path(directory).glob("*/chunk-*/*.*")
    return [path.name for path in found if path.is_dir()]


@given(
    st.integers(1, 200),
    st.integers(1, 50),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_space_grows_with_what_is_made(nchan, longest, guard, cleans, restores, automasks):
    size = ImageSize(100, 100)
    chunks = cut(nchan, longest, Guards(guard))
    outputs = Outputs(cleans, restores, corrects=False, automasks=cleans and automasks)
    space = cube_volume(size, chunks, outputs).space
    # Each product is there twice, in chunks and in one piece.
    assert space > 2 * outputs.products(size) * nchan * 100 * 100 * 4
    if restores:
        assert cube_volume(size, chunks, replace(outputs, corrects=True)).space > space
    assert cube_volume(ImageSize(100, 100, 2), chunks, outputs).space > space
    assert cube_volume(size, chunks, outputs, weight_bytes_a_channel=10).space > space
    assert cube_volume(ImageSize(100, 100, gridder="mosaic"), chunks, outputs).space > space


@given(st.integers(1, 200), st.integers(1, 50), st.booleans(), st.booleans())
def test_cycles_write_less_than_the_first_pass(nchan, longest, automasks, in_windows):
    size, chunks = ImageSize(100, 100), cut(nchan, longest, Guards(2))
    outputs = Outputs(True, restores=True, corrects=False, automasks=automasks)
    volume = cube_volume(size, chunks, outputs, in_windows=in_windows)
    # A residual and a model, in minor and major cycle.
    assert 4 * nchan * 100 * 100 * 4 <= volume.written_a_cycle < volume.written
    assert cube_volume(size, chunks, replace(outputs, cleans=False)).written_a_cycle == 0


def test_space_of_continuum_images_grows_with_parts_and_terms():
    size, outputs = ImageSize(100, 100), Outputs(True, True, corrects=True)
    few = continuum_space(size, 4, 1, outputs)
    assert continuum_space(size, 8, 1, outputs) > few
    assert continuum_space(size, 4, 2, outputs) > few


# What a file system says.


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "reading alone"),
        (errno.ENOTDIR, "cannot be written to"),
    ],
)
def test_reasons(tmp_path, monkeypatch, number, said):
    def refuse(fd):
        raise OSError(number, os.strerror(number))

    assert disk.why_not_writable(str(tmp_path / "not" / "there")) is None
    monkeypatch.setattr(os, "fsync", refuse)
    reason = disk.why_not_writable(str(tmp_path / "not" / "there"))
    assert said in reason
    assert f"file system of {tmp_path} " in reason


def test_a_step_is_not_begun_on_a_full_disk(mounted):
    folder = mounted("1m")
    disk.require_room(str(folder))
    (folder / "full").write_bytes(bytes(2**20 - disk.LEAST + 4096))
    with pytest.raises(OSError, match="is full") as caught:
        disk.require_room(str(folder))
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "said", ["table.f0: No space left on device", "[Errno 28] the disk is full"]
)
def test_a_disk_that_has_room_again_was_full(tmp_path, said):
    with pytest.raises(DiskError, match=f"(?s)file system of {tmp_path} is full.*because of it: "):
        with disk.failures_explained(str(tmp_path)):
            raise ImageInUseError(str(tmp_path), said)


@pytest.mark.parametrize(
    "said",
    [
        "(LockFile.cc : 375) Failed AlwaysAssert tracePWRITE(fd, (Char *)buffer, leng, 0)",
        "FiledesIO::write - write error in window.model/table.f0_TSM0: No such file or directory",
    ],
)
def test_a_write_that_fell_short(tmp_path, said):
    with pytest.raises(
        DiskError, match=r"(?s)took less than CASA wrote.*your quota.*because of it: "
    ):
        with disk.failures_explained(str(tmp_path)):
            raise ImageInUseError(str(tmp_path), said)


def test_a_full_disk_is_why_workers_died(mounted):
    """Dask's exceptions are of no common kind."""
    folder = mounted("64k")
    with pytest.raises(DiskError, match="is full"), disk.failures_explained(str(folder)):
        raise NoValidWorkerError("assemble", set(), set(), {}, 10.0)


def test_other_failures_are_left_alone(tmp_path):
    error = ImageInUseError(str(tmp_path), "ada")
    with pytest.raises(ImageInUseError), disk.failures_explained(str(tmp_path)):
        raise error


# Data that change.


def test_data_that_change_during_a_run(cluster, line_ms, reference, tmp_path, monkeypatch):
    vis = tmp_path / "line.ms"
    shutil.copytree(line_ms, vis)
    expected, _ = reference
    for image in expected.parent.glob("line.*"):
        shutil.copytree(image, tmp_path / image.name.replace("line", "image"))
    images = [p for p in tmp_path.iterdir() if p.name.startswith("image.")]
    assert images
    before = {image: kept(image) for image in images}
    post = logs.post

    def flag_during_the_run(text, *args):
        post(text, *args)
        if text.startswith("Phase PSF"):
            tb = table()
            tb.open(str(vis), nomodify=False)
            tb.putcell("FLAG", 0, ~tb.getcell("FLAG", 0))
            tb.close()

    monkeypatch.setattr(logs, "post", flag_during_the_run)
    with pytest.raises(DataChangedError, match=rf"vis: .*{vis}/table.*(?s:.*)call again"):
        ptclean(vis=str(vis), imagename=str(tmp_path / "image"), **CALL)
    assert {image: kept(image) for image in images} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["line.ms", *(image.name for image in images)]
    )


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("table.f1", True),
        ("FIELD/table.f0", True),
        ("new", True),
        ("table.lock", False),
        ("FIELD/table.lock", False),
        ("HISTORY/table.f0", False),
    ],
)
def test_files_that_count(tmp_path, path, counts):
    vis = tmp_path / "a.ms"
    for folder in ("", "FIELD", "HISTORY"):
        (vis / folder).mkdir(parents=True, exist_ok=True)
        for name in ("table.dat", "table.f0", "table.f1", "table.lock"):
            (vis / folder / name).write_text("before")
    before = fingerprint([str(vis)])
    (vis / path).write_text("after")
    os.utime(vis / path, ns=(1, 1))
    changed = differences(before, fingerprint([str(vis)]))
    assert changed == ([str(vis / path)] if counts else [])


def test_data_that_change_are_why_a_run_failed(tmp_path):
    (tmp_path / "table.dat").write_text("before")

    def fail():
        with unchanged_data([str(tmp_path)]):
            (tmp_path / "table.dat").write_text("after that")
            raise OSError("cannot be read")

    with pytest.raises(DataChangedError, match=r"table\.dat") as caught:
        fail()
    assert isinstance(caught.value.__cause__, OSError)
