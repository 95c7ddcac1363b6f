"""`lightning bench spotter --part latency`: time of a hop by what is heard, beside the computation that gates skip.

Exported files hear the same test streams, speech, babble, noise and silence, hop by hop in ONNX Runtime; in each round
they take turns every few hops, another one first each time, so that whatever else the machine does meets all alike. The
time of a hop is the lowest of its rounds, to which others only add; told are mean and percentiles over hops, so the
spread is that of the content. Times are the processor's, which other processes disturb less than the clock's; the
ratio of the two is printed, and is 1 on a quiet machine. Savings are of means: what a battery feels.
"""

import gc
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightsleeper.bench.spotter_arms import GROUPS, trainings
from lightsleeper.deploy.spotting import OnnxSpotter
from lightsleeper.errors import UserError
from lightsleeper.metrics.words import CONTENTS
from lightsleeper.recipe import load
from lightsleeper.recipe.parsing import build_data
from lightsleeper.tracking import runs
from lightsleeper.tracking.record import read

HOPS, QUICK_HOPS = 500, 25  # of each content: two minutes
STRETCH = 4  # hops in a turn
ROUNDS, QUICK_ROUNDS = 10, 2
HOP_SAMPLES = 3840  # 240 ms, for how much is heard; each file takes hops of its own
SEEDS = 3  # of the trainings that are looked for; the first finished one of each arm is timed

Row = dict[str, Any]


def run(
    out: Path | None,
    threads: int = 1,
    quick: bool = False,
    repeats: int | None = None,
    models: Sequence[str] | None = None,
) -> dict[str, Any]:
    """All numbers. ``models``: NAME=RUN, the first one what others are compared with; else finished trainings of
    ``out``. ``repeats``: rounds. Raises UserError where there is nothing to time."""
    folders = named(models) if models else finished(out, quick)
    data = build_data(load([next(iter(folders.values()))]))
    heard = streams(data, QUICK_HOPS if quick else HOPS)
    spotters = {name: OnnxSpotter(_file(folder), threads) for name, folder in folders.items()}
    found, clock = measure(spotters, heard, repeats or (QUICK_ROUNDS if quick else ROUNDS))
    return {
        "hops": {content: sum(len(audio) for audio in parts) for content, parts in heard.items()},
        "rounds": repeats or (QUICK_ROUNDS if quick else ROUNDS),
        "clock_over_processor": clock,
        "models": {name: about(folder, spotters[name]) for name, folder in folders.items()},
        "content": found,
    }


def named(models: Sequence[str]) -> dict[str, Path]:
    """Run folders by the names that they are given. Raises UserError."""
    found = {}
    for entry in models:
        name, equals, source = entry.partition("=")
        if not equals or not name:
            raise UserError(f"--models {entry}: expected NAME=RUN.")
        found[name] = runs.find(source, runs.runs_root())
    return found


def finished(out: Path | None, quick: bool) -> dict[str, Path]:
    """A finished training of each arm. Raises UserError where there is none."""
    if out is None:
        raise UserError("bench spotter --part latency needs --models NAME=RUN, or --out DIR with finished trainings.")
    found: dict[str, Path] = {}
    for training in trainings(list(GROUPS), SEEDS, quick):
        folder = None if training.arm.name in found else training.plan.finished(out)
        if folder is not None:
            found[training.arm.name] = folder
    if not found:
        raise UserError(f"no training in {out} is finished: `lightning bench spotter --part accuracy --out {out}`.")
    return found


def about(folder: Path, spotter: OnnxSpotter) -> Row:
    record = read(folder)
    return {
        "run": record.run_id,
        "parameters": record.size.get("parameters"),
        "file_bytes": _file(folder).stat().st_size,
        "macs": record.size.get("macs"),
        "encoder_macs": int(spotter.metadata["encoder_macs"]),
    }


def _file(folder: Path) -> Path:
    return next(folder / a["path"] for a in read(folder).artifacts if a["format"] == "onnx")


def streams(data: Any, hops: int) -> dict[str, list[NDArray[np.float32]]]:
    """The beginning of the test streams by content, ``hops`` of 240 ms in all of each; one array (S,) a stream."""
    data.prepare_data()
    data.setup("test")
    loaders = data.test_dataloader()
    loader = loaders[0] if isinstance(loaders, (list, tuple)) else loaders
    found: dict[str, list[NDArray[np.float32]]] = {}
    left = dict.fromkeys(CONTENTS, hops * HOP_SAMPLES)
    for stream in loader.dataset.streams.values():
        if count := min(stream.samples, left[stream.content]):
            found.setdefault(stream.content, []).append(stream.read(0, count))
            left[stream.content] -= count
    return {content: found[content] for content in CONTENTS if content in found}


def measure(
    spotters: Mapping[str, OnnxSpotter], heard: Mapping[str, Sequence[NDArray[np.float32]]], rounds: int
) -> tuple[dict[str, dict[str, Row]], float]:
    """Content -> name -> ``us`` of a hop and shares ``skipped``; and the clock's over the processor's time."""
    found: dict[str, dict[str, Row]] = {}
    totals = np.zeros(2)
    for content, parts in heard.items():
        times: dict[str, list[NDArray]] = {name: [] for name in spotters}
        gates: dict[str, list[NDArray]] = {name: [] for name in spotters}
        for number in range(-1, rounds):  # the first one warms up
            taken, opened = one_round(spotters, parts)
            for name in spotters if number >= 0 else ():
                times[name].append(taken[name])
                gates[name] = opened[name]
        found[content] = {}
        for name, spotter in spotters.items():
            each = np.stack(times[name])  # (rounds, hops, 2)
            totals += each.sum((0, 1))
            found[content][name] = {"us": spread(each[:, :, 1].min(0)), **_skipped(spotter, gates[name])}
    return found, float(totals[0] / totals[1])


def one_round(
    spotters: Mapping[str, OnnxSpotter], parts: Sequence[NDArray[np.float32]]
) -> tuple[dict[str, NDArray], dict[str, list[NDArray]]]:
    """Seconds of each hop (hops, 2), of the clock and of the processor; and the gates of each."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in spotters}
    gates: dict[str, list[NDArray]] = {name: [] for name in spotters}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for audio in parts:
            states = {name: spotter.initial() for name, spotter in spotters.items()}
            hop = {name: int(spotter.metadata["hop_samples"]) for name, spotter in spotters.items()}
            for first in range(0, len(audio), STRETCH * HOP_SAMPLES):
                stretch = audio[first : first + STRETCH * HOP_SAMPLES]
                for name, spotter in _turned(list(spotters.items()), first // (STRETCH * HOP_SAMPLES)):
                    for at in range(0, len(stretch) - hop[name] + 1, hop[name]):
                        feeds = {"audio": stretch[None, at : at + hop[name]], "state": states[name]}
                        started = time.perf_counter(), time.thread_time()
                        outputs = spotter.graph.run(feeds)
                        times[name].append((time.perf_counter() - started[0], time.thread_time() - started[1]))
                        states[name] = outputs["next_state"]
                        if "gates" in outputs:
                            gates[name].append(outputs["gates"].reshape(-1))
    finally:
        if collecting:
            gc.enable()
    return {name: np.array(values) for name, values in times.items()}, gates


def _turned(items: list[Any], by: int) -> list[Any]:
    by %= len(items)
    return items[by:] + items[:by]


def spread(seconds: NDArray[np.float64]) -> dict[str, float]:
    p10, p50, p90, p99 = (1e6 * np.percentile(seconds, [10, 50, 90, 99])).tolist()
    return {"mean": 1e6 * float(seconds.mean()), "p10": p10, "p50": p50, "p90": p90, "p99": p99}


def _skipped(spotter: OnnxSpotter, gates: Sequence[NDArray]) -> dict[str, Any]:
    """Share of the encoder's multiply-accumulates that was skipped: mean and percentiles over hops."""
    if not gates:
        return {"skipped": None}
    macs = np.array(json.loads(spotter.metadata["module_macs"]), np.float64)
    shares = (1 - np.stack(gates)) @ macs / int(spotter.metadata["encoder_macs"])
    p10, p50, p90 = np.percentile(shares, [10, 50, 90]).tolist()
    return {"skipped": {"mean": float(shares.mean()), "p10": p10, "p50": p50, "p90": p90}}


def report(result: dict[str, Any]) -> Iterator[str]:
    """A table for each content."""
    models = result["models"]
    yield (
        f"latency: microseconds of the processor for a hop, its lowest of {result['rounds']} rounds; mean and "
        f"percentiles over hops; the clock ran {result['clock_over_processor']:.2f} times as long"
    )
    yield f"  {'':14}{'parameters':>12}{'file kB':>9}{'MMAC/hop':>10}{'of it encoder':>15}   run"
    for name, row in models.items():
        yield (
            f"  {name:14}{row['parameters']:>12,}{row['file_bytes'] / 1000:>9.0f}{row['macs'] / 1e6:>10.2f}"
            f"{row['encoder_macs'] / 1e6:>15.2f}   {row['run']}"
        )
    first = next(iter(models))
    for content, found in result["content"].items():
        yield f"{content}, {result['hops'][content] / HOP_SAMPLES:.0f} hops of 240 ms"
        yield (
            f"  {'':14}{'mean us':>9}{'p10':>8}{'p50':>8}{'p90':>8}{'p99':>8}{f'time saved against {first}':>32}"
            f"{'encoder MACs skipped (p10 p50 p90)':>36}"
        )
        for name, row in found.items():
            us, skipped = row["us"], row["skipped"]
            saved = 1 - us["mean"] / found[first]["us"]["mean"]
            macs = "-" if skipped is None else f"{100 * skipped['mean']:.1f} %{_span(skipped)}"
            yield (
                f"  {name:14}{us['mean']:9.0f}{us['p10']:8.0f}{us['p50']:8.0f}{us['p90']:8.0f}{us['p99']:8.0f}"
                f"{'' if name == first else f'{100 * saved:.1f} %':>32}{macs:>36}"
            )


def _span(skipped: dict[str, float]) -> str:
    return " (" + " ".join(f"{100 * skipped[name]:.0f}" for name in ("p10", "p50", "p90")) + ")"
