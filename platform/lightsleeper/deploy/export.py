"""Export: one self-contained ONNX file a graph, packed weights, a transformers folder, each proved equal to the model.

ONNX uses torch's exporter on torch.export (dynamo). OPSET is the one its translations are written in: any other goes
through a version converter.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lightsleeper.deploy.formats import FORMATS, FormatName
from lightsleeper.deploy.parity import ParityError, prove
from lightsleeper.errors import UserError, did_you_mean
from lightsleeper.files import gzip_bytes, replacing, sha256
from lightsleeper.models.family import ExportGraph, Family
from lightsleeper.quiet import quiet

if TYPE_CHECKING:
    from lightsleeper.deploy.small import Streams

__all__ = ["OPSET", "Job", "ParityError", "export"]

PACKED = "packed.safetensors"
TRANSFORMERS = "transformers"  # folder
TOKENIZER = "tokenizer"  # folder, where a packed file has no transformers folder beside it
# The exporter and onnxscript report every rewrite step and warn about their own internals; parity judges them.
_REPORTING = ("torch.onnx", "torch.export", "torch.fx.experimental.symbolic_shapes", "onnxscript", "onnx_ir")
OPSET = 18


@dataclass(frozen=True)
class Job:
    """What a writer is asked for beside the model and the folder."""

    formats: Sequence[str]
    """Those of this writer."""
    parity_inputs: int
    streams: "Streams | None"
    artifacts: Sequence[dict[str, Any]]
    """The record's entries of what was written before."""


def export(
    model: Family,
    folder: Path,
    formats: Sequence[str],
    parity_inputs: int = 64,
    streams: "Streams | None" = None,
) -> list[dict[str, Any]]:
    """Write ``model`` to ``folder`` in each of ``formats`` (``deploy.formats``), ONNX and its headline graph first.

    ``model`` is a finalized one (CPU, float32, eval); ``streams`` are for formats that need them. Returns the record's
    ``artifacts`` entries, paths relative to ``folder``. Raises ParityError when a file differs from the model,
    UserError for an unknown format, a graph that cannot be exported and a folder that cannot be written; a file that
    fails leaves an older one untouched.
    """
    check_formats(formats)
    artifacts: list[dict[str, Any]] = []
    for writer in dict.fromkeys(row.writer for name, row in FORMATS.items() if name in formats):
        named = [name for name, row in FORMATS.items() if name in formats and row.writer == writer]
        module, _, function = writer.rpartition(".")
        write = getattr(import_module(module), function)
        artifacts += write(model, Path(folder), Job(named, parity_inputs, streams, artifacts))
    return artifacts


def check_formats(formats: Sequence[str]) -> None:
    """Raise UserError for formats that cannot be written, before any work is done."""
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"cannot export to '{name}'.{did_you_mean(name, FORMATS)}")
    if not formats:
        raise UserError(f"no export format given: expected one of {', '.join(FORMATS)}.")


def need_streams(formats: Sequence[str]) -> bool:
    return any(row.streams for name, row in FORMATS.items() if name in formats)


def write_graphs(model: Family, folder: Path, job: Job) -> list[dict[str, Any]]:
    from lightsleeper.deploy.runtime import OnnxGraph

    artifacts = []
    for graph in model.export_spec():
        path = folder / f"{graph.name}.onnx"
        with replacing(path) as temporary:
            write_onnx(graph, temporary)
            parity = prove(graph, OnnxGraph(temporary).run, job.parity_inputs)
        artifacts.append(_artifact("onnx", path, folder, parity))
    return artifacts


def write_packed(model: Family, folder: Path, job: Job) -> list[dict[str, Any]]:
    from lightsleeper.deploy import packed
    from lightsleeper.deploy.finalize import describe

    path = folder / PACKED
    with replacing(path) as temporary:
        facts = packed.pack(model, temporary, describe(model))
        try:
            packed.check_equal(temporary, model.state_dict())
        except ValueError as error:
            raise ParityError(f"{path.name}: {error}.") from error
    parity = {"max_abs_diff": 0.0, "tensors": len(model.state_dict())}  # every bit was compared
    return [_artifact("packed", path, folder, parity, packed=facts)]


def write_transformers(model: Family, folder: Path, job: Job) -> list[dict[str, Any]]:
    """`transformers/` below ``folder``: config, weights, and what the run adds (a tokenizer)."""
    target = folder / TRANSFORMERS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{TRANSFORMERS}-") as temporary:
            written = Path(temporary) / TRANSFORMERS
            model.save_transformers(written)
            shutil.rmtree(target, ignore_errors=True)
            written.replace(target)
    except NotImplementedError as error:
        raise UserError(f"cannot export to 'transformers': {error}.") from error
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}.") from error
    parity = {"max_abs_diff": 0.0}  # every tensor was read back and compared
    return [_artifact("transformers", target / "model.safetensors", folder, parity, latency=[])]


def write_coreml(model: Family, folder: Path, job: Job) -> list[dict[str, Any]]:
    from lightsleeper.deploy import palettized

    artifacts = []
    for graph in model.export_spec():
        path = folder / f"{graph.name}{palettized.SUFFIX}"
        facts = palettized.write_coreml(graph, path)
        artifacts.append(_artifact("coreml", path, folder, {}, packed=facts))  # no parity: only a Mac can run it
    return artifacts


def _artifact(name: FormatName, path: Path, folder: Path, parity: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The record's entry for a file below ``folder``."""
    return {
        "format": name,
        "precision": FORMATS[name].precision,
        "path": path.relative_to(folder).as_posix(),
        "sha256": sha256(path),
        "bytes": path.stat().st_size,
        "gzip_bytes": gzip_bytes(path),
        "parity": parity,
        **more,
    }


def write_onnx(graph: ExportGraph, path: Path) -> None:
    """Trace one graph with ``sample(0)`` and write it with its metadata. Raises UserError naming the graph."""
    sample = graph.sample(0)
    shapes = tuple(graph.dynamic.get(name) or None for name in sample)
    graph.module.eval()
    try:
        with quiet(*_REPORTING), torch.no_grad():
            program = torch.onnx.export(
                graph.module,
                tuple(sample.values()),
                input_names=list(sample),
                output_names=graph.outputs,
                dynamic_shapes=shapes if any(shapes) else None,
                opset_version=OPSET,
                custom_translation_table={torch.ops.aten.logaddexp.default: _logaddexp},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"graph '{graph.name}' cannot be exported to ONNX: {reason}") from error
    assert program is not None
    program.model.metadata_props.update(metadata(graph))
    for node in program.model.graph.all_nodes():
        # Traces of the Python source with the machine's paths: three times the size of the weights of a small model.
        node.metadata_props.clear()
    program.save(str(path), external_data=False)


def _logaddexp(first: Any, second: Any) -> Any:
    """log(exp(a) + exp(b)) in ONNX operators. onnxscript 0.7 writes it out as it stands: -inf below -87 in float32."""
    from onnxscript import opset18 as op

    distance = op.Abs(op.Sub(first, second))
    one = op.CastLike(1.0, first)  # type: ignore[type-var]
    return op.Add(op.Max(first, second), op.Log(op.Add(op.Exp(op.Neg(distance)), one)))


def metadata(graph: ExportGraph) -> dict[str, str]:
    """What the file says about itself: the family's facts, its outputs and the version that wrote it."""
    facts = {"outputs": " ".join(graph.outputs), "per": graph.per, "lightsleeper": version("lightsleeper")}
    return {str(key): str(value) for key, value in {**graph.metadata, **facts}.items()}
