"""Wake words on small devices: int8 files, quantised after folding and judged by what they hear, not by parity.

Ranges of activations and thresholds come from the run's validation streams; the test streams only judge. There the
float model hears the same hours, so its numbers lie beside those of the int8 files, keyword by keyword (McNemar).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch
from lightsleeper_callbacks.finalize import detached_copy
from lightsleeper_callbacks.foldable import folds, put
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from lightsleeper.deploy.c_array import write_c_array
from lightsleeper.deploy.detector import Frames, OnnxStream, StreamModel, TorchStream
from lightsleeper.deploy.export import Job, need_streams, write_onnx
from lightsleeper.deploy.runtime import OnnxGraph
from lightsleeper.errors import UserError
from lightsleeper.files import gzip_bytes, replacing, sha256
from lightsleeper.metrics.detection import FRRAtFalseAlarms
from lightsleeper.metrics.exact import mcnemar
from lightsleeper.models.dnn_hmm import DNNHMM
from lightsleeper.models.family import Batch, ExportGraph, Family
from lightsleeper.models.wakeword import WakeWord
from lightsleeper.nn.causal import Causal, Chain, ExponentialMean, FrontEnd

PER_STREAM_S, TOTAL_S = 300.0, 900.0
"""Of validation audio that ranges come from: the beginning of each stream. Their extremes hardly move after that."""


@dataclass(frozen=True)
class Streams:
    """What int8 files are calibrated and judged on: batches as `data.streams.StreamChunks` gives them."""

    validation: Callable[[], Iterable[Batch]]
    test: Callable[[], Mapping[str, Iterable[Batch]]]
    """By name of the test set; empty where there is one."""


class Network(Protocol):
    """What stands behind a front end: features (1, mel, n hops) in."""

    def initial(self) -> Any: ...

    def step(self, features: NDArray[np.float32], state: Any) -> Frames: ...

    def state_bytes(self) -> int: ...


class Fronted:
    """A file that takes features, behind the model's own front end: a `StreamModel`."""

    hops: int | None = None

    def __init__(self, front: Causal, network: Network, metadata: Mapping[str, str]) -> None:
        self.front, self.network, self.metadata = front, network, metadata

    def initial(self) -> Any:
        return self.front.initial(torch.zeros(1, 0)), self.network.initial()

    @torch.no_grad()
    def step(self, audio: NDArray[np.float32], state: Any) -> Frames:
        features, kept = self.front.stream(torch.from_numpy(audio)[None], state[0])
        score, back, inner = self.network.step(features.numpy(), state[1])
        return score, back, (kept, inner)

    def state_bytes(self) -> int:
        return 4 * self.front.state_size + self.network.state_bytes()


class OnnxNetwork:
    """An ONNX file that takes ``features`` and ``state``."""

    def __init__(self, path: Path) -> None:
        self.graph = OnnxGraph(path)

    def initial(self) -> NDArray[np.float32]:
        return np.zeros((1, self.graph.inputs["state"][1] or 0), np.float32)

    def step(self, features: NDArray[np.float32], state: Any) -> Frames:
        found = self.graph.run({"features": np.ascontiguousarray(features), "state": state})
        back = found["offset"][0] if "offset" in found else None
        return found["score"][0], back, found["next_state"]

    def state_bytes(self) -> int:
        return int(4 * self.initial().size)


def check_small(family: type, formats: Sequence[str], who: str = "") -> None:
    """Raise UserError, beginning with ``who``, where ``family`` has no file of a format for small devices."""
    for name in formats:
        if need_streams([name]) and not issubclass(family, WakeWord):
            raise UserError(f"{who}{name} is for wake-word detectors, which {family.__name__} is not.")
    if "litert_int8" in formats and issubclass(family, DNNHMM):
        raise UserError(
            f"{who}litert_int8 is not for {family.__name__}: LiteRT Micro has no operators for its keyword chain; use "
            "onnx_int8."
        )


def write_small(model: Family, folder: Path, job: Job) -> list[dict[str, Any]]:
    """Write ``model`` to ``folder`` in the int8 formats of ``job``; the record's entries.

    The float ONNX file, if one was written before, gets ``metrics``. Raises UserError for another family, without
    streams, and what the files' own writers raise.
    """
    formats, streams, artifacts = job.formats, job.streams, job.artifacts
    check_small(type(model), formats)
    assert isinstance(model, WakeWord)
    if streams is None:
        raise UserError(f"{' and '.join(formats)}: the validation streams of the run are needed, export a whole run.")
    if "litert_int8" in formats:
        from lightsleeper.deploy.litert import need_packages

        need_packages()  # before the minutes that the other format takes
    folded = detached_copy(model).eval()
    left = folds(folded)  # nothing, where FoldOnExport has done its work
    put(folded, left)
    graph = folded.export_spec()[0]
    plain = next((entry for entry in artifacts if entry["format"] == "onnx"), None)
    source = None if left or plain is None else folder / Path(plain["path"]).name
    written: dict[str, tuple[StreamModel, dict[str, Any]]] = {}
    if "onnx_int8" in formats:
        written["onnx_int8"] = _write_onnx(folded, graph, folder, streams, source)
    if "litert_int8" in formats:
        written["litert_int8"] = _write_litert(folded, graph, folder, streams)
    standard = TorchStream(model) if plain is None else open_file(model, folder / Path(plain["path"]).name)
    thresholds = {
        name: metric.threshold()
        for name, metric in scored({n: s for n, (s, _) in written.items()}, streams.validation(), model).items()
    }
    judged, kept = judge({n: s for n, (s, _) in written.items()}, standard, thresholds, streams, model)
    if plain is not None:
        plain["metrics"] = kept
    entries = []
    for name, (_, entry) in written.items():
        target = {"value": thresholds[name], "target": graph.metadata["target"]}
        entries.append({**_finished(name, folder, entry, thresholds[name], graph), "threshold": target, **judged[name]})
    return entries


def judge(
    files: Mapping[str, StreamModel],
    standard: StreamModel,
    thresholds: Mapping[str, float],
    streams: Streams,
    model: WakeWord,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """``metrics`` and ``against_float`` of each file on the test streams, each at its own threshold; and the float
    model's metrics."""
    limits = {**thresholds, "": float(model.threshold)}
    metrics: dict[str, dict[str, Any]] = {name: {} for name in limits}
    heard: dict[str, list[torch.Tensor]] = {name: [] for name in limits}
    for test_set, batches in streams.test().items():
        prefix = f"test/{test_set}/" if test_set else "test/"
        for name, metric in scored({**files, "": standard}, batches, model).items():
            found = metric.results(prefix, threshold=limits[name])
            metrics[name] |= {key: value.to_dict() for key, value in found.items()}
            heard[name].append(metric.outcomes(limits[name]))
    judged = {}
    for name in files:
        lost, found_more, p = mcnemar(torch.cat(heard[""]), torch.cat(heard[name]))
        judged[name] = {
            "metrics": metrics[name],
            "against_float": {"lost": lost, "found": found_more, "p": p, "method": "McNemar, exact"},
        }
    return judged, metrics[""]


def scored(files: Mapping[str, StreamModel], batches: Iterable[Batch], model: WakeWord) -> dict[str, FRRAtFalseAlarms]:
    """Every file over the same streams, which are rendered once."""
    metrics = {name: model.new_metric() for name in files}
    states: dict[str, Any] = {}
    for batch in batches:
        stream, audio = int(batch["stream"]), batch["audio"][0].numpy()
        for name, file in files.items():
            if batch["first"] or name not in states:
                states[name] = file.initial()
                metrics[name].add_stream(stream, batch["events"])
            scores, back, states[name] = file.step(audio, states[name])
            starts = None if back is None else torch.from_numpy(back)
            first = round(float(batch["start_s"]) / model.frame_s)
            metrics[name].update(torch.from_numpy(scores), stream, first, starts)
    return metrics


def open_file(model: WakeWord, path: Path) -> StreamModel:
    """An ONNX file of ``model``; where it takes features, behind the model's front end."""
    if model.frontend == "inside":
        return OnnxStream(path)
    network = OnnxNetwork(path)
    return Fronted(Chain(model.chain.layers[0]), network, network.graph.metadata)


def calibration(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The first PER_STREAM_S of each stream, TOTAL_S in all."""
    of_stream = total = 0.0
    for batch in batches:
        of_stream = 0.0 if batch["first"] else of_stream
        if of_stream >= PER_STREAM_S:
            continue
        yield batch
        seconds = batch["audio"].shape[1] / 16_000
        of_stream, total = of_stream + seconds, total + seconds
        if total >= TOTAL_S:
            return


def split(model: WakeWord) -> tuple[Chain, Chain]:
    """The layers that make features of samples, and the network behind them."""
    layers = list(model.chain.layers)
    front = list(takewhile(lambda layer: isinstance(layer, (FrontEnd, ExponentialMean)), layers))
    return Chain(*front), Chain(*layers[len(front) :])


# The two formats.


def _write_onnx(
    model: WakeWord, graph: ExportGraph, folder: Path, streams: Streams, source: Path | None
) -> tuple[StreamModel, dict[str, Any]]:
    """``source``: the float file of the very graph; None: there is none."""
    from lightsleeper.deploy.onnx_int8 import write_int8

    path = folder / f"{graph.name}_int8.onnx"
    with TemporaryDirectory() as temporary:
        if source is None:
            source = Path(temporary) / "float.onnx"
            write_onnx(graph, source)
        float_file = open_file(model, source)
        feeds = _onnx_feeds(float_file, calibration(streams.validation()))
        facts = write_int8(source, path, dict(graph.module.named_parameters()), feeds)
    file = open_file(model, path)
    where = "in the file, float32" if model.frontend == "inside" else "outside"
    device = {"frontend": where, "state_bytes": file.state_bytes(), "state": "float32", **facts}
    if model.frontend != "inside":
        device["state_bytes"] = file.network.state_bytes()  # type: ignore[attr-defined]
    return file, {"path": path, "device": {**device, **macs(model)}}


def _onnx_feeds(file: StreamModel, batches: Iterable[Batch]) -> Iterator[dict[str, NDArray]]:
    """Inputs of the graph along the streams."""
    state: Any = None
    for batch in batches:
        audio = batch["audio"][0].numpy()
        state = file.initial() if batch["first"] or state is None else state
        if isinstance(file, Fronted):
            with torch.no_grad():
                features, _ = file.front.stream(torch.from_numpy(audio)[None], state[0])
            yield {"features": features.numpy(), "state": state[1]}
        else:
            yield {"audio": audio[None], "state": state}
        state = file.step(audio, state)[2]


def _write_litert(
    model: WakeWord, graph: ExportGraph, folder: Path, streams: Streams
) -> tuple[StreamModel, dict[str, Any]]:
    from lightsleeper.deploy.litert import SUFFIX, LiteRTNetwork, Stretch, micro_arena_bytes, write_litert

    front, network = split(model)

    @torch.no_grad()
    def stretches() -> Iterator[Stretch]:
        state = torch.zeros(0)
        for batch in calibration(streams.validation()):
            state = front.initial(batch["audio"]) if batch["first"] or not state.numel() else state
            features, state = front.stream(batch["audio"], state)
            yield bool(batch["first"]), features.numpy()

    path = folder / f"{graph.name}_int8{SUFFIX}"
    facts = write_litert(model, network, model.n_mels, model.hop_samples // front.stride, path, stretches())
    file = LiteRTNetwork(path, facts["outputs"])
    means = "log-mel" if len(front.layers) == 1 else "log-mel minus the exponential mean"
    device = {"frontend": f"outside: {means}", "state_bytes": file.state_bytes(), "state": "int8", **facts}
    arena = micro_arena_bytes(path)
    how = "not measured: needs tflite-micro" if arena is None else "smallest that LiteRT Micro takes, 64-bit host"
    device |= {"arena_bytes": arena, "arena": how}
    return Fronted(front, file, graph.metadata), {"path": path, "device": {**device, **macs(model)}}


def macs(model: WakeWord) -> dict[str, int]:
    """Multiply-accumulates of a second of audio: of the network, and of a front end by matrix products."""
    front, network = split(model)
    seconds = torch.zeros(1, 16_000 // model.hop_samples * model.hop_samples)
    with torch.no_grad():
        features = front(seconds)
        with FlopCounterMode(display=False) as counter:
            network(features)
    mel: Any = front.layers[0].log_mel
    return {
        "macs_per_second": counter.get_total_flops() // 2,
        "frontend_macs_per_second": mel.macs * features.shape[2],
    }


def _finished(name: str, folder: Path, entry: dict[str, Any], threshold: float, graph: ExportGraph) -> dict[str, Any]:
    """The file with its threshold, and its entry of the record."""
    path: Path = entry["path"]
    if name == "onnx_int8":
        from lightsleeper.deploy.onnx_int8 import set_metadata

        with replacing(path) as temporary:
            temporary.write_bytes(path.read_bytes())
            set_metadata(temporary, {"threshold": repr(threshold), "precision": "int8"})
    else:
        about = {**graph.metadata, "threshold": repr(threshold)}
        entry["device"]["c_array"] = [file.name for file in write_c_array(path, entry["device"], about)]
    return {
        "format": name,
        "precision": "int8",
        "path": path.relative_to(folder).as_posix(),
        "sha256": sha256(path),
        "bytes": path.stat().st_size,
        "gzip_bytes": gzip_bytes(path),
        "parity": {},  # judged by its metrics
        "device": entry["device"],
    }
