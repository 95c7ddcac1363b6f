"""`lightning bench phoneme --part accuracy`: unseen voices and phrases, easy and hard, over seeds.

Each training is a run of a shipped recipe with a record of its own in ``out``; a second call goes on from there. All
arms meet the same pairs, and an arm's scores (its verifier, what it is fused with) are judged each on their own.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from lightsleeper.bench.phoneme_arms import ARMS, ENTRANTS, PAIRS, Entrant, trainings
from lightsleeper.bench.timing import timed
from lightsleeper.bench.trainings import finished
from lightsleeper.data.lexicon import Lexicon
from lightsleeper.deploy.onnx_graph import OnnxGraph
from lightsleeper.deploy.runtime import Matcher
from lightsleeper.errors import UserError
from lightsleeper.metrics.comparison import permutation_test
from lightsleeper.run_folder import EXPORT
from lightsleeper.tracking.record import read

SEEDS, QUICK_SEEDS = 3, 1
QUALITIES = ("auc_easy", "auc_hard", "eer_easy", "eer_hard")
SETS = ("", "unseen_words")
TYPED = ("turn on the light", "hey computer", "smart mirror", "brown sugar", "good night")
PAPER = {"dsp": (0.8421, 0.2336), "verifier": (0.927, 0.144)}  # LibriPhrase hard: AUC, EER (paper, table 1)
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

    ``only``: names of `ARMS`. ``collect``: train nothing, compare what is finished. Raises UserError where nothing is,
    for an arm that there is not, and where a training fails.
    """
    names = list(only or ARMS)
    if unknown := [name for name in names if name not in ARMS]:
        raise UserError(f"bench phoneme: no arm '{unknown[0]}'; expected {', '.join(ARMS)}.")
    todo = list(trainings(names, seeds or (QUICK_SEEDS if quick else SEEDS), quick))
    rows = [
        row_of(training.arm.name, training.seed, folder)
        for training, folder in finished(todo, out, "auc_hard", collect)
    ]
    return {"trainings": len(todo), "rows": rows, "found": [found for pair in PAIRS if (found := compare(rows, *pair))]}


def row_of(arm: str, seed: int, folder: Path) -> Row:
    """All that is compared of one run."""
    record = read(folder)
    latency = record.artifacts[0].get("latency") or [{}]
    return {
        "arm": arm,
        "seed": seed,
        "run": record.run_id,
        "metrics": {name.removeprefix("test/"): value for name, value in record.metrics.items()},
        "parameters": record.size["parameters"],
        "latency_ms": latency[0].get("p50_ms"),
        "enrolment_ms": enrolment_ms(folder / EXPORT),
        "fit_s": record.seconds.get("fit"),
    }


def enrolment_ms(folder: Path) -> float:
    """Median time of a typed keyword: its pronunciation, and the enrolment graph where the model has one."""
    lexicon, path = Lexicon.default(), folder / "enroll.onnx"
    enroller = OnnxGraph(path) if path.is_file() else None
    main = OnnxGraph(folder / "model.onnx")

    def enroll() -> None:
        for text in TYPED:
            said = lexicon.pronounce(text)
            matcher = Matcher(main, enroller)  # a fresh one has no keyword in its cache
            matcher.enroll(_ids(said.phones), _ids(said.words))

    return timed(enroll, 5)["median"] / len(TYPED)


def _ids(values: Sequence[int]) -> Any:
    return np.array(values, np.int64)


def value(row: Row, scorer: str, quality: str, part: str = "") -> float:
    """One number of a run; nan where its test has none."""
    name = f"{part}/{scorer}{quality}" if part else f"{scorer}{quality}"
    found = row["metrics"].get(name, {}).get("value")
    return float("nan") if found is None else float(found)


def _values(rows: Sequence[Row], entrant: Entrant, quality: str, part: str = "") -> dict[int, float]:
    """By seed, where the test has the number."""
    mine = [row for row in rows if row["arm"] == entrant.arm]
    found = {row["seed"]: value(row, entrant.scorer, quality, part) for row in mine}
    return {seed: number for seed, number in found.items() if number == number}


def compare(rows: Sequence[Row], first: str, second: str) -> dict[str, Any] | None:
    """What the second entrant gains over the first on hard pairs, means over seeds; None where one has no run."""
    sides = [next(entrant for entrant in ENTRANTS if entrant.name == name) for name in (first, second)]
    found: dict[str, Any] = {"first": first, "second": second}
    for quality in ("auc_hard", "eer_hard"):
        a, b = (_values(rows, entrant, quality) for entrant in sides)
        if not a or not b:
            return None
        sign = 1 if quality.startswith("auc") else -1
        both = [sign * (b[seed] - a[seed]) for seed in a.keys() & b.keys()]
        found[quality] = {
            "first": mean(a.values()),
            "second": mean(b.values()),
            "better_seeds": [sum(gain > 0 for gain in both), len(both)],
            "p_trainings": permutation_test(list(a.values()), list(b.values())),
        }
    return found


def report(result: dict[str, Any]) -> Iterator[str]:
    """Tables by test set, then every comparison."""
    rows = result["rows"]
    yield f"accuracy: {len(rows)} of {result['trainings']} trainings; means over seeds with the test's 95 % interval"
    for part in SETS:
        lines = [line for entrant in ENTRANTS if (line := _line(rows, entrant, part))]
        if lines:
            yield part or "test"
            yield (
                f"  {'':32}{'n':>3}"
                + "".join(f"{quality.replace('_', ' '):>24}" for quality in QUALITIES)
                + (f"{'hard, by seed':>16}")
            )
            yield from lines
    yield f"  {'':32}{'parameters':>12}{'clip of 1 s, ms':>18}{'enrolment, ms':>16}{'fit, s':>9}"
    for name, arm in ARMS.items():
        mine = [row for row in rows if row["arm"] == name]
        if mine:
            yield (
                f"  {arm.label:32}{mine[0]['parameters']:12,}{mean(row['latency_ms'] or 0 for row in mine):18.2f}"
                f"{mean(row['enrolment_ms'] for row in mine):16.3f}{mean(row['fit_s'] or 0 for row in mine):9.0f}"
            )
    for found in result["found"]:
        yield _verdict(found)


def _line(rows: Sequence[Row], entrant: Entrant, part: str) -> str | None:
    cells, values = [], []
    for quality in QUALITIES:
        values = list(_values(rows, entrant, quality, part).values())
        if not values:
            return None
        name = f"{part}/{entrant.scorer}{quality}" if part else f"{entrant.scorer}{quality}"
        bounds = [row["metrics"][name] for row in rows if row["arm"] == entrant.arm]
        known = [bound for bound in bounds if bound.get("low") is not None]
        span = f" [{mean(b['low'] for b in known):.3f}, {mean(b['high'] for b in known):.3f}]" if known else ""
        cells.append(f"{mean(values):.4f}{span}")
    hard = list(_values(rows, entrant, "auc_hard", part).values())
    spread = f"{min(hard):.4f}-{max(hard):.4f}"
    return f"  {entrant.label:32}{len(values):3}" + "".join(f"{cell:>24}" for cell in cells) + f"{spread:>16}"


def _verdict(found: dict[str, Any]) -> str:
    auc, eer = found["auc_hard"], found["eer_hard"]
    wins, seeds = auc["better_seeds"]
    published = ""
    if (found["first"], found["second"]) == tuple(PAPER):
        (auc_a, eer_a), (auc_b, eer_b) = PAPER.values()
        published = f" (paper, LibriPhrase: {auc_a} -> {auc_b}, {eer_a} -> {eer_b})"
    return (
        f"  {found['second']} against {found['first']}: AUC hard {auc['first']:.4f} -> {auc['second']:.4f}, EER hard "
        f"{eer['first']:.4f} -> {eer['second']:.4f}{published}; p {auc['p_trainings']:.3f} over trainings; better in "
        f"{wins} of {seeds} seeds"
    )
