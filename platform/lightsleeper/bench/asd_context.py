"""`lightning bench asd --part context`: mAP over past and future, against GRUs on the same encoders.

Each training is a run of a shipped recipe with a record of its own, in ``out``; a second call goes on from there. All
points have the first seed, those of decisive look-ahead every seed; what is compared is compared within seeds.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from lightsleeper.bench import asd_arms as arms
from lightsleeper.bench.asd_arms import Row, row_of, value
from lightsleeper.bench.trainings import Training, finished
from lightsleeper.deploy.finalize import load_model
from lightsleeper.recipe import load
from lightsleeper.recipe.parsing import build_data
from lightsleeper.run_folder import RECIPE

GROUPS = ("grid", "baselines", "whole", "flexible")
Cells = dict[tuple[int, int], dict[int, float]]


def run(
    out: Path,
    threads: int = 1,
    quick: bool = False,
    seeds: int | None = None,
    only: Sequence[str] | None = None,
    collect: bool = False,
    workers: int = 1,
) -> dict[str, Any]:
    """Train what ``out`` does not hold yet, ``workers`` at once, then compare.

    ``only``: names of `GROUPS`. ``collect``: train nothing, compare what is finished. Raises UserError where nothing
    is, or a training fails.
    """
    chosen = list(only or GROUPS)
    numbers = arms.seeds_of(seeds, quick)
    first = arms.with_seeds(arms.encoder(quick), numbers)  # before the others: they would all train it
    todo = [training for name in chosen for training in trainings(name, numbers, quick)]
    parts = [[*first, *todo]]
    if not collect:  # a seed after the other, so that what is finished compares early
        parts = [[t for t in part if t.seed == seed] for seed in numbers for part in (first, todo)]
    rows = [row_of(*found) for part in parts for found in finished(part, out, "map", collect, workers)]
    return {"seeds": numbers, "rows": rows, "flexible": _budgets(rows, quick)}


def trainings(group: str, seeds: Sequence[int], quick: bool) -> list[Training]:
    """Of one group, decisive ones first."""
    pasts, futures = (arms.QUICK_PASTS, arms.QUICK_FUTURES) if quick else (arms.PASTS, arms.FUTURES)
    if group == "grid":
        points = sorted(
            ((past, future) for past in pasts for future in futures), key=lambda at: at[1] not in arms.DECISIVE
        )
        return [
            training
            for past, future in points
            for training in arms.with_seeds(
                arms.point(past, future, quick), seeds if future in arms.DECISIVE else seeds[:1]
            )
        ]
    if group == "baselines":
        return [t for name in ("gru", "bigru") for t in arms.with_seeds(arms.recurrent(name, quick), seeds)]
    if group == "whole":
        points = list(arms.QUICK_WHOLE if quick else arms.WHOLE)
        return [t for at in points for t in arms.with_seeds(arms.whole(*at, quick), seeds)]
    return arms.with_seeds(arms.flexible(quick), seeds[:1])


def _budgets(rows: Sequence[Row], quick: bool) -> list[tuple[int, int, float]]:
    """Past, future and mAP of the one model, tested with each budget."""
    row = next((row for row in rows if row["arm"] == "flexible"), None)
    if row is None:
        return []
    first = next(one for one in rows if one["arm"] == "gru whole" and one["seed"] == row["seed"])
    recipe = load([Path(row["folder"]) / RECIPE], [f"--data.encoder={first['folder']}"])
    model, data = load_model(row["folder"]), build_data(recipe)
    data.prepare_data()
    data.setup("test")
    batches = [batch for loader in _list(data.test_dataloader()) for batch in loader]
    pasts, futures = (arms.QUICK_PASTS, arms.QUICK_FUTURES) if quick else (arms.PASTS, arms.FUTURES)
    return [(past, future, _tested(model, batches, past, future)) for past in pasts for future in futures]


@torch.inference_mode()
def _tested(model: Any, batches: Sequence[Any], past: int, future: int) -> float:
    model.forget()
    for batch in batches:
        model.metric.update(model(batch, past, future)[0], batch)
    return float(model.metric.compute())


def _list(loaders: Any) -> list[Any]:
    return list(loaders) if isinstance(loaders, (list, tuple)) else [loaders]


# What is found.


def cells(rows: Sequence[Row]) -> Cells:
    """(past, future) -> seed -> mAP of the transformers on kept vectors."""
    found: Cells = {}
    for row in rows:
        words = row["arm"].split()
        if words[0] == "past":
            found.setdefault((int(words[1]), int(words[3])), {})[row["seed"]] = value(row)
    return found


def gain(first: dict[int, float], second: dict[int, float]) -> tuple[float, float, int] | None:
    """Mean of second less first over the seeds that both have, its standard deviation, and how many; None: none."""
    pairs = [second[seed] - first[seed] for seed in first.keys() & second.keys()]
    return (mean(pairs), stdev(pairs) if len(pairs) > 1 else 0.0, len(pairs)) if pairs else None


def of_arm(rows: Sequence[Row], arm: str) -> dict[int, float]:
    return {row["seed"]: value(row) for row in rows if row["arm"] == arm}


def meets(grid: Cells, gru: dict[int, float], future: int) -> int | None:
    """The least past from which on no mean gain over the GRU is negative, at this look-ahead."""
    pasts = sorted(past for past, ahead in grid if ahead == future)
    found = None
    for past in reversed(pasts):
        difference = gain(gru, grid[past, future])
        if difference is None or difference[0] < 0:
            break
        found = past
    return found


def report(result: dict[str, Any]) -> Iterator[str]:
    """The grid, where it meets the GRU, what past and future buy, and whether the order holds when trained whole."""
    rows = result["rows"]
    grid, gru = cells(rows), of_arm(rows, "gru")
    seeds = sorted({seed for by in grid.values() for seed in by})
    yield f"context: {len(rows)} trainings, seeds {', '.join(map(str, result['seeds']))}; test mAP"
    if seeds:  # the others lack points: their means would not compare within a row
        first = {at: by[seeds[0]] for at, by in grid.items() if seeds[0] in by}
        yield from _table(f"transformer of one layer, seed {seeds[0]}", first)
    if len(seeds) > 1:
        every = {at: mean(by.values()) for at, by in grid.items() if len(by) == len(seeds)}
        yield from _table(f"transformer of one layer, mean over seeds {', '.join(map(str, seeds))}", every)
    one = {(past, future): found for past, future, found in result["flexible"]}
    yield from _table("one model, tested with each budget", one)
    for arm, label in (("gru", "GRU"), ("bigru", "two GRUs, whole clip"), ("gru whole", "GRU, trained whole")):
        if by := of_arm(rows, arm):
            yield f"  {label:32}{mean(by.values()):8.4f}  ({', '.join(f'{one:.4f}' for one in by.values())})"
    for future in sorted({future for _, future in grid}) if gru else ():
        past = meets(grid, gru, future)
        found = "below the GRU" if past is None else f"at or above the GRU from past {past} on"
        compared = min(len(by.keys() & gru.keys()) for at, by in grid.items() if at[1] == future)
        yield f"  future {future}: {found}, {_counted(compared)}"
    yield from _sides(grid)
    yield from _order(rows, grid)


def _table(title: str, found: dict[tuple[int, int], float]) -> Iterator[str]:
    if not found:
        return
    pasts, futures = (sorted({at[side] for at in found}) for side in (0, 1))
    yield f"  {title}; rows past, columns future, frames of 40 ms"
    yield f"  {'':8}" + "".join(f"{future:8}" for future in futures)
    for past in pasts:
        shown = (found.get((past, future)) for future in futures)
        yield f"  {past:8}" + "".join(f"{'-':>8}" if one is None else f"{one:8.4f}" for one in shown)


def _sides(grid: Cells) -> Iterator[str]:
    """The whole way along each side, the other at its least."""
    if not grid:
        return
    pasts, futures = (sorted({at[side] for at in grid}) for side in (0, 1))
    least = (pasts[0], futures[0])
    for name, far in (("past", (pasts[-1], futures[0])), ("future", (pasts[0], futures[-1]))):
        difference = gain(grid[least], grid[far]) if least in grid and far in grid else None
        if difference is not None:
            moved, spread, seeds = difference
            around = f" +- {spread:.4f}" if seeds > 1 else ""
            yield f"  {name} from {least} to {far}: {moved:+.4f}{around} over {_counted(seeds)}"


def _counted(seeds: int) -> str:
    return f"{seeds} seed" + ("" if seeds == 1 else "s")


def _order(rows: Sequence[Row], grid: Cells) -> Iterator[str]:
    """Points trained whole beside the same on kept vectors, best first."""
    both: list[tuple[float, ...]] = []
    for arm in dict.fromkeys(row["arm"] for row in rows if row["arm"].startswith("whole ")):
        past, future = map(int, arm.split()[1:])
        together, kept = of_arm(rows, arm), grid.get((past, future), {})
        if shared := together.keys() & kept.keys():
            both.append(tuple(mean(found[seed] for seed in shared) for found in (together, kept)))
            first, second = both[-1]
            yield f"  past {past}, future {future}: {first:.4f} trained whole, {second:.4f} on kept vectors"
    if len(both) > 1:
        orders = [sorted(range(len(both)), key=lambda point: both[point][side]) for side in (0, 1)]
        yield f"  order of these points: {'the same' if orders[0] == orders[1] else 'NOT the same'}"
