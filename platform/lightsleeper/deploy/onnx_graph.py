"""One ONNX file in ONNX Runtime, and what any graph offers: without torch, so that a detector starts in a second."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lightsleeper.errors import UserError

Arrays = dict[str, np.ndarray]
Shape = tuple[int | None, ...]  # None: dynamic


class Graph(Protocol):
    """A runnable graph: named arrays in, named arrays out."""

    name: str
    inputs: dict[str, Shape]
    outputs: list[str]
    metadata: dict[str, str]

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays: ...


class OnnxGraph:
    """One ONNX file in an ONNX Runtime session on the CPU.

    Raises UserError when the file is missing or no valid model.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        import onnxruntime

        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path} does not exist: expected an ONNX file.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # warnings are about unused initializers of the exporter
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's exceptions have no common base but Exception
            raise UserError(f"{path} is not a model ONNX Runtime can load: {str(error).splitlines()[0]}") from error
        self.name = path.stem
        self.inputs = {node.name: _shape(node.shape) for node in self._session.get_inputs()}
        self.outputs = [node.name for node in self._session.get_outputs()]
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        missing = self.inputs.keys() - inputs.keys()
        if missing:
            raise UserError(f"{self.name}.onnx: no value for input {', '.join(sorted(missing))}.")
        values = self._session.run(None, {name: inputs[name] for name in self.inputs})
        return dict(zip(self.outputs, values, strict=True))


def _shape(shape: list[Any]) -> Shape:
    return tuple(size if isinstance(size, int) else None for size in shape)
