"""`lightning evaluate` of a wake word: on recordings, or on the streams of a recipe or of the run itself."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightsleeper.cli import evaluate
from lightsleeper.cli.evaluate import finite, own_data, print_measurements
from lightsleeper.cli.sources import open_detector
from lightsleeper.data.module import asked
from lightsleeper.errors import UserError
from lightsleeper.files import write_json
from lightsleeper.run_folder import RECORD

if TYPE_CHECKING:
    from lightsleeper.deploy.detector import StreamModel
    from lightsleeper.metrics.measurement import Measurement

NAMED_MISSES = 5
FEW_HOURS = "too few for {target:g} an hour: with as many false alarms it takes {needed:.1f} hours (95 %)"


def main(path: Path, args: argparse.Namespace) -> int:
    check(args)
    sets, data = evaluation_streams(path, args)
    model = open_detector(path, args.source, args.threads)
    threshold = threshold_of(model, args)
    conditions = describe(path, data, args, threshold)
    content: dict[str, Any] = {"conditions": conditions, "sets": {}, "curves": {}, "recordings": {}}
    for name, chunks in sets.items():
        from lightsleeper.deploy.stream_evaluation import follow, metric_of

        metric = metric_of(model.metadata)
        streams = follow(model, watched(chunks), metric)
        found = metric.results("", threshold)
        content["sets"][name] = {"shipped": {key: finite(value.to_dict()) for key, value in found.items()}}
        content["curves"][name] = metric.curve()
        content["recordings"][name] = recordings = outcomes(data, streams, metric, threshold)
        print_set(name, found, recordings, metric.fa_per_hour)
    print_conditions(conditions)
    if args.json:
        write_json(Path(args.json), content, indent=1)
    return 0


def check(args: argparse.Namespace) -> None:
    if args.threshold is not None and args.threshold != args.threshold:
        raise UserError("--threshold: expected a number, got nan.")
    if args.negatives and args.data and not all(Path(name).is_dir() for name in args.data):
        raise UserError("--negatives go with folders of recordings; a recipe has negatives of its own.")


def evaluation_streams(path: Path, args: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """Chunks of streams by name of the set, and the data that they come from."""
    given = args.data or []
    folders = [Path(name) for name in evaluate.folders_of(given)]
    if folders or args.negatives:
        if len(folders) != len(given):
            raise UserError(f"--data {' '.join(given)}: expected folders only, or a recipe and overlays only.")
        if args.split == "val":
            raise UserError("--split val: a folder is test data as a whole.")
        from lightsleeper.data.wake_streams import RecordedStreams

        phrase = args.phrase or (phrase_of(path, args) if folders else "")
        recorded = RecordedStreams(phrase, folders, [Path(name) for name in args.negatives or ()])
        return {"test": recorded.chunks()}, recorded
    if args.phrase:
        raise UserError("--phrase is of recordings in a folder; a recipe names its own.")
    args.data = given or [own_data(path, args.source)]
    from lightsleeper.recipe import load
    from lightsleeper.recipe.parsing import build_data

    data = build_data(load(args.data))
    sets = evaluate.evaluation_sets(data, args.split)
    if not given:
        compare_data(Path(args.data[0]), data)
    return sets, data


def compare_data(run: Path, data: Any) -> None:
    """Say where a run's own data are not any more what they were, so that its record's numbers do not compare."""
    from lightsleeper.tracking.record import read

    then = read(run).data.get("hash") if (run / RECORD).is_file() else None
    if then is not None and then != (now := asked(data, "summary")().get("hash")):
        print(f"note: these are other data than the run was tested on (hash {now}, then {then}).", file=sys.stderr)


def phrase_of(path: Path, args: argparse.Namespace) -> str:
    """What the run that a model lies in was trained on. Raises UserError where that is not known."""
    from lightsleeper.recipe import load

    try:
        folder = own_data(path, args.source)
    except UserError:
        raise UserError(f"{args.source} lies in no run folder, so its phrase is not known: give --phrase.") from None
    phrase = load([folder], []).config.get("data", {}).get("init_args", {}).get("phrase")
    if not isinstance(phrase, str):
        raise UserError(f"the recipe of {args.source} names no phrase: give --phrase.")
    return phrase


def threshold_of(model: "StreamModel", args: argparse.Namespace) -> float:
    threshold = float(model.metadata.get("threshold", "nan")) if args.threshold is None else args.threshold
    if threshold != threshold:
        raise UserError(f"{args.source} has no calibrated threshold: give one with --threshold.")
    return float(threshold)


def watched(chunks: Any) -> Iterator[Any]:
    """The chunks, with a bar on a terminal: an hour of streams takes seconds."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(chunks, "listening", console=console, transient=True, disable=not console.is_terminal)


def outcomes(data: Any, streams: list[int], metric: Any, threshold: float) -> list[dict[str, Any]]:
    """Recordings of the phrase and whether each was detected: what McNemar's test pairs. Empty for made streams."""
    recording = asked(data, "recording")
    files = [recording(stream) for stream in sorted(streams)]
    named = [file for file in files if file is not None]
    detected = metric.outcomes(threshold).tolist()
    if not named or len(named) != len(detected):
        return []  # streams with several keywords are among them
    return [{"file": str(file), "detected": hit} for file, hit in zip(named, detected, strict=True)]


def describe(path: Path, data: Any, args: argparse.Namespace, threshold: float) -> dict[str, Any]:
    return {**evaluate.describe(path, data, args), "threshold": threshold, "split": args.split}


def print_set(name: str, found: Mapping[str, "Measurement"], recordings: list[dict[str, Any]], target: float) -> None:
    """All numbers of one set, then what they bear out and which recordings were missed."""
    from rich.console import Console

    print_measurements(name, {key: value for key, value in found.items() if key != "negative_hours_needed"})
    console = Console(highlight=False, soft_wrap=True)
    hours, needed = found["negative_hours"].value, found["negative_hours_needed"].value
    if hours < needed and found["fa_per_hour"].value <= target:
        few = FEW_HOURS.format(target=target, needed=needed)
        console.print(f"{hours:.2f} hours without the phrase are {few}.", markup=False)
    missed = [Path(row["file"]).name for row in recordings if not row["detected"]]
    if missed:
        more = f" and {len(missed) - NAMED_MISSES} more (--json names all)" if len(missed) > NAMED_MISSES else ""
        console.print(f"missed: {', '.join(missed[:NAMED_MISSES])}{more}", markup=False)


def print_conditions(conditions: dict[str, Any]) -> None:
    print(
        f"{conditions['model']} on {conditions['data']} (protocol {conditions['protocol']}), threshold "
        f"{conditions['threshold']:.4g}, {conditions['runtime']}, {conditions['threads']} thread(s); shares and s"
    )
