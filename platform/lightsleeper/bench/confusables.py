"""`lightning bench confusables`: does the builder of keyword batches keep up with the training it feeds?

Two figures. Confusable keywords a second, drawn together against one by one in plain Python (both give the same).
Batches a second of the builder alone against training steps a second on them. The step is the least that any model fed
by it must do: the forward pass of the default frozen encoder over the batch's recordings, no verifier and no gradient;
a real step takes longer. All calls of a figure are timed in turn.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightsleeper.bench import confusables_plain
from lightsleeper.bench.conditions import conditions, torch_threads
from lightsleeper.bench.timing import in_turns, shown, spread
from lightsleeper.data.audio import SAMPLE_RATE
from lightsleeper.data.confusables import Confuser
from lightsleeper.data.keyword_batches import KeywordBatches
from lightsleeper.data.keyword_rows import KeywordRows, Spoken
from lightsleeper.errors import UserError
from lightsleeper.models.kws_encoder import PhonemeCTC
from lightsleeper.phones import CLASSES

KEYWORDS, RECORDINGS = 32, 11  # of a batch, as published
LONGEST = 28  # phones
TARGET = 1.0  # batches made for each that is trained on, by one worker


class Noise:
    """Recordings in memory: what the builder costs without a disk."""

    def __init__(self, clips: int) -> None:
        rng = np.random.default_rng(0)
        self.lengths = rng.integers(SAMPLE_RATE // 2, 3 * SAMPLE_RATE, clips)
        self.samples = rng.integers(-3000, 3000, int(self.lengths.max()), np.int16)

    def audio(self, clip: int) -> NDArray[np.float32]:
        return self.samples[: self.lengths[clip]] * np.float32(1 / 32768)

    def seconds(self, clip: int) -> float:
        return float(self.lengths[clip]) / SAMPLE_RATE


def run(args: Any = None) -> dict[str, Any]:
    """Measure, print and return all numbers as JSON-able data. ``args``: ``quick``, ``repeats``, ``threads``."""
    quick, threads = bool(getattr(args, "quick", False)), getattr(args, "threads", None) or 1
    repeats = getattr(args, "repeats", None) or (3 if quick else 10)
    with torch_threads(threads):
        found = {
            "conditions": conditions(threads, repeats=repeats, recordings="made up" if quick else "KeywordBatches"),
            "generator": generator(repeats),
            "batches": batches(rows(quick), repeats),
        }
    report(found)
    return found


def generator(repeats: int) -> dict[str, Any]:
    """Milliseconds of the confusables of one batch, and keywords a second."""
    count = KEYWORDS * RECORDINGS
    sounds = _sounds(count)
    phones, words = (np.full((count, LONGEST), fill) for fill in (0, -1))
    for row, sound in enumerate(sounds):
        phones[row, : len(sound)], words[row, : len(sound)] = sound, 0
    listed = [(list(sound), [0] * len(sound)) for sound in sounds]
    confuser = Confuser()

    def together() -> NDArray[np.int64]:
        return confuser.draw(phones, words, np.random.default_rng(0))[0]

    def plain() -> list[confusables_plain.Sound]:
        return confusables_plain.draw(listed, np.random.default_rng(0))

    if [[int(phone) for phone in row if phone] for row in together()] != [sound for sound, _ in plain()]:
        raise UserError("the generator and its plain form give different keywords.")
    taken = {name: spread(times) for name, times in in_turns({"together": together, "plain": plain}, repeats).items()}
    return {
        "keywords": count,
        "ms": taken,
        "per_s": {name: 1000 * count / times["median"] for name, times in taken.items()},
    }


def rows(quick: bool) -> KeywordRows:
    """Keywords and their recordings: those of the default corpus, or made up."""
    if not quick:
        data = KeywordBatches(seed=0)
        data.setup("fit")
        found = data.train_dataloader().dataset
        assert isinstance(found, KeywordRows)
        return found
    each = RECORDINGS
    spoken = [
        Spoken(sound, (0,) * len(sound), np.arange(number * each, (number + 1) * each))
        for number, sound in enumerate(_sounds(2 * KEYWORDS))
    ]
    return KeywordRows(Noise(len(spoken) * each), spoken, each, Confuser())


def batches(keywords: KeywordRows, repeats: int) -> dict[str, Any]:
    """Milliseconds to make a batch, and of the encoder's forward pass over it."""
    rng = np.random.default_rng(0)
    picked = [rng.permutation(len(keywords))[:KEYWORDS].tolist() for _ in range(repeats + 1)]
    made = iter(picked)
    encoder = PhonemeCTC().eval().requires_grad_(False)
    batch = keywords.__getitems__(picked[0])
    calls: dict[str, Callable[[], Any]] = {
        "build": lambda: keywords.__getitems__(next(made)),
        "step": partial(_step, encoder, batch),
    }
    taken = {name: spread(times) for name, times in in_turns(calls, repeats).items()}
    build, step = (taken[name]["median"] for name in ("build", "step"))
    return {
        "rows": len(batch["label"]),
        "recordings": len(batch["audio"]),
        "seconds": float(batch["audio_lengths"].sum()) / SAMPLE_RATE,
        "ms": taken,
        "per_s": {name: 1000 / ms for name, ms in (("build", build), ("step", step))},
        "made_per_step": step / build,
        "share_without_workers": build / (build + step),
    }


@torch.no_grad()
def _step(encoder: PhonemeCTC, batch: dict[str, Any]) -> None:
    hidden, _ = encoder.encode(batch["audio"], batch["audio_lengths"])
    encoder.log_probs(hidden)


def _sounds(count: int) -> list[tuple[int, ...]]:
    """Different phone sequences."""
    rng = np.random.default_rng(1)
    return [tuple(rng.integers(1, CLASSES, rng.integers(3, LONGEST + 1)).tolist()) for _ in range(count)]


def report(found: dict[str, Any]) -> None:
    print("confusables: " + ", ".join(f"{name} {value}" for name, value in found["conditions"].items()))
    drawn, made = found["generator"], found["batches"]
    print(f"\n{drawn['keywords']} confusable keywords; ms, median (10th-90th percentile)")
    for name in ("together", "plain"):
        print(f"{name:10}{shown(drawn['ms'][name], 2):>26}{drawn['per_s'][name]:12,.0f} a second")
    print(f"\na batch of {made['rows']} rows, {made['recordings']} recordings, {made['seconds']:.0f} s of audio")
    for name, text in (("build", "made"), ("step", "encoder")):
        print(f"{text:10}{shown(made['ms'][name], 1):>26}{made['per_s'][name]:12,.2f} a second")
    verdict = "reached" if made["made_per_step"] >= TARGET else "MISSED"
    print(
        f"one worker makes {made['made_per_step']:.1f} batches a step; target {TARGET:g}: {verdict}. Without workers "
        f"{100 * made['share_without_workers']:.1f} % of the time goes to making them."
    )
