# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep at most so many pieces in flight on the workers, each at home where its tools are.

The only module that submits tasks. A piece is a chunk of a cube's channels
(:mod:`ptclean.imaging.chunk_imager`), or a part of a continuum image's rows
(:mod:`ptclean.imaging.part_imager`); this module speaks of chunks. A chunk's CASA tools live in the
worker that took its first step, and hold locks on its images, so its further steps go there. When a
worker dies, Dask runs its task again elsewhere, and so is each further step of its chunks; the
tools are then rebuilt from disk as they were after the chunk's last complete step
(:mod:`ptclean.imaging.at_work`). Where workers die of it time and again, for want of
memory as far as is known, fewer pieces are in flight from then on, before the run is given up.

Tasks that end while others are dealt with are taken together, their results fetched at once and the
next ones submitted in one graph: what Dask takes for each message does not grow with what is in it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol
from uuid import uuid4

import dask
from dask.utils import parse_timedelta
from distributed import Client, Future, KilledWorker, as_completed, fire_and_forget
from distributed.scheduler import NoValidWorkerError, NoWorkerError

from .. import logs
from ..config import setting
from ..errors import ChunkError, TaskError
from ..reporting.events import Listener, Task, task_of
from ..steps import Job, Outcome, Step
from .borrowed import addresses_of
from .cluster import autopsy
from .deaths import Death
from .losses import Losses
from .waiting import Waiting
from .worker import run

#: Seconds, for each worker, for which their list is good: to get it, with names, takes a twentieth.
_LIST_IS_GOOD = 1e-3

#: Chooses among workers, addresses by name, those that may be used.
Admit = Callable[[dict[str, str]], dict[str, str]]

#: What Dask says of a task that has found no worker in time.
_NO_WORKER = (NoValidWorkerError, NoWorkerError)


def _nothing(*_: Any) -> None:
    """Stand in for the steps of a splitter that has none."""


class Journal(Protocol):
    """Keeps what steps returned (:class:`ptclean.keeping.journal.Journal`)."""

    def add(self, step: Step, value: Any) -> None:
        """Keep what a step returned."""

    def sync(self) -> None:
        """Have on disk what was added."""


class CubeSplitter:
    """Runs steps of chunks on the workers of a Dask client.

    Parameters
    ----------
    client : distributed.Client
    nworkers : int
        Most tasks in flight.
    listener : Listener
        Told, in the caller's thread, of each task that completes, and of workers that are lost.
    journal : Journal, optional
        Keeps what each step returned, before anybody is told of it.
    step, forget : callable
        What workers execute; as :func:`ptclean.imaging.chunk_imager.step` and
        :func:`ptclean.imaging.at_work.forget`. They are not needed for `map` alone.
    limits : mapping of str, optional
        Most tasks in flight of the steps of some names, where memory does not hold as many as there
        are workers; the fewest of them also where chunks are taken up whose worker is gone.
    needs_less : str
        What to try when workers run out of memory.
    admit : callable, optional
        Chooses among workers, addresses by name, those that may be used
        (:meth:`ptclean.workers.admission.Admission.admit`). None: all.
    """

    def __init__(
        self,
        client: Client,
        nworkers: int,
        listener: Listener,
        *,
        journal: Journal | None = None,
        step: Callable[..., Any] = _nothing,
        forget: Callable[..., Any] = _nothing,
        limits: Mapping[str, int] | None = None,
        needs_less: str = "use fewer workers (nworkers), or begin anew with smaller chunks "
        "(chanchunks)",
        admit: Admit | None = None,
    ) -> None:
        self._client = client
        self._admit = admit
        self._nworkers = nworkers
        self._at_once = nworkers
        self._limits = dict(limits or {})
        #: Most tasks in flight of what is being run.
        self._limit = nworkers
        self._listener = listener
        self._journal = journal
        self._losses = Losses(client)
        self._rounds: dict[str, int] = {}
        self._step = step
        self._forget = forget
        self._needs_less = needs_less
        self._home: dict[int, str] = {}
        self._steps_done: dict[int, int] = {}
        #: Addresses of all workers that there are, used or not.
        self._known: dict[str, str] = {}
        #: Workers in use, an ordered set; those of them that have no task; addresses of all.
        self._slots: dict[str, None] = {}
        self._idle: dict[str, None] = {}
        self._alive: dict[str, str] = {}
        self._slots_renewed = 0.0
        self._stranded_since: float | None = None
        self._strandings: dict[Any, int] = {}
        self._death: Death | None = None
        #: Tasks that could run at once, when each was submitted.
        self._company: dict[Any, int] = {}

    def run(self, steps: Iterable[Step]) -> dict[int, Any]:
        """Run steps of different chunks, and wait for all of them.

        Parameters
        ----------
        steps : iterable of Step

        Returns
        -------
        dict
            What each step returned, by the chunk's index.

        Raises
        ------
        ChunkError
            If a step failed, or its workers died time and again; the steps in flight are cancelled.
        """
        steps = list(steps)
        for name in {step.name for step in steps}:
            self._rounds[name] = self._rounds.get(name, 0) + 1
        results: dict[int, Any] = {}
        running: dict[Future, tuple[Step, str]] = {}
        completed = as_completed(loop=self._client.loop)
        self._renew_slots()
        self._limit = self._limit_of(steps)
        self._idle = dict.fromkeys(self._slots)
        waiting: Waiting[Step] = Waiting(self._slots)
        # Neighbours have different homes: a line is in neighbours, whose major cycles take longest.
        names = list(self._slots)
        for number, step in enumerate(steps):
            meant_for = names[number % len(names)] if names else None
            waiting.put(step, step.job.cost, self._home.get(step.job.index), meant_for)
        try:
            self._fill(waiting, running, completed)
            for batch in completed.batches():
                fetched = self._fetch(batch)
                complete: dict[Step, Outcome] = {}
                failed: dict[Future, Step] = {}
                freed = []
                for future in batch:
                    step, worker = running.pop(future)
                    freed.append(worker)
                    if worker in self._slots:
                        self._idle[worker] = None
                    if self._is_stranded(future, step) or self._is_worth_another_try(future):
                        self._slots_renewed = 0.0
                        waiting.put(step, step.job.cost, self._home.get(step.job.index))
                    elif future in fetched:
                        complete[step] = fetched[future]
                        self._company.pop(future.key, None)
                        future.release()
                    else:
                        failed[future] = step
                self._take(complete)
                results |= {step.job.index: each.value for step, each in complete.items()}
                # What was complete has been kept.
                for future, step in failed.items():
                    self._raise_failure(future, step)
                self._fill(waiting, running, completed, freed)
        except BaseException:
            self._client.cancel(list(running), force=True)
            raise
        self._tell_losses()
        self._losses.settle()
        return results

    def _fetch(self, batch: Sequence[Future]) -> dict[Future, Outcome]:
        """Fetch what tasks returned that have ended, of those that did not fail."""
        left = list(batch)
        while left := [future for future in left if future.status not in ("error", "cancelled")]:
            # Of one that was lost with its worker since, and fails when Dask runs it again.
            with contextlib.suppress(TaskError, KilledWorker, *_NO_WORKER):
                return dict(zip(left, self._client.gather(left), strict=True))
        return {}

    def _take(self, complete: Mapping[Step, Outcome]) -> None:
        """Keep and tell what steps returned that are complete."""
        for step, outcome in complete.items():
            self.skip(step)
            self._home[step.job.index] = outcome.worker
            if self._journal:
                self._journal.add(step, outcome.value)
        if self._journal and complete:
            self._journal.sync()
        for step, outcome in complete.items():
            self._listener.task_done(task_of(step), outcome)

    @property
    def _most(self) -> int:
        """Most tasks in flight: of what is being run, and after workers have died for memory."""
        return min(self._limit, self._at_once)

    def _limit_of(self, steps: Sequence[Step]) -> int:
        limit = min((self._limits.get(step.name, self._nworkers) for step in steps), default=1)
        indices = [step.job.index for step in steps]
        if any(self._steps_done.get(i) and self._home.get(i) not in self._slots for i in indices):
            limit = self._limit_of_strays(limit)
        return limit

    def _limit_of_strays(self, limit: int) -> int:
        """Most tasks in flight where workers take up chunks that others have begun."""
        return min([limit, *self._limits.values()])

    def skip(self, step: Step) -> None:
        """Count a step as complete, such as one that a former driver has had made."""
        index = step.job.index
        self._steps_done[index] = self._steps_done.get(index, 0) + 1

    def map(
        self,
        function: Callable[[Any], Any],
        arguments: Iterable[Any],
        tasks: Sequence[Task] | None = None,
    ) -> list[Outcome]:
        """Call a function with each argument, on the workers in use, and wait.

        Parameters
        ----------
        function : callable
        arguments : iterable
            Largest tasks first.
        tasks : sequence of Task, optional
            What the listener is told that each of them is; by default the function's name.

        Returns
        -------
        list of Outcome
            In the order in which the calls ended.

        Raises
        ------
        TaskError
            If a call failed; the others are cancelled.
        """
        arguments = list(arguments)
        if tasks is None:
            tasks = [Task(function.__name__, index, 1) for index in range(len(arguments))]
        running: dict[Future, tuple[Any, Task]] = {}
        completed = as_completed(loop=self._client.loop)
        outcomes: list[Outcome] = []

        def submit(argument: Any, task: Task) -> None:
            alive = self._workers()
            addresses = [alive[name] for name in self._slots if name in alive] or None
            future = self._client.submit(
                run,
                function,
                argument,
                key=self._losses.watch(f"{task.step}-{task.index:02d}-{uuid4().hex[:12]}"),
                workers=addresses,
                allow_other_workers=addresses is not None,
                pure=False,
            )
            running[future] = (argument, task)
            completed.add(future)

        try:
            for argument, task in zip(arguments, tasks, strict=True):
                submit(argument, task)
            for future in completed:
                argument, task = running.pop(future)
                if self._is_stranded(future, function) or self._is_worth_another_try(future):
                    submit(argument, task)
                else:
                    outcomes.append(future.result())
                    self._listener.task_done(task, outcomes[-1])
        except BaseException:
            self._client.cancel(list(running), force=True)
            raise
        self._tell_losses()
        self._losses.settle()
        return outcomes

    def forget(self, job: Job, *, wait: bool) -> None:
        """Let workers close what they hold of a run, each after the task that it is at.

        Parameters
        ----------
        job : Job
            Any of the run.
        wait : bool
            Whether to wait for it; a run that failed does not.
        """
        futures = [
            self._client.submit(
                self._forget, job.run, workers=[address], pure=False, key=f"close-{uuid4()}"
            )
            for name, address in self._workers().items()
            if name in self._home.values()
        ]
        if wait:
            self._client.gather(futures, errors="skip")
        else:
            fire_and_forget(futures)

    def _workers(self) -> dict[str, str]:
        """Addresses, by name, of the workers that may be used."""
        self._known = addresses_of(self._client, self._known)
        return self._admit(self._known) if self._admit else self._known

    def _renew_slots(self) -> None:
        """Look which workers there are.

        Of a thousand not at each task: their list takes the scheduler longer than the task. What is
        sent to a worker that has gone meanwhile, Dask sends elsewhere, if there is another.
        """
        self._alive = self._workers()
        if self._losses.see(self._alive):
            self._limit = self._limit_of_strays(self._limit)
            self._tell_losses()
        self._slots_renewed = time.monotonic()
        # Workers are kept, since chunks are at home there; those that died are replaced.
        kept = [name for name in self._slots if name in self._alive]
        joined = [name for name in self._alive if name not in self._slots]
        self._slots = dict.fromkeys([*kept, *joined][: self._nworkers])

    def _fill(
        self,
        waiting: Waiting[Step],
        running: dict[Future, tuple[Step, str]],
        completed: as_completed,
        freed: Sequence[str] = (),
    ) -> None:
        """Give each worker that is free a step, as long as there are steps for it.

        Parameters
        ----------
        freed : sequence of str, optional
            Workers that have just become free; all the others that are have found nothing.
        """
        if not waiting:
            return
        others_may_take = waiting.for_all or self._most < self._nworkers or not freed
        candidates = list(self._idle) if others_may_take else freed
        age = time.monotonic() - self._slots_renewed
        if not running or age > _LIST_IS_GOOD * len(self._alive):
            self._renew_slots()
            waiting.homes(self._slots)
            busy = {name for _, name in running.values()}
            # Those that have waited longest come first, so that all get chunks.
            idle = dict.fromkeys([*self._idle, *self._slots])
            self._idle = {n: None for n in idle if n in self._slots and n not in busy}
            candidates = list(self._idle)
        chosen: dict[str, Step] = {}
        for worker in candidates:
            if worker in self._idle and len(running) + len(chosen) < self._most:
                step = waiting.take(worker)
                if step is not None:
                    del self._idle[worker]
                    chosen[worker] = step
        if not running and not chosen:
            # All workers are gone for the moment: Dask waits for one.
            chosen[""] = waiting.take_any()
        for future, worker in zip(self._submit(chosen), chosen, strict=True):
            running[future] = (chosen[worker], worker)
            completed.add(future)

    def _submit(self, chosen: Mapping[str, Step]) -> list[Future]:
        """Submit the steps of some workers, in one graph."""
        if not chosen:
            return []
        steps = list(chosen.values())
        keys = []
        places = {}
        for worker, step in chosen.items():
            address = self._alive.get(worker)
            keys.append(self._losses.watch(self._key(step), address))
            self._company[keys[-1]] = self._most
            if address is not None:
                places[keys[-1]] = [address]
        # Dask goes elsewhere only if that worker is gone.
        where = {"workers": places.__getitem__, "allow_other_workers": True} if places else {}
        with dask.annotate(**where):
            futures: list[Future] = self._client.map(
                run,
                [self._step] * len(steps),
                [step.job for step in steps],
                [self._steps_done.get(step.job.index, 0) for step in steps],
                [step.name for step in steps],
                [step.arguments for step in steps],
                key=keys,
                pure=False,
            )
        return futures

    def _key(self, step: Step) -> str:
        """Name a task for Dask's dashboard, which sums up what begins with the same word."""
        return f"{step.name}-{self._rounds[step.name]}-{step.job.label}-{uuid4().hex[:12]}"

    def _tell_losses(self) -> None:
        for loss in self._losses.new():
            self._listener.worker_lost(loss)

    def _is_stranded(self, future: Future, task: Any) -> bool:
        """Tell whether a task found no worker, and is to be submitted again.

        Dask's scheduler lets a task that prefers a worker go elsewhere when that worker is gone,
        but not when all workers were gone at once and others came after
        (``Scheduler.bulk_schedule_unrunnable_after_adding_worker``). It gives the task up after
        ``distributed.scheduler.no-workers-timeout``. As long as there is no worker at all, it is
        submitted for as long as workers may take to start; once they are there, as often as tasks
        of dead workers are: it may be what they die of.
        """
        if future.status != "error" or not isinstance(future.exception(), _NO_WORKER):
            self._stranded_since = None
            return False
        now = time.monotonic()
        self._stranded_since = self._stranded_since or now
        if now - self._stranded_since > parse_timedelta(setting("start-timeout")):
            return False
        if not self._workers():
            return True
        self._strandings[task] = self._strandings.get(task, 0) + 1
        # Workers may just have been slow to come.
        return self._strandings[task] <= max(1, setting("allowed-failures"))

    def _is_worth_another_try(self, future: Future) -> bool:
        """Tell whether a task of which workers died is to be submitted again, with fewer others.

        Dask gives it up when as many workers have died of it as `allowed-failures` says, and one
        more.
        """
        error = future.exception() if future.status == "error" else None
        if not isinstance(error, KilledWorker):
            return False
        self._death = autopsy(error.last_worker)
        company = self._company.pop(future.key, self._at_once)
        if self._death.of_memory is False or company == 1:
            return False
        if company > self._at_once:
            # It ran beside another one that has died meanwhile.
            return True
        self._at_once = company // 2
        logs.post(
            f"{error.allowed_failures + 1} workers died of one task, last {self._death}. Memory is "
            f"short, as it seems: from now on no more than {self._at_once} tasks run at once",
            "WARN",
        )
        return True

    def _raise_failure(self, future: Future, step: Step) -> None:
        try:
            future.result()
        except TaskError as error:
            raise ChunkError(
                str(step.job), step.name, str(error), "see that log for what CASA said before"
            ) from error
        except KilledWorker as error:
            death = self._death or Death(str(error.last_worker.name))
            if death.of_memory is False:
                why, advice = "memory was not short", "see its log, and what it printed, beside"
            else:
                why, advice = "memory was short, as it seems", self._needs_less
                if death.limit:
                    advice += ", or give each worker more (memory_limit)"
            raise ChunkError(
                str(step.job),
                step.name,
                f"{error.allowed_failures + 1} workers died of it, last {death}; {why}",
                advice,
            ) from error
        except _NO_WORKER as error:
            raise ChunkError(
                str(step.job),
                step.name,
                f"all workers died, time and again, or none was there: {error}",
                f"see the workers' own output for why they ended; if memory was short, "
                f"{self._needs_less}",
            ) from error
