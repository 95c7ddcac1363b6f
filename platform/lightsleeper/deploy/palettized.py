"""Core ML with palettised weights: clustered weights become tables and indices in the converted program.

coremltools' own pass does it: it takes every weight of at most 256 distinct values as it stands (mode "unique", no new
k-means), so the program holds the very weights that were trained; one table a weight, indices of 1, 2, 3, 4, 6 or 8
bits (iOS 18, macOS 15). Converting works on any system, running needs a Mac: nothing here has run the result.
"""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lightsleeper.errors import UserError
from lightsleeper.files import replacing
from lightsleeper.models.family import ExportGraph
from lightsleeper.quiet import quiet

SUFFIX = ".mlpackage.zip"
LONGEST = 10  # times the sample's size: the upper end of a dynamic axis


def write_coreml(graph: ExportGraph, path: Path) -> dict[str, Any]:
    """Convert one graph and write its package, a folder, as a zip file to ``path``.

    Returns how many weights are palettised and how many bytes the package holds. Raises UserError when coremltools is
    missing or cannot convert the graph.
    """
    # It draws progress bars, and warns about newer packages and every weight that it leaves as it is.
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        program = convert(graph)
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / f"{graph.name}.mlpackage"
            program.save(str(package))
            size = sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
            made = shutil.make_archive(str(Path(folder) / "package"), "zip", folder, package.name)
            with replacing(path) as temporary:
                shutil.copyfile(made, temporary)
    functions = program._mil_program.functions.values()
    tables = sum("lut_to_dense" in entry.op_type for function in functions for entry in function.operations)
    return {"package_bytes": size, "palettized": tables}


def convert(graph: ExportGraph) -> Any:
    """The graph as a palettised ``coremltools.models.MLModel``, float32, at the sizes of ``sample(0)``: axes that are
    dynamic may become LONGEST times as long."""
    try:
        import coremltools as ct
        from coremltools.optimize.coreml import OpPalettizerConfig, OptimizationConfig, palettize_weights
    except ImportError as error:
        raise UserError("format coreml needs the package coremltools: install lightsleeper[coreml].") from error
    sample = graph.sample(0)
    inputs = []
    for name, value in sample.items():
        axes = graph.dynamic.get(name, {})
        shape = [
            ct.RangeDim(1, LONGEST * size, size) if axis in axes else size for axis, size in enumerate(value.shape)
        ]
        inputs.append(ct.TensorType(name=name, shape=shape, dtype=value.numpy().dtype))
    try:
        with torch.no_grad(), _traceable():
            traced = torch.jit.trace(graph.module.eval(), tuple(sample.values()), check_trace=False)
        program = ct.convert(
            traced,
            inputs=inputs,
            outputs=[ct.TensorType(name=name) for name in graph.outputs],
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
        # Weights that have more values are left as they are.
        program = palettize_weights(program, OptimizationConfig(OpPalettizerConfig(mode="unique", weight_threshold=0)))
    except Exception as error:  # coremltools raises whatever its passes run into
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"graph '{graph.name}' cannot be converted to Core ML: {reason}") from error
    program.user_defined_metadata.update({str(key): str(value) for key, value in graph.metadata.items()})
    return program


@contextlib.contextmanager
def _traceable() -> Iterator[None]:
    """Tracing reads every property, and LightningModule.trainer raises without a Trainer unless it is told."""
    L.LightningModule._jit_is_scripting = True
    try:
        yield
    finally:
        L.LightningModule._jit_is_scripting = False
