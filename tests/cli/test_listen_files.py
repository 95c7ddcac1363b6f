from pathlib import Path

import numpy as np
import pytest
import torch
from deploy.small_files import exported, folded
from lightsleeper.cli.sources import open_detector, recorded_threshold
from lightsleeper.deploy.detector import StreamingDetector, TorchStream
from lightsleeper.deploy.finalize import save_model
from lightsleeper.deploy.without_front import open_fronted
from lightsleeper.errors import UserError
from models.wake_streams import make, stream
from tiny_matcher import TinyMatcher


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    """A detector that takes features, as ONNX file beside its model.json."""
    folder = tmp_path_factory.mktemp("export")
    written, (entry,) = exported("cnn", "onnx", frontend="separate")
    (folder / "model.onnx").write_bytes((written / entry["path"]).read_bytes())
    save_model(make("cnn", frontend="separate"), folder, {})
    return folder


def test_a_file_of_features_hears_audio_behind_the_models_front_end(export: Path):
    model = folded("cnn", frontend="separate")
    audio = torch.cat([batch["audio"] for batch in stream(0, 10)], 1)[0].numpy()
    expected, _, _ = TorchStream(model, {}).step(audio, TorchStream(model, {}).initial())
    file = open_fronted(export / "model.onnx")
    assert float(file.metadata["threshold"]) == 0.5
    state, parts = file.initial(), []
    for at in range(0, len(audio), 3200):
        score, _, state = file.step(audio[at : at + 3200], state)
        parts.append(score)
    assert np.abs(np.concatenate(parts) - expected).max() < 1e-5
    assert np.ptp(expected) > 0.01  # it hears something


def test_a_detector_opens_it(export: Path):
    audio = torch.cat([batch["audio"] for batch in stream(0, 5)], 1)[0].numpy()
    fronted = StreamingDetector(open_fronted(export / "model.onnx"))
    opened = StreamingDetector.open(export / "model.onnx")
    for (found, _), (expected, _) in zip(opened.frames(audio), fronted.frames(audio), strict=True):
        assert np.array_equal(found, expected)


def test_listen_and_evaluate_take_it(export: Path, cli, tmp_path: Path):
    import soundfile

    audio = torch.cat([batch["audio"] for batch in stream(0, 5)], 1)[0].numpy()
    soundfile.write(tmp_path / "clip.wav", audio, 16_000)
    done = cli("listen", str(export / "model.onnx"), str(tmp_path / "clip.wav"), "--threshold", "2")
    assert done.code == 0, done.err
    assert "no event" in done.out
    done = cli("evaluate", str(export / "model.onnx"), "--negatives", str(tmp_path), "--threshold", "2")
    assert done.code == 0, done.err


def test_without_the_model_beside_it_there_is_no_front_end(export: Path, tmp_path: Path, cli):
    alone = tmp_path / "model.onnx"
    alone.write_bytes((export / "model.onnx").read_bytes())
    done = cli("listen", str(alone), "any.wav")
    assert done.code == 2
    with pytest.raises(UserError, match="its front end is made from model.json, not beside it"):
        open_fronted(alone)


def test_a_model_of_another_family_is_refused(export: Path, tmp_path: Path):
    save_model(TinyMatcher(), tmp_path, {})
    (tmp_path / "model.onnx").write_bytes((export / "model.onnx").read_bytes())
    with pytest.raises(UserError, match="is a TinyMatcher, no wake-word detector"):
        open_fronted(tmp_path / "model.onnx")


def test_a_file_that_is_not_there_is_named(cli, tmp_path: Path):
    done = cli("listen", str(tmp_path / "model.tflite"), "any.wav")
    assert (done.code, done.err.count("expected a LiteRT file")) == (2, 1)


@pytest.mark.slow
def test_a_litert_file_hears_with_the_threshold_of_its_record(tmp_path: Path):
    pytest.importorskip("litert_torch")
    import dataclasses
    import json

    from lightsleeper.files import sha256
    from lightsleeper.tracking.record import Record

    written, (entry,) = exported("repcnn", "litert_int8")
    folder = tmp_path / "export"
    save_model(make("repcnn"), folder, {})
    (folder / "model_int8.tflite").write_bytes((written / entry["path"]).read_bytes())
    assert np.isnan(recorded_threshold(folder / "model_int8.tflite"))
    record = Record("run", "wakeword", "WakeWordCNN", 0, "g", "h", {}, {}, status="finished")
    record.artifacts = [{"sha256": sha256(folder / "model_int8.tflite"), **entry}]
    (tmp_path / "record.json").write_text(json.dumps(dataclasses.asdict(record)))
    file = open_detector(folder / "model_int8.tflite", "it")
    assert float(file.metadata["threshold"]) == entry["threshold"]["value"]
    audio = torch.cat([batch["audio"] for batch in stream(0, 5)], 1)[0].numpy()
    score, _, _ = file.step(audio, file.initial())
    assert np.isfinite(score).all()
    assert np.ptp(score) > 0.01
