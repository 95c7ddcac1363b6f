"""`lightning evaluate`: judge an old run or an exported file on other data.

Wake words: cli/evaluate_streams; word spotters: cli/evaluate_words; active speakers: cli/evaluate_speakers; any other
family: cli/evaluate_other.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightsleeper.cli.sources import Kind, add_source, kind, locate, positive
from lightsleeper.errors import UserError
from lightsleeper.run_folder import RECIPE

if TYPE_CHECKING:
    import lightning as L
    from torch import Tensor

    from lightsleeper.metrics.measurement import Measurement
    from lightsleeper.models.family import Batch

HELP = (
    "Score a run or an exported file on other data, with 95 % intervals: AUC and equal error rate of every scorer, a "
    "wake word's false rejects and false alarms an hour, a word spotter's F1 and places, or whatever the test of "
    "another family measures. A folder "
    "needs a manifest.csv (path,text[,speaker]); of a recipe only `data:` is used. "
    "PRED.csv --truth TRUTH.csv judges predictions of active speakers as AVA does."
)
COLUMNS = ("auc_easy", "auc_hard", "eer_easy", "eer_hard")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="DATA",
        help="folders with manifest.csv, or a recipe and overlays; default: the run's own data",
    )
    parser.add_argument("--split", choices=("test", "val"), default="test", help="which part of a recipe's data")
    wake_words = parser.add_argument_group("wake words")
    wake_words.add_argument("--phrase", metavar="TEXT", help="text of the recordings that hold it; default: the run's")
    wake_words.add_argument(
        "--negatives", nargs="+", metavar="FOLDER", help="recordings without it; no manifest needed"
    )
    wake_words.add_argument("--threshold", type=float, metavar="X", help="score to fire from; default: the model's own")
    parser.add_argument(
        "--pronunciations",
        type=positive,
        metavar="N",
        help="typed keywords: try the N likeliest pronunciations of each text, keep the best score; default: the usual",
    )
    parser.add_argument(
        "--against",
        metavar="FILE",
        help="multiple choice: what --json wrote of another model on the same items; the difference, item by item",
    )
    speakers = parser.add_argument_group("active speakers")
    speakers.add_argument("--truth", metavar="TRUTH.csv", help="labels of AVA, or a folder of them, for a PRED.csv")
    speakers.add_argument(
        "--predictions", metavar="PRED.csv", help="write the scores as AVA's official script takes them"
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads, default 1")
    parser.add_argument("--json", metavar="FILE", help="write all numbers, per word count too, to FILE")


def main(args: argparse.Namespace) -> int:
    if args.source.endswith(".csv"):
        from lightsleeper.cli import evaluate_speakers

        return evaluate_speakers.predictions(args)
    if args.truth is not None:
        raise UserError(f"--truth is for predictions in a CSV file; {args.source} is none.")
    path = locate(args.source, args.runs_dir)
    if args.against is not None:
        from lightsleeper.cli import evaluate_choices

        evaluate_choices.check(path, args.source)
    model = kind(path)
    if args.pronunciations is not None and (model not in (Kind.TYPED, Kind.OTHER) or not is_matcher(path)):
        raise UserError(f"--pronunciations is for typed keywords; {args.source} takes none.")
    if model is Kind.SPEAKERS:
        from lightsleeper.cli import evaluate_speakers

        return evaluate_speakers.main(path, args)
    if args.predictions is not None:
        raise UserError(f"--predictions is for active speakers; {args.source} judges no faces.")
    if model is Kind.DETECTOR:
        from lightsleeper.cli import evaluate_streams

        return evaluate_streams.main(path, args)
    spots = model is Kind.SPOTTER
    for name in ("phrase", "negatives") if spots else ("phrase", "negatives", "threshold"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name} is for wake words; {args.source} is no wake-word detector.")
    if spots:
        from lightsleeper.cli import evaluate_words

        return evaluate_words.main(path, args)
    args.data = args.data or [own_data(path, args.source)]
    if not is_matcher(path):
        from lightsleeper.cli import evaluate_other

        return evaluate_other.main(path, args)
    from lightsleeper.data.module import asked

    data = data_module(args.data)
    if args.split == "val" and asked(data, "evaluate_only"):
        raise UserError("--split val: a folder is test data as a whole.")
    score = scorer(path, args.threads)
    if args.pronunciations is not None:
        from lightsleeper.data.lexicon import Lexicon
        from lightsleeper.deploy.best_way import BestWay

        score = BestWay(score, Lexicon.default(), args.pronunciations, getattr(data, "pronunciations", None))
    sets = evaluation_sets(data, args.split)
    results = {name: evaluate(score, loader) for name, loader in sets.items()}
    conditions = describe(path, data, args)
    print_table(results, conditions)
    if args.json:
        from lightsleeper.files import write_json

        write_json(Path(args.json), {"conditions": conditions, "sets": results}, indent=1)
    return 0


def is_matcher(path: Path) -> bool:
    """Whether what `locate` found scores typed texts. Raises UserError for a file that nothing here can judge."""
    if path.suffix == ".onnx":
        from lightsleeper.deploy.onnx_graph import OnnxGraph

        if {"phones", "tokens"} & set(OnnxGraph(path).inputs):
            return True
        raise UserError(f"{path}: an exported file is judged by typed texts or as a wake word; give its run instead.")
    from lightsleeper.deploy.finalize import model_class, read_description
    from lightsleeper.models.family import Family

    return model_class(read_description(path)["class_path"]).score is not Family.score


def print_measurements(name: str, found: "Mapping[str, Measurement]") -> None:
    """All numbers of one set."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from lightsleeper.tracking.page import measured

    table = Table(box=box.SIMPLE_HEAD, title=name, title_justify="left")
    for title in ("", "value [95 % interval]", "n"):
        table.add_column(title)
    for key, value in found.items():
        text = measured(value.to_dict()) if value.value == value.value else "-"  # type: ignore[arg-type]
        table.add_row(key, text, "" if value.n is None else str(value.n))
    Console(highlight=False, soft_wrap=True).print(table)


def print_conditions(conditions: dict[str, Any]) -> None:
    protocol = f" (protocol {conditions['protocol']})" if conditions["protocol"] else ""
    ways = f"the best of {most} pronunciations, " if (most := conditions["pronunciations"]) else ""
    print(
        f"{conditions['model']} on {conditions['data']}{protocol}, {ways}{conditions['runtime']}, "
        f"{conditions['threads']} thread(s); fractions, [95 % interval]"
    )


def data_module(given: list[str]) -> "L.LightningDataModule":
    """The data a user names: a folder of recordings, or the `data:` section of a recipe with overlays."""
    folders = folders_of(given)
    if not folders:
        from lightsleeper.recipe import load
        from lightsleeper.recipe.parsing import build_data

        return build_data(load(given))
    if folders != given:
        raise UserError(f"--data {' '.join(given)}: expected folders only, or a recipe and overlays only.")
    for folder in folders:
        if not (Path(folder) / "manifest.csv").is_file():
            raise UserError(f"--data {folder}: the folder has no manifest.csv (columns path,text[,speaker]).")
    from lightsleeper.data.audio_folder import AudioFolder

    return AudioFolder(path=folders, evaluate_only=True)


def folders_of(given: list[str]) -> list[str]:
    """Those of `--data` that are folders of recordings."""
    return [name for name in given if Path(name).is_dir() and not (Path(name) / RECIPE).is_file()]


def own_data(path: Path, source: str) -> str:
    """The run folder that a model lies in, whose recipe names its data. Raises UserError for a model without one."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / RECIPE).is_file():
            return str(folder)
    raise UserError(f"{source} lies in no run folder, so its own data are not known: give --data.")


def scorer(path: Path, threads: int) -> "Callable[[Batch], dict[str, Tensor]]":
    """The scoring function of an exported file (rows one by one) or of a torch model (whole batches)."""
    if path.suffix == ".onnx":
        from lightsleeper.deploy.runtime import OnnxModel

        return OnnxModel(path, threads).score
    import torch

    from lightsleeper.deploy.finalize import load_model

    torch.set_num_threads(threads)
    return torch.inference_mode()(load_model(path).score)


def evaluation_sets(data: "L.LightningDataModule", split: str) -> dict[str, Any]:
    """Dataloaders by name: the test sets under their names, or `val`."""
    from lightsleeper.models.family import names_of_sets

    data.prepare_data()
    data.setup("test" if split == "test" else "validate")
    loaders = data.test_dataloader() if split == "test" else data.val_dataloader()
    loaders = loaders if isinstance(loaders, (list, tuple)) else [loaders]
    names = names_of_sets(data, len(loaders)) if split == "test" else ["val"]
    return {name or "test": loader for name, loader in zip(names, loaders, strict=True)}


def evaluate(
    score: "Callable[[Batch], dict[str, Tensor]]", batches: "Iterable[Batch]"
) -> dict[str, dict[str, dict[str, Any]]]:
    """Measurements as dictionaries by scorer and metric. Raises UserError when there is not one pair."""
    from lightsleeper.metrics.pairs import PairMetrics

    metrics: dict[str, PairMetrics] = {}
    for batch in batches:
        for name, scores in score(batch).items():
            metrics.setdefault(name, PairMetrics()).update(scores.cpu(), batch)
    if not metrics:
        raise UserError(
            "nothing was scored: the data holds no pair, or the model is an encoder that scores no keyword."
        )
    return {
        name: {key: finite(m.to_dict()) for key, m in metric.results(prefix="").items()}
        for name, metric in metrics.items()
    }


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """NaN as None: no JSON reader takes it."""
    return {key: None if isinstance(value, float) and value != value else value for key, value in values.items()}


def describe(path: Path, data: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The conditions of the numbers: model, data, versions, threads."""
    from importlib.metadata import version

    from lightsleeper.data.module import asked

    onnx, summary = path.suffix == ".onnx", asked(data, "summary")()
    return {
        "model": str(path),
        "runtime": f"onnxruntime {version('onnxruntime')}" if onnx else f"torch {version('torch')}",
        "threads": args.threads,
        "pronunciations": args.pronunciations,
        "data": " ".join([*(args.data or ()), *(args.negatives or ())]),
        "protocol": summary.get("protocol"),
        "data_hash": summary.get("hash"),
        "counts": summary.get("counts"),
    }


def print_table(results: dict[str, dict[str, dict[str, dict[str, Any]]]], conditions: dict[str, Any]) -> None:
    """One row per test set and scorer; values with their 95 % interval."""
    from rich.console import Console

    from lightsleeper.tracking.page import score_table

    present = [
        column
        for column in COLUMNS
        if any(row[column]["value"] is not None for rows in results.values() for row in rows.values())
    ]
    Console().print(score_table(results, present))  # type: ignore[arg-type]
    print_conditions(conditions)
