"""`lightning bench phoneme --part people`: recordings of people, zero-shot and after training on some speakers.

Zero-shot: the trainings of the accuracy part on spoken digits, wake words, and words of spoken orders. Two of the six
digit speakers (`SEEN`) chose the front end's floor and our verifier's form, so the zero-shot digits are those of the
other four. Trained: digits of some speakers, tested on the others (each once), and with words left out. Every training
is a run below ``out``; a second call goes on.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lightsleeper.bench.phoneme_arms import DSP, EDITS, PUBLISHED, SAME, settings
from lightsleeper.bench.phoneme_orders import judge, keywords_of, mean_auc, read_orders
from lightsleeper.bench.spotter_people import pairs, speakers
from lightsleeper.bench.trainings import FIRST_SEED, Arm, Training, train
from lightsleeper.data.audio_folder import AudioFolder
from lightsleeper.deploy.finalize import load_model
from lightsleeper.errors import UserError
from lightsleeper.metrics.pairs import PairMetrics
from lightsleeper.run_folder import EXPORT
from lightsleeper.tracking.record import read

DATA = "LIGHTSLEEPER_REAL_DATA"
DIGITS, WAKE_WORDS, ORDERS = "spoken_digits", "wake_words", "coffee_orders"
SEEN = ("george", "nicolas")
QUALITIES = ("auc_easy", "auc_hard", "eer_easy", "eer_hard")
OURS = ("--model.verifier=edits", "--model.width=32", "--model.pooling=worst")
ARMS: dict[str, tuple[Arm, str, tuple[str, ...]]] = {  # name -> arm of the base, fine-tuning recipe, its arguments
    "published": (PUBLISHED, "kws_phoneme_finetune", ()),
    "edits": (EDITS, "kws_phoneme_finetune", OURS),
    "dsp": (DSP, "kws_finetune", ()),
}
WORDS_OUT = ("three", "seven", "nine")
Row = dict[str, Any]


def run(
    out: Path, threads: int = 1, quick: bool = False, seeds: int | None = None, collect: bool = False
) -> dict[str, Any]:
    """Train what ``out`` does not hold yet (with ``collect`` nothing), then test. Raises UserError where the
    recordings are not there, or nothing is finished."""
    folder = recordings()
    torch.set_num_threads(threads)
    rows: list[Row] = []
    total = 0
    for seed in range(FIRST_SEED, FIRST_SEED + (seeds or 1)):
        for name, (arm, _, _) in ARMS.items():
            total += 1
            base = _folder(Training(arm, seed, settings(arm, seed, quick)), out, collect)
            if base is not None:
                rows += zero_shot(name, seed, base, folder, quick, threads)
        for training, what in tuned(folder, seed, quick):
            total += 1
            found = _folder(training, out, collect)
            if found is not None:
                rows.append({"arm": training.arm.name, "seed": seed, "what": what, "scores": _of_record(found)})
    if not rows:
        raise UserError(f"no training in {out} is finished.")
    return {"trainings": total, "rows": rows}


def recordings() -> Path:
    folder = Path(os.environ.get(DATA, ""))
    for name in (DIGITS, WAKE_WORDS, ORDERS):
        if not os.environ.get(DATA) or not (folder / name / "manifest.csv").exists():
            raise UserError(f"recordings of people are looked for in the folder that {DATA} names: no {name} there.")
    return folder


def _folder(training: Training, out: Path, collect: bool) -> Path | None:
    found = training.plan.finished(out) if collect else train(training, out)
    if found is not None:
        print(f"  {training.arm.name}, seed {training.seed}: {found}", flush=True)
    return found


def zero_shot(name: str, seed: int, base: Path, folder: Path, quick: bool, threads: int) -> Iterator[Row]:
    """A finished model on people it was not trained on: digits, all twelve words, words of orders."""
    model = load_model(base)
    names = speakers(folder / DIGITS)
    others = [speaker for speaker in names if speaker not in SEEN] or names
    limit = 60 if quick else None
    sets = {
        "digits, ten texts": AudioFolder(folder / DIGITS, test_speakers=others, max_test_clips=limit),
        "wake words, two texts": AudioFolder(folder / WAKE_WORDS, evaluate_only=True, max_test_clips=limit),
        "digits and wake words, twelve texts": AudioFolder(
            [str(folder / DIGITS), str(folder / WAKE_WORDS)], evaluate_only=True, max_test_clips=limit
        ),
    }
    for what, data in sets.items():
        data.setup("test")
        yield {"arm": name, "seed": seed, "what": f"zero-shot: {what}", "scores": scores(model, data)}
    orders = read_orders(folder / ORDERS)[: 40 if quick else None]
    texts = keywords_of(orders) or ["coffee", "milk"]
    found = judge(base / EXPORT / "model.onnx", orders, texts, threads)
    kept = {
        scorer: {"auc": each["auc"], "eer": each["eer"], "mean_auc": {"value": mean_auc(each)}}
        for scorer, each in found["scores"].items()
    }
    what = f"zero-shot: {len(texts)} keywords in {found['recordings']} orders"
    yield {"arm": name, "seed": seed, "what": what, "scores": kept}


@torch.inference_mode()
def scores(model: Any, data: AudioFolder) -> dict[str, dict[str, Any]]:
    """Measurements by scorer on the main test set of ``data``."""
    metrics: dict[str, PairMetrics] = {}
    for batch in data.test_dataloader()[0]:
        for name, values in model.score(batch).items():
            metrics.setdefault(name, PairMetrics()).update(values, batch)
    return {
        name: {key: value.to_dict() for key, value in metric.results("").items() if key in QUALITIES}
        for name, metric in metrics.items()
    }


def tuned(folder: Path, seed: int, quick: bool) -> Iterator[tuple[Training, str]]:
    """Trainings on people: pairs of speakers left out in turn, then words left out too."""
    folds = pairs(speakers(folder / DIGITS))
    jobs: list[tuple[Sequence[str], tuple[str, ...]]] = [(fold, ()) for fold in (folds[:1] if quick else folds)]
    jobs += [] if quick else [(folds[0], WORDS_OUT)]
    for tested, held_out in jobs:
        what = f"trained, tested on {' and '.join(tested)}" + (f", without {', '.join(held_out)}" if held_out else "")
        for name, (arm, recipe, own) in ARMS.items():
            overrides = (
                *SAME, *own, f"--seed_everything={seed}", f"--data.path={folder / DIGITS}",
                f"--data.test_speakers={json.dumps(list(tested))}",
                f"--data.also_test.wake_words={folder / WAKE_WORDS}",
                *([f"--data.held_out_texts={json.dumps(list(held_out))}"] if held_out else ()),
                *(["--trainer.max_epochs=1", "--run.parity_inputs=2"] if quick else ()),
                *(f"--requires.base.set.{entry.removeprefix('--')}" for entry in _overlay(arm)),
                *(f"--requires.base.set.{entry.removeprefix('--')}" for entry in settings(arm, seed, quick)),
            )  # fmt: skip
            yield Training(Arm(name, recipe, overrides, arm.label), seed, overrides), what


def _overlay(arm: Arm) -> tuple[str, ...]:
    """What the overlay of ``arm`` sets, as overrides: a required step takes no overlay."""
    if arm is not EDITS:
        return ()
    return (
        *OURS, "--model.fused_weights={verifier: 1, ctc: 1}", "--model.lr=0.003",
        "--data.class_path=SpokenPhrases", "--data.batch_size=64", "--data.negatives_per_clip=3",
        "--trainer.max_epochs=1", "--trainer.limit_train_batches=400", "--trainer.val_check_interval=100",
    )  # fmt: skip


def _of_record(folder: Path) -> dict[str, dict[str, Any]]:
    """The shipped score's test sets in a fine-tuning's record: the test itself, and others by name."""
    metrics: Mapping[str, Any] = read(folder).metrics
    found: dict[str, dict[str, Any]] = {}
    for name, value in metrics.items():
        part, _, quality = name.removeprefix("test/").rpartition("/")
        if quality in QUALITIES:
            found.setdefault(part or "shipped", {})[quality] = value
    return found


def report(result: dict[str, Any]) -> Iterator[str]:
    """A table for each set of recordings."""
    rows = result["rows"]
    yield f"people: {result['trainings']} trainings; digits zero-shot without {' and '.join(SEEN)}; 95 % intervals"
    for what in dict.fromkeys(row["what"] for row in rows):
        yield what
        for row in (row for row in rows if row["what"] == what):
            for scorer, values in row["scores"].items():
                cells = "".join(f"{name.replace('_', ' ')} {_cell(value):28}" for name, value in values.items())
                yield f"  {row['arm']:12}seed {row['seed']:<4}{scorer:18}{cells}".rstrip()


def _cell(found: Mapping[str, Any]) -> str:
    if found.get("value") is None:
        return "unknown"
    low, high = found.get("low"), found.get("high")
    return f"{found['value']:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")
