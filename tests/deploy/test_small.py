"""int8 files: which layers are, that streams stay what they were, whose audio decides, what the record says."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from deploy.small_files import exported, folded, logits, streams
from lightsleeper.deploy.benchmark import benchmark
from lightsleeper.deploy.c_array import write_c_array
from lightsleeper.deploy.detector import OnnxStream, StreamingDetector
from lightsleeper.deploy.export import Job, export
from lightsleeper.deploy.litert import Hop
from lightsleeper.deploy.small import Streams, calibration, check_small, macs, open_file, split, write_small
from lightsleeper.errors import UserError
from lightsleeper.models.dnn_hmm import DNNHMM
from lightsleeper.tracking.page import _latency
from lightsleeper.tracking.record import read
from lightsleeper_callbacks.foldable import folds, put
from models.wake_streams import make, stream
from tiny_family import TinyFamily
from tiny_runs import prepare, start

BOTH = ("onnx", "onnx_int8")


def scores(path: Path, sizes: list[int], name: str = "cnn", **arguments) -> np.ndarray:
    """Of a stream in chunks of ``sizes`` hops, over and over."""
    file = open_file(make(name, **arguments), path)
    audio = torch.cat([batch["audio"][0] for batch in stream(0, 20)]).numpy()
    state, found, at, turn = file.initial(), [], 0, 0
    while at < len(audio):
        count = 320 * sizes[turn % len(sizes)]
        score, _, state = file.step(audio[at : at + count], state)
        found.append(score)
        at, turn = at + count, turn + 1
    return np.concatenate(found)


def test_layers_with_trained_weights_are_int8_but_the_last_and_the_front_end_are_not():
    folder, (_, entry) = exported("cnn", *BOTH)
    graph = onnx.load(folder / entry["path"]).graph
    makers = {name: node for node in graph.node for name in node.output}
    every = [node for node in graph.node if node.op_type == "Conv"]
    front = [node for node in every if ".log_mel." in node.input[1]]
    assert len(front) == 3
    convolutions = [node for node in every if node not in front]
    quantized = [node for node in convolutions if node.input[1] in makers]
    assert len(convolutions) == 6  # first, two blocks of two, last
    assert len(quantized) == entry["device"]["quantized"] == 5
    assert entry["device"]["float"] == [convolutions[-1].name]
    assert not any(node.input[1] in makers for node in front)
    assert not any(makers[node.input[0]].op_type == "DequantizeLinear" for node in front if node.input[0] in makers)
    kinds = {onnx.numpy_helper.to_array(tensor).dtype for tensor in graph.initializer if "weight" in tensor.name}
    assert np.dtype(np.int8) in kinds


def test_an_int8_stream_gives_the_same_scores_whatever_the_chunks():
    folder, (_, entry) = exported("cnn", *BOTH)
    whole = scores(folder / entry["path"], [1000])
    for sizes in ([1], [3, 1, 7, 16]):
        assert np.abs(scores(folder / entry["path"], sizes) - whole).max() <= 1e-6


def test_int8_scores_are_close_to_the_float_file():
    folder, (plain, entry) = exported("cnn", *BOTH)
    before, after = (logits(scores(folder / file["path"], [50])) for file in (plain, entry))
    assert 0 < np.sqrt(np.mean((before - after) ** 2)) < 0.3 * before.std()
    assert entry["bytes"] < plain["bytes"]


def test_test_streams_decide_nothing_about_the_file(tmp_path):
    folder, (plain, entry) = exported("cnn", *BOTH)
    shutil.copy(folder / plain["path"], tmp_path)
    (again,) = write_small(folded("cnn"), tmp_path, Job(["onnx_int8"], 64, streams(test=4, seconds=24), [dict(plain)]))
    assert again["sha256"] == entry["sha256"]
    assert again["threshold"] == entry["threshold"]
    assert (entry["metrics"]["test/frr"]["n"], again["metrics"]["test/frr"]["n"]) == (5, 6)


@pytest.mark.slow
def test_branches_are_folded_before_anything_is_quantized(tmp_path):
    model = make("repcnn")
    branched = export(model, tmp_path / "branched", BOTH, 2, streams())[1]
    put(model, folds(model))
    export(model, tmp_path / "folded", BOTH, 2, streams())
    assert branched["device"]["quantized"] == 5
    found, expected = (scores(tmp_path / kind / branched["path"], [50], "repcnn") for kind in ("branched", "folded"))
    assert np.abs(found - expected).max() < 1e-3


def test_the_record_has_the_files_own_threshold_and_both_files_numbers():
    folder, (plain, entry) = exported("cnn", *BOTH)
    assert entry["format"] == "onnx_int8"
    assert entry["precision"] == "int8"
    assert entry["parity"] == {}
    assert entry["threshold"]["target"] == "0.5 false alarms an hour on validation streams"
    facts = OnnxStream(folder / entry["path"]).metadata
    assert float(facts["threshold"]) == entry["threshold"]["value"] != 0.5
    assert facts["precision"] == "int8"
    assert StreamingDetector.open(folder / entry["path"]).decoder.threshold == entry["threshold"]["value"]
    for file in (plain, entry):
        assert file["metrics"]["test/frr"]["n"] == 5
        assert file["metrics"]["test/fa_per_hour"]["method"] == "exact Poisson"
    missed = {file["format"]: round(5 * file["metrics"]["test/frr"]["value"]) for file in (plain, entry)}
    against = entry["against_float"]
    assert missed["onnx_int8"] - missed["onnx"] == against["lost"] - against["found"]
    assert 0 < against["p"] <= 1


def test_a_device_learns_state_and_work():
    _, (_, entry) = exported("cnn", *BOTH)
    model = make("cnn")
    device = entry["device"]
    assert device["state_bytes"] == 4 * model.chain.state_size
    assert (device["state"], device["frontend"]) == ("float32", "in the file, float32")
    # width 12: 40 mel x 5, then kernel + width for each block, then the score, 50 times a second
    assert device["macs_per_second"] == 50 * 12 * (40 * 5 + (5 + 12) + (7 + 12) + 1)
    assert device["frontend_macs_per_second"] > 100 * 241 * 40


def test_an_exponential_mean_belongs_to_the_front():
    model = make("repcnn")  # which has one
    front, network = split(model)
    assert [len(front.layers), len(network.layers)] == [2, len(model.chain.layers) - 2]
    assert macs(model)["macs_per_second"] == macs(make("repcnn", normalize="none"))["macs_per_second"]


@pytest.mark.slow
def test_a_graph_without_its_front_end_is_quantized_and_judged_behind_the_models_own():
    folder, (plain, entry) = exported("cnn", *BOTH, frontend="separate")
    assert entry["device"]["frontend"] == "outside"
    assert entry["device"]["state_bytes"] == 4 * (make("cnn").chain.state_size - 320)
    assert entry["metrics"]["test/frr"]["n"] == plain["metrics"]["test/frr"]["n"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["repcnn", "bc_resnet", "heimdal", "heimdal_bc", "dnn_hmm", "ds_tcn"])
def test_every_family_has_an_int8_file_that_streams(name: str):
    folder, (plain, entry) = exported(name, *BOTH)
    whole = scores(folder / entry["path"], [1000], name)
    hops = scores(folder / entry["path"], [1], name)
    assert np.corrcoef(hops, whole)[0, 1] > 0.9999  # float parts between int8 layers round by the length of the chunk
    before = scores(folder / plain["path"], [50], name)
    # 43 layers of random weights: rounding alone, emulated in float, gave correlations of 0.93 and 0.94 of logits.
    least = 0.75 if name in ("bc_resnet", "heimdal_bc") else 0.9
    assert np.corrcoef(before, whole)[0, 1] > least


def test_int8_files_are_timed_like_float_ones():
    folder, artifacts = exported("cnn", *BOTH)
    timed, _ = benchmark(make("cnn"), folder, artifacts, 1, repeats=5)
    assert [row["chunk_ms"] for row in timed[1]["latency"]] == [20.0, 80.0, 320.0]


def test_ranges_come_from_the_beginning_of_each_stream_and_no_more_than_a_quarter_hour():
    chunks = [
        {"audio": torch.zeros(1, 160_000), "first": part == 0, "stream": number}
        for number in range(4)
        for part in range(60)
    ]
    taken = list(calibration(chunks))
    assert [sum(batch["stream"] == number for batch in taken) for number in range(4)] == [30, 30, 30, 0]


@pytest.mark.parametrize(
    ("family", "formats", "message"),
    [
        (TinyFamily, ["onnx_int8"], "onnx_int8 is for wake-word detectors, which TinyFamily is not."),
        (DNNHMM, ["onnx_int8", "litert_int8"], "litert_int8 is not for DNNHMM"),
    ],
)
def test_what_has_no_small_file_is_refused(family: type, formats: list[str], message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        check_small(family, formats)


def test_without_streams_nothing_is_quantized(tmp_path):
    with pytest.raises(UserError, match="onnx_int8: the validation streams of the run are needed"):
        export(make("cnn"), tmp_path, ["onnx_int8"])
    with pytest.raises(UserError, match="TinyFamily is not"):
        export(TinyFamily().eval(), tmp_path, ["onnx_int8"])
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("lightsleeper.deploy.litert.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package litert_torch: see docs/small_devices.md"):
        export(make("cnn"), tmp_path, ["onnx_int8", "litert_int8"], 2, streams())
    assert not list(tmp_path.iterdir())


def test_streams_without_audio_are_named(tmp_path):
    nothing = Streams(lambda: [], lambda: {})
    with pytest.raises(UserError, match="cannot be quantised") as refusal:
        export(make("cnn"), tmp_path, ["onnx_int8"], 2, nothing)
    assert len(str(refusal.value).splitlines()) == 1


DEVICE = {
    "frontend": "outside: log-mel",
    "input": {"shape": [1, 40, 2], "scale": 0.0222, "zero_point": -80},
    "states": [{"bytes": 120, "scale": 0.02, "zero_point": -80}, {"bytes": 6, "scale": 0.1, "zero_point": -128}],
    "outputs": 1,
    "state_bytes": 126,
    "arena_bytes": 16384,
    "arena": "smallest",
}
METADATA = {
    "frontend": "log-mel, 40 bands, 30 ms every 10 ms, inside",
    "sample_rate": "16000",
    "hop_samples": "320",
    "threshold": "0.953125",
    "target": "0.5 false alarms an hour",
    "smoothing_frames": "3",
    "refractory_s": "1.0",
}


def test_the_array_holds_the_file_byte_for_byte(tmp_path):
    path = tmp_path / "model_int8.tflite"
    path.write_bytes(bytes(range(256)) + b"\x00end")
    header, source = write_c_array(path, DEVICE, METADATA)
    text = source.read_text()
    assert bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2})", text)) == path.read_bytes()
    assert "alignas(16)" in text
    assert "constexpr float kThreshold = 0.953125f;" in header.read_text()
    assert "constexpr int kStateZeroPoint[] = {-80, -128};" in header.read_text()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiler_takes_the_array_and_finds_it_aligned(tmp_path):
    path = tmp_path / "model_int8.tflite"
    path.write_bytes(bytes(range(200)))
    _, source = write_c_array(path, DEVICE, {**METADATA, "threshold": "nan"})
    main = tmp_path / "main.cc"
    main.write_text(
        '#include "model_int8.h"\n'
        "int main() {\n"
        '  static_assert(model_int8_facts::kStates == 2, "");\n'
        "  if (reinterpret_cast<std::uintptr_t>(model_int8) % 16) return 1;\n"
        "  return model_int8_size == 200 && model_int8[199] == 199 ? 0 : 2;\n"
        "}\n"
    )
    program = tmp_path / "program"
    subprocess.run(["g++", "-std=c++11", "-Wall", "-Werror", str(main), str(source), "-o", str(program)], check=True)
    assert subprocess.run([str(program)], check=False).returncode == 0


RECIPE = """
seed_everything: 1
model:
  class_path: WakeWordCNN
  init_args: {width: 8, kernels: [5], dilations: [1], branches: 0, fa_per_hour: 60.0, lr: 0.01}
data: {class_path: models.wake_streams.Tones}
callbacks: {fold: {class_path: FoldOnExport}}
trainer: {max_epochs: 2, accelerator: cpu}
run: {formats: [onnx, onnx_int8], parity_inputs: 1}
tracking: {mode: disabled}
"""


def test_a_run_shows_what_the_int8_file_hears_beside_the_float_one(tmp_path, monkeypatch):
    prepare(monkeypatch, tmp_path)
    Path("small.yaml").write_text(RECIPE)
    folder = start(Path("small.yaml"))
    record = read(folder)
    plain, entry = record.artifacts
    assert [plain["format"], entry["format"]] == ["onnx", "onnx_int8"]
    assert plain["metrics"]["test/frr"] == record.metrics["test/frr"]
    assert entry["metrics"].keys() == plain["metrics"].keys()
    assert entry["latency"][0]["per"] == "hop"
    assert (folder / entry["path"]).stat().st_size == entry["bytes"]
    rows = dict(_latency(record))
    assert rows["  against float"].startswith("lost ")
    assert "of state, " in rows["  on a device"]
    assert StreamingDetector.open(folder / entry["path"]).decoder.threshold == entry["threshold"]["value"]


# What LiteRT converts, without the converter: hop by hop with states in and out it is the network.
@pytest.mark.parametrize("name", ["repcnn", "bc_resnet", "heimdal", "ds_tcn"])
@torch.no_grad()
def test_a_hop_keeps_what_the_next_one_needs(name: str):
    model = folded(name)
    front, network = split(model)
    features = front(torch.cat([batch["audio"] for batch in stream(0, 5)], 1))
    hop, frames = Hop(model, network).eval(), model.hop_samples // front.stride
    kept = [torch.zeros(1, size) for size in hop.sizes]
    scores = []
    for part in features.split(frames, dim=2):
        score, *rest = hop(part, *kept)
        kept = rest[len(rest) - len(kept) :]
        scores.append(score)
    expected, _ = model.read(network(features))
    assert (torch.cat(scores, 1) - expected).abs().max() <= 1e-5
    assert sum(hop.sizes) == network.state_size
