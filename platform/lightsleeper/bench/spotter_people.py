"""`lightning bench spotter --part people`: digits of some speakers learned, those of the others found in streams.

The six speakers of `spoken_digits` are divided into pairs; each pair is tested by networks that never heard it, trained
on the others: one without gates and, begun with it, one that trains on without gates and one that trains on with them.
Streams are digits strung together over recorded noise; speech without digits (`coffee_orders`) is heard in training
and, other recordings of it, in the test. Every training is a run below ``out``; a second call goes on.
"""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from lightsleeper import recipe as recipes
from lightsleeper.bench.spotter_accuracy import Row, row_of, table
from lightsleeper.bench.trainings import FIRST_SEED, Arm, Training, train
from lightsleeper.errors import UserError
from lightsleeper.metrics.exact import rate, share
from lightsleeper.metrics.words import CONTENTS

DATA = "LIGHTSLEEPER_REAL_DATA"
DIGITS, NEGATIVES, NOISE = "spoken_digits", "coffee_orders", "speech_commands_sample/_background_noise_"
RECIPE, GATED, OVERLAY, STEP = "word_spotter", "word_spotter_gated", "overlays/word_spotter_digits_people", "spotter"
TESTED = 2  # speakers of a fold
SAME = ("--data.seed=0", "--tracking.mode=disabled", "--run.threads=1")
QUICK = (
    "--trainer.max_epochs=1", "--data.clips_per_epoch=64", "--data.keep_clips=1", "--data.val_speech_minutes=0.5",
    "--data.val_quiet_minutes=0.2", "--data.test_speech_minutes=1", "--data.test_quiet_minutes=0.2",
    "--run.parity_inputs=2",
)  # fmt: skip
ARMS = {"ungated": "conformer", "longer": "conformer, trained on", "gated": "gated conformer"}


def run(
    out: Path, threads: int = 1, quick: bool = False, seeds: int | None = None, collect: bool = False
) -> dict[str, Any]:
    """Train what ``out`` does not hold yet; with ``collect`` nothing. Raises UserError where the recordings are not
    there, or nothing is finished."""
    folder = recordings()
    folds = pairs(speakers(folder / DIGITS))
    rows, total = [], 0
    for speakers_tested in folds[:1] if quick else folds:
        for seed in range(FIRST_SEED, FIRST_SEED + (seeds or 1)):
            for name in ARMS:
                total += 1
                training = job(name, folder, speakers_tested, seed, quick)
                found = training.plan.finished(out) if collect else train(training, out)
                if found is not None:
                    row = {**row_of(name, ARMS[name], seed, found), "tested": list(speakers_tested)}
                    rows.append(row)
                    f1 = row["metrics"]["f1"]["value"]
                    print(f"  {name}, seed {seed}, tested on {' and '.join(speakers_tested)}: F1 {f1:.4f}", flush=True)
    if not rows:
        raise UserError(f"no training in {out} is finished.")
    return {"trainings": total, "rows": rows, "pooled": {name: pooled(rows, name) for name in ARMS}}


def recordings() -> Path:
    folder = Path(os.environ.get(DATA, ""))
    for name in (f"{DIGITS}/manifest.csv", NEGATIVES, NOISE):
        if not os.environ.get(DATA) or not (folder / name).exists():
            raise UserError(f"recordings of people are looked for in the folder that {DATA} names: no {name} there.")
    return folder


def speakers(folder: Path) -> list[str]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return sorted({row["speaker"] for row in csv.DictReader(file)})


def pairs(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Folds: each speaker is tested once."""
    return [tuple(names[at : at + TESTED]) for at in range(0, len(names), TESTED)]


def job(name: str, folder: Path, tested: Sequence[str], seed: int, quick: bool) -> Training:
    """A training of one arm; the step that the others begin with is the ungated one of the same fold and seed."""
    same = (
        *SAME, *(QUICK if quick else ()), f"--seed_everything={seed}", f"--data.path={folder / DIGITS}",
        f"--data.negatives={json.dumps([str(folder / NEGATIVES)])}", f"--data.noise={folder / NOISE}",
        '--data.noise_kinds=["recorded"]',
        f"--data.test_speakers={json.dumps(list(tested))}",
    )  # fmt: skip
    if name == "ungated":
        return Training(Arm(name, RECIPE, same, ARMS[name], (OVERLAY,)), seed, same)
    first = recipes.load([RECIPE, OVERLAY], list(same)).config
    sections = ("seed_everything", "data", "trainer", "run", "tracking")
    step = tuple(f"--requires.{STEP}.set.{section}={json.dumps(first[section])}" for section in sections)
    gates = ("--model.gated=false",) if name == "longer" else ()
    return Training(Arm(name, GATED, same, ARMS[name], (OVERLAY,)), seed, (*same, *gates, *step))


def pooled(rows: Sequence[Row], arm: str) -> dict[str, Any] | None:
    """Words and false alarms of all speakers together, each tested once a seed."""
    mine = [row for row in rows if row["arm"] == arm]
    if not mine:
        return None
    counts = [sum(stream[column] for row in mine for stream in row["streams"].values()) for column in range(3)]
    spoken, found, right = counts
    alarms = {}
    for content in CONTENTS:
        hours = sum(row["hours"].get(content, 0.0) for row in mine)
        if hours:
            events = sum(row["metrics"][f"fa_per_hour_{content}"]["n"] for row in mine if content in row["hours"])
            alarms[content] = {**rate(events, hours).to_dict(), "hours": hours}
    return {
        "f1": 2 * right / (spoken + found) if spoken else None,
        "frr": share(spoken - right, spoken).to_dict(),
        "precision": share(right, found).to_dict(),
        "mean_iou": mean(row["metrics"]["mean_iou"]["value"] for row in mine),
        "fa_per_hour": alarms,
    }


def report(result: dict[str, Any]) -> Iterator[str]:
    """A table of the arms over folds, and what all speakers together say."""
    rows = result["rows"]
    folds = sorted({" and ".join(row["tested"]) for row in rows})
    yield f"people: {len(rows)} of {result['trainings']} trainings, speakers tested: {'; '.join(folds)}"
    yield from table(rows, list(ARMS.items()))
    for name, found in result["pooled"].items():
        if found is None:
            continue
        missed = found["frr"]
        yield (
            f"{ARMS[name]}, all speakers: F1 {found['f1']:.4f}, mean IoU {found['mean_iou']:.4f}; of {missed['n']} "
            f"words missed {100 * missed['value']:.2f} % [{100 * missed['low']:.2f}, {100 * missed['high']:.2f}]"
        )
        for content, alarms in found["fa_per_hour"].items():
            yield (
                f"  false alarms on {content}: {alarms['n']} in {alarms['hours']:.2f} h, {alarms['value']:.1f} an hour "
                f"[{alarms['low']:.1f}, {alarms['high']:.1f}]"
            )
