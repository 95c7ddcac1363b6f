"""People part of `bench wakeword`: a phrase learned from crowd-sourced recordings, and from synthesis alone.

Five folds over all recordings of a phrase: each is tested once, by a network that never heard it. Negatives are the
fold's other recordings and an hour of synthesised speech, noise and music of its own: no audio counts twice. The
networks that learned from synthesis alone, with the phones as a second thing to learn and without, are tested on all of
it. With ``--engine`` an engine hears the same samples, and the two are paired recording by recording. Every training is
a run below ``--out``; a second call goes on.

The recordings name no speakers, so folds divide recordings: somebody who spoke twice may be on both sides.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightsleeper import experiment, recipe
from lightsleeper.bench.wakeword_pooled import PEOPLE, SENSITIVITIES, SOURCES, summary
from lightsleeper.bench.wakeword_verdicts import REFRACTORY_S, engine_hears, hear, read_heard
from lightsleeper.data.streams import Clip, Joined, Stream
from lightsleeper.data.wake_words import WakeWords
from lightsleeper.errors import UserError
from lightsleeper.files import content_hash, write_json
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.recipe import parsing
from lightsleeper.run_folder import RECORD
from lightsleeper.stages.plan import Plan, plan
from lightsleeper.tracking.record import read, status_of

PHRASES = ("jarvis", "smart mirror")
FOLDS = 5
MODEL_BYTES = 200_000  # the target
RECIPES = ("wakeword_repcnn", "overlays/wakeword_recordings")
QUICK = (
    "--trainer.max_epochs=1", "--data.clips_per_epoch=128", "--data.train_keywords=60", "--data.train_near=60",
    "--data.train_speech=120", "--data.val_hours=0.1", "--data.val_keywords=10", "--data.test_hours=0.1",
    "--model.width=8",
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
    phones: bool = False
    """Whether the phones are a second thing to learn."""

    @property
    def source(self) -> str:
        """Which of SOURCES."""
        if self.fold is not None:
            return "people"
        return "synthesis with phones" if self.phones else "synthesis"

    @property
    def name(self) -> str:
        source = self.source.replace(" ", "_") if self.fold is None else f"people-{self.fold}"
        return f"{self.phrase.replace(' ', '_')}-{source}"


def run(
    out: Path, threads: int = 1, engine: str | None = None, quick: bool = False, collect: bool = False
) -> dict[str, Any]:
    """Train, listen, compare; with ``collect`` no training, only what is finished. Raises UserError where the
    recordings are not there, or nothing is finished."""
    folder = recordings()
    folds = 2 if quick else FOLDS
    torch.set_num_threads(threads)
    results = {}
    for phrase in PHRASES[:1] if quick else PHRASES:
        jobs = [Job(phrase, fold) for fold in range(folds)] + [Job(phrase, None, phones) for phones in (True, False)]
        found = [verdicts(job, folder, out, folds, threads, engine, quick, collect) for job in jobs]
        if rows := [row for row in found if row is not None]:
            results[phrase] = summary(rows, engine is not None)
    if not results:
        raise UserError(f"no training is finished in {out}.")
    return {"phrases": results, "folds": folds}


def recordings() -> Path:
    folder = Path(os.environ.get(DATA, ""))
    for name in ("wake_words/manifest.csv", "coffee_orders"):
        if not os.environ.get(DATA) or not (folder / name).exists():
            raise UserError(f"recordings of people are looked for in the folder that {DATA} names: no {name} there.")
    return folder


def verdicts(
    job: Job, folder: Path, out: Path, folds: int, threads: int, engine: str | None, quick: bool, collect: bool
) -> dict[str, Any] | None:
    """Of one training, from ``out`` where they lie, kept by the recipe as it was written; None with ``collect`` where
    nothing lies there. ``heard`` is a `Heard`, ``engine`` what `engine_hears` found."""
    given = recipe.load(RECIPES, [*overrides(job, folder, folds), *(QUICK if quick else ())])
    name = f"{job.name}-{content_hash(given.config, 8)}"
    scores, facts = out / f"{name}.npz", out / f"{name}.json"
    if collect and not (scores.exists() and facts.exists()):
        return None
    if not (scores.exists() and facts.exists()):
        trained = _trained(plan(given), out / "runs")
        record = read(trained)
        artifact = next(a for a in record.artifacts if a["format"] == "onnx")
        hear(trained / artifact["path"], *test_streams(given, job), threads).save(scores)
        row = {"run": trained.name, "bytes": artifact["bytes"], "gzip_bytes": artifact["gzip_bytes"]}
        row |= {"parameters": record.size["parameters"], "fit_seconds": record.seconds["fit"]}
        write_json(facts, row)
    heard = read_heard(scores)
    row = {**json.loads(facts.read_text(encoding="utf-8")), "job": job, "heard": heard}
    if engine is not None and job.fold is not None:
        row["engine"] = engine_verdicts(given, job, out, engine)
    missed = sum(peak < heard.threshold for peak in heard.peaks.values())
    alarms = sum(heard.alarms(name) for name in heard.tracks)
    print(f"  {job.name}: {missed} of {len(heard.peaks)} missed, {alarms} false alarms", flush=True)
    return row


def engine_verdicts(given: recipe.Recipe, job: Job, out: Path, engine: str) -> dict[str, Any]:
    """What the engine hears in the job's test streams, which no training changes: kept in ``out`` by what they are."""
    arguments = parsing.resolve(given)["data"]["init_args"]
    path = out / f"{job.name}-engine-{content_hash([arguments[name] for name in TEST_AUDIO])}.json"
    if not path.exists():
        positives, negatives = test_streams(given, job)
        write_json(path, engine_hears(engine, job.phrase, SENSITIVITIES, {**positives, **negatives}))
    return json.loads(path.read_text(encoding="utf-8"))


def overrides(job: Job, folder: Path, folds: int) -> list[str]:
    source = ["--data.evaluate_only=true"] if job.fold is None else [f"--data.fold={job.fold}"]
    source += ["--model.phone_weight=1.0"] if job.phones else []
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
        if (folder / RECORD).exists():
            record = read(folder)
            if record.hash == todo.hash and status_of(record) not in ("running", "finished"):
                return experiment.run(todo.recipe, runs, folder)
    return experiment.run(todo.recipe, runs)


def test_streams(given: recipe.Recipe, job: Job) -> tuple[dict[str, Stream], dict[str, Stream]]:
    """Recordings of the phrase by file, and what holds none by name; of the synthesised hours each fold has its own."""
    data = parsing.build(parsing.resolve(given), given).data
    assert isinstance(data, WakeWords)
    data.setup("test")
    positives: dict[str, Stream] = {}
    negatives: dict[str, Stream] = {}
    hours = 0
    for number, stream in data.streams("test").items():
        if isinstance(stream, Clip):
            positives[_file(data, number)] = stream
        elif isinstance(stream, Joined):
            negatives[PEOPLE if job.fold is None else f"{PEOPLE} {job.fold}"] = stream
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


def report(result: Mapping[str, Any]) -> Iterator[str]:
    """The tables."""
    for phrase, found in result["phrases"].items():
        yield ""
        yield (
            f"'{phrase}', recordings of people, {_folds(found)} of {result['folds']} folds; a bound is one-sided at "
            f"95 %; alarms within {REFRACTORY_S:g} s of one before count with it"
        )
        yield (
            f"{'':40}{'missed':>11}{'FRR':>8}{'95 %':>18}{'false alarms':>14}{'an hour below':>15}   on people's speech"
        )
        for name, system in found["systems"].items():
            frr = Measurement(**system["frr"])
            span = f"[{100 * (frr.low or 0):.2f}, {100 * (frr.high or 0):.2f}] %"
            missed = f"{len(system['missed'])} of {frr.n}"
            yield (
                f"{name:40}{missed:>11}{100 * frr.value:>6.2f} %{span:>18}"
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
    yield "thresholds are from validation; after a comma: one for all folds, the lowest with so many alarms on it"


def _folds(found: Mapping[str, Any]) -> int:
    """Folds that are finished."""
    return len(found["systems"].get("people", {}).get("folds", ()))


def _sizes(systems: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    for source in SOURCES:
        if source not in systems:
            continue
        system = systems[source]
        folds = "" if None in system["folds"] else f" (folds {system['folds']})"
        reached = "reached" if system["bytes"] < MODEL_BYTES else "MISSED"
        yield (
            f"{source}: {system['parameters']:,} parameters, model.onnx {system['bytes']:,} bytes "
            f"({system['gzip_bytes']:,} gzipped), target {MODEL_BYTES:,}: {reached}; missed by fold "
            f"{system['missed_by_fold']}{folds}; fit {system['fit_seconds']} s"
        )
