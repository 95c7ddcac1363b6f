"""`lightning bench spotter --part accuracy`: what gates cost in F1 and save in computation, over seeds.

Each training is a run of a shipped recipe with a record of its own, in ``out``; a second call goes on from there. All
numbers are at the threshold that each run's validation set. Pairs are compared stream by stream: the interval of a
difference draws trainings and streams, the same streams on both sides.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightsleeper.bench.spotter_arms import GROUPS, trainings
from lightsleeper.bench.trainings import finished
from lightsleeper.deploy.onnx_graph import OnnxGraph
from lightsleeper.metrics.comparison import permutation_test
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.metrics.resampling import interval
from lightsleeper.metrics.words import CONTENTS, PUBLISHED_THRESHOLD
from lightsleeper.run_folder import DETAILS
from lightsleeper.tracking.record import read

SEEDS, QUICK_SEEDS = 3, 1
RESAMPLES = 2000
LOST, SKIPPED = 0.01, 0.97  # claimed: F1 lost at most, computation skipped where nobody speaks
NOBODY = ("noise", "silence")  # contents without speech
QUALITIES = ("f1", "f1_strict", "mean_iou", "mtwv", "frr", "fa_per_hour")
Row = dict[str, Any]


def run(
    out: Path,
    threads: int = 1,
    quick: bool = False,
    seeds: int | None = None,
    only: Sequence[str] | None = None,
    collect: bool = False,
) -> dict[str, Any]:
    """Train what ``out`` does not hold yet, one training after the other, then compare.

    ``only``: names of `GROUPS`. ``collect``: train nothing, compare what is finished. Raises UserError where nothing
    is, or a training fails.
    """
    names = list(only or GROUPS)
    todo = list(trainings(names, seeds or (QUICK_SEEDS if quick else SEEDS), quick))
    rows = [
        row_of(training.arm.name, training.arm.label, training.seed, folder)
        for training, folder in finished(todo, out, "f1", collect)
    ]
    return {"trainings": len(todo), "groups": names, "rows": rows, "found": compared(rows, names)}


def row_of(arm: str, label: str, seed: int, folder: Path) -> Row:
    """All that is compared of one run."""
    record = read(folder)
    artifact = next(artifact for artifact in record.artifacts if artifact["format"] == "onnx")
    stored = OnnxGraph(folder / artifact["path"]).metadata
    metrics = {name.removeprefix("test/"): value for name, value in record.metrics.items() if name.startswith("test/")}
    details = json.loads((folder / DETAILS).read_text(encoding="utf-8"))["test"]
    return {
        "arm": arm,
        "label": label,
        "seed": seed,
        "run": record.run_id,
        "metrics": metrics,
        "parameters": record.size["parameters"],
        "macs": record.size.get("macs"),
        "encoder_macs": int(stored["encoder_macs"]),
        "fit_s": record.seconds.get("fit"),
        "streams": by_stream(details),
        "hours": hours(details),
        "f1_published": f1_above(details, PUBLISHED_THRESHOLD, record.threshold.get("value")),
    }


def by_stream(details: dict[str, Any]) -> dict[str, list[int]]:
    """Stream -> words spoken, events found, events that are right."""
    words, alarms = details["words"], Counter(details["false_alarms"]["stream"])
    spoken = Counter(words["stream"])
    pairs = zip(words["stream"], words["score"], strict=True)
    right = Counter(stream for stream, score in pairs if score is not None)
    streams = sorted(details["streams"]["stream"])
    return {str(number): [spoken[number], right[number] + alarms[number], right[number]] for number in streams}


def f1_above(details: dict[str, Any], threshold: float, kept: float | None) -> float | None:
    """F1 at a threshold; None where what was kept begins above it. Matching goes from the highest score down."""
    if kept is None or kept > threshold:
        return None
    words = details["words"]["score"]
    right = sum(score is not None and score > threshold for score in words)
    alarms = sum(score > threshold for score in details["false_alarms"]["score"])
    return 2 * right / (len(words) + right + alarms) if words else None


def hours(details: dict[str, Any]) -> dict[str, float]:
    """Of the test streams, by content."""
    found: Counter[str] = Counter()
    for content, seconds in zip(details["streams"]["content"], details["streams"]["seconds"], strict=True):
        found[content] += seconds / 3600
    return dict(found)


def macs_per_hop(row: Row, content: str) -> float:
    """Multiply-accumulates of encoder and heads in a mean hop of such content."""
    skipped = row["metrics"].get(f"skipped_{content}", {}).get("value") or 0.0
    return row["macs"] - skipped * row["encoder_macs"]


def compared(rows: Sequence[Row], groups: Sequence[str]) -> list[dict[str, Any]]:
    """Each pair of each group whose two arms have a finished training."""
    by: dict[str, list[Row]] = {}
    for row in rows:
        by.setdefault(row["arm"], []).append(row)
    pairs = [(group, *pair) for group in groups for pair in GROUPS[group].pairs]
    return [
        {"group": group, "first": first, "second": second, **compare(by[first], by[second])}
        for group, first, second in pairs
        if first in by and second in by
    ]


def compare(first: Sequence[Row], second: Sequence[Row]) -> dict[str, Any]:
    """What the second gains over the first, each quality as a mean over trainings."""
    values = {name: [[_value(row, name) for row in rows] for rows in (first, second)] for name in QUALITIES}
    seeds = {row["seed"]: _value(row, "f1") for row in first}
    both = [(seeds[row["seed"]], _value(row, "f1")) for row in second if row["seed"] in seeds]
    gains = {name: mean(b) - mean(a) for name, (a, b) in values.items()}
    return {
        "trainings": [len(first), len(second)],
        "gains": gains,
        "f1": f1_gain(first, second).to_dict(),
        "p_trainings": permutation_test(*values["f1"]),
        "better_seeds": [sum(b > a for a, b in both), len(both)],
    }


def f1_gain(first: Sequence[Row], second: Sequence[Row], resamples: int = RESAMPLES) -> Measurement:
    """Mean F1 of the second less that of the first; trainings and streams are drawn for its interval."""
    names = sorted({name for row in (*first, *second) for name in row["streams"]})
    tables = [
        np.array([[row["streams"].get(name, [0, 0, 0]) for name in names] for row in rows], np.float64)
        for rows in (first, second)
    ]  # (trainings, streams, 3) each

    def f1(counts: NDArray[np.float64]) -> float:
        spoken, found, right = counts.T
        return float(np.mean(2 * right / np.maximum(spoken + found, 1)))

    rng, drawn = np.random.default_rng(0), []
    for _ in range(resamples if len(names) > 1 else 0):
        streams = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        sides = [f1(np.tensordot(t[rng.integers(len(t), size=len(t))], streams, ((1,), (0,)))) for t in tables]
        drawn.append(sides[1] - sides[0])
    value = f1(tables[1].sum(1)) - f1(tables[0].sum(1))
    if not drawn:
        return Measurement(value, n=len(names))
    low, high = interval(torch.tensor(drawn, dtype=torch.double))
    return Measurement(value, low, high, len(names), f"bootstrap over trainings and streams, {resamples}")


def _value(row: Row, name: str) -> float:
    value = row["metrics"].get(name, {}).get("value")
    return float("nan") if value is None else float(value)


def report(result: dict[str, Any]) -> Iterator[str]:
    """Tables: every arm, then every comparison."""
    rows = result["rows"]
    yield (
        f"accuracy: {len(rows)} of {result['trainings']} trainings; {_counts(rows[0])}; means over seeds, thresholds "
        "from validation"
    )
    shown = set()
    for group in result["groups"]:
        arms = [arm for arm in GROUPS[group].arms if any(row["arm"] == arm.name for row in rows)]
        if not arms:
            continue
        yield f"{group}: {GROUPS[group].claim}"
        yield from table(rows, [(arm.name, arm.label) for arm in arms])
        for found in result["found"]:
            if found["group"] == group and (found["first"], found["second"]) not in shown:
                shown.add((found["first"], found["second"]))
                yield _verdict(found)
        if group == "gates":
            yield from _claims(rows, result["found"])


def table(rows: Sequence[Row], arms: Sequence[tuple[str, str]]) -> Iterator[str]:
    """A line for each arm: qualities, then shares skipped by content."""
    contents = [name for name in CONTENTS if any(f"skipped_{name}" in row["metrics"] for row in rows)]
    yield (
        f"  {'':18}{'n':>3}{'F1':>8}{'min':>8}{'max':>8}{'at 0.95':>9}{'strict':>8}{'IoU':>8}{'MTWV':>8}{'FRR':>8}"
        f"{'FA/h':>8}{'params':>11}{'MMAC/hop of speech':>20}{'fit s':>7}"
        + "".join(f"{'skips ' + name:>17}" for name in contents)
    )
    for name, label in arms:
        mine = [row for row in rows if row["arm"] == name]
        if not mine:
            continue
        means = [mean(_value(row, quality) for row in mine) for quality in QUALITIES]
        f1 = [_value(row, "f1") for row in mine]
        skips = [mean(_value(row, f"skipped_{content}") for row in mine) for content in contents]
        yield (
            f"  {label:18}{len(mine):3}{means[0]:8.4f}{min(f1):8.4f}{max(f1):8.4f}{_mean(mine, 'f1_published'):9.4f}"
            + "".join(f"{value:8.4f}" for value in means[1:5])
            + f"{means[5]:8.1f}{mine[0]['parameters']:11,}"
            + f"{mean(macs_per_hop(row, 'speech') for row in mine) / 1e6:20.2f}"
            + f"{mean(row['fit_s'] or 0 for row in mine):7.0f}"
            + "".join(f"{'-' if value != value else f'{100 * value:.1f} %':>17}" for value in skips)
        )


def _mean(rows: Sequence[Row], name: str) -> float:
    """Of the rows that have it."""
    return mean([row[name] for row in rows if row.get(name) is not None] or [float("nan")])


def _counts(row: Row) -> str:
    heard = ", ".join(f"{value:.2f} h of {content}" for content, value in row["hours"].items())
    return f"{row['metrics']['recall']['n']} words in {len(row['streams'])} streams: {heard}"


def _verdict(found: dict[str, Any]) -> str:
    change, gains = found["f1"], found["gains"]
    wins, seeds = found["better_seeds"]
    span = "" if change["low"] is None else f" [{change['low']:+.4f}, {change['high']:+.4f}]"
    return (
        f"  {found['second']} against {found['first']}: F1 {change['value']:+.4f}{span}, "
        f"IoU {_signed(gains['mean_iou'])}, MTWV {_signed(gains['mtwv'])}, "
        f"false alarms an hour {gains['fa_per_hour']:+.1f}; p {found['p_trainings']:.3f} over trainings "
        f"({found['trainings'][0]} and {found['trainings'][1]}); better in {wins} of {seeds} seeds"
    )


def _claims(rows: Sequence[Row], found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The two claims of the paper, in its words."""
    for pair in found:
        if (pair["first"], pair["second"]) == ("ungated", "gated"):
            whole, lost = mean(_value(row, "f1") for row in rows if row["arm"] == "ungated"), -pair["f1"]["value"]
            worst = "" if pair["f1"]["low"] is None else f", at most {-pair['f1']['low']:.4f} (97.5 %)"
            reached = _reached(lost <= LOST) if whole else "there was none to lose"
            yield f"  claim: at most {LOST} of F1 lost: lost {lost:+.4f} of {whole:.4f}{worst}: {reached}"
    gated = [row for row in rows if row["arm"] == "gated"]
    for content in NOBODY:
        shares = [_value(row, f"skipped_{content}") for row in gated if f"skipped_{content}" in row["metrics"]]
        if shares:
            yield (
                f"  claim: {100 * SKIPPED:.0f} % of the encoder skipped on {content}: {100 * mean(shares):.1f} %: "
                f"{_reached(mean(shares) >= SKIPPED)}"
            )


def _signed(value: float) -> str:
    return "unknown" if value != value else f"{value:+.4f}"


def _reached(yes: bool) -> str:
    return "reached" if yes else "MISSED"
