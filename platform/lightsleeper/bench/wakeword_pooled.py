"""People part of `bench wakeword`: verdicts of the folds pooled, intervals, operating points, pairs with an engine."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightsleeper.bench.wakeword_verdicts import Heard, false_alarms
from lightsleeper.metrics.exact import mcnemar, rate, rate_bound, share

SOURCES = ("people", "synthesis", "synthesis with phones")
PEOPLE = "recordings"  # negative streams of people are called so
SENSITIVITIES = (0.5, 1.0)  # the engine's default and its highest
Counts = tuple[dict[str, bool], dict[str, int], dict[str, float]]


def summary(rows: Sequence[Mapping[str, Any]], with_engine: bool) -> dict[str, Any]:
    """Pooled numbers of one phrase, as plain data."""
    people = [row for row in rows if row["job"].fold is not None]
    engines = {value: _engine(people, f"{value:g}") for value in SENSITIVITIES if with_engine and people}
    systems = {f"engine at {value:g}": counted(*found) for value, found in engines.items()}
    tests = []
    for source in SOURCES:
        members = [row for row in rows if row["job"].source == source]
        if not members:
            continue
        heard = [row["heard"] for row in members]
        points = _points(heard, {value: sum(found[1].values()) for value, found in engines.items()})
        for name, thresholds in points.items():
            outcome = {f: p >= at for one, at in zip(heard, thresholds, strict=True) for f, p in one.peaks.items()}
            alarms = {n: one.alarms(n, at) for one, at in zip(heard, thresholds, strict=True) for n in one.tracks}
            hours = {n: one.hours(n) for one in heard for n in one.tracks}
            systems[f"{source}{name}"] = counted(outcome, alarms, hours)
            for value, (theirs, _, _) in engines.items():
                if name.endswith(f"at {value:g}") or "engine" not in name:
                    only_ours, only_engine, p = mcnemar(*_paired(outcome, theirs))
                    tests.append({"ours": f"{source}{name}", "engine": value, "only_ours": only_ours,
                                  "only_engine": only_engine, "p": p})  # fmt: skip
        systems[source] |= {
            "bytes": max(row["bytes"] for row in members), "gzip_bytes": max(row["gzip_bytes"] for row in members),
            "parameters": members[0]["parameters"], "fit_seconds": [round(row["fit_seconds"]) for row in members],
            "runs": [row["run"] for row in members], "thresholds": [one.threshold for one in heard],
            "folds": [row["job"].fold for row in members],
            "missed_by_fold": [sum(p < one.threshold for p in one.peaks.values()) for one in heard],
        }  # fmt: skip
    version = people[0]["engine"]["version"] if engines else None
    return {"systems": systems, "mcnemar": tests, "engine": version}


def _engine(people: Sequence[Mapping[str, Any]], key: str) -> Counts:
    """Outcome by recording, alarms and hours by stream at one sensitivity."""
    outcome = {f: bool(row["engine"]["events"][f][key]) for row in people for f in row["heard"].peaks}
    alarms = {n: len(row["engine"]["events"][n][key]) for row in people for n in row["heard"].tracks}
    return outcome, alarms, {n: row["heard"].hours(n) for row in people for n in row["heard"].tracks}


def _points(heard: Sequence[Heard], engines: Mapping[float, int]) -> dict[str, list[float]]:
    """Thresholds by operating point: each network's own from validation, and, one for all networks, the lowest with so
    many alarms on these same negatives: points of a curve, which a test may not choose."""
    tracks = {name: track for one in heard for name, track in one.tracks.items()}
    spoken = [track for name, track in tracks.items() if name.startswith(PEOPLE)]

    def lowest(negatives: Sequence[NDArray], alarms: int) -> list[float]:
        over = false_alarms(negatives, heard[0].frame_s).highest_over(alarms)
        return [float(np.nextafter(np.float32(over), np.float32(2)))] * len(heard)

    found = {"": [one.threshold for one in heard], ", no false alarm": lowest(list(tracks.values()), 0)}
    found[", none on people"] = lowest(spoken, 0)
    for value, alarms in engines.items():
        found[f", alarms as engine at {value:g}"] = lowest(list(tracks.values()), alarms)
    return found


def _paired(first: Mapping[str, bool], second: Mapping[str, bool]) -> list[torch.Tensor]:
    """Outcomes of the recordings that both have met."""
    files = sorted(first.keys() & second.keys())
    return [torch.tensor([side[file] for file in files], dtype=torch.bool) for side in (first, second)]


def counted(outcome: Mapping[str, bool], alarms: Mapping[str, int], hours: Mapping[str, float]) -> dict[str, Any]:
    """Misses and false alarms with exact intervals, and the files that were missed."""
    missed = sorted(file for file, hit in outcome.items() if not hit)
    seen, total = sum(alarms.values()), sum(hours.values())
    people = [name for name in alarms if name.startswith(PEOPLE)]
    return {
        "frr": share(len(missed), len(outcome)).to_dict(),
        "missed": missed,
        "false_alarms": seen,
        "fa_per_hour": rate(seen, total).to_dict(),
        "fa_per_hour_bound": rate_bound(seen, total),
        "hours": total,
        "false_alarms_people": sum(alarms[name] for name in people),
        "hours_people": sum(hours[name] for name in people),
    }
