"""`lightning evaluate` of a word spotter: on the streams of a recipe, or on those of the run itself."""

import argparse
from pathlib import Path
from typing import Any

from lightsleeper.cli.evaluate import evaluation_sets, finite, folders_of, own_data, print_measurements
from lightsleeper.cli.evaluate_streams import describe, print_conditions, watched
from lightsleeper.cli.sources import open_spotter
from lightsleeper.errors import UserError
from lightsleeper.files import write_json

SHOWN_WORDS = 4


def main(path: Path, args: argparse.Namespace) -> int:
    if args.threshold is not None and args.threshold != args.threshold:
        raise UserError("--threshold: expected a number, got nan.")
    given = args.data = args.data or [own_data(path, args.source)]
    if folders_of(given):
        raise UserError("--data: a word spotter needs the data of a recipe; `overlays/` has some for folders.")
    spotter = open_spotter(path, args.source, args.threads, args.threshold)
    from lightsleeper.deploy.spotting_evaluation import follow, metrics_of
    from lightsleeper.recipe import load
    from lightsleeper.recipe.parsing import build_data

    data = build_data(load(given))
    check_words(spotter.words, list(getattr(data, "words", ())))
    conditions = describe(path, data, args, spotter.threshold)
    content: dict[str, Any] = {"conditions": conditions, "sets": {}, "curves": {}, "details": {}}
    for name, chunks in evaluation_sets(data, args.split).items():
        metric, skips = metrics_of(spotter.model.metadata, spotter.threshold)
        follow(spotter.model, watched(chunks), metric, skips)
        found = metric.results("") | ({} if skips is None else skips.results(""))
        content["sets"][name] = {"shipped": {key: finite(value.to_dict()) for key, value in found.items()}}
        content["curves"][name], content["details"][name] = metric.curve(), metric.details()
        print_measurements(name, found)
    print_conditions(conditions)
    if args.json:
        write_json(Path(args.json), content, indent=1)
    return 0


def check_words(model: list[str], data: list[str]) -> None:
    """A class number must mean the same word on both sides. Raises UserError."""
    if model != data:
        known = [
            ", ".join(words[:SHOWN_WORDS]) + (" ..." if len(words) > SHOWN_WORDS else "") for words in (model, data)
        ]
        raise UserError(
            f"the model knows {len(model)} words ({known[0]}), these data {len(data)} ({known[1]}): they must be the "
            "same, in the same order."
        )
