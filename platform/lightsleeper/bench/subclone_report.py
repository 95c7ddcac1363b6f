"""What the trainings of `lightning bench subclone` say: speed-ups, tables, verdicts."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

TARGET = 4.0  # times fewer tokens: the paper's abstract says about 4x
RANDOM, SUBCLONED, QUARTER = "random", "subcloned", "subcloned, a quarter of the budget"


def crossing(values: list[float], losses: list[float], target: float) -> float | None:
    """Where a loss curve first comes down to ``target``, linear between evaluations; None where it never does."""
    for index, loss in enumerate(losses):
        if loss <= target:
            if index == 0:
                return values[0]
            share = (losses[index - 1] - target) / (losses[index - 1] - loss)
            return values[index - 1] + share * (values[index] - values[index - 1])
    return None


def summarize(rows: Mapping[str, list[dict[str, Any]]], rates: Sequence[float], step: int) -> dict[str, dict[str, Any]]:
    """Per start, at its best rate and seed by seed: end loss, and how much sooner it has that of the random start.

    ``step``: tokens of one step, the least that counts: a start may have the loss before any training.
    """
    best = {name: _at_best(runs) for name, runs in rows.items()}
    baseline = best[RANDOM]
    found: dict[str, dict[str, Any]] = {}
    for name, runs in best.items():
        reached = [_sooner(run, reference, step) for run, reference in zip(runs, baseline, strict=True)]
        found[name] = {
            "rate": runs[0]["rate"],
            "rate_at_edge": runs[0]["rate"] in (rates[0], rates[-1]) and len(rates) > 2,
            "first_loss": _spread([run["losses"][0] for run in runs]),
            "end_loss": _spread([run["losses"][-1] for run in runs]),
            "calibration_seconds": _spread([run["calibration"]["seconds"] for run in runs]),
            "reached": [entry is not None for entry in reached],
            **{
                key: _spread([entry[key] for entry in reached if entry is not None]) if all(reached) else None
                for key in ("tokens", "seconds", "token_speedup", "second_speedup")
            },
        }
    return found


def _at_best(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs at the rate that was best with the first seed, by seed."""
    rate = min((run for run in runs if run["seed"] == 0), key=lambda run: run["losses"][-1])["rate"]
    return sorted((run for run in runs if run["rate"] == rate), key=lambda run: run["seed"])


def _sooner(run: Mapping[str, Any], reference: Mapping[str, Any], step: int) -> dict[str, float] | None:
    """Tokens and seconds, calibration included, to the loss that ``reference`` ends with; None where never."""
    target = reference["losses"][-1]
    found: dict[str, float] = {}
    for key, name in (("tokens", "token_speedup"), ("seconds", "second_speedup")):
        ours = crossing(run[key], run["losses"], target)
        theirs = crossing(reference[key], reference["losses"], target)
        if ours is None or theirs is None:
            return None
        least = run[key][1] * step / run["tokens"][1]
        found[key] = max(ours, least) + run["calibration"][key]
        found[name] = theirs / found[key]
    return found


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "min": min(values), "max": max(values), "seeds": len(values)}


def render(result: Mapping[str, Any]) -> str:
    """The tables, conditions first."""
    settings, conditions, parent = result["settings"], result["conditions"], result["parent"]
    source = settings["parent"] or (
        f"trained here on {settings['parent_tokens'] / 1e6:.1f} M bytes in {(parent['seconds'] or [0])[-1]:.0f} s"
    )
    lines = [
        f"subclone: {parent['kind']} {parent['sizes']} ({parent['parameters'] / 1e6:.2f} M, {source}, "
        f"{parent['loss']:.3f} nats) -> {parent['destination_sizes']} "
        f"({parent['destination_parameters'] / 1e6:.2f} M); "
        f"{settings['budget'] / 1e6:.2f} M tokens a training, {settings['batch']} x {settings['length']} a step, "
        f"rates {', '.join(f'{rate:g}' for rate in settings['rates'])}, {result['seeds']} seeds; "
        f"{conditions['threads']} threads, torch {conditions['torch']}, Python {conditions['python']}, "
        f"{conditions['machine']}, float32",
        "to the loss that the random start ends with, each at its best rate; mean (least-most over seeds); calibration "
        "counted",
        "",
        f"{'start':36}{'rate':>8}{'loss at 0':>11}{'loss at the end':>24}{'k tokens':>10}{'seconds':>10}"
        f"{'fewer tokens':>22}{'fewer seconds':>22}",
    ]
    starts = result["starts"]
    for name, row in starts.items():
        edge = "*" if row["rate_at_edge"] else ""
        reached = row["tokens"] is not None
        rate, first = format(row["rate"], "g") + edge, row["first_loss"]["mean"]
        lines.append(
            f"{name:36}{rate:>8}{first:>11.3f}{_text(row['end_loss'], 3):>24}"
            + (
                f"{row['tokens']['mean'] / 1e3:>10.0f}{row['seconds']['mean']:>10.1f}"
                f"{_text(row['token_speedup'], 2, 'x'):>22}{_text(row['second_speedup'], 2, 'x'):>22}"
                if reached
                else f"   not reached with {row['reached'].count(False)} of {len(row['reached'])} seeds"
            )
        )
    if any(row["rate_at_edge"] for row in starts.values()):
        lines.append("* at the edge of the grid: a better rate may lie beyond")
    lines += ["", *verdicts(starts)]
    return "\n".join(lines)


def verdicts(starts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whether the target was reached, and what each option does to the end loss."""
    main = starts[SUBCLONED]
    speedup = main["token_speedup"]
    lines = [
        f"target {TARGET:g}x fewer tokens: "
        + ("MISSED, the loss was not reached" if speedup is None else _judged(speedup))
    ]
    seconds = main["second_speedup"]
    if seconds is not None:
        lines.append(f"target {TARGET:g}x fewer seconds: {_judged(seconds)}")
    quarter, end = starts[QUARTER]["end_loss"], starts[RANDOM]["end_loss"]
    lines.append(
        f"a whole training on a quarter of the tokens ends at {quarter['mean']:.3f}, "
        f"random on all at {end['mean']:.3f}: "
        f"{'as good' if quarter['mean'] <= end['mean'] else 'NOT as good'}"
    )
    ours = main["end_loss"]
    for name, row in starts.items():
        if name in (RANDOM, SUBCLONED, QUARTER):
            continue
        theirs = row["end_loss"]
        if ours["seeds"] == 1:
            word = "with one seed"
        elif theirs["min"] > ours["max"]:
            word = "worse with every seed"
        elif theirs["max"] < ours["min"]:
            word = "BETTER with every seed: the default does not help here"
        else:
            word = "no clear difference: the default does not show here"
        lines.append(f"{name}: end loss {theirs['mean'] - ours['mean']:+.3f} against the default, {word}")
    return lines


def _judged(speedup: Mapping[str, float]) -> str:
    mean, seeds = speedup["mean"], speedup["seeds"]
    word = f"reached with all {seeds} seeds" if seeds > 1 else "reached with the one seed"
    if speedup["min"] < TARGET:
        word = "reached on average" if mean >= TARGET else "MISSED"
    return f"{word} ({mean:.2f}x)"


def _text(spread: Mapping[str, float], digits: int, unit: str = "") -> str:
    if spread["seeds"] == 1:
        return f"{spread['mean']:.{digits}f}{unit}"
    return f"{spread['mean']:.{digits}f}{unit} ({spread['min']:.{digits}f}-{spread['max']:.{digits}f})"
