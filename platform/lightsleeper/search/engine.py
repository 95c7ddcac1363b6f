"""The local engine of sweeps: this process holds the study, its workers run the trials.

It alone talks to the database, so SQLite serves one process here, and a worker needs no password. Whatever dies, the
database has the claims and the run folders have the training: a trial whose worker is gone runs again from its last
epoch. When this process dies, its workers stop by themselves; `--resume` goes on.
"""

import json
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightsleeper.errors import EveryRunError, UserError
from lightsleeper.files import write_atomic
from lightsleeper.run_folder import RECORD
from lightsleeper.search import deferred
from lightsleeper.search.board import Board
from lightsleeper.search.claims import BEAT_S
from lightsleeper.search.space import arguments
from lightsleeper.search.study import Study, Taken
from lightsleeper.search.team import Event, Worker, environment
from lightsleeper.search.worker import LEAVE_S, find_trial
from lightsleeper.tracking.record import read, status_of, timestamp
from lightsleeper.tracking.runs import LOCK, locked

DEATHS = 3  # of workers over one trial, which has then failed
TICK_S = 0.1
LOOK_S = 1.0  # how often to look for a trial that another process has left
STOP_S = LEAVE_S + 10.0  # a worker that cannot stop ends itself before


@dataclass
class Options:
    """How this machine takes part in a sweep."""

    runs_dir: Path
    workers: int = 1
    count: int | None = None
    """At most so many trials that nobody has begun; None is all."""
    guest: bool = False
    """Leave when no trial is waiting; else stay until every one has ended, to take over those of machines that die."""
    devices: int = 0
    """GPUs to divide among the workers."""


@dataclass
class Engine:
    """Runs the trials of ``study``, then their benchmarks.

    ``run`` raises EveryRunError for what would stop every trial, KeyboardInterrupt after all were left resumable.
    """

    study: Study
    options: Options
    folder: Path
    """`runs/.sweeps/<id>`: logs of the workers."""
    board: Board
    _events: "queue.Queue[tuple[Worker, Event]]" = field(default_factory=queue.Queue)
    _team: list[Worker] = field(default_factory=list)
    _begun: int = 0
    _lost: int = 0
    """Workers in a row that ended before they were ready."""
    _beat: float = 0.0
    _look: float = 0.0
    _halt: EveryRunError | None = None
    _stopping: bool = False

    def run(self) -> None:
        """Every trial, then every benchmark."""
        if self.study.unfinished() or self.study.settings.cap is None:
            with self._workers(self.options.workers):
                self._trials()
        if not self.options.guest:
            self._benchmarks()

    # --- trials ---

    def _trials(self) -> None:
        while True:
            self._hear()
            self._bury()
            if self._halt is not None:
                raise self._halt
            self._keep_claims()
            idle = [worker for worker in self._team if worker.ready and worker.taken is None]
            for worker in idle:
                if not self._give(worker):
                    break
            busy = [worker for worker in self._team if worker.taken is not None]
            if not busy and idle and self._over():  # a worker that is still starting is not waited for
                return
            self.board.show(self.study, busy, self.options.workers)

    def _over(self) -> bool:
        """Whether there is nothing left for us, now that no worker of ours is busy."""
        if self._look == 0.0:  # something may have come free since we looked
            return False
        running = sum(row.state == "running" for row in self.study.rows())
        return running == 0 or self.options.guest

    def _give(self, worker: Worker) -> bool:
        """A trial for an idle worker; False when there is none now."""
        if time.monotonic() < self._look:
            return False
        fresh = self.options.count is None or self._begun < self.options.count
        taken = self.study.take(worker.pid, fresh)
        self._look = 0.0 if taken else time.monotonic() + LOOK_S
        if taken is None:
            return False
        if taken.deaths >= DEATHS:  # its third worker died together with the parent that should have noted so
            self._give_up(taken, f"its worker died {taken.deaths} times")
            return True
        self._begun += taken.claim.attempt == 1
        worker.taken, worker.began = taken, time.monotonic()
        worker.send(self._job(taken))
        self.board.began(worker.name, taken)
        return True

    def _job(self, taken: Taken) -> Event:
        file, study = self.study.settings.file, self.study
        entry = {
            "id": study.name,
            "name": file.name,
            "method": file.method,
            "metric": file.metric,
            "goal": file.goal,
            "trial": taken.number,
            "attempt": taken.claim.attempt,
            "parameters": taken.parameters,
        }
        tracking: dict[str, str] = {
            "group": study.name,
            **{key: file.text[key] for key in ("project", "entity") if key in file.text},
        }
        fixed = {word.lstrip("-").partition("=")[0] for word in file.overrides}
        own = [f"--tracking.{key}={json.dumps(value)}" for key, value in tracking.items()]
        return {
            "do": "trial",
            "entry": entry,
            "recipe": self.study.settings.recipe,
            "files": file.recipes,
            "overrides": [
                *file.overrides,
                *arguments(taken.parameters),
                *(word for word in own if word.lstrip("-").partition("=")[0] not in fixed),
            ],
            "runs_dir": str(self.options.runs_dir),
            "defer": [deferred.STAGE],
            "stopped": taken.stopped,
            "prune": file.early_terminate is not None,
            "objectives": list(study.settings.objectives) or [file.metric],
        }

    # --- what workers tell ---

    def _hear(self, wait_s: float = TICK_S) -> None:
        """Every event that has come in; waits a moment for the first."""
        with suppress(queue.Empty):
            while True:
                worker, event = self._events.get(timeout=wait_s)
                wait_s = 0.001
                self._handle(worker, event)

    def _handle(self, worker: Worker, event: Event) -> None:
        taken, kind = worker.taken, event["event"]
        if kind == "ready":
            worker.ready, self._lost = True, 0
        elif taken is None:  # an event of a trial that is over
            return
        elif kind == "validation":
            self._validated(worker, taken, event)
        elif kind == "stopped":
            self._release(worker, taken)
        elif kind == "failed" and event["everywhere"]:
            self._halt = self._halt or EveryRunError(event["error"])
            self._release(worker, taken)
        elif kind in ("done", "failed"):
            worker.taken = None
            self._look = 0.0
            self._ended(worker, taken, event)

    def _validated(self, worker: Worker, taken: Taken, event: Event) -> None:
        self.board.validated(worker.name, event["validation"], event["value"])
        if event["competes"] and self.study.settings.file.early_terminate is not None:
            worker.send({"stop": self.study.report(taken, event["validation"], event["value"])})

    def _ended(self, worker: Worker, taken: Taken, event: Event) -> None:
        facts: dict[str, Any] = {"run": event["run"], "seconds": event.get("seconds")}
        names = list(self.study.settings.objectives) or [self.study.settings.file.metric]
        if event["event"] == "failed":
            self.study.fail(taken, event["error"], **facts)
            outcome = f"failed: {event['error']}"
        elif event["pruned"]:
            self.study.prune(taken, **facts)
            outcome = "stopped early"
        elif missing := [name for name, value in zip(names, event["values"], strict=True) if value is None]:
            outcome = f"failed: {missing[0]} is not a finite number"
            self.study.fail(taken, outcome.removeprefix("failed: "), **facts)
        else:
            self.study.finish(taken, event["values"], **facts)
            outcome = "  ".join(f"{name} {value:.4g}" for name, value in zip(names, event["values"], strict=True))
        self.board.ended(worker.name, taken, outcome, event.get("seconds"))

    def _release(self, worker: Worker, taken: Taken, died: bool = False) -> None:
        worker.taken = None
        self._look = 0.0
        self.study.release(taken, died)

    # --- workers that die ---

    def _bury(self) -> None:
        """Free the trials of dead workers, and put new workers in their place."""
        for index, worker in enumerate(self._team):
            if not worker.dead():
                continue
            self._hear(0.001)  # what it said before
            taken = worker.taken
            if taken is not None:
                if taken.deaths + 1 >= DEATHS:
                    worker.taken = None
                    self._give_up(taken, f"its worker died {taken.deaths + 1} times, at last {worker.epitaph()}")
                else:
                    self.board.say(f"{worker.name}: {worker.epitaph()}; trial {taken.number} runs again")
                    self._release(worker, taken, died=True)
            elif not worker.ready:
                self._lost += 1
            if self._lost >= DEATHS:
                raise EveryRunError(f"workers do not start: {worker.epitaph()}")
            if not self._stopping:
                self._team[index] = self._worker(index)

    def _give_up(self, taken: Taken, error: str) -> None:
        """Record a trial that kills its workers as failed, in the study and in its run."""
        folder = find_trial(self.options.runs_dir, self.study.settings.recipe, self.study.name, taken.number)
        if folder is not None:
            with locked(folder / LOCK) as free:
                record = read(folder)
                if free and status_of(record) != "running":
                    record.status, record.error, record.finished = "failed", error, timestamp()
                    write_atomic(folder / RECORD, record.to_json())
        self.study.fail(taken, error, run=folder.name if folder else None)
        self.board.ended("", taken, f"failed: {error}", None)

    def _keep_claims(self) -> None:
        if time.monotonic() - self._beat < BEAT_S:
            return
        self._beat = time.monotonic()
        busy = {worker: worker.taken for worker in self._team if worker.taken is not None}
        self.study.beat(list(busy.values()))
        for worker, taken in busy.items():
            if self.study.overtaken(taken):  # this machine slept, or was cut off from the database
                self.board.say(f"trial {taken.number} was taken over by another machine")
                worker.stop()

    # --- starting and stopping ---

    def _worker(self, index: int, alone: bool = False) -> Worker:
        name = "benchmark" if alone else f"worker {index + 1}"
        log = self.folder / f"{name.replace(' ', '-')}.log"
        workers = 1 if alone else self.options.workers
        return Worker(name, log, environment(index, workers, 0 if alone else self.options.devices), self._events)

    @contextmanager
    def _workers(self, count: int, alone: bool = False) -> Iterator[None]:
        """A team of ``count``; afterwards none of them is left, and every trial is ended or given back."""
        self._stopping, self._lost, self._look = False, 0, 0.0
        self._team = [self._worker(index, alone) for index in range(count)]
        try:
            yield
            self._dismiss()
        except BaseException as error:
            self._stop(quietly=not isinstance(error, KeyboardInterrupt))
            raise
        finally:
            for worker in self._team:
                if not worker.dead():
                    worker.kill()
            self._team = []

    def _dismiss(self) -> None:
        for worker in self._team:
            worker.stop()
        until = time.monotonic() + 10.0
        while time.monotonic() < until and not all(worker.dead() for worker in self._team):
            time.sleep(0.02)

    def _stop(self, quietly: bool) -> None:
        """End all workers cleanly; at once after another Ctrl-C."""
        self._stopping = True
        busy = sum(worker.taken is not None for worker in self._team)
        if busy and not quietly:
            self.board.say(f"stopping: {busy} trial(s) keep their last epoch; Ctrl-C again ends them at once")
        try:
            for worker in self._team:
                worker.stop()
            until = time.monotonic() + STOP_S
            while time.monotonic() < until and not all(worker.dead() for worker in self._team):
                self._hear()
                with suppress(UserError):  # of a storage that is away: other machines see the heartbeat end
                    self._keep_claims()
        except KeyboardInterrupt:
            pass
        for worker in self._team:
            worker.kill()
        self._hear(0.001)
        for worker in self._team:
            if worker.taken is not None:
                with suppress(UserError):
                    self._release(worker, worker.taken)

    # --- benchmarks ---

    def pending(self) -> list[Path]:
        """Folders in this runs folder, of trials and the steps they required, whose benchmark was left for later."""
        recipe = self.options.runs_dir / self.study.settings.recipe
        done = [recipe / row.run for row in self.study.rows() if row.state == "done" and row.run]
        return deferred.waiting(done, self.options.runs_dir)

    def _benchmarks(self) -> None:
        """Time the exported files one at a time, alone, once this machine trains no trial of the sweep any more."""
        if not self.pending():
            return
        while self.study.running_here():  # another `lightning sweep` of the same study
            time.sleep(LOOK_S)
        with locked(self.folder / "benchmark.lock", wait=True):
            folders = self.pending()  # the other one may have done them
            if not folders:
                return
            self.board.say(f"benchmarks: {len(folders)}, one at a time")
            with self._workers(1, alone=True):
                for number, folder in enumerate(folders, 1):
                    self.board.say(f"benchmark {number}/{len(folders)}: {folder.name} {self._benchmark(folder)}")

    def _benchmark(self, folder: Path) -> str:
        """Have one run's deferred stage done; its outcome in words."""
        job = {"do": "benchmark", "runs_dir": str(self.options.runs_dir), "folder": str(folder)}
        given = False
        while True:
            with suppress(queue.Empty):
                worker, event = self._events.get(timeout=TICK_S)
                if event["event"] == "ready":
                    worker.ready, self._lost = True, 0
                elif event["event"] in ("done", "failed"):
                    return "done" if event["event"] == "done" else f"failed: {event['error']}"
            worker = self._team[0]
            if worker.dead():
                self._lost += 1
                if self._lost >= DEATHS and not given:
                    raise EveryRunError(f"the benchmark does not start: {worker.epitaph()}")
                self._team[0] = self._worker(0, alone=True)
                if given:
                    return f"failed: {worker.epitaph()}"
            elif worker.ready and not given:
                worker.send(job)
                given = True
