"""The shipped matcher through export, runtime and detection, at a tiny size."""

import numpy as np
import pytest
import torch
from lightsleeper.deploy.detection import Keyword, detect
from lightsleeper.deploy.export import export
from lightsleeper.deploy.finalize import finalize, load_model, save_model
from lightsleeper.deploy.parity import compare_scores
from lightsleeper.deploy.runtime import OnnxModel, TorchModel
from lightsleeper.models.kws_dsp import KeywordDSP

ENCODER = {"dim": 16, "blocks": 1, "heads": 2, "kernel": 3, "n_mels": 20}


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["phone", "word"])
def deliverable(request, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    model, _ = finalize(KeywordDSP(encoder=ENCODER, token=request.param, dim=8), {})
    model.threshold.fill_(-3.0)
    save_model(model, folder, {})
    model = load_model(folder)
    return model, export(model, folder, ["onnx"], parity_inputs=8), OnnxModel(folder / "model.onnx")


def _batch() -> dict:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.tensor([9_000, 16_000, 23_000, 16_000])
    audio = 0.1 * torch.randn(4, 23_000, generator=generator) * (torch.arange(23_000) < lengths[:, None])
    counts = torch.tensor([2, 5, 9, 4])
    phones = torch.randint(1, 40, (4, 9), generator=generator) * (torch.arange(9) < counts[:, None])
    words = torch.where(phones > 0, torch.arange(9)[None] * 2 // counts[:, None], -1)
    return {"audio": audio, "audio_lengths": lengths, "phones": phones, "words": words, "text": ["a b"] * 4}


def test_exported_scores_equal_those_of_the_padded_batch(deliverable):
    model, artifacts, onnx = deliverable
    assert artifacts[0]["parity"]["max_scaled_diff"] < 1e-4
    with torch.inference_mode():
        differences = compare_scores(model.score, onnx.score, [_batch()])
        live = compare_scores(model.score, TorchModel(model).score, [_batch()])
    for found in (differences, live):
        assert found["rows"] == 4
        assert found["max_abs_diff"].keys() == {"shipped", "dsp", "ctc"}
        assert max(found["max_abs_diff"].values()) < 1e-3


def test_words_are_where_the_partition_says(deliverable):
    model, _, onnx = deliverable
    batch = _batch()
    cuts = model.locate({key: value[2:3] for key, value in batch.items()})[0]
    keyword = Keyword("a b", batch["phones"][2].numpy(), batch["words"][2].numpy(), ("a", "b"))
    found = detect(onnx, batch["audio"][2, :23_000].numpy(), keyword, start_s=1.0)
    assert found.threshold == -3.0
    assert found.detected == (found.score >= -3.0)
    tokens_of_first = int((keyword.words == 0).sum()) if model.head.token == "phone" else 1
    assert found.words[0].start_s == 1.0
    assert found.words[0].end_s == pytest.approx(1.02 + 0.04 * int(cuts[tokens_of_first]), abs=0.03)
    assert found.words[1].start_s == found.words[0].end_s
    assert found.words[1].end_s == pytest.approx(1.0 + 23_000 / 16_000)


@pytest.mark.parametrize("samples", [0, 1, 800, 3_500])
def test_a_clip_too_short_for_the_keyword_is_no_match(deliverable, samples):
    _, _, onnx = deliverable
    keyword = Keyword("a b c d e", np.arange(1, 31), np.repeat(range(5), 6), ("a", "b", "c", "d", "e"))
    found = detect(onnx, np.full(samples, 0.01, dtype=np.float32), keyword)
    assert found.score < -1_000
    assert found.detected is False
    assert found.words == []
