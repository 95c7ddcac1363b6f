"""A streaming ONNX graph with int8 arithmetic: static quantisation by ONNX Runtime's own tool (QDQ).

What is quantised are the layers with trained weights but the last ones, which give the scores: 8 bits of a logit are
coarse where a threshold lies, and those layers have next to no weights. The front end stays float, its powers span 100
dB. Weights have a scale a channel, activations one a tensor, from the least to the largest value heard.

The state stays float32, as the file's interface has it: a kept value is what the layer's int8 input was made of, and is
rounded by the same scale at every use, so an int8 state would give the same scores, bit for bit, and chunks of any size
do. An exponential mean moves by 1/300 of a distance a frame, which 8 bits would lose: it is float here in any case.

Activations are int8 as well, not uint8: on x86 without VNNI the products of uint8 and int8 saturate in 16 bits. On a
small RepCNN that moved logits by 0.2 (root mean square), more than quantisation did (0.13); int8 by int8 gives what the
file says (3e-4). Through the 43 layers of a BC encoder (random weights) kernels still differ from that by 0.1 to 0.2.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lightsleeper.errors import UserError
from lightsleeper.files import replacing
from lightsleeper.quiet import quiet

Feed = dict[str, np.ndarray]
WEIGHTED = ("Conv", "Gemm", "MatMul")
FRONT_END = ".log_mel."  # in the names of its tables


def write_int8(source: Path, path: Path, trained: Iterable[str], feeds: Iterable[Feed]) -> dict[str, Any]:
    """Quantise the float file ``source`` to ``path``.

    ``trained``: names of the trained parameters, which tell a layer from the tables of a front end. ``feeds``: inputs
    that set the ranges of activations. Returns how many layers are ``quantized``, and the ``float`` ones by name.
    Raises UserError when there is no layer to quantise or no input.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    layers, last, rectifiers = find_layers(onnx.load(str(source)), set(trained))
    if not layers:
        raise UserError(f"{path.name}: the graph has no layer that int8 would make smaller.")
    # The tool advises, at every call, a pre-processing step for graphs with other shapes than ours.
    with replacing(path) as temporary, quiet():
        try:
            quantize_static(
                str(source),
                str(temporary),
                _reader(feeds),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=[*layers, *rectifiers],
                calibrate_method=CalibrationMethod.MinMax,
            )
        except ValueError as error:
            raise UserError(f"{path.name} cannot be quantised: {str(error).splitlines()[0]}") from error
        # The tool keeps no metadata of the file.
        set_metadata(temporary, metadata(source))
    return {"quantized": len(layers), "float": last}


def find_layers(model: Any, trained: set[str]) -> tuple[list[str], list[str], list[str]]:
    """Names of the weighted nodes to quantise, of those that have none behind them, and of the ReLUs right behind."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def is_trained(node: Any) -> bool:
        # The exporter renames the weights of a convolution that took in its norm, so any constant may be one, but for
        # the tables of the front end.
        name = next(iter(node.input[1:2]), "")
        return name in trained or (node.op_type == "Conv" and name in constants and FRONT_END not in name)

    weighted = {node.name: node for node in graph.node if node.op_type in WEIGHTED and is_trained(node)}

    def leads_on(node: Any) -> bool:
        """Whether a weighted node lies behind."""
        todo, seen = list(node.output), set[str]()
        while todo:
            name = todo.pop()
            for reader in readers.get(name, ()):
                if reader.name in weighted:
                    return True
                if reader.name not in seen:
                    seen.add(reader.name)
                    todo += reader.output
        return False

    layers = [name for name, node in weighted.items() if leads_on(node)]
    # A ReLU goes into the layer before it: its output is what is quantised.
    behind = [readers.get(weighted[name].output[0], []) for name in layers]
    rectifiers = [found[0].name for found in behind if len(found) == 1 and found[0].op_type == "Relu"]
    return layers, [name for name in weighted if name not in layers], rectifiers


def metadata(path: Path) -> dict[str, str]:
    """What a file says about itself."""
    import onnx

    return {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}


def set_metadata(path: Path, values: dict[str, str]) -> None:
    """Give the file (not in place where a reader may look) these ``values`` beside what it says already."""
    import onnx

    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {**metadata(path), **values})
    onnx.save(model, str(path))


def _reader(feeds: Iterable[Feed]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self.feeds, None)

    return Reader()
