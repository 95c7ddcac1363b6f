"""`lightning export`: write the model of a finished run as ONNX, proved equal to it."""

import argparse
from pathlib import Path
from typing import Any

from lightsleeper.cli.sources import add_source, locate, positive
from lightsleeper.errors import UserError

HELP = (
    "Export the finalized model of a run again: one ONNX file per graph, packed weights, checked against the model "
    "before they get their names. The run, its files and its record stay as they are."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser, onnx=False)
    formats = "onnx, packed, coreml, transformers, onnx_int8, litert_int8; default: onnx"
    parser.add_argument("--formats", nargs="+", default=["onnx"], metavar="FORMAT", help=formats)
    parser.add_argument("--out", metavar="DIR", help="folder to write to; default: ./export-<run id>")
    parser.add_argument("--parity-inputs", type=positive, default=64, metavar="N", help="inputs compared, default 64")
    parser.add_argument("--json", action="store_true", help="print the artifacts as JSON")


def main(args: argparse.Namespace) -> int:
    folder = locate(args.source, args.runs_dir)
    from lightsleeper.deploy.export import check_formats, export

    check_formats(args.formats)
    from lightsleeper.deploy.finalize import load_model

    run_id = folder.parent.name if folder.name == "export" else folder.name
    out = Path(args.out or f"export-{run_id}")
    own = folder if folder.name == "export" else folder / "export"
    if out.resolve() == own.resolve():
        raise UserError(f"--out {out} holds the files that the record of {run_id} describes; give another folder.")
    artifacts = export(load_model(folder), out, args.formats, args.parity_inputs)
    if args.json:
        import json

        print(json.dumps(artifacts, indent=1))
        return 0
    for artifact in artifacts:
        size = f"{artifact['bytes'] / 1000:.1f} kB ({artifact['gzip_bytes'] / 1000:.1f} gzipped)"
        print(f"{out / artifact['path']}: {size}, {_proof(artifact)}")
    return 0


def _proof(artifact: dict[str, Any]) -> str:
    parity = artifact["parity"]
    if artifact["format"] == "packed":
        layouts = artifact["packed"]["clustered"].values()
        return f"{len(layouts)} of {parity['tensors']} tensors as tables and indices, all weights equal"
    if artifact["format"] == "transformers":
        return "all weights equal"
    if artifact["format"] == "coreml":
        return f"{artifact['packed']['palettized']} weights as tables and indices, converted but not run"
    return (
        f"differs by at most {parity['max_abs_diff']:.2g} on {parity['inputs']} inputs, "
        f"{parity['max_scaled_diff']:.2g} of the value (accepted {parity['tolerance']:g})"
    )
