# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run keeps on disk for a later driver: encoding, journal, fingerprints, chunks' models."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ptclean.errors import ChunkError, TaskError
from ptclean.imaging.history import Entry, History
from ptclean.keeping.durable import sync_tree, write_bytes, write_json
from ptclean.keeping.encoding import decode, digest, encode
from ptclean.keeping.fingerprint import digests
from ptclean.keeping.journal import Journal, JournalError
from ptclean.keeping.resumption import TakingOver, keeps, remove_former, take_over
from ptclean.planning.chunks import Chunk
from ptclean.steps import Step

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ARRAYS = hnp.arrays(
    st.sampled_from(["<f8", "<f4", "<c16", "<c8", "<i4", "<i8", "?", "<U3"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
VALUES = st.recursive(
    PLAIN | ARRAYS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray | np.generic):
        return (
            type(one) is type(other)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and one.tobytes() == np.asarray(other).tobytes()
        )
    if isinstance(one, dict):
        return (
            type(other) is dict
            and list(one) == list(other)
            and all(same(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return np.float64(one).tobytes() == np.float64(other).tobytes() or (one != one != other)
    return type(one) is type(other) and one == other


@given(VALUES)
def test_values_come_back_to_the_last_bit(value: Any) -> None:
    back = decode(json.loads(json.dumps(encode(value))))
    assert same(value, back)
    assert digest(value) == digest(back)


@pytest.mark.parametrize("value", [Chunk(1, 2, 3, 1, 4), {"!": 1}, np.float32(0.1), np.str_("a")])
def test_other_values_come_back(value: Any) -> None:
    assert decode(json.loads(json.dumps(encode(value)))) == value


@dataclass(frozen=True)
class NotOurs:
    number: int


@pytest.mark.parametrize("value", [NotOurs(1), {1, 2}, object(), np.array([None])])
def test_other_things_are_not_kept(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be kept"):
        encode(value)


@pytest.mark.parametrize(
    "value",
    [
        {"!": "os:system", "fields": {"command": "true"}},
        {"!": "ptclean.run:run", "fields": {}},
        {"!": "ptclean.keeping.workdir:os", "fields": {}},
        {"!": "ptclean.planning.chunks:Chunk", "fields": {"nothing": 1}},
        {"!": "ptclean.nowhere:Chunk", "fields": {}},
        {"!": "array", "dtype": "O", "shape": [1], "scalar": False, "items": 3},
    ],
)
def test_reading_runs_nothing(value: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot be read|is not of|is no plain"):
        decode(value)


def step(index: int, name: str = "minor", **arguments: Any) -> Step:
    return Step(Chunk(index, index, index + 1, index, index + 1), name, arguments)  # type: ignore[arg-type]


def kept_journal(folder: Path) -> Journal:
    journal = Journal(str(folder))
    assert journal.take([step(0, "begin"), step(1, "begin")]) == {}
    journal.add(step(1, "begin"), [1.5])
    journal.add(step(0, "begin"), {"a": np.array([1, 2])})
    journal.put("begun", True)
    journal.add(step(1, control=0.1), 7)
    return journal


def test_results_come_back_in_order(tmp_path: Path) -> None:
    kept_journal(tmp_path)
    journal = Journal(str(tmp_path))
    assert journal.steps == 3
    assert journal.steps_of(1) == ["begin", "minor"]
    assert journal.knows("begun")
    begun = journal.take([step(0, "begin"), step(1, "begin")])
    assert begun[1] == [1.5]
    assert begun[0]["a"].tolist() == [1, 2]
    assert journal.place() == "cycle 1"
    assert journal.take([step(0, control=0.1), step(1, control=0.1)]) == {1: 7}
    journal.add(step(0, control=0.1), 8)
    assert Journal(str(tmp_path)).place() == "cycle 2"


@pytest.mark.parametrize("other", [step(1, control=0.2), step(1, "major", control=0.1)])
def test_another_step_than_the_one_that_was_made_is_refused(other: Step, tmp_path: Path) -> None:
    kept_journal(tmp_path)
    journal = Journal(str(tmp_path))
    journal.take([step(1, "begin")])
    with pytest.raises(JournalError, match="step 1 of chunk 1 was 'minor'"):
        journal.take([other])


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_line_that_was_cut_off_was_not_written(cut: int, tmp_path: Path) -> None:
    kept_journal(tmp_path)
    path = tmp_path / "journal.jsonl"
    os.truncate(path, path.stat().st_size - cut)
    journal = Journal(str(tmp_path))
    assert journal.steps == 2
    journal.take([step(0, "begin"), step(1, "begin")])
    journal.add(step(1, control=0.1), 9)
    again = Journal(str(tmp_path))
    again.take([step(1, "begin")])
    assert again.take([step(1, control=0.1)]) == {1: 9}


def test_a_damaged_line_is_told(tmp_path: Path) -> None:
    kept_journal(tmp_path)
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"\0" * 10 + b"\n", *lines[2:]]))
    with pytest.raises(JournalError, match="damaged at byte"):
        Journal(str(tmp_path))


def test_digests(tmp_path: Path) -> None:
    ms = tmp_path / "line.ms"
    for name in ("table.dat", "table.lock", "FIELD/table.dat", "HISTORY/table.dat"):
        (ms / name).parent.mkdir(parents=True, exist_ok=True)
        (ms / name).write_text(name)
    region = tmp_path / "region.crtf"
    region.write_text("circle")
    paths = [str(ms), str(region), str(tmp_path / "none")]
    before = digests(paths)
    assert [bool(each) for each in before.values()] == [True, True, False]
    # Tables are locked, and get a history, without a change of their data.
    (ms / "table.lock").write_text("locked")
    (ms / "HISTORY/table.dat").write_text("another line")
    assert digests(paths) == before
    changes: list[Callable[[], Any]] = [
        lambda: os.utime(ms / "FIELD/table.dat", ns=(1, 1)),
        lambda: (ms / "table.f1").touch(),
        lambda: (ms / "FIELD/table.dat").unlink(),
        lambda: region.write_text("circle "),
    ]
    for change in changes:
        change()
        after = digests(paths)
        assert sum(before[path] != after[path] for path in paths) == 1
        before = after


def test_files_are_whole_or_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "beam.json"
    write_json(str(path), {"a": 1})
    with pytest.raises(TypeError):
        write_json(str(path), {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    write_bytes(str(path), b"2")
    assert path.read_text() == "2"
    assert [p.name for p in tmp_path.iterdir()] == ["beam.json"]
    sync_tree(str(tmp_path))


def test_history_holds_no_pickles(tmp_path: Path) -> None:
    history = History(str(tmp_path))
    model = [(np.array([3, 5]), np.array([0.5, 1e-300])), (np.array([], int), np.array([]))]
    arguments = {"controls": {"cyclethreshold": 0.1, "x": np.float32(0.3)}, "full": np.True_}
    history.add(2, Entry("major", arguments, model))
    (entry,) = history.before(3)
    assert entry.name == "major"
    assert entry.arguments == arguments
    assert entry.model is not None
    for (where, values), (one, other) in zip(entry.model, model, strict=True):
        assert where.tolist() == one.tolist()
        assert values.tobytes() == other.tobytes()
    (path,) = tmp_path.iterdir()
    with np.load(path, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind in "uif" for name in arrays)


def chunk_folder(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).mkdir(parents=True)
        (path / name / "table.f0").write_text(name)
    return path


def left(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def taken(former: Path, now: Path, **changes: Any) -> Path:
    now.parent.mkdir(exist_ok=True)
    arguments = {"steps": 3, "finished": False, "keeps_psf": False} | changes
    # Twice, since a worker may die of it.
    for _ in range(2):
        take_over(TakingOver(str(former), str(now), **arguments))
    return now


def test_what_nobody_writes_to_is_taken_over(tmp_path: Path) -> None:
    former = chunk_folder(
        tmp_path / "attempt-a" / "chunk-00000",
        *("core.model", "core.psf", "core.residual", "gridded.model", "history", "model-1"),
    )
    (former / "cycled").touch()
    now = tmp_path / "attempt-b" / "chunk-00000"
    assert left(taken(former, now)) == ["core.model", "cycled", "gridded.model", "history"]
    assert "core.psf" in left(taken(former, now, keeps_psf=True))


def test_a_model_that_a_minor_cycle_was_at_is_not_trusted(tmp_path: Path) -> None:
    former = chunk_folder(tmp_path / "attempt-a" / "chunk-00000", "core.model", "model-3")
    assert left(taken(former, tmp_path / "attempt-b" / "chunk-00000")) == ["model-3"]


def test_a_model_that_was_put_away_is_the_model(tmp_path: Path) -> None:
    former = chunk_folder(tmp_path / "attempt-a" / "chunk-00000", "core.model", "core.kept")
    now = taken(former, tmp_path / "attempt-b" / "chunk-00000")
    assert left(now) == ["core.model"]
    assert (now / "core.model" / "table.f0").read_text() == "core.kept"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_model_that_is_put_away_meanwhile_is_found(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = chunk_folder(tmp_path / "attempt-a" / "chunk-00000", "core.model", "history")
    copytree = shutil.copytree
    model = former / "core.model"

    def put_away(path: str, *args: Any, **kwargs: Any) -> None:
        """As the former worker does, before a copy begins or when it has ended."""
        is_first = Path(path) == model and model.exists()
        if is_first and when == "before":
            model.rename(former / "core.kept")
        copytree(path, *args, **kwargs)
        if is_first and when == "after":
            model.rename(former / "core.kept")

    monkeypatch.setattr(shutil, "copytree", put_away)
    now = taken(former, tmp_path / "attempt-b" / "chunk-00000")
    assert left(now) == ["core.model", "history"]
    assert left(former) == ["core.kept", "history"]


def test_finished_chunks_stay_where_they_are(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"attempt-{name}" for name in "abc")
    chunk_folder(first / "chunk-00000", "core.image")
    chunk_folder(first / "chunk-00001", "core.model", "core.psf")
    for former, now in ((first, second), (second, third)):
        taken(former / "chunk-00000", now / "chunk-00000", finished=True)
        taken(former / "chunk-00001", now / "chunk-00001")
        remove_former(str(tmp_path), now.name)
        assert (now / "chunk-00000" / "core.image" / "table.f0").read_text() == "core.image"
        assert left(now / "chunk-00001") == ["core.model"]
    assert left(first) == ["chunk-00000"]
    assert left(second) == []


def test_finished_chunks_are_copied_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "symlink", refuse)
    former, now = (tmp_path / f"attempt-{name}" / "chunk-00000" for name in "ab")
    chunk_folder(former, "core.image")
    # By a worker that died of it.
    chunk_folder(now, "core.psf")
    taken(former, now, finished=True)
    remove_former(str(tmp_path), now.parent.name)
    assert left(now) == ["core.image"]
    assert left(former.parent) == []


def failure(error: str) -> ChunkError:
    cause = TaskError("step", "RuntimeError", error, "worker-1", 17, "", [], "")
    failed = ChunkError("chunk 1 (channels 3~5)", "minor", str(cause), "see that log")
    failed.__cause__ = cause
    return failed


@pytest.mark.parametrize(
    ("error", "begun", "kept"),
    [
        (lambda: failure("Table::close: write error: No space left on device"), False, True),
        (lambda: failure("Data selection ended with 0 rows"), False, False),
        (lambda: failure("Data selection ended with 0 rows"), True, True),
        (KeyboardInterrupt, False, True),
        (lambda: SystemExit(143), False, True),
        (lambda: ChunkError("chunk 1", "begin", "3 workers died of it", "use fewer"), False, True),
        (lambda: OSError(28, "No space left on device"), False, True),
    ],
)
def test_what_is_kept_of_a_run_that_fails(
    error: Callable[[], BaseException], begun: bool, kept: bool, tmp_path: Path
) -> None:
    journal = Journal(str(tmp_path))
    caught = error()
    assert not keeps(caught, str(tmp_path)), "nothing has been done yet"
    journal.add(step(0, "begin"), None)
    if begun:
        journal.put("begun", True)
    assert keeps(caught, str(tmp_path)) is kept
    said = [*getattr(caught, "__notes__", []), str(caught)]
    assert any("the same call again goes on from the first residual" in s for s in said) is kept
    journal.put("installed", True)
    assert not keeps(error(), str(tmp_path))
