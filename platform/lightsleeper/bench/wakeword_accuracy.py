"""`lightning bench wakeword --part accuracy`: the methods' claims about missed keywords, over seeds, with tests.

Each training is a run of a shipped recipe with a record of its own, in ``out``; a second call goes on from there. FRR
is taken at 0.5 false alarms an hour on the test streams themselves, so all detectors are compared at the same rate;
what each would do at the threshold that its validation set is in the tables beside it.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightsleeper.bench.trainings import Training, finished
from lightsleeper.bench.wakeword_arms import GROUPS, trainings
from lightsleeper.metrics.comparison import permutation_test, relative_reduction, sign_flip_test
from lightsleeper.metrics.localisation import WITHIN_MS
from lightsleeper.run_folder import DETAILS
from lightsleeper.tracking.record import Record, read

FA_PER_HOUR = 0.5
SEEDS, QUICK_SEEDS = 5, 2
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
    names = list(only or (("branches", "localisation") if quick else GROUPS))
    todo = list(trainings(names, seeds or (QUICK_SEEDS if quick else SEEDS), quick))
    rows = [
        _row(training, folder)
        for training, folder in finished(todo, out, f"frr_at_{FA_PER_HOUR:g}_fa_per_hour", collect)
    ]
    return {
        "target": FA_PER_HOUR,
        "trainings": len(todo),
        "groups": names,
        "rows": rows,
        "found": compared(rows, names),
    }


def _row(training: Training, folder: Path) -> Row:
    """All that is compared of one run."""
    record = read(folder)
    metrics = {name.removeprefix("test/"): value for name, value in record.metrics.items()}
    graph = next(artifact for artifact in record.artifacts if artifact["format"] == "onnx")
    return {
        "arm": training.arm.name,
        "label": training.arm.label,
        "seed": training.seed,
        "run": record.run_id,
        "frr": metrics[f"frr_at_{FA_PER_HOUR:g}_fa_per_hour"]["value"],
        "metrics": metrics,
        "validation": _best(record),
        "parameters": record.size["parameters"],
        "macs_per_second": record.size.get("macs"),
        "state_bytes": record.context.get("state_bytes"),
        "latency_ms": graph["latency"][0]["p50_ms"] if graph.get("latency") else None,
        "graph": _graph(folder / graph["path"]),
        "fit_s": record.seconds.get("fit"),
        "keywords": json.loads((folder / DETAILS).read_text(encoding="utf-8"))["test"],
    }


def _best(record: Record) -> float | None:
    """FRR on validation at the epoch that ships."""
    scores = record.curves.get("training", {}).get("val/score", {}).get("value") or []
    return min((score for score in scores if score is not None), default=None)


def _graph(path: Path) -> list[str]:
    """Nodes and shapes of weights of an ONNX file: files with equal ones do the same work."""
    import onnx

    graph = onnx.load(path).graph
    return [node.op_type for node in graph.node] + [str(list(weight.dims)) for weight in graph.initializer]


def compared(rows: Sequence[Row], groups: Sequence[str]) -> list[dict[str, Any]]:
    """Each pair of each group whose two arms have a finished training."""
    by: dict[str, list[Row]] = {}
    for row in rows:
        by.setdefault(row["arm"], []).append(row)
    pairs = [(group, *pair) for group in groups for pair in GROUPS[group].pairs]
    return [
        {"group": group, "first": first, "second": second, **_compare(by[first], by[second])}
        for group, first, second in pairs
        if first in by and second in by
    ]


def _compare(first: Sequence[Row], second: Sequence[Row]) -> dict[str, Any]:
    missed = _missed(first), _missed(second)  # (trainings, keywords)
    rates = [[row["frr"] for row in rows] for rows in (first, second)]
    seeds = {row["seed"]: row for row in first}
    both = [(seeds[row["seed"]], row) for row in second if row["seed"] in seeds]
    return {
        "trainings": [len(first), len(second)],
        "frr": [mean(values) for values in rates],
        "reduction": relative_reduction(missed[0], missed[1]).to_dict(),
        "p_trainings": permutation_test(*rates),
        "p_keywords": sign_flip_test(missed[0].mean(0) - missed[1].mean(0)),
        "better_seeds": [sum(b["frr"] < a["frr"] for a, b in both), len(both)],
        "same_graph": first[0]["graph"] == second[0]["graph"],
        "localisation": _localised(both),
    }


def _missed(rows: Sequence[Row]) -> NDArray[np.bool_]:
    return ~np.array([row["keywords"]["detected"] for row in rows], np.bool_)


def _localised(both: Sequence[tuple[Row, Row]]) -> dict[str, Any] | None:
    """Errors of start and end, side by side, over the keywords that both detectors of a seed fired for.

    As they are told, and less a constant for each detector: the median error of its other seeds, as a device could
    correct a bias that it knows of. One seed has no others.
    """
    found: dict[str, list[NDArray]] = {"start": [], "end": []}
    for pair in both:
        columns = [
            {key: _column(row, key) for key in ("begin_s", "end_s", "start_found_s", "end_found_s")} for row in pair
        ]
        fired = [~np.isnan(column["end_found_s"]) for column in columns]
        common = fired[0] & fired[1]
        for what, truth in (("start", "begin_s"), ("end", "end_s")):
            found[what].append(np.stack([(c[f"{what}_found_s"] - c[truth])[common] for c in columns]))
    sides: dict[str, Any] = {}
    for what, parts in found.items():
        errors = np.concatenate(parts, 1) if parts else np.zeros((2, 0))
        if not errors.shape[1] or np.isnan(errors).any():  # one of them does not tell
            continue
        sides[what] = {"events": errors.shape[1], **_spread(errors)}
        if len(parts) > 1:
            sides[what]["less_a_constant"] = _spread(np.concatenate(_centred(parts), 1))
    return sides or None


def _centred(parts: Sequence[NDArray]) -> list[NDArray]:
    """Errors (2, events) of each seed less the median of the other seeds' errors."""
    return [
        part - np.median(np.concatenate([*parts[:i], *parts[i + 1 :]], 1), 1, keepdims=True)
        for i, part in enumerate(parts)
    ]


def _spread(errors: NDArray) -> dict[str, list[float]]:
    """Of signed errors (2, events): the median of their sizes, and shares within some milliseconds."""
    sizes = np.abs(errors)
    near = {f"within_{ms}ms": (sizes <= ms / 1000 + 1e-9).mean(1).tolist() for ms in WITHIN_MS}
    return {"median_s": np.median(sizes, 1).tolist(), **near}


def _column(row: Row, key: str) -> NDArray[np.float64]:
    return np.array(row["keywords"][key], np.float64)  # None becomes nan


def report(result: dict[str, Any]) -> Iterator[str]:
    """Tables: every arm, then every comparison."""
    rows, shown = result["rows"], set()
    hours = rows[0]["metrics"]["negative_hours"]["value"]
    keywords = len(rows[0]["keywords"]["detected"])
    yield (
        f"accuracy: {len(rows)} of {result['trainings']} trainings; {keywords} keywords, {hours:.2f} h without one; "
        f"FRR at {result['target']:g} false alarms an hour, threshold of each on these streams"
    )
    for group in result["groups"]:
        arms = [arm for arm in GROUPS[group].arms if any(row["arm"] == arm.name for row in rows)]
        if not arms:
            continue
        yield f"{group}: {GROUPS[group].claim}"
        yield (
            f"  {'':44}{'n':>3}{'mean':>8}{'min':>8}{'max':>8}{'sd':>8}{'val':>8}{'set on validation':>22}"
            f"{'params':>9}{'fit s':>7}"
        )
        for arm in arms:
            yield _line(arm.label, [row for row in rows if row["arm"] == arm.name])
        for found in result["found"]:
            if found["group"] == group and (found["first"], found["second"]) not in shown:
                shown.add((found["first"], found["second"]))
                yield from _verdict(found)


def _line(label: str, rows: Sequence[Row]) -> str:
    rates = [row["frr"] for row in rows]
    spread = stdev(rates) if len(rates) > 1 else float("nan")
    validation = [row["validation"] for row in rows if row["validation"] is not None]
    frr = mean(row["metrics"]["frr"]["value"] for row in rows)
    alarms = mean(row["metrics"]["fa_per_hour"]["value"] for row in rows)
    return (
        f"  {label:44}{len(rows):3}{mean(rates):8.4f}{min(rates):8.4f}{max(rates):8.4f}{spread:8.4f}"
        f"{mean(validation) if validation else float('nan'):8.4f}{frr:12.4f} at {alarms:.2f}/h"
        f"{rows[0]['parameters']:9,}{mean(row['fit_s'] for row in rows):7.0f}"
    )


def _verdict(found: dict[str, Any]) -> Iterator[str]:
    change = found["reduction"]
    wins, seeds = found["better_seeds"]
    yield (
        f"  {found['second']} against {found['first']}: {100 * change['value']:+.0f} % fewer misses "
        f"[{100 * (change['low'] or 0):+.0f}, {100 * (change['high'] or 0):+.0f}]; p {found['p_trainings']:.3f} over "
        f"trainings ({found['trainings'][0]} and {found['trainings'][1]}), {found['p_keywords']:.4f} over keywords; "
        f"better in {wins} of {seeds} seeds; {'the same graph' if found['same_graph'] else 'another graph'}"
    )
    places = found["localisation"] or {}
    for what, side in places.items():
        yield f"    {what} of {side['events']} events that both fired for: {_places(found, side)}"
        if centred := side.get("less_a_constant"):
            yield f"      less the median error of its other seeds: {_places(found, centred)}"


def _places(found: dict[str, Any], side: dict[str, Any]) -> str:
    columns = zip_longest(
        (found["first"], found["second"]), side["median_s"], side["within_50ms"], side["within_100ms"]
    )
    return "; ".join(
        f"{name} median {1000 * median:.0f} ms, within 50 ms {100 * near:.0f} %, 100 ms {100 * far:.0f} %"
        for name, median, near, far in columns
    )
