"""A wake-word network as an int8 LiteRT file that takes one hop a call, for LiteRT Micro on a small device.

The front end stays outside (with the exponential mean, where the recipe has one): a device computes features its own
way, and their slow averages and 100 dB need more than 8 bits. The last layer and what turns its output into a score
are float, because 8 bits of a score are coarse where a threshold lies.

States are int8, one input and one output a layer: a kept value only waits, it is never computed with, so 8 bits are all
that its layer's input has anyway. Input and output of a state have the same scale (this is checked), which makes it a
copy of bytes. Ranges are the least and largest values heard. ai-edge-quantizer by itself would take a moving average of
each call's extremes, and a call here is 20 ms: most of the range would be cut off.
"""

import copy
import importlib
import io
import math
import os
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightsleeper.deploy.detector import Frames
from lightsleeper.errors import UserError
from lightsleeper.files import replacing
from lightsleeper.models.wakeword import WakeWord
from lightsleeper.nn.causal import Chain

SUFFIX = ".tflite"
SIGNATURE = "serving_default"
Stretch = tuple[bool, NDArray[np.float32]]
"""Whether a stream begins, and features (1, mel, frames) of whole hops."""


class Hop(nn.Module):
    """One hop of a network: features (1, mel, frames), then what each layer kept, to (score, [offset,] kept ...)."""

    def __init__(self, model: WakeWord, network: Chain) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        layers = list(self.network.layers)
        head = max(place for place, layer in enumerate(layers) if any(True for _ in layer.parameters()))
        self.tail = _Tail(layers[head:], model.read)
        self.network.layers = nn.ModuleList(layers[:head])
        self.shapes = self.network.pieces
        self.sizes = [math.prod(shape) for shape in self.shapes]

    def forward(self, features: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
        # One input a piece: of one flat state, all parts would share a scale.
        pieces = [state.unflatten(1, shape) for state, shape in zip(kept, self.shapes, strict=True)]
        outputs, pieces = self.network.step(features, pieces)
        return (*self.tail(outputs), *(piece.flatten(1) for piece in pieces))


class _Tail(nn.Module):
    """The last layer, and the score of it. By this name its operators are known in the converted file."""

    def __init__(self, layers: Iterable[nn.Module], read: Any) -> None:
        super().__init__()
        self.layers, self.read = nn.Sequential(*layers), read

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        score, start = self.read(self.layers(x))
        return (score,) if start is None else (score, start)


def need_packages() -> None:
    """Raise UserError without the packages that write a file."""
    for name in ("litert_torch", "ai_edge_quantizer"):
        if find_spec(name) is None:
            raise UserError(f"format litert_int8 needs the package {name}: see docs/small_devices.md.")


def write_litert(
    model: WakeWord, network: Chain, mel: int, frames: int, path: Path, stretches: Iterable[Stretch]
) -> dict[str, Any]:
    """Convert ``network`` for calls of ``frames`` features (1, mel, frames), quantise it on ``stretches``, write it.

    Returns the facts that a device needs: inputs, scales, states. Raises UserError when a package is missing, or the
    network cannot be converted.
    """
    need_packages()
    with _quiet():
        litert_torch = importlib.import_module("litert_torch")
    hop = Hop(model, network).eval()
    sample = (torch.zeros(1, mel, frames), *(torch.zeros(1, size) for size in hop.sizes))
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / f"float{SUFFIX}"
        try:
            with _quiet(), torch.no_grad():
                outputs = len(hop(*sample)) - len(hop.sizes)
                litert_torch.convert(hop, sample).export(str(plain))
                ranges = _ranges(plain, frames, outputs, [value.shape for value in sample], stretches)
                written = _quantized(plain, ranges, outputs)
        except UserError:
            raise
        except Exception as error:  # the converter raises whatever its passes run into
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(f"{path.name}: the network cannot be converted to LiteRT: {reason}") from error
    with replacing(path) as temporary:
        temporary.write_bytes(written)
        network_file = LiteRTNetwork(temporary, outputs)
        network_file.check_scales(path.name)
    return network_file.facts()


def _ranges(
    plain: Path, frames: int, outputs: int, shapes: list[torch.Size], stretches: Iterable[Stretch]
) -> dict[str, Any]:
    """Least and largest value of every tensor of the float file."""
    calibrator = importlib.import_module("ai_edge_quantizer.calibrator")
    recipes = importlib.import_module("ai_edge_quantizer.recipe_manager")
    update = importlib.import_module("ai_edge_quantizer.utils.qsv_utils").min_max_update
    mode = calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED  # 25 times as fast as reading tensors from Python
    found = calibrator.Calibrator(str(plain), num_threads=1, mode=mode, qsv_update_func=update)
    nothing = [np.zeros(tuple(shape), np.float32) for shape in shapes[1:]]
    kept, heard = nothing, False
    for first, features in stretches:
        kept = nothing if first else kept
        for at in range(0, features.shape[2], frames):
            values = [np.ascontiguousarray(features[:, :, at : at + frames]), *kept]
            feed = {f"args_{place}": value for place, value in enumerate(values)}
            found.calibrate({SIGNATURE: [feed]}, recipes.RecipeManager(), cache_output=True)
            given = found.get_cached_output()[0]
            kept = [np.array(given[f"output_{place}"]) for place in range(outputs, outputs + len(kept))]
            found.clear_cached_output()
            heard = True
    if not heard:
        raise UserError("no audio to calibrate int8 ranges on: the validation streams are empty.")
    return found.get_model_qsvs()


def _quantized(plain: Path, ranges: dict[str, Any], outputs: int) -> bytes:
    """The file with int8 weights, activations and states; the tail and its outputs float."""
    quantizer = importlib.import_module("ai_edge_quantizer.quantizer")
    recipes = importlib.import_module("ai_edge_quantizer.recipe_manager")
    names = importlib.import_module("ai_edge_quantizer.qtyping").TFLOperationName
    off = importlib.import_module("ai_edge_quantizer.algorithm_manager").AlgorithmName.NO_QUANTIZE
    manager = recipes.RecipeManager()
    manager.add_static_config(regex=".*", operation_name=names.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    tail = "|".join([_Tail.__name__, *(f"{SIGNATURE}_output_{place}_output" for place in range(outputs))])
    manager.add_quantization_config(regex=tail, operation_name=names.ALL_SUPPORTED, algorithm_key=off)
    work = quantizer.Quantizer(str(plain))
    work.load_quantization_recipe(manager.get_quantization_recipe())
    return _states_as_they_are(bytes(work.quantize(ranges).quantized_model), outputs)


def _states_as_they_are(content: bytes, outputs: int) -> bytes:
    """The file with states that leave it as int8, and without names of tensors, a fifth of a small file.

    The quantizer knows no output of its own: where one is float, all of them go through a DEQUANTIZE at the end.
    """
    flatbuffers = importlib.import_module("flatbuffers")
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    graph = model.subgraphs[0]
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    ends = {
        int(op.outputs[0]): op for op in graph.operators if codes[op.opcodeIndex] == schema.BuiltinOperator.DEQUANTIZE
    }
    order = {f"output_{place}": place for place in range(len(graph.outputs))}
    for entry in model.signatureDefs[0].outputs:
        if order[entry.name.decode()] >= outputs and entry.tensorIndex in ends:
            op = ends[entry.tensorIndex]
            graph.operators.remove(op)
            graph.outputs = [op.inputs[0] if index == entry.tensorIndex else index for index in graph.outputs]
            entry.tensorIndex = int(op.inputs[0])
    for tensor in graph.tensors:
        tensor.name = b""
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class LiteRTNetwork:
    """A file of `write_litert`, hop by hop, with the kernels whose int8 results LiteRT Micro's equal bit for bit.

    ``outputs``: 1, or 2 where the family tells the keyword's start.
    """

    def __init__(self, path: Path, outputs: int) -> None:
        interpreters = importlib.import_module("ai_edge_litert.interpreter")
        with _quiet():
            # XNNPACK, the default, rounds differently: one score in seven moved.
            self._interpreter = interpreters.Interpreter(
                str(path),
                num_threads=1,
                experimental_op_resolver_type=interpreters.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            self._interpreter.allocate_tensors()
            runner = self._interpreter.get_signature_runner(SIGNATURE)
        given, taken = runner.get_input_details(), runner.get_output_details()
        self._inputs = [given[f"args_{place}"] for place in range(len(given))]
        self._outputs = [taken[f"output_{place}"] for place in range(len(taken))]
        self.outputs = outputs
        self.frames = int(self._inputs[0]["shape"][2])

    @property
    def states(self) -> list[dict[str, Any]]:
        return self._inputs[1:]

    def state_bytes(self) -> int:
        return int(sum(np.prod(state["shape"]) * np.dtype(state["dtype"]).itemsize for state in self.states))

    def check_scales(self, name: str) -> None:
        """Raise UserError where a state comes out with another scale than it goes in, or is not int8."""
        for given, taken in zip(self.states, self._outputs[self.outputs :], strict=True):
            if given["dtype"] != np.int8 or given["quantization"] != taken["quantization"]:
                raise UserError(f"{name}: a state goes in as {_kind(given)} and comes out as {_kind(taken)}.")

    def facts(self) -> dict[str, Any]:
        """What a device feeds and keeps."""
        scale, zero = self._inputs[0]["quantization"]
        return {
            "input": {"shape": self._inputs[0]["shape"].tolist(), "scale": float(scale), "zero_point": int(zero)},
            "states": [
                {
                    "bytes": int(np.prod(state["shape"])),
                    "scale": float(state["quantization"][0]),
                    "zero_point": int(state["quantization"][1]),
                }
                for state in self.states
            ],
            "outputs": self.outputs,
        }

    def initial(self) -> list[NDArray[np.int8]]:
        """Zeros: each state's own zero point."""
        return [np.full(state["shape"], state["quantization"][1], np.int8) for state in self.states]

    def quantize(self, features: NDArray[np.float32]) -> NDArray[np.int8]:
        scale, zero = self._inputs[0]["quantization"]
        return np.clip(np.round(features / np.float32(scale)) + zero, -128, 127).astype(np.int8)

    def step(self, features: NDArray[np.float32], state: list[NDArray[np.int8]]) -> Frames:
        """Features (1, mel, n hops) of a stream at ``state``."""
        given, run = self.quantize(features), self._interpreter
        places = [state_["index"] for state_ in self.states]
        kept = [output["index"] for output in self._outputs[self.outputs :]]
        found = np.zeros((self.outputs, features.shape[2] // self.frames), np.float32)
        for hop in range(found.shape[1]):
            run.set_tensor(self._inputs[0]["index"], given[:, :, hop * self.frames : (hop + 1) * self.frames])
            for place, value in zip(places, state, strict=True):
                run.set_tensor(place, value)
            run.invoke()
            state = [run.get_tensor(index) for index in kept]
            for row in range(self.outputs):
                found[row, hop] = run.get_tensor(self._outputs[row]["index"]).item()
        return found[0], found[1] if self.outputs == 2 else None, state

    def times_ms(self, repeats: int) -> list[float]:
        """Milliseconds of ``repeats`` calls, after as many to warm up as a fifth of them."""
        times = []
        for _ in range(repeats + repeats // 5):
            before = time.perf_counter_ns()
            self._interpreter.invoke()
            times.append((time.perf_counter_ns() - before) / 1e6)
        return times[repeats // 5 :]


def _kind(tensor: dict[str, Any]) -> str:
    scale, zero = tensor["quantization"]
    return f"{np.dtype(tensor['dtype']).name} (scale {scale:.6g}, zero point {zero})"


def micro_arena_bytes(path: Path, most: int = 1 << 24) -> int | None:
    """The smallest arena, to 16 bytes, in which LiteRT Micro's interpreter takes the file; None where it takes none or
    is not installed.

    Of this 64-bit machine: pointers of a 32-bit device are half as long.
    """
    try:
        runtime = importlib.import_module("tflite_micro").runtime
    except ImportError:
        return None

    def fits(size: int) -> bool:
        with suppress(Exception), _quiet():
            runtime.Interpreter.from_file(str(path), arena_size=size)
            return True
        return False

    if not fits(most):
        return None
    low, high = 0, most
    while high - low > 16:
        middle = (low + high) // 32 * 16
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


@contextmanager
def _quiet() -> Iterator[None]:
    """These packages report progress, warn of their own internals, and write from C++ past Python's streams."""
    with warnings.catch_warnings(), tempfile.TemporaryFile() as sink:
        warnings.simplefilter("ignore")
        kept = {number: os.dup(number) for number in (1, 2)}
        try:
            for number in kept:
                os.dup2(sink.fileno(), number)
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                yield
        finally:
            for number, copied in kept.items():
                os.dup2(copied, number)
                os.close(copied)
