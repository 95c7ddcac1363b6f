"""What `bench asd` trains: fusions over past and future on the same encoders, and detectors of one sense.

The encoders of a seed are trained once, with the GRU behind them; what they make of the tracks is kept, and each fusion
learns from that. A few points are trained whole, encoders and fusion together, to see whether the order holds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightsleeper.bench.trainings import FIRST_SEED, Arm, Training
from lightsleeper.tracking.record import read

SEEDS, QUICK_SEEDS = 3, 1
SAME = ("--tracking.mode=disabled", "--run.threads=1")
PASTS, FUTURES = (0, 2, 4, 8, 16, 32, 64), (0, 1, 2, 4, 8)
DECISIVE = (0, 2)  # look-ahead whose points have every seed; the others have the first
WHOLE = ((2, 0), (32, 0), (32, 8))  # points that are trained whole too
QUICK_PASTS, QUICK_FUTURES, QUICK_WHOLE = (2, 8), (0, 2), ((2, 0),)
_SMALL_DATA = {"train_scenes": 6, "val_scenes": 2, "test_scenes": 3, "sentences": 24, "identities": 12}
_NO_FILES = "--run.stages=[fit, finalize, test]"

Row = dict[str, Any]


def encoder(quick: bool) -> Arm:
    """The GRU detector, which is the baseline trained whole, and whose encoders the fusions take."""
    return Arm("gru whole", "asd_gru", _first(quick), "GRU, trained whole")


def _first(quick: bool) -> tuple[str, ...]:
    if not quick:
        return ()
    data = (f"--data.{name}={value}" for name, value in _SMALL_DATA.items())
    return (*data, "--trainer.max_epochs=1", "--run.parity_inputs=2", "--run.stages=[fit, finalize, test, export]")


def fusion(name: str, label: str, settings: Sequence[str], quick: bool) -> Arm:
    """A fusion trained on what the encoders made of the tracks."""
    own = [_NO_FILES, *settings]
    if quick:
        own += [f"--data.data.{name}={value}" for name, value in _SMALL_DATA.items()]
        own += ["--trainer.max_epochs=2", "--data.passes=1"]
    return Arm(name, "asd_streaming", tuple(own), label, step=("encoder", _first(quick)))


def point(past: int, future: int, quick: bool) -> Arm:
    """A transformer of one layer, so that ``past`` is all that it sees behind."""
    return fusion(f"past {past} future {future}", f"past {past}, future {future}", _budget(past, future), quick)


def whole(past: int, future: int, quick: bool) -> Arm:
    """The same trained whole."""
    settings = ("--model.fusion=transformer", *_budget(past, future), _NO_FILES, *_first(quick))
    settings = tuple(entry for entry in settings if not entry.endswith("export]"))
    return Arm(f"whole {past} {future}", "asd_gru", settings, f"past {past}, future {future}, trained whole")


def _budget(past: int, future: int) -> tuple[str, ...]:
    return ("--model.layers=1", f"--model.past_frames={past}", f"--model.future_frames={future}")


def flexible(quick: bool) -> Arm:
    """One model for all budgets, each batch trained with another."""
    past, future = (QUICK_PASTS[-1], QUICK_FUTURES[-1]) if quick else (PASTS[-1], FUTURES[-1])
    return fusion("flexible", "one model", (*_budget(past, future), "--model.sample_budgets=true"), quick)


def recurrent(name: str, quick: bool) -> Arm:
    """A GRU, or the published two, on the same vectors."""
    return fusion(name, {"gru": "GRU", "bigru": "two GRUs, whole clip"}[name], (f"--model.fusion={name}",), quick)


def with_seeds(arm: Arm, seeds: Sequence[int]) -> list[Training]:
    return [Training(arm, seed, arm.settings((*SAME, f"--seed_everything={seed}"))) for seed in seeds]


def seeds_of(count: int | None, quick: bool) -> list[int]:
    return list(range(FIRST_SEED, FIRST_SEED + (count or (QUICK_SEEDS if quick else SEEDS))))


def row_of(training: Training, folder: Path) -> Row:
    """All that is compared of one run."""
    record = read(folder)
    metrics = {name.removeprefix("test/"): value for name, value in record.metrics.items() if name.startswith("test/")}
    return {
        "arm": training.arm.name,
        "label": training.arm.label,
        "seed": training.seed,
        "run": record.run_id,
        "folder": str(folder),
        "metrics": metrics,
        "context": record.context,
        "fit_s": record.seconds.get("fit"),
    }


def value(row: Row, name: str = "map") -> float:
    return float(row["metrics"].get(name, {}).get("value") or "nan")
