"""Accuracy part of `bench pdp`: PDP against magnitude pruning and Lightning's ModelPruning, each with its own ramp, and
PDP with the cubic ramp of the others, which tells the mask from the ramp.

Two tasks with headroom: spoken digits, tested on two speakers that training never hears (error rate), and a byte-level
language model on the Python standard library's own sources (bits per byte on files held out). All methods prune the
same layers by global magnitude over the same part of the training; all batch norms are measured anew at the end.
"""

import csv
import itertools
import json
import logging
import math
import statistics
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, ModelPruning
from lightsleeper_callbacks.base import Compression
from lightsleeper_callbacks.finalize import finalize
from lightsleeper_callbacks.magnitude import MagnitudePruning
from lightsleeper_callbacks.pdp import PDPMasking
from lightsleeper_callbacks.weights import find
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from lightsleeper.bench.pdp_nets import ByteLM, ResidualCNN, Trained
from lightsleeper.files import write_json
from lightsleeper.nn.frontend import LogMel

TEST_SPEAKERS = ("theo", "yweweler")
START, END = 0.16, 0.83  # of the training: the published 16 and 83 of 100 epochs
METHODS = ("pdp", "pdp_cubic", "magnitude", "lightning")
SPARSITIES = ("0.80", "0.90", "0.95", "2:4")


@dataclass(frozen=True)
class Settings:
    """Sizes at which the 96 trainings take about an hour on one core."""

    epochs: int = 12
    widths: tuple[int, ...] = (16, 24, 32)
    batch: int = 32
    lm_dim: int = 64
    lm_layers: int = 3
    lm_length: int = 64
    lm_steps: int = 100
    """Optimizer steps an epoch, of 8 windows: a pruned network needs steps more than it needs large batches."""
    digits: int = 2000
    """Recordings for training."""


QUICK = Settings(epochs=6, widths=(8, 12, 16), lm_dim=32, lm_layers=2, lm_steps=30, digits=400)


@dataclass(frozen=True)
class Task:
    """A network, its training data and what it is judged by."""

    module: Callable[[], Trained]
    loader: Callable[[int], DataLoader]
    """Training batches by seed."""
    score: Callable[[Trained], float]
    """Smaller is better."""
    unit: str


def run(folder: Path | None, data: Path | None, seeds: int, quick: bool) -> list[dict[str, Any]]:
    """All trainings as rows, from ``folder`` where they lie already; ``data``: spoken digits, None skips that task."""
    settings = QUICK if quick else Settings()
    tasks = {"bytes": byte_task(settings)}
    if data is not None:
        tasks = {"digits": digit_task(settings, data), **tasks}
    rows = []
    for task, seed, (method, sparsity) in itertools.product(tasks, range(seeds), _trainings(quick)):
        name = f"{task}-{method}-{sparsity.replace(':', 'of')}-{seed}"
        row = _stored(folder, name, settings)
        if row is None:
            row = {"task": task, "method": method, "sparsity": sparsity, "seed": seed, "unit": tasks[task].unit}
            row |= train(tasks[task], method, sparsity, seed, settings) | {"settings": _plain(settings)}
            if folder is not None:
                write_json(folder / f"{name}.json", row, indent=2)
        rows.append(row)
        print(f"  {name}: {row['score']:.3f} {row['unit']}, {row['seconds']:.0f} s", flush=True)
    return rows


def _trainings(quick: bool) -> Iterator[tuple[str, str]]:
    yield "dense", "0"
    for sparsity in SPARSITIES[1:2] if quick else SPARSITIES:
        for method in METHODS:
            if sparsity != "2:4" or method != "lightning":  # ModelPruning has no N:M
                yield method, sparsity


def train(task: Task, method: str, sparsity: str, seed: int, settings: Settings) -> dict[str, Any]:
    """One training: the score of the finalized network, the share of zeros found in it, seconds."""
    L.seed_everything(seed, verbose=False)
    module = task.module()
    callbacks = _callbacks(module, method, sparsity, settings.epochs)
    loader = task.loader(seed)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*|.*litlogger.*|.*log_every_n_steps.*")
        L.Trainer(
            accelerator="cpu",
            max_epochs=settings.epochs,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, loader)
    seconds = time.perf_counter() - started
    final, _, _ = finalize(module, [*callbacks, _Statistics()], batches=partial(task.loader, seed))
    pruned = find(final)
    zeros = sum(int((target.weight == 0).sum()) for target in pruned)
    return {
        "score": task.score(final),
        "zeros": zeros / sum(target.weight.numel() for target in pruned),
        "seconds": seconds,
    }


class _Statistics(Compression):
    """Batch-norm statistics measured anew for the methods that do not ask for it, too."""

    phase = PDPMasking.phase
    wants_statistics = True

    def finalize(self, module: Any) -> Any:
        return module


def _callbacks(module: Trained, method: str, sparsity: str, epochs: int) -> list[Callback]:
    if method == "dense":
        return []
    if method == "lightning":
        return [_model_pruning(module, float(sparsity), epochs)]
    kinds: dict[str, Callable[..., Compression]] = {
        "pdp": PDPMasking,
        "pdp_cubic": partial(PDPMasking, ramp="cubic"),
        "magnitude": MagnitudePruning,
    }
    kind = kinds[method]
    if sparsity == "2:4":
        return [kind(mode="n:m", pattern=sparsity, start=START, end=END)]
    return [kind(sparsity=float(sparsity), start=START, end=END)]


def _model_pruning(module: Trained, sparsity: float, epochs: int) -> ModelPruning:
    """Lightning's callback on the cubic schedule. Its amounts are shares of what is left, so they are worked out."""

    def target(epoch: int) -> float:
        done = min(max(((epoch + 1) / epochs - START) / (END - START), 0.0), 1.0)
        return sparsity * (1 - (1 - done) ** 3)

    def amount(epoch: int) -> float:
        before = target(epoch - 1)
        return (target(epoch) - before) / (1 - before)

    weights = [(layer, name) for entry in find(module) for layer, name in entry.owners]
    return ModelPruning("l1_unstructured", weights, ["weight"], amount=amount, use_global_unstructured=True)


def digit_task(settings: Settings, data: Path) -> Task:
    train, test = _digits(data)
    generator = torch.Generator().manual_seed(0)
    few = torch.randperm(len(train[0]), generator=generator)[: settings.digits]
    chosen = TensorDataset(train[0][few], train[1][few])

    def loader(seed: int) -> DataLoader:
        shuffle = torch.Generator().manual_seed(seed)
        return DataLoader(chosen, settings.batch, shuffle=True, generator=shuffle, drop_last=True)

    @torch.inference_mode()
    def score(module: Trained) -> float:
        guesses = torch.cat([module(batch).argmax(1) for batch in test[0].split(256)])
        return 100 * float((guesses != test[1]).float().mean())

    return Task(lambda: ResidualCNN(settings.widths), loader, score, "% errors")


@cache
def _digits(data: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Log-mel images (clips, 1, 40, 50) of one second each and digits, for training and for testing."""
    import soundfile

    frontend = LogMel(40, 8000, hop_ms=20.0)
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    rows: dict[bool, list[tuple[Tensor, int]]] = {True: [], False: []}
    with (data / "manifest.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            audio, _ = soundfile.read(data / row["path"], dtype="float32")
            clip = torch.from_numpy(audio)[None, :8000]
            features, _ = frontend(clip, torch.tensor([clip.shape[1]]))  # (1, frames, mel)
            image = F.pad(features.transpose(1, 2), (0, 50 - features.shape[1]))
            rows[row["speaker"] in TEST_SPEAKERS].append((image, words.index(row["text"])))
    found = [(torch.stack([x for x, _ in rows[k]]), torch.tensor([y for _, y in rows[k]])) for k in (False, True)]
    return found[0], found[1]


def byte_task(settings: Settings) -> Task:
    train, test = _sources()
    length = settings.lm_length

    def loader(seed: int) -> DataLoader:
        windows = _Windows(train, length)
        draw = torch.Generator().manual_seed(seed)
        sampler = RandomSampler(windows, replacement=True, num_samples=8 * settings.lm_steps, generator=draw)
        return DataLoader(windows, 8, sampler=sampler)

    @torch.inference_mode()
    def score(module: Trained) -> float:
        windows = test[: len(test) // (length + 1) * (length + 1)].view(-1, length + 1).long()
        losses = [module.loss((part[:, :-1], part[:, 1:])) * len(part) for part in windows.split(128)]
        return float(sum(losses)) / len(windows) / math.log(2)

    return Task(lambda: ByteLM(settings.lm_dim, settings.lm_layers, 4, length), loader, score, "bits per byte")


class _Windows(Dataset):
    def __init__(self, data: Tensor, length: int) -> None:
        self.data, self.length = data, length

    def __len__(self) -> int:
        return len(self.data) - self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        window = self.data[index : index + self.length + 1].long()
        return window[:-1], window[1:]


@cache
def _sources(most: int = 4_000_000, test: int = 64_000) -> tuple[Tensor, Tensor]:
    """Bytes of the standard library's modules; every tenth file is held out."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    held = b"".join(path.read_bytes() for path in files[::10])[:test]
    rest = b"".join(path.read_bytes() for index, path in enumerate(files) if index % 10)[:most]
    return torch.frombuffer(bytearray(rest), dtype=torch.uint8), torch.frombuffer(bytearray(held), dtype=torch.uint8)


def _stored(folder: Path | None, name: str, settings: Settings) -> dict[str, Any] | None:
    """The row of an earlier call at the same settings."""
    try:
        row = json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) if folder is not None else None
    except (OSError, ValueError):
        return None
    return row if row is not None and row.get("settings") == _plain(settings) else None


def _plain(settings: Settings) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(settings)))


def render(rows: list[dict[str, Any]]) -> str:
    """Mean and spread over seeds, and how often PDP won against each other method with the same seed."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        dense = [row["score"] for row in of_task if row["method"] == "dense"]
        lines.append(f"{task}, {of_task[0]['unit']} (smaller is better): dense {_spread(dense)}")
        lines.append(f"{'sparsity':>10}" + "".join(f"{method:>26}" for method in METHODS) + "   PDP better (same seed)")
        for sparsity in dict.fromkeys(row["sparsity"] for row in of_task if row["method"] != "dense"):
            by = {
                method: {row["seed"]: row["score"] for row in of_task
                         if row["method"] == method and row["sparsity"] == sparsity}
                for method in METHODS
            }  # fmt: skip
            wins = [
                f"{sum(by['pdp'][seed] < score for seed, score in by[other].items())}/{len(by[other])} {other}"
                for other in METHODS[1:]
                if by[other]
            ]
            cells = "".join(f"{_spread(list(by[method].values())):>26}" for method in METHODS)
            lines.append(f"{sparsity:>10}{cells}   {', '.join(wins)}")
    return "\n".join(lines)


def _spread(scores: list[float]) -> str:
    if not scores:
        return "-"
    return f"{statistics.mean(scores):.3f} ({min(scores):.3f}-{max(scores):.3f})"
