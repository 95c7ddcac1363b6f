import numpy as np
import pytest
import torch
from lightsleeper.deploy.runtime import Matcher, OnnxModel, TorchModel
from lightsleeper.errors import UserError


def test_file_and_torch_graphs_and_family_give_the_same_scores(matcher, exported, pairs):
    expected = matcher.score(pairs)["shipped"]
    for model in (OnnxModel(exported), OnnxModel(exported, threads=2), TorchModel(matcher)):
        scores = model.score(pairs)
        assert list(scores) == ["shipped"]
        assert torch.allclose(scores["shipped"], expected, atol=1e-5)


def test_interface_is_read_from_the_file(matcher, exported):
    file, live = OnnxModel(exported), TorchModel(matcher)
    assert file.inputs == live.inputs == {"audio": (1, None), "tokens": (1, 16, 4), "token_count": (1,)}
    assert file.outputs == live.outputs == ["score", "cuts"]
    assert file.threshold == live.threshold == -1.0


def test_padding_of_the_batch_does_not_reach_the_model(matcher, exported, pairs):
    model = OnnxModel(exported)
    expected = model.score(pairs)["shipped"]
    for row, samples in enumerate(pairs["audio_lengths"]):
        pairs["audio"][row, samples:] = 7.0
    assert torch.equal(model.score(pairs)["shipped"], expected)


def test_enrolments_are_cached_and_equal_fresh_ones(exported, pairs, monkeypatch):
    model = OnnxModel(exported)
    first = model.score(pairs)["shipped"]
    calls = []
    monkeypatch.setattr(model.enroller, "run", lambda inputs: calls.append(inputs))
    assert torch.equal(model.score(pairs)["shipped"], first)
    assert not calls


def test_texts_longer_than_the_graph_are_refused(exported):
    phones = np.ones(17, dtype=np.int64)
    with pytest.raises(UserError, match="17 phones is too long: this model takes up to 16"):
        OnnxModel(exported).match(np.zeros(8000), phones, np.zeros(17, dtype=np.int64))


def test_texts_with_more_tokens_than_the_graph_keeps_are_refused(exported, monkeypatch):
    model = OnnxModel(exported)
    phones = np.arange(1, 4)
    enrolled = model.enroll(phones, phones * 0)
    more = {**enrolled, "token_count": np.array([enrolled["tokens"].shape[1] + 2])}
    monkeypatch.setattr(model, "enroll", lambda *_: more)
    with pytest.raises(UserError, match=r"a text of \d+ words is too long: this model takes up to"):
        model.match(np.zeros(8000), phones, phones * 0)


def test_short_audio_is_padded_to_what_the_graph_needs(matcher):
    model = TorchModel(matcher)
    phones = np.array([3])
    short = model.match(np.ones(10), phones, phones * 0)["score"]
    assert short == model.match(np.pad(np.ones(10), (0, 3_190)), phones, phones * 0)["score"]  # 0.2 s


def test_a_missing_enrolment_file_is_named(exported):
    exported.with_name("enroll.onnx").unlink()
    with pytest.raises(UserError, match=r"input token_count, tokens .*enroll\.onnx missing"):
        OnnxModel(exported).match(np.zeros(8000), np.array([1]), np.array([0]))


def test_the_enrolment_file_alone_is_no_matcher(exported, pairs):
    assert OnnxModel(exported.with_name("enroll.onnx")).score(pairs) == {}


def test_an_uncalibrated_threshold_is_none(matcher):
    matcher.threshold.fill_(torch.nan)
    assert TorchModel(matcher).threshold is None


def test_another_phone_inventory_is_refused(matcher):
    main = TorchModel(matcher).main
    main.metadata = {**main.metadata, "phones": "A B C"}
    with pytest.raises(UserError, match="another phone inventory"):
        Matcher(main)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        OnnxModel(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(UserError, match="not a model ONNX Runtime can load"):
        OnnxModel(tmp_path / "text.onnx")


def test_a_missing_input_is_named(exported):
    with pytest.raises(UserError, match="no value for input token_count, tokens"):
        OnnxModel(exported).run({"audio": np.zeros((1, 8000), dtype=np.float32)})
