# SPDX-License-Identifier: GPL-3.0-or-later
"""What the steps of a run's chunks returned, on disk, so that another driver can go on from there.

The driver does the same whenever steps return the same. So it is enough to keep, of each step that
is complete, what it returned: a driver that comes later goes through the run again, takes from the
journal what is there, and has only the rest made. CASA's iteration control, whose state cannot be
read, gets all records again, in the same order.

One line of JSON for each step, on disk before the next step of its chunk begins: a chunk is at most
one step ahead. A line that the end of the driver has cut off counts as not written.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from ..steps import Step
from .durable import sync_directory, sync_file
from .encoding import decode, digest, encode

_NAME = "journal.jsonl"


class JournalError(RuntimeError):
    """The journal does not fit the run."""


class Journal:
    """Results of steps, and facts, of one run.

    Parameters
    ----------
    directory : str
        Work directory of the run.

    Raises
    ------
    JournalError
        If there is one that cannot be read.
    """

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, _NAME)
        self._facts: dict[str, Any] = {}
        self._results: dict[tuple[int, int], tuple[str, str, Any]] = {}
        self._passed: dict[int, int] = {}
        self._size = 0
        self._read()

    def _read(self) -> None:
        try:
            with open(self._path, "rb") as f:
                content = f.read()
        except FileNotFoundError:
            return
        for line in content.splitlines(keepends=True):
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if entry is None:
                if self._size + len(line) < len(content):
                    raise JournalError(f"{self._path} is damaged at byte {self._size}")
                return
            self._size += len(line)
            if "fact" in entry:
                self._facts[entry["fact"]] = decode(entry["value"])
            else:
                index, number, name, arguments = entry["step"]
                self._results[index, number] = (name, arguments, decode(entry["value"]))

    @property
    def steps(self) -> int:
        """Number of steps that are complete, of all chunks."""
        return len(self._results)

    @property
    def has_work(self) -> bool:
        """Whether there is anything to go on with."""
        return bool(self.steps) or self.knows("assembled")

    def steps_of(self, index: int) -> list[str]:
        """Names of the steps of one chunk that are complete."""
        names: list[str] = []
        while (index, len(names)) in self._results:
            names.append(self._results[index, len(names)][0])
        return names

    def place(self) -> str:
        """Say in a few words where the run would go on."""
        if self.knows("assembled"):
            return "putting the images under their names"
        all_names = [self.steps_of(index) for index in {index for index, _ in self._results}]
        alone = sum("clean" in each for each in all_names)
        if alone:
            return f"the chunks that are left, with {alone} done"
        # Not those of the parts of a continuum image, which are gridded alone.
        names = [each for each in all_names if "begin" in each]
        of_parts = len(names) < len(all_names)
        finished = sum("finish" in each for each in names)
        if finished:
            return "its end" if of_parts else f"restoring, with {finished} chunks done"
        cycles = min((each.count("minor") for each in names), default=0)
        if cycles or any("minor" in each for each in names):
            return f"cycle {cycles + 1}"
        if of_parts:
            return "the first residual" if names else "its beginning"
        return f"the first residual, with {len(names)} chunks done"

    def knows(self, fact: str) -> bool:
        """Tell whether a fact has been kept."""
        return fact in self._facts

    def fact(self, fact: str) -> Any:
        """Return a fact that is known."""
        return self._facts[fact]

    def put(self, fact: str, value: Any) -> None:
        """Keep a fact."""
        self._append({"fact": fact, "value": encode(value)})
        self.sync()
        self._facts[fact] = value

    def remember(self, fact: str, find: Callable[[], Any]) -> Any:
        """Return a fact, which is found and kept if it is not known yet."""
        if not self.knows(fact):
            self.put(fact, find())
        return self.fact(fact)

    def put_end(self, summary: Any, made: dict[str, str], models: Any = None) -> None:
        """Keep what a run has come to.

        Parameters
        ----------
        summary : object
            Of the iteration control.
        made : dict of str
            The image of each product, in the work directory.
        models : object, optional
            What is left to be done for ``savemodel``.
        """
        self.put("summary", summary)
        self.put("models to save", models)
        # The last: it says that the others are there.
        self.put("assembled", made)

    def end(self) -> tuple[Any, dict[str, str], Any] | None:
        """Return what `put_end` has kept; None if the run has not come to its end."""
        if not self.knows("assembled"):
            return None
        return self.fact("summary"), self.fact("assembled"), self._facts.get("models to save")

    def clear(self) -> None:
        """Forget everything, for a run that is begun anew."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._path)
        self._facts, self._results, self._passed, self._size = {}, {}, {}, 0

    def rewind(self) -> None:
        """Pass on by no step yet, for a driver that goes through the run again."""
        self._passed = {}

    def take(self, steps: Sequence[Step]) -> dict[int, Any]:
        """Return what those of some steps returned that are complete, and pass on by them.

        Parameters
        ----------
        steps : sequence of Step
            The next one of each of some chunks.

        Returns
        -------
        dict
            By the chunk's index.

        Raises
        ------
        JournalError
            If another step, or one with other arguments, was made in the place of one of them.
        """
        found = {}
        for step in steps:
            index = step.job.index
            number = self._passed.get(index, 0)
            if (index, number) not in self._results:
                continue
            name, arguments, value = self._results[index, number]
            if (name, arguments) != (step.name, digest(step.arguments)):
                raise JournalError(
                    f"{self._path}: step {number} of chunk {index} was {name!r}, and is now "
                    f"{step.name!r}, or it had other arguments"
                )
            self._passed[index] = number + 1
            found[index] = value
        return found

    def add(self, step: Step, value: Any) -> None:
        """Keep what a step returned that is complete, and pass on by it.

        It is on disk after the next `sync`, which steps that end together share.
        """
        index = step.job.index
        number = self._passed.get(index, 0)
        arguments = digest(step.arguments)
        self._append({"step": [index, number, step.name, arguments], "value": encode(value)})
        self._results[index, number] = (step.name, arguments, value)
        self._passed[index] = number + 1

    def _append(self, entry: Any) -> None:
        line = json.dumps(entry).encode() + b"\n"
        is_new = not os.path.exists(self._path)
        with open(self._path, "ab") as f:
            # A line that was cut off by the end of the former driver.
            f.truncate(self._size)
            f.write(line)
        self._size += len(line)
        if is_new:
            sync_directory(os.path.dirname(self._path))

    def sync(self) -> None:
        """Have on disk what has been kept so far."""
        sync_file(self._path)
