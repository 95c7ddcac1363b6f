"""Ways of training side by side, each with every seed: what the accuracy parts of benchmarks go through.

Every training is a run of a shipped recipe with a record of its own; a second call goes on from those that are there.
The order of the trainings is that of the claims, and within one the ways take turns: whatever is finished can be
compared.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lightsleeper import recipe as recipes
from lightsleeper.errors import UserError
from lightsleeper.run_folder import RECORD
from lightsleeper.stages.plan import Plan, plan
from lightsleeper.tracking.record import read, status_of

FIRST_SEED = 7
_running: set[subprocess.Popen[str]] = set()


@dataclass(frozen=True)
class Arm:
    """One way of training."""

    name: str
    recipe: str
    overrides: tuple[str, ...]
    label: str
    overlays: tuple[str, ...] = ()
    step: tuple[str, Sequence[str]] | None = None
    """Name under `requires` of the step that this arm begins with, and that step's own overrides."""

    @property
    def files(self) -> tuple[str, ...]:
        return (self.recipe, *self.overlays)

    def settings(self, same: Sequence[str]) -> tuple[str, ...]:
        """All overrides, ``same`` last and so deciding: a required step gets those too, and so is a run of that arm."""
        own = (*self.overrides, *same)
        if self.step is None:
            return own
        name, overrides = self.step
        return (*own, *(f"--requires.{name}.set.{entry.removeprefix('--')}" for entry in (*overrides, *same)))


@dataclass(frozen=True)
class Group:
    """Arms that one claim compares."""

    name: str
    claim: str
    arms: tuple[Arm, ...]
    pairs: tuple[tuple[str, str], ...]
    """Names of arms: the second is claimed to be better than the first."""


@dataclass(frozen=True)
class Training:
    """An arm with a seed."""

    arm: Arm
    seed: int
    overrides: tuple[str, ...]

    @property
    def plan(self) -> Plan:
        return plan(recipes.load(list(self.arm.files), self.overrides))


def trainings(groups: Mapping[str, Group], names: Sequence[str], seeds: int, same: Sequence[str]) -> Iterator[Training]:
    """Each training once, in the order in which claims become comparable. ``same``: overrides of all arms."""
    seen = set()
    for name in names:
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            for arm in groups[name].arms:
                if (arm.name, seed) not in seen:
                    seen.add((arm.name, seed))
                    yield Training(arm, seed, arm.settings((*same, f"--seed_everything={seed}")))


def train(training: Training, out: Path) -> Path:
    """The folder of the finished run, trained now or continued where it is not finished; raises UserError."""
    todo = training.plan
    folder = todo.finished(out)
    if folder is not None:
        return folder
    command = [sys.executable, "-m", "lightsleeper", "run", *training.arm.files, *training.overrides]
    begun = _unfinished(out, todo)
    command += ["--resume", str(begun)] if begun else []
    code, lines = _run([*command, "--runs-dir", str(out)])
    folder = todo.finished(out)
    if code or folder is None:
        raise UserError(
            f"training {training.arm.name}, seed {training.seed}: {lines[-1] if lines else 'it was stopped'}"
        )
    return folder


def finished(
    todo: Sequence[Training], out: Path, headline: str, collect: bool = False, workers: int = 1
) -> Iterator[tuple[Training, Path]]:
    """Each training with its finished run, in the order of ``todo``, up to ``workers`` trained at once.

    ``headline``: the test metric that is printed when one is done. ``collect``: train nothing, give those that are
    there. Raises UserError where a training fails, and where none is finished.
    """
    if collect:
        found = [(training, folder) for training in todo if (folder := training.plan.finished(out)) is not None]
        if not found:
            raise UserError(f"no training in {out} is finished.")
        yield from found
        return
    with ThreadPoolExecutor(workers) as pool, _stopping(pool):
        done = pool.map(lambda training: _timed(training, out), todo)
        for number, (training, (folder, seconds)) in enumerate(zip(todo, done, strict=True), start=1):
            value = read(folder).metrics[f"test/{headline}"]["value"]
            print(
                f"  {number}/{len(todo)} {training.arm.name}, seed {training.seed}: {headline} {value:.4f}, "
                f"{seconds:.0f} s",
                flush=True,
            )
            yield training, folder


@contextmanager
def _stopping(pool: ThreadPoolExecutor) -> Iterator[None]:
    """Whatever ends the block early ends its trainings too."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)  # first: else one that ends makes room for the next
        for process in list(_running):
            process.terminate()
        raise


def _run(command: list[str]) -> tuple[int, list[str]]:
    """Exit code and lines of a program in a process of its own: its memory goes back when it ends.

    It is told once when this program is stopped, and then leaves a run that goes on.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        _running.add(process)
        try:
            out, err = process.communicate()
        except BaseException:
            process.terminate()
            raise
        finally:
            _running.discard(process)
    return process.returncode, (err or out).strip().splitlines()


def _timed(training: Training, out: Path) -> tuple[Path, float]:
    began = time.monotonic()
    return train(training, out), time.monotonic() - began


def _unfinished(out: Path, todo: Plan) -> Path | None:
    """A run of the same recipe that was stopped."""
    for path in sorted((out / todo.recipe.name).glob(f"*/{RECORD}"), reverse=True):
        record = read(path)
        if record.hash == todo.hash and status_of(record) in ("interrupted", "died", "failed"):
            return path.parent
    return None
