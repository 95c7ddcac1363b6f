"""`lightning export`: write the model of a finished run as ONNX, proved equal to it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightsleeper.cli.sources import add_source, locate, positive
from lightsleeper.deploy.formats import FORMATS
from lightsleeper.errors import UserError
from lightsleeper.run_folder import EXPORT, RECIPE

if TYPE_CHECKING:
    from lightsleeper.deploy.small import Streams

HELP = (
    "Export the finalized model of a run again: one ONNX file per graph, packed weights, checked against the model "
    "before they get their names. The run, its files and its record stay as they are."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser, onnx=False)
    formats = f"{', '.join(FORMATS)}; default: onnx"
    parser.add_argument("--formats", nargs="+", default=["onnx"], metavar="FORMAT", help=formats)
    parser.add_argument("--out", metavar="DIR", help="folder to write to; default: ./export-<run id>")
    parser.add_argument("--parity-inputs", type=positive, default=64, metavar="N", help="inputs compared, default 64")
    parser.add_argument("--json", action="store_true", help="print the artifacts as JSON")


def main(args: argparse.Namespace) -> int:
    folder = locate(args.source, args.runs_dir)
    from lightsleeper.deploy.export import check_formats, export, need_streams

    check_formats(args.formats)
    from lightsleeper.deploy.finalize import load_model

    run_id = folder.parent.name if folder.name == EXPORT else folder.name
    out = Path(args.out or f"export-{run_id}")
    own = folder if folder.name == EXPORT else folder / EXPORT
    if out.resolve() == own.resolve():
        raise UserError(f"--out {out} holds the files that the record of {run_id} describes; give another folder.")
    model, streams = load_model(folder), None
    if need_streams(args.formats):
        from lightsleeper.deploy.small import check_small

        check_small(type(model), args.formats)
        streams = run_streams(folder)
    artifacts = export(model, out, args.formats, args.parity_inputs, streams)
    if args.json:
        import json

        print(json.dumps(artifacts, indent=1))
        return 0
    for artifact in artifacts:
        size = f"{artifact['bytes'] / 1000:.1f} kB ({artifact['gzip_bytes'] / 1000:.1f} gzipped)"
        print(f"{out / artifact['path']}: {size}, {_proof(artifact)}")
    return 0


def run_streams(folder: Path) -> "Streams":
    """The streams that a run was validated and tested on, from its recipe, with a bar on a terminal: to hear them takes
    minutes, a LiteRT file of small hops an hour. Raises UserError for any other folder."""
    recipe = (folder.parent if folder.name == EXPORT else folder) / RECIPE
    if not recipe.is_file():
        raise UserError(f"{folder} is no run's: int8 files are calibrated on the streams of the run's recipe.")
    from lightsleeper.cli.evaluate_streams import watched
    from lightsleeper.deploy.small import Streams
    from lightsleeper.recipe import load
    from lightsleeper.recipe.parsing import build_data
    from lightsleeper.stages.deliver import data_streams

    streams = data_streams(build_data(load([str(recipe)])))
    return Streams(
        lambda: watched(streams.validation()),
        lambda: {name: watched(chunks) for name, chunks in streams.test().items()},
    )


def _proof(artifact: dict[str, Any]) -> str:
    parity = artifact["parity"]
    if artifact["format"] == "packed":
        layouts = artifact["packed"]["clustered"].values()
        return f"{len(layouts)} of {parity['tensors']} tensors as tables and indices, all weights equal"
    if artifact["format"] == "transformers":
        return "all weights equal"
    if artifact["format"] == "coreml":
        return f"{artifact['packed']['palettized']} weights as tables and indices, converted but not run"
    if artifact["precision"] == "int8":
        return _heard(artifact)
    if "inputs" not in parity:
        return "written"
    return (
        f"differs by at most {parity['max_abs_diff']:.2g} on {parity['inputs']} inputs, "
        f"{parity['max_scaled_diff']:.2g} of the value (accepted {parity['tolerance']:g})"
    )


def _heard(artifact: dict[str, Any]) -> str:
    """What an int8 file makes of the test streams."""
    from lightsleeper.tracking.page import measured

    metrics, against = artifact["metrics"], artifact["against_float"]
    rates = ", ".join(
        f"{name} {measured(metrics[name])}" for name in ("test/frr", "test/fa_per_hour") if name in metrics
    )
    return f"{rates}; against float lost {against['lost']} keywords, found {against['found']} (p {against['p']:.2g})"
