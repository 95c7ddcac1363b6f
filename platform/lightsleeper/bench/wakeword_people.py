"""People part of `bench wakeword`: a phrase learned from crowd-sourced recordings, and from synthesis alone.

Five folds over all recordings of a phrase: each is tested once, by a network that never heard it. Negatives are the
fold's other recordings and an hour of synthesised speech, noise and music of its own: no audio counts twice. The
network that learned from synthesis alone is tested on all of it. With ``--engine`` an engine hears the same samples,
and the two are paired recording by recording. Every training is a run below ``--out``; a second call goes on.

The recordings name no speakers, so folds divide recordings: somebody who spoke twice may be on both sides.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightsleeper import experiment, parsing, recipe
from lightsleeper.bench.wakeword_verdicts import REFRACTORY_S, engine_hears, false_alarms, hear, read_heard
from lightsleeper.data.cache import content_hash
from lightsleeper.data.streams import Clip, Joined, Stream
from lightsleeper.data.wake_words import WakeWords
from lightsleeper.deploy.files import replacing
from lightsleeper.errors import UserError
from lightsleeper.metrics.exact import mcnemar, rate, rate_bound, share
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.stages.plan import Plan, plan
from lightsleeper.tracking.record import read, status_of

PHRASES = ("jarvis", "smart mirror")
FOLDS = 5
SENSITIVITIES = (0.5, 1.0)  # the engine's default and its highest
MODEL_BYTES = 200_000  # the target
RECIPES = ("wakeword_repcnn", "overlays/wakeword_recordings")
QUICK = (
    "--trainer.max_epochs=1", "--data.clips_per_epoch=128", "--data.train_keywords=60", "--data.train_near=60",
    "--data.train_speech=120", "--data.val_hours=0.1", "--data.test_hours=0.1", "--model.width=8",
)  # fmt: skip
DATA = "LIGHTSLEEPER_REAL_DATA"
TEST_AUDIO = (
    "phrase", "path", "negatives", "folds", "fold", "test_hours", "near_phrases", "near_per_hour", "held_out_voices",
    "validation_voices", "corpus_seed", "stream_snr_db", "noise",
)  # fmt: skip
"""The arguments of `WakeWords` that decide what is tested on."""


@dataclass(frozen=True)
class Job:
    """One training."""

    phrase: str
    fold: int | None
    """None: synthesis alone."""

    @property
    def name(self) -> str:
        source = "synthesis" if self.fold is None else f"people-{self.fold}"
        return f"{self.phrase.replace(' ', '_')}-{source}"


def run(out: Path, threads: int = 1, engine: str | None = None, quick: bool = False) -> dict[str, Any]:
    """Train, listen, compare. Raises UserError where the recordings are not there."""
    folder = recordings()
    phrases = PHRASES[:1] if quick else PHRASES
    folds = 2 if quick else FOLDS
    torch.set_num_threads(threads)
    results = {}
    for phrase in phrases:
        jobs = [Job(phrase, fold) for fold in range(folds)] + [Job(phrase, None)]
        rows = [verdicts(job, folder, out, folds, threads, engine, quick) for job in jobs]
        results[phrase] = summary(rows, engine is not None)
    return {"phrases": results, "folds": folds}


def recordings() -> Path:
    folder = Path(os.environ.get(DATA, ""))
    for name in ("wake_words/manifest.csv", "coffee_orders"):
        if not os.environ.get(DATA) or not (folder / name).exists():
            raise UserError(f"recordings of people are looked for in the folder that {DATA} names: no {name} there.")
    return folder


def verdicts(
    job: Job, folder: Path, out: Path, folds: int, threads: int, engine: str | None, quick: bool
) -> dict[str, Any]:
    """Of one training, from ``out`` where they lie; ``heard`` is a `Heard`, ``engine`` what `engine_hears` found."""
    todo = plan(recipe.load(RECIPES, [*overrides(job, folder, folds), *(QUICK if quick else ())]))
    trained = _trained(todo, out / "runs")
    about, record = out / f"{job.name}-{todo.hash[:8]}", read(trained)
    artifact = next(a for a in record.artifacts if a["format"] == "onnx")
    row = {"job": job, "run": trained.name, "bytes": artifact["bytes"], "gzip_bytes": artifact["gzip_bytes"]}
    row |= {"parameters": record.size["parameters"], "seconds": record.seconds["fit"]}
    scores = about.with_suffix(".npz")
    if not scores.exists():
        hear(trained / artifact["path"], *test_streams(todo, job), threads).save(scores)
    row["heard"] = heard = read_heard(scores)
    if engine is not None and job.fold is not None:
        row["engine"] = engine_verdicts(todo, job, out, engine)
    missed = sum(peak < heard.threshold for peak in heard.peaks.values())
    alarms = sum(heard.alarms(name) for name in heard.tracks)
    print(f"  {job.name}: {missed} of {len(heard.peaks)} missed, {alarms} false alarms", flush=True)
    return row


def engine_verdicts(todo: Plan, job: Job, out: Path, engine: str) -> dict[str, Any]:
    """What the engine hears in the job's test streams, which no training changes: kept in ``out`` by what they are."""
    given = todo.config["data"]["init_args"]
    path = out / f"{job.name}-engine-{content_hash([given[name] for name in TEST_AUDIO])}.json"
    if not path.exists():
        positives, negatives = test_streams(todo, job)
        found = engine_hears(engine, job.phrase, SENSITIVITIES, {**positives, **negatives})
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def overrides(job: Job, folder: Path, folds: int) -> list[str]:
    source = ["--data.evaluate_only=true"] if job.fold is None else [f"--data.fold={job.fold}"]
    return [
        f"--data.phrase={job.phrase}", f"--data.path={folder / 'wake_words'}", f"--data.folds={folds}",
        f'--data.negatives=["{folder / "coffee_orders"}"]', f"--data.test_hours={folds}",
        "--run.stages=[fit, finalize, export]", *source,
    ]  # fmt: skip


def _trained(todo: Plan, runs: Path) -> Path:
    """The folder of a run with this configuration: a finished one, one to go on with, or a new one."""
    if found := todo.finished(runs):
        return found
    for folder in sorted((runs / todo.recipe.name).glob("*"), reverse=True):
        if (folder / "record.json").exists():
            record = read(folder)
            if record.hash == todo.hash and status_of(record) not in ("running", "finished"):
                return experiment.run(todo.recipe, runs, folder)
    return experiment.run(todo.recipe, runs)


def test_streams(todo: Plan, job: Job) -> tuple[dict[str, Stream], dict[str, Stream]]:
    """Recordings of the phrase by file, and what holds none by name; of the synthesised hours each fold has its own."""
    data = parsing.build(todo.config, todo.recipe).data
    assert isinstance(data, WakeWords)
    data.setup("test")
    positives: dict[str, Stream] = {}
    negatives: dict[str, Stream] = {}
    hours = 0
    for number, stream in data.streams("test").items():
        if isinstance(stream, Clip):
            positives[_file(data, number)] = stream
        elif isinstance(stream, Joined):
            negatives["recordings" if job.fold is None else f"recordings {job.fold}"] = stream
        else:
            if job.fold is None or hours % data.folds == job.fold:
                negatives[f"synthesised hour {hours}"] = stream
            hours += 1
    return positives, negatives


def _file(data: WakeWords, number: int) -> str:
    file = data.recording(number)
    assert file is not None
    assert data.path is not None
    return file.relative_to(data.path).as_posix()


def summary(rows: Sequence[Mapping[str, Any]], with_engine: bool) -> dict[str, Any]:
    """Pooled numbers of one phrase, as plain data."""
    people = [row for row in rows if row["job"].fold is not None]
    groups = {"people": people, "synthesis": [row for row in rows if row["job"].fold is None]}
    systems: dict[str, Any] = {}
    caught: dict[str, dict[str, bool]] = {}  # by system and recording
    for source, members in groups.items():
        heard = [row["heard"] for row in members]
        own = {file: peak >= one.threshold for one in heard for file, peak in one.peaks.items()}
        alarms = {name: one.alarms(name) for one in heard for name in one.tracks}
        hours = {name: one.hours(name) for one in heard for name in one.tracks}
        zero = false_alarms([track for one in heard for track in one.tracks.values()], heard[0].frame_s).highest_over(0)
        best = {file: peak > zero for one in heard for file, peak in one.peaks.items()}
        none = dict.fromkeys(alarms, 0)
        for name, outcome, counts in ((source, own, alarms), (f"{source}, no false alarm here", best, none)):
            systems[name], caught[name] = counted(outcome, counts, hours), outcome
        systems[source] |= {
            "bytes": max(row["bytes"] for row in members), "gzip_bytes": max(row["gzip_bytes"] for row in members),
            "parameters": members[0]["parameters"], "fit_seconds": [round(row["seconds"]) for row in members],
            "runs": [row["run"] for row in members], "thresholds": [one.threshold for one in heard],
            "missed_by_fold": [sum(p < one.threshold for p in one.peaks.values()) for one in heard],
        }  # fmt: skip
    tests = []
    for value in SENSITIVITIES if with_engine else ():
        name, key = f"engine at {value:g}", f"{value:g}"
        outcome = {f: bool(row["engine"]["events"][f][key]) for row in people for f in row["heard"].peaks}
        alarms = {n: len(row["engine"]["events"][n][key]) for row in people for n in row["heard"].tracks}
        hours = {n: row["heard"].hours(n) for row in people for n in row["heard"].tracks}
        systems[name] = counted(outcome, alarms, hours) | {"version": people[0]["engine"]["version"]}
        for ours, mine in caught.items():
            only_ours, only_engine, p = mcnemar(*_paired(mine, outcome))
            tests.append({"ours": ours, "engine": value, "only_ours": only_ours, "only_engine": only_engine, "p": p})
    return {"systems": systems, "mcnemar": tests}


def _paired(first: Mapping[str, bool], second: Mapping[str, bool]) -> list[torch.Tensor]:
    return [torch.tensor([side[file] for file in sorted(first)]) for side in (first, second)]


def counted(outcome: Mapping[str, bool], alarms: Mapping[str, int], hours: Mapping[str, float]) -> dict[str, Any]:
    """Misses and false alarms with exact intervals, and the files that were missed."""
    missed = sorted(file for file, hit in outcome.items() if not hit)
    seen, total = sum(alarms.values()), sum(hours.values())
    people = [name for name in alarms if name.startswith("recordings")]
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


def report(result: Mapping[str, Any]) -> Iterator[str]:
    """The tables."""
    for phrase, found in result["phrases"].items():
        yield ""
        yield (
            f"'{phrase}', recordings of people, {result['folds']} folds; a bound is one-sided at 95 %; alarms within "
            f"{REFRACTORY_S:g} s of one before count with it"
        )
        yield (
            f"{'':36}{'missed':>11}{'FRR':>8}{'95 %':>18}{'false alarms':>14}{'an hour below':>15}   on people's speech"
        )
        for name, system in found["systems"].items():
            frr = Measurement(**system["frr"])
            span = f"[{100 * (frr.low or 0):.2f}, {100 * (frr.high or 0):.2f}] %"
            missed = f"{len(system['missed'])} of {frr.n}"
            yield (
                f"{name:36}{missed:>11}{100 * frr.value:>6.2f} %{span:>18}"
                f"{system['false_alarms']:>14}{system['fa_per_hour_bound']:>15.2f}   "
                f"{system['false_alarms_people']} in {system['hours_people']:.2f} of {system['hours']:.2f} h"
            )
        yield from _sizes(found["systems"])
        for test in found["mcnemar"]:
            yield (
                f"McNemar, {test['ours']}, engine at {test['engine']:g}: only ours heard {test['only_ours']}, only the "
                f"engine {test['only_engine']}, p = {test['p']:.2g}"
            )
    yield ""
    yield "thresholds are from validation; 'no false alarm here': one for all folds, the lowest without one on them"


def _sizes(systems: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    for source in ("people", "synthesis"):
        system = systems[source]
        reached = "reached" if system["bytes"] < MODEL_BYTES else "MISSED"
        yield (
            f"{source}: {system['parameters']:,} parameters, model.onnx {system['bytes']:,} bytes "
            f"({system['gzip_bytes']:,} gzipped), target {MODEL_BYTES:,}: {reached}; missed by fold "
            f"{system['missed_by_fold']}; fit {system['fit_seconds']} s"
        )
