"""One sweep as an Optuna study that any number of processes and machines work on.

Optuna keeps the trials, draws them (TPE) and stops them early (hyperband); `claims` decides who runs which. The trials
of a grid and random draws are enumerated by whoever creates the study; those of bayes wait as empty slots, because each
is drawn only when its turn comes.
"""

import json
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from lightsleeper.errors import UserError
from lightsleeper.search.claims import Claim, Claims, Latest
from lightsleeper.search.storage import patiently
from lightsleeper.search.sweep_file import Goal, SweepFile

Parameters = dict[str, Any]
State = Literal["waiting", "running", "done", "pruned", "failed"]

STATES: dict[TrialState, State] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
BUILDER = -1  # a claim of no trial: who enqueues them
READY = "ready"


@dataclass(frozen=True)
class Settings:
    """What a study is about: everything that makes two sweeps the same. Raises UserError for what does not fit."""

    file: SweepFile
    recipe: str
    """Name of the recipe, of which every trial is a run."""
    recipe_hash: str
    """Of the recipe that the trials change, with the steps it requires."""
    epochs: int | None = None
    """Validations of a whole trial, where known: the last rung of hyperband."""
    objectives: dict[str, Goal] = field(default_factory=dict)
    """Name -> maximize | minimize; empty is the file's metric."""

    def content(self) -> dict[str, Any]:
        """As JSON, to compare with what another machine is about to do."""
        kept = ("method", "metric", "parameters", "early_terminate", "run_cap")
        found = {key: self.file.text.get(key) for key in kept}
        found |= {"recipe": self.recipe_hash, "objectives": self.objectives}
        return json.loads(json.dumps(found, default=str))

    @property
    def directions(self) -> list[Goal]:
        return list(self.objectives.values()) or [self.file.goal]

    @property
    def cap(self) -> int | None:
        """How many trials there are to be; None when only `--count` ends the sweep."""
        return sum(1 for _ in self.file.points()) if self.file.method == "grid" else self.file.run_cap

    def pruner(self) -> BasePruner:
        rule = self.file.early_terminate
        if rule is None:
            return NopPruner()
        bands = rule.bands(rule.max_iter or self.epochs or 10**6)
        limit = rule.max_iter or self.epochs
        return HyperbandPruner(
            min_resource=bands[0] if bands else 10**6, max_resource=limit or "auto", reduction_factor=int(rule.eta)
        )


@dataclass(frozen=True)
class Taken:
    """A trial that is ours to run."""

    claim: Claim
    parameters: Parameters
    deaths: int
    """How many workers died over it before."""
    stopped: bool
    """Whether the attempt before was told to stop: it has not ended, whatever its run says."""

    @property
    def number(self) -> int:
        return self.claim.trial


@dataclass(frozen=True)
class Row:
    """One trial as a reader sees it."""

    number: int
    state: State
    parameters: Parameters
    values: list[float] | None
    error: str | None
    run: str | None
    seconds: float | None


class Study:
    """Create or join the study ``name`` in ``storage``.

    Raises UserError when another sweep has that name, or when ``create`` is False and nobody has.
    """

    def __init__(self, name: str, settings: Settings, storage: RDBStorage, pid: int, create: bool = True) -> None:
        self.name, self.settings = name, settings
        self._storage, self._pid = storage, pid
        self._claims = Claims(storage.engine, name)
        self._study = patiently(lambda: self._created(create))
        self._live: dict[int, optuna.Trial] = {}

    # --- creation ---

    def _created(self, create: bool) -> optuna.Study:
        options: dict[str, Any] = {
            "storage": self._storage,
            "sampler": TPESampler(constant_liar=True),  # no seed: two machines must not draw the same
            "pruner": self.settings.pruner(),
        }
        if create:
            with suppress(DuplicatedStudyError):  # by another machine, just now or long ago
                optuna.create_study(study_name=self.name, directions=self.settings.directions, **options)
        try:
            study = optuna.load_study(study_name=self.name, **options)
        except KeyError:
            raise UserError(f"no sweep '{self.name}' in this storage.") from None
        self._fill(study)
        theirs, ours = study.user_attrs["settings"], self.settings.content()
        changed = [key for key in ours if theirs.get(key) != ours[key]]
        if changed:
            raise UserError(
                f"sweep '{self.name}' exists with other settings: {', '.join(changed)} differ. Another --id starts"
                " a new one."
            )
        return study

    def _fill(self, study: optuna.Study) -> None:
        """Enqueue the trials, once, whoever does it and however often it is killed over it."""
        attempt = 1
        while not study.user_attrs.get(READY):
            if not self._claims.insert(Claim(BUILDER, attempt), self._pid):
                time.sleep(0.2)
                latest = self._claims.latest()[BUILDER]
                attempt = latest.attempt + latest.gone
                continue
            if "settings" not in study.user_attrs:
                study.set_user_attr("settings", self.settings.content())
                study.set_user_attr("file", self.settings.file.text)
            there = len(study.get_trials(deepcopy=False))
            for number, parameters in enumerate(self._first()):
                if number >= there:
                    _enqueue(study, parameters)
            study.set_user_attr(READY, True)
            self._claims.end(Claim(BUILDER, attempt), "done")

    def _first(self) -> Iterable[Parameters | None]:
        """The trials known from the beginning, the same for whoever enumerates them; None is a slot of bayes."""
        file, cap = self.settings.file, self.settings.cap
        if file.method == "grid":
            return file.points()
        if file.method == "bayes":
            return [None] * (cap or 0)
        dice = random.Random(self.name)
        return [self._draw(dice) for _ in range(cap or 0)]

    def _draw(self, dice: random.Random) -> Parameters:
        return {name: parameter.draw(dice) for name, parameter in self.settings.file.parameters.items()}

    # --- running ---

    def take(self, pid: int, fresh: bool = True) -> Taken | None:
        """Claim a trial for process ``pid``: one that was left unfinished first, then a new one if ``fresh``."""
        # Step by step: all of it again would pass over what this process has claimed already.
        fresh = fresh and not patiently(self._reached_target)
        latest = patiently(self._claims.latest)
        left = (TrialState.WAITING, TrialState.RUNNING)
        waiting = patiently(lambda: self._study.get_trials(deepcopy=False, states=left))
        for trial in sorted(waiting, key=lambda trial: (trial.number not in latest, trial.number)):
            before = latest.get(trial.number)
            if (before is None and not fresh) or (before is not None and not before.gone):
                continue
            claim = Claim(trial.number, before.attempt + 1 if before else 1)
            if taken := self._claimed(trial, claim, pid, before):
                return taken
        if not fresh or self.settings.cap is not None:
            return None
        parameters = None if self.settings.file.method == "bayes" else self._draw(random.Random())
        patiently(lambda: _enqueue(self._study, parameters))
        return self.take(pid, fresh)

    def _claimed(self, trial: FrozenTrial, claim: Claim, pid: int, before: Latest | None) -> Taken | None:
        if not patiently(lambda: self._claims.insert(claim, pid)):
            return None
        return patiently(lambda: self._begun(trial, claim, before))

    def _begun(self, trial: FrozenTrial, claim: Claim, before: Latest | None) -> Taken | None:
        """A trial that is claimed, with its parameters, unless it has ended."""
        now = self._storage.get_trial(trial._trial_id)
        if now.state.is_finished():  # ended since we looked
            self._claims.end(claim, "done")
            return None
        if now.state is TrialState.WAITING:
            self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        live = self._live[claim.trial] = optuna.Trial(self._study, trial._trial_id)
        parameters = now.user_attrs.get("parameters")
        if parameters is None:
            known = self.settings.file.parameters
            parameters = {name: parameter.suggest(live, name) for name, parameter in known.items()}
            live.set_user_attr("parameters", parameters)
        if before is None:
            return Taken(claim, parameters, deaths=0, stopped=False)
        return Taken(claim, parameters, before.deaths, before.ended == "stopped")

    def _reached_target(self) -> bool:
        target = self.settings.file.target
        if target is None or self.settings.objectives:
            return False
        done = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        sign = 1 if self.settings.file.goal == "maximize" else -1
        return any(sign * (trial.value or 0.0) >= sign * target for trial in done if trial.value is not None)

    def report(self, taken: Taken, validation: int, value: float) -> bool:
        """Note an intermediate value; True when the trial is to stop early."""

        def note() -> bool:
            live = self._live[taken.number]
            live.report(value, validation)
            return live.should_prune()

        return patiently(note)

    def beat(self, running: Sequence[Taken]) -> None:
        patiently(lambda: self._claims.beat(taken.claim for taken in running))

    def overtaken(self, taken: Taken) -> bool:
        """Whether another machine has taken the trial over, because ours seemed dead."""
        return patiently(lambda: self._claims.overtaken(taken.claim))

    # --- ending ---

    def finish(self, taken: Taken, values: Sequence[float], **facts: Any) -> None:
        self._tell(taken, TrialState.COMPLETE, values, facts)

    def prune(self, taken: Taken, **facts: Any) -> None:
        self._tell(taken, TrialState.PRUNED, None, facts)

    def fail(self, taken: Taken, error: str, **facts: Any) -> None:
        self._tell(taken, TrialState.FAIL, None, {**facts, "error": error})

    def release(self, taken: Taken, died: bool = False) -> None:
        """Give a trial back unfinished: it runs again, from where it stopped."""
        patiently(lambda: self._claims.end(taken.claim, "died" if died else "stopped"))
        self._live.pop(taken.number, None)

    def _tell(self, taken: Taken, state: TrialState, values: Sequence[float] | None, facts: Mapping[str, Any]) -> None:
        def tell() -> None:
            live = self._live[taken.number]
            try:
                for name, value in facts.items():
                    live.set_user_attr(name, value)
                self._study.tell(taken.number, values, state, skip_if_finished=True)
            except UpdateFinishedTrialError:  # by somebody who had taken it over; the first end counts
                pass
            self._claims.end(taken.claim, "done")

        patiently(tell)
        self._live.pop(taken.number, None)

    # --- reading ---

    def rows(self) -> list[Row]:
        return patiently(lambda: [_row(trial) for trial in self._study.get_trials(deepcopy=False)])

    def unfinished(self) -> int:
        """Trials that wait or run, anywhere."""
        return sum(row.state in ("waiting", "running") for row in self.rows())

    def running_here(self) -> int:
        """Processes of this machine that run a trial, of whatever `lightning sweep` they are."""
        return patiently(self._claims.on_this_machine)

    def best(self) -> list[Row]:
        """The best finished trial; of several objectives, all that no other is better than in everything."""
        done = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not done:
            return []
        found = self._study.best_trials if self.settings.objectives else [self._study.best_trial]
        return [_row(trial) for trial in found]


def _enqueue(study: optuna.Study, parameters: Parameters | None) -> None:
    study.enqueue_trial({}, user_attrs={} if parameters is None else {"parameters": parameters})


def _row(trial: FrozenTrial) -> Row:
    ended = trial.datetime_complete
    begun = trial.datetime_start
    took = (ended - begun).total_seconds() if ended and begun else None
    return Row(
        trial.number,
        STATES[trial.state],
        trial.user_attrs.get("parameters", {}),
        trial.values,
        trial.user_attrs.get("error"),
        trial.user_attrs.get("run"),
        trial.user_attrs.get("seconds", took),
    )
