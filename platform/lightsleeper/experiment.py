"""One run: check, the steps it requires, fit, finalize, test, export, benchmark, record.

A run may be killed at any moment. What is on disk then (the record, `last.ckpt`, the files of finished stages) is
enough for `--resume` to end with the same weights and numbers: a stage either counts as finished in the record, or is
done again from the files of the stage before. Only the fit continues in its middle, at the last epoch boundary.
"""

import errno
import os
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightsleeper_callbacks.base import compressions

from lightsleeper import recipe as recipes
from lightsleeper.data.module import asked
from lightsleeper.errors import EveryRunError, UserError
from lightsleeper.files import write_atomic
from lightsleeper.recipe import parsing
from lightsleeper.recipe.parsing import Parts
from lightsleeper.run_folder import LOG, METRICS, RECIPE, RECORD
from lightsleeper.stages import deliver, ranks
from lightsleeper.stages.checkpoints import seed_everything
from lightsleeper.stages.console import Log, stoppable
from lightsleeper.stages.fit import Progress, fit
from lightsleeper.stages.metrics_file import kept_rows, training_curves
from lightsleeper.stages.plan import Plan, check, check_resume, plan
from lightsleeper.stages.precision import precision_note, root_device
from lightsleeper.stages.sweep import SweepTrial, Watch, agent_entry, agent_trial, shipped_value
from lightsleeper.tracking import weights_and_biases
from lightsleeper.tracking.environment import code_state, environment
from lightsleeper.tracking.page import next_steps, page, resume_line
from lightsleeper.tracking.record import LATER, Record, RecordFile, Status, knobs, read, status_of, timestamp
from lightsleeper.tracking.runs import LOCK, find, locked, new_folder

LOCKS = ".locks"


def run(
    recipe: recipes.Recipe | None,
    runs_dir: Path,
    resume: str | Path | None = None,
    sweep: SweepTrial | None = None,
) -> Path:
    """Go through every stage of ``recipe``, or of what is left of the run ``resume``; returns the run folder.

    ``resume`` is an id, its start, a folder or `last`; ``recipe`` may then be None. ``sweep``: as a trial of one.
    Raises UserError for whatever a user can mend, KeyboardInterrupt (also on SIGTERM) after the run was left resumable.
    """
    runs_dir = Path(runs_dir)
    if resume is None:
        assert recipe is not None
        todo = plan(recipe)
        if ranks.is_follower():
            return ranks.follow(todo, runs_dir)
        check(todo, runs_dir)
        sweep = sweep or agent_trial(todo.settings)
        folder = _create(todo, runs_dir, entry=sweep.entry if sweep else agent_entry(todo.settings))
    else:
        folder = find(resume, runs_dir, recipe.name if recipe else None)
        runs_dir = folder.absolute().parents[1]  # wherever it lies, the steps it requires lie beside it
        todo = plan(recipe or recipes.load([folder / RECIPE]))
        if ranks.is_follower():
            return ranks.follow(todo, runs_dir, folder)
        record = read(folder)
        check(todo, runs_dir, {name for name, state in record.stages.items() if state == "finished"})
        check_resume(todo, record)
    _execute(todo, folder, runs_dir, sweep, sweep.defer if sweep else frozenset())
    return folder


def _create(todo: Plan, runs_dir: Path, parent: str | None = None, entry: dict[str, Any] | None = None) -> Path:
    """A new folder with its resolved recipe and first record."""
    folder = new_folder(runs_dir, todo.recipe.name)
    record = Record(
        run_id=folder.name,
        recipe=todo.recipe.name,
        family=str(todo.config["model"]["class_path"]).rpartition(".")[2],
        seed=todo.config["seed_everything"],
        group=todo.group,
        hash=todo.hash,
        config=todo.recorded(),
        knobs=knobs({name: todo.config[name] for name in ("model", "data", "callbacks", "trainer", "seed_everything")}),
        started=timestamp(),
        parent=parent,
        sweep=entry or {},
        # A W&B sweep agent has chosen the id already; it means the run itself, not the steps it requires.
        tracking={"id": (os.environ.get("WANDB_RUN_ID") if parent is None else None) or secrets.token_hex(8)},
    )
    write_atomic(folder / RECIPE, recipes.dump(todo.saved()))
    write_atomic(folder / RECORD, record.to_json())
    return folder


def _execute(
    todo: Plan,
    folder: Path,
    runs_dir: Path,
    sweep: SweepTrial | None = None,
    defer: frozenset[str] = frozenset(),
) -> None:
    """All stages that the record does not name as finished; leaves a truthful record however it ends.

    ``defer``: stages left for later, in the steps it requires as well.
    """
    with ExitStack() as stack:
        if not stack.enter_context(locked(folder / LOCK)):
            raise UserError(f"run {folder.name} is in use by another process.")
        log = stack.enter_context(Log(folder / LOG))
        record = read(folder)
        complete = record.status == "finished"  # but for stages it had left for later: they cannot undo the rest
        file = stack.enter_context(RecordFile(folder, record))
        execution = _Execution(todo, folder, runs_dir, file, log, sweep, defer)
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        try:
            with stoppable():
                execution.everything()
        except KeyboardInterrupt:
            execution.end("finished" if complete else "interrupted", None if complete else "stopped by a signal")
            execution.close(130)
            if execution.file.record.parent is None:
                log.say(f"interrupted; the last finished epoch is kept. {resume_line(folder)}")
            raise
        except BaseException as error:
            log.failure(error)
            told = _told(error, folder)
            kind = "" if isinstance(told, UserError) else f"{type(told).__name__}: "
            execution.end("finished" if complete else "failed", kind + " ".join(str(told).split()))
            execution.close(1)
            if told is error:
                raise
            raise told from error
        execution.end("finished", None)
        for table in page(execution.file.record, folder):
            log.say(table)
        for line in [*execution.close(0), *next_steps(execution.file.record, folder)]:
            log.say(line)


def _told(error: BaseException, folder: Path) -> BaseException:
    """The error as the user should see it: a full disk is named, however deep it was met."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return EveryRunError(
                f"the disk of {cause.filename or folder} is full. Make space, then continue. {resume_line(folder)}"
            )
        cause = cause.__cause__ or cause.__context__
    return error


class _Execution:
    """The stages of one run in one process."""

    def __init__(
        self,
        todo: Plan,
        folder: Path,
        runs_dir: Path,
        file: RecordFile,
        log: Log,
        sweep: SweepTrial | None = None,
        defer: frozenset[str] = frozenset(),
    ) -> None:
        self.todo, self.folder, self.runs_dir, self.file, self.log = todo, folder, runs_dir, file, log
        self.sweep, self.defer = sweep, defer
        self.steps: dict[str, Path] = {}
        self.tracker: weights_and_biases.Tracker = weights_and_biases.Untracked()

    def everything(self) -> None:
        self.log.say(f"run {self.folder}")
        if note := precision_note(self.todo.config["trainer"], self.todo.prefix):
            self.log.say(note)
        with self.file.change() as record:
            record.code = record.code or code_state()
            record.config = self.todo.recorded()  # a resume may track elsewhere
            if self.sweep is not None:
                record.sweep = {**record.sweep, **self.sweep.entry}
        if self.todo.steps:
            self.stage("requires", self.require, again=True)
        parts = self.build()
        if parts.run.threads is not None:
            torch.set_num_threads(parts.run.threads)
        self.witness(environment(torch.get_num_threads(), _accelerator(parts)))
        with self.file.change() as record:
            record.reference = self.reference(parts)
        self.tracker = weights_and_biases.start(parts.tracking, self.folder, self.file.record)
        if self.tracker.note:
            self.log.say(self.tracker.note)
        with self.file.change() as record:
            record.tracking = {**record.tracking, **self.tracker.state}
        done = Progress.of(self.folder)
        self.tracker.replay(kept_rows(self.folder / METRICS, done.step))
        if done.complete:
            self.tracker.log_inputs(self.file.record, self.steps)
        stages: dict[str, Callable[[], dict[str, Any]]] = {
            "fit": lambda: self.fit(parts),
            "finalize": lambda: deliver.finalize(self.rebuilt(parts), self.folder, self.file.record),
            "test": lambda: deliver.test(self.rebuilt(parts), self.folder, self.file.record, self.log),
            "export": lambda: deliver.export(parts, self.folder),
            "benchmark": lambda: deliver.benchmark(parts, self.folder, self.file.record, self.log),
        }
        for index, name in enumerate(stages):
            if self.file.record.sweep.get("pruned"):  # by this process, or by one that died right then
                self.log.say("stopped early by its sweep")
                break
            if name not in parts.run.stages:
                continue
            if name in self.defer:
                self.deferred(name)
            else:
                self.stage(name, stages[name], seed=(parts.seed, index))
        if self.file.record.sweep:
            self.judged()

    def witness(self, found: dict[str, Any]) -> None:
        """Keep what the run began with; what a resuming process has instead is noted beside it."""
        with self.file.change() as record:
            record.environment = record.environment or found
            now = {"code": code_state(), "environment": found}
            other = {name: value for name, value in now.items() if value != getattr(record, name)}
            if other:
                record.resumed = [*record.resumed, {"when": timestamp(), **other}]
        if other:
            self.log.say(f"resumed with another {' and '.join(other)} than the run began with; the record says both")

    def stage(
        self, name: str, action: Callable[[], dict[str, Any]], seed: tuple[int, ...] = (), again: bool = False
    ) -> None:
        """Run one stage and keep what it returns in the record, unless the record has it as finished."""
        if self.file.record.stages.get(name) == "finished" and not again:
            self.log.say(f"{name}: done before")
            return
        with self.file.change() as record:
            before, record.stages[name] = record.stages.get(name), "running"
        if seed:
            seed_everything(*seed)
        began = time.monotonic()
        try:
            found = action()
        except BaseException as error:
            with suppress(OSError), self.file.change() as record:  # a full disk must not hide why
                _spent(record, name, time.monotonic() - began)
                if before in LATER:  # whoever resumes finds it waiting still
                    record.stages[name] = "failed" if isinstance(error, Exception) else "deferred"
            raise
        seconds = time.monotonic() - began
        with self.file.change() as record:
            _spent(record, name, seconds)
            for key, value in found.items():
                setattr(record, key, value)
            record.stages[name] = "finished"
        self.log.say(f"{name}: done in {seconds:.1f} s")

    def deferred(self, name: str) -> None:
        """Leave a stage for later, unless it is done."""
        with self.file.change() as record:
            record.stages.setdefault(name, "deferred")
        self.log.say(f"{name}: left for later")

    def judged(self) -> None:
        """The sweep's metric at the epoch that ships."""
        with self.file.change() as record:
            record.sweep["value"] = shipped_value(self.folder, record.sweep.get("metric"))

    def stop_early(self) -> None:
        with self.file.change() as record:
            record.sweep["pruned"] = True

    def build(self) -> Parts:
        """Every object of the recipe, drawn from the same random numbers each time."""
        L.seed_everything(self.todo.config["seed_everything"], workers=True, verbose=False)
        return parsing.build(recipes.substitute(self.todo.config, self.steps))

    def rebuilt(self, parts: Parts) -> Parts:
        """Fresh objects beside the data that is loaded already: what a resumed process has, no trace of a fit in it."""
        return replace(self.build(), data=parts.data)

    # --- stages ---

    def require(self) -> dict[str, Any]:
        for name, step in self.todo.steps.items():
            self.steps[name] = self.step(name, step).absolute()
        return {}

    def step(self, name: str, todo: Plan) -> Path:
        """The folder of a finished run of a required recipe: one that is there, one left unfinished, or a new one."""
        with ExitStack() as stack:
            path = self.runs_dir / LOCKS / todo.hash
            if not stack.enter_context(locked(path)):
                self.log.say(f"{name}: waiting for another process that runs {todo.recipe.name}")
                stack.enter_context(locked(path, wait=True))
            folder = todo.finished(self.runs_dir)
            if folder is not None:
                self.log.say(f"{name}: using the finished {folder}")
                self.descend(name, todo, folder)
                return folder
            folder = self.unfinished(name, todo)
            if folder is None:
                folder = _create(todo, self.runs_dir, parent=self.folder.name)
            self.log.say(f"{name}: running {todo.recipe.name} first, in {folder}")
            self.descend(name, todo, folder)
            _execute(todo, folder, self.runs_dir, defer=self.defer)
            return folder

    def unfinished(self, name: str, todo: Plan) -> Path | None:
        """The step that an earlier process of this run has begun."""
        begun = self.file.record.lineage.get(name, {})
        folder = self.runs_dir / todo.recipe.name / str(begun.get("run_id"))
        with suppress(UserError):
            if begun.get("hash") == todo.hash and status_of(read(folder)) not in ("running", "finished"):
                return folder
        return None

    def descend(self, name: str, todo: Plan, folder: Path) -> None:
        with self.file.change() as record:
            record.lineage[name] = {"recipe": todo.recipe.name, "run_id": folder.name, "hash": todo.hash}

    def fit(self, parts: Parts) -> dict[str, Any]:
        watch = Watch(self.sweep, self.stop_early) if self.sweep is not None else None
        try:
            with ranks.leading(self.todo.hash, self.folder):
                fit(parts, self.folder, self.log, self.tracker.loggers, self.data_ready, watch=watch)
        finally:  # of a fit that failed too: it is the one to look at
            with suppress(OSError):
                record = self.file.record
                record.curves = {**record.curves, "training": training_curves(self.folder / METRICS)}
        return {}

    def data_ready(self, data: Any) -> None:
        summary = asked(data, "summary")()
        before = self.file.record.data.get("hash")
        if before and summary.get("hash", before) != before:
            raise UserError("the data has changed since this run began: start a new run.")
        with self.file.change() as record:
            record.data = summary
        self.tracker.log_inputs(self.file.record, self.steps)

    def reference(self, parts: Parts) -> dict[str, Any]:
        """Numbers of the required run of the same family: what a run that compresses started from."""
        if not compressions(parts.callbacks.values()):
            return {}
        for folder in self.steps.values():
            before = read(folder)
            if before.family == self.file.record.family and before.metrics:
                return {"run_id": before.run_id, "metrics": before.metrics, "size": before.size}
        return {}

    def end(self, status: Status, error: str | None) -> None:
        """Write how it ended; a disk too full for that must not hide why."""
        try:
            with self.file.change() as record:
                record.status, record.error, record.finished = status, error, timestamp()
        except OSError:
            if status == "finished":
                raise

    def close(self, exit_code: int) -> list[str]:
        """Let the tracker finish; returns its lines for the user."""
        return self.tracker.finish(self.file.record, self.folder, exit_code)


def _spent(record: Record, stage: str, seconds: float) -> None:
    record.seconds[stage] = record.seconds.get(stage, 0.0) + seconds


def _accelerator(parts: Parts) -> str:
    device = root_device(parts.trainer_args)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
