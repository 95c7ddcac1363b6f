"""`lightning bench asd --part modality`: does the data need both senses? Detectors of sound, of faces, and of both."""

from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from lightsleeper.bench import asd_arms as arms
from lightsleeper.bench.asd_arms import row_of, value
from lightsleeper.bench.trainings import Arm, finished

MODALITIES = ("both", "audio", "video")
BAR = 0.15  # of mAP by which each single sense has to stay behind


def run(
    out: Path,
    threads: int = 1,
    quick: bool = False,
    seeds: int | None = None,
    collect: bool = False,
    workers: int = 1,
) -> dict[str, Any]:
    """Train what ``out`` does not hold yet, ``workers`` at once, then compare. Raises UserError as part context."""
    numbers = arms.seeds_of(seeds, quick)
    todo = [training for name in MODALITIES for training in arms.with_seeds(_arm(name, quick), numbers)]
    rows = [row_of(*found) for found in finished(todo, out, "map", collect, workers)]
    return {"seeds": numbers, "rows": rows}


def _arm(modality: str, quick: bool) -> Arm:
    base = arms.encoder(quick)
    own = () if modality == "both" else (f"--model.modality={modality}",)  # the run of part context, where it is there
    return Arm(modality, base.recipe, (*base.overrides, *own), modality)


def report(result: dict[str, Any]) -> Iterator[str]:
    """mAP of each, and the verdict on the bar."""
    found = {name: [value(row) for row in result["rows"] if row["arm"] == name] for name in MODALITIES}
    yield f"modality: causal encoders and a GRU, test mAP over seeds {', '.join(map(str, result['seeds']))}"
    for name, values in found.items():
        if values:
            yield f"  {name:8}{mean(values):8.4f}  ({', '.join(f'{one:.4f}' for one in values)})"
    for name in MODALITIES[1:]:
        if found["both"] and found[name]:
            behind = mean(found["both"]) - mean(found[name])
            verdict = "reached" if behind >= BAR else "MISSED"
            yield f"  {name} alone is {100 * behind:.1f} mAP behind both; claimed {100 * BAR:.0f}: {verdict}"
