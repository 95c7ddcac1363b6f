"""`lightning bench spotter --part classes`: what a larger vocabulary costs, from ten words to a thousand.

One training step of the recipe's spotter on random clips: its time, and the bytes that it keeps for backward. One hop
of a stream in torch. Suppression of the events of an hour in which every step proposes something, the worst there is.
Sizes take turns in each round. A line through the costs tells what any number of words costs; how far the costs lie
from it tells whether they are linear.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightsleeper.bench.conditions import torch_threads
from lightsleeper.metrics.word_events import Proposals, proposals, suppress
from lightsleeper.models.word_spotter import WordSpotter

CLASSES = (10, 30, 100, 300, 1000)
BATCH, SECONDS, WORDS = 16, 3.0, 6  # clips of a batch, their length, words in each
REPEATS, QUICK_REPEATS = 9, 3
HOPS = 10  # heard a round
STEPS_AN_HOUR = 90_000
OFF = 0.15  # of the cost, by which one may lie off the line through all of them: what this machine's noise leaves
SAMPLE_RATE = 16_000

Row = dict[str, Any]


def run(out: Path | None, threads: int = 1, quick: bool = False, repeats: int | None = None) -> dict[str, Any]:
    """All numbers; nothing is written to ``out``."""
    count = repeats or (QUICK_REPEATS if quick else REPEATS)
    steps = STEPS_AN_HOUR // 10 if quick else STEPS_AN_HOUR
    with torch_threads(threads):
        cases = [Case(classes, steps) for classes in CLASSES]
        times = [[case.times() for case in cases] for _ in range(count + 1)][1:]  # the first round warms up
        rows = [
            case.facts() | {key: median(found[number][key] for found in times) for key in times[0][number]}
            for number, case in enumerate(cases)
        ]
    return {
        "batch": BATCH,
        "clip_s": SECONDS,
        "repeats": count,
        "steps": steps,
        "rows": rows,
        "lines": {key: line(rows, key) for key in COSTS},
    }


class Case:
    """A spotter of so many classes, and what it goes through."""

    def __init__(self, classes: int, steps: int) -> None:
        torch.manual_seed(0)
        self.classes = classes
        self.model = WordSpotter(classes=classes, words=[f"word{number}" for number in range(classes)])
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.batch = clips(classes)
        self.hop = 0.1 * torch.randn(1, self.model.hop_samples)
        self.columns = talk(classes, steps)

    def times(self) -> dict[str, float]:
        """Seconds of the processor."""
        return {
            "step_s": timed(self.train),
            "hop_s": timed(self.listen, HOPS) / HOPS,
            "suppress_s": timed(lambda: suppress(*self.columns)),
        }

    def train(self) -> None:
        torch.manual_seed(0)  # the batch is shifted by a random part of a hop: by the same one
        self.model.train()
        self.optimizer.zero_grad()
        torch.stack(list(self.model.losses(self.batch).values())).sum().backward()
        self.optimizer.step()

    @torch.no_grad()
    def listen(self) -> None:
        self.model.eval().stream(self.hop, self.model.initial())

    def facts(self) -> Row:
        torch.manual_seed(0)
        return {
            "classes": self.classes,
            "parameters": sum(value.numel() for value in self.model.parameters()),
            "saved_bytes": saved_bytes(self.model.train(), self.batch),
            "events": len(suppress(*self.columns)),
        }


def clips(classes: int) -> dict[str, Tensor]:
    """A batch of noise with words of all classes, one after the other."""
    generator = torch.Generator().manual_seed(0)
    begin = torch.arange(WORDS) * SECONDS / WORDS + 0.05
    return {
        "audio": 0.1 * torch.randn(BATCH, round(SECONDS * SAMPLE_RATE), generator=generator),
        "samples": torch.full((BATCH,), round(SECONDS * SAMPLE_RATE)),
        "word": torch.randint(classes, (BATCH, WORDS), generator=generator),
        "begin_s": begin.expand(BATCH, WORDS).contiguous(),
        "end_s": (begin + 0.4).expand(BATCH, WORDS).contiguous(),
    }


def talk(classes: int, steps: int) -> Proposals:
    """Proposals, one a step of 40 ms, of words from 0.2 to 0.6 s."""
    rng = np.random.default_rng(0)
    begin = 0.04 * np.arange(steps) + rng.uniform(0, 0.5, steps)
    end = begin + rng.uniform(0.2, 0.6, steps)
    return proposals(rng.random(steps), rng.integers(0, classes, steps), begin, end)


def saved_bytes(model: WordSpotter, batch: dict[str, Tensor]) -> int:
    """What a training step keeps for backward; weights, and storages that are kept twice, count once or not."""
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = torch.stack(list(model.losses(batch).values())).sum()
    del loss
    return sum(seen.values())


def timed(call: Callable[[], Any], times: int = 1) -> float:
    started = time.process_time()
    for _ in range(times):
        call()
    return time.process_time() - started


COSTS = {
    "step_s": ("training step", 1e3, "ms"),
    "saved_bytes": ("kept for backward", 1e-6, "MB"),
    "hop_s": ("hop in torch", 1e3, "ms"),
    "suppress_s": ("suppression, 1 h", 1e3, "ms"),
}


def line(rows: Sequence[Row], key: str) -> dict[str, float]:
    """``fixed`` cost, that of a ``thousand`` classes more, and how far a cost lies ``off`` the line, as a share of it.

    Least squares of relative deviations: small sizes count as much as large ones.
    """
    sizes, costs = (np.array([row[name] for row in rows], np.float64) for name in ("classes", key))
    design = np.stack([np.ones_like(sizes), sizes / 1000], 1) / costs[:, None]
    fixed, thousand = np.linalg.lstsq(design, np.ones_like(costs), rcond=None)[0].tolist()
    off = np.abs(design @ np.array([fixed, thousand]) - 1).max()
    return {"fixed": fixed, "thousand": thousand, "off": float(off)}


def report(result: dict[str, Any]) -> Iterator[str]:
    rows = result["rows"]
    yield (
        f"classes: batch of {result['batch']} clips of {result['clip_s']:g} s, processor time, median of "
        f"{result['repeats']} rounds; suppression of {result['steps']:,} proposals, {rows[0]['events']:,} events"
    )
    titles = "".join(f"{f'{name}, {unit}':>24}" for name, _, unit in COSTS.values())
    yield f"  {'classes':>8}{'parameters':>12}{titles}"
    for row in rows:
        costs = "".join(f"{row[key] * scale:>24.2f}" for key, (_, scale, _) in COSTS.items())
        yield f"  {row['classes']:>8}{row['parameters']:>12,}{costs}"
    for key, (name, scale, unit) in COSTS.items():
        found = result["lines"][key]
        yield (
            f"  {name}: {scale * found['fixed']:.2f} {unit} and {scale * found['thousand']:.2f} {unit} a thousand "
            f"classes; off this line by at most {100 * found['off']:.0f} %: linear: {_reached(found['off'] <= OFF)}"
        )


def _reached(yes: bool) -> str:
    return "reached" if yes else "MISSED"
