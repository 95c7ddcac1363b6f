import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightsleeper.deploy.export import write_onnx
from lightsleeper.deploy.finalize import save_model
from lightsleeper.deploy.onnx_graph import OnnxGraph
from lightsleeper.errors import UserError
from lightsleeper.models.kws_phoneme import KeywordPhoneme
from lightsleeper.nn.alignment import cosines
from lightsleeper.nn.ctc import LOWEST
from lightsleeper.nn.partition import dsp_partition
from models.batches import TINY_ENCODER, keyword_batch, random_batch
from models.test_kws_p2v import hear_everything, vectors

KINDS: list[dict[str, Any]] = [{"verifier": "gru"}, {"verifier": "edits", "pooling": "worst"}, {"verifier": "aligned"}]


def _model(**options: Any) -> KeywordPhoneme:
    torch.manual_seed(0)
    model = KeywordPhoneme({"encoder": TINY_ENCODER}, **{"width": 16, **options})
    model.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    hear_everything(model)
    return model


def test_published_size_is_3_7_million() -> None:
    encoder = {"n_mels": 80, "dim": 144, "blocks": 6, "heads": 4, "kernel": 3, "expansion": 4, "subsampling": "conv2d"}
    model = KeywordPhoneme({"encoder": encoder})
    size = sum(p.numel() for p in (*model.encoder.parameters(), *model.verifier.parameters()))  # type: ignore[union-attr]
    assert size == pytest.approx(3.74e6, rel=0.02)
    assert model.table.vectors.numel() == 40 * 144


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("batch", [random_batch(), keyword_batch()], ids=["clips", "keywords"])
def test_training_learns_either_kind_of_batch(options: dict[str, Any], batch: dict[str, Any]) -> None:
    model = _model(**options).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(20):
        loss = model.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("augment", [None, {"warp": 0.2, "noise": 1.0}, {"masks": 2.0}])  # as a recipe gives them
def test_the_frozen_encoder_gets_no_gradient_and_does_not_change(augment: dict[str, float] | None) -> None:
    model = _model(encoder_augment=augment).train()
    assert not model.encoder.training
    assert model.encoder.augment.training == (augment is not None)
    before = {name: value.clone() for part in (model.encoder, model.table) for name, value in part.state_dict().items()}
    model.training_step(random_batch(), 0).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1).step()
    assert all(p.grad is None for p in model.encoder.parameters())
    after = {name: value for part in (model.encoder, model.table) for name, value in part.state_dict().items()}
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
    assert not model.eval().encoder.augment.training


def test_half_a_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="masks must be a whole number, got 1.5"):
        _model(encoder_augment={"masks": 1.5})


def test_a_trained_encoder_gets_gradients_and_its_table_moves_along() -> None:
    model = _model(train_encoder=True).train()
    old = model.table.vectors.clone()
    batch = random_batch()
    batch["phones"] = torch.full((6, 1), 7)
    batch["words"] = torch.zeros(6, 1, dtype=torch.long)
    with torch.no_grad():
        model.encoder.head.bias[7] = 100.0  # every clip is heard as this one phone
    model.training_step(batch, 0).backward()
    assert all(p.grad is not None for p in model.encoder.parameters())
    assert not torch.equal(model.table.vectors[7], old[7])
    assert torch.equal(model.table.vectors[8], old[8])


def test_pruned_weights_get_a_table_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model, built = _model().eval(), []
    monkeypatch.setattr("lightsleeper.models.kws_phoneme.refresh", lambda *_: built.append(True))
    model.rebuild(lambda: [])
    assert built == []
    with torch.no_grad():
        for p in model.encoder.conformer.parameters():
            p.mul_((p.abs() > p.abs().median()).float())
    model.rebuild(lambda: [])
    assert built == [True]


@pytest.mark.parametrize("options", [*KINDS, {"verifier": "none"}, {"alignment": "dsp"}])
def test_the_exported_graphs_equal_the_batched_score(options: dict[str, Any]) -> None:
    model = _model(**options).eval()
    graphs = {graph.name: graph for graph in model.export_spec()}
    assert list(graphs) == ["model", "encoder", "match"]
    for seed in range(3):
        inputs = graphs["model"].sample(seed)
        found = dict(zip(graphs["model"].outputs, graphs["model"].module(*inputs.values()), strict=True))
        count = int(inputs["phone_count"])
        batch = {
            "audio": inputs["audio"],
            "audio_lengths": torch.tensor([inputs["audio"].shape[1]]),
            "phones": inputs["phones"][:, :count],
        }
        for name, value in model.score(batch).items():
            torch.testing.assert_close(found["score" if name == "shipped" else name], value, atol=1e-4, rtol=1e-4)
        assert found["cuts"][0, : count + 1].tolist() == model.locate(batch)[0].tolist()


def test_a_score_that_counts_nothing_is_not_part_of_the_graphs() -> None:
    model = _model(verifier="edits", fused_weights={"verifier": 1, "ctc": 3}).eval()
    main = model.export_spec()[0]
    assert main.outputs == ["score", "verifier", "ctc", "cuts"]
    inputs = main.sample(0)
    found = dict(zip(main.outputs, main.module(*inputs.values()), strict=True))
    batch = {
        "audio": inputs["audio"],
        "audio_lengths": torch.tensor([inputs["audio"].shape[1]]),
        "phones": inputs["phones"][:, : int(inputs["phone_count"])],
    }
    torch.testing.assert_close(found["score"], model.score(batch)["shipped"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["score"], 0.25 * found["verifier"] + 0.75 * found["ctc"])


@pytest.mark.parametrize("verifier", ["edits", "aligned"])
def test_a_keyword_in_a_row_of_many_scores_as_it_does_alone(verifier: str) -> None:
    model = _model(verifier=verifier).eval()
    match = model.export_spec()[2]
    inputs = match.sample(2)
    together = match.module(*inputs.values())
    for row, frames in enumerate(inputs["frame_count"].tolist()):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        alone |= {name: alone[name][:, :frames] for name in ("features", "log_probs")}
        for one, all_of_them in zip(match.module(*alone.values()), together, strict=True):
            torch.testing.assert_close(one, all_of_them[row : row + 1], atol=1e-4, rtol=1e-4)


def test_the_best_of_several_pronunciations_counts() -> None:
    model = _model().eval()
    batch = random_batch(2)
    other = batch["phones"].flip(1)
    each = [model.score(batch | {"phones": phones})["ctc"] for phones in (batch["phones"], other)]
    both = model.score(batch | {"phones": torch.stack([batch["phones"], other], dim=1)})["ctc"]
    assert torch.equal(both, torch.maximum(*each))


def test_cached_tokens_score_bit_identically() -> None:
    model = _model().eval()
    batch = random_batch()
    hidden, log_probs, frames = model.encode(batch["audio"], batch["audio_lengths"])
    cached = model.table(batch["phones"]).clone()
    first, _ = model.verify(hidden, log_probs, frames, cached, batch["phones"])
    second, _ = model.verify(hidden, log_probs, frames, model.table(batch["phones"]), batch["phones"])
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(first["verifier"], model.score(batch)["verifier"])


def test_the_other_reading_aligns_as_the_dsp_module_does() -> None:
    model = _model(alignment="dsp").eval()
    batch = random_batch()
    hidden, _, frames = model.encode(batch["audio"], batch["audio_lengths"])
    tokens = model.table(batch["phones"])
    expected = dsp_partition(hidden, tokens, frames, torch.full((6,), 6))
    assert torch.equal(model.locate(batch), expected)
    assert not torch.equal(_model().eval().locate(batch), expected)


def test_too_few_frames_score_lowest_not_best() -> None:
    for options in KINDS:
        model = _model(**options).eval()
        batch = random_batch(2)
        batch["audio"], batch["audio_lengths"] = batch["audio"][:, :3000], torch.tensor([3000, 3000])  # 4 frames
        scores = model.score(batch)
        assert scores["verifier"].tolist() == [-1e4, -1e4]
        assert scores["ctc"].tolist() == [LOWEST, LOWEST]


def test_calibration_weighs_the_scores_and_sets_a_threshold() -> None:
    model = _model().eval()
    batch = random_batch(8)
    batch |= {"label": torch.tensor([1, 0] * 4), "kind": torch.tensor([0, 1] * 4)}
    found = model.calibrate([batch])
    assert model.fusion.sum() == pytest.approx(1.0)
    assert found["value"] == pytest.approx(float(model.threshold))
    shipped = model.score(batch)["shipped"]
    assert shipped.min() <= model.threshold <= shipped.max()


def test_it_starts_from_a_finished_table_and_carries_its_weights(tmp_path: Path) -> None:
    step = vectors()
    save_model(step, tmp_path, {})
    model = KeywordPhoneme(str(tmp_path), width=16).eval()
    assert torch.equal(model.table.vectors, step.table.vectors)
    torch.testing.assert_close(model.encoder.state_dict(), step.encoder.state_dict(), rtol=0, atol=0, equal_nan=True)
    twin = KeywordPhoneme(**json.loads(json.dumps(model.architecture()))).eval()
    twin.load_state_dict(model.state_dict())
    batch = random_batch()
    for name, scores in model.score(batch).items():
        assert torch.equal(scores, twin.score(batch)[name])


def test_fine_tuning_starts_from_a_finished_keyword_model(tmp_path: Path) -> None:
    model = _model().eval()
    save_model(model, tmp_path, {})
    tuned = KeywordPhoneme(init_from=str(tmp_path), width=16, train_encoder=True).eval()
    batch = random_batch()
    assert torch.equal(model.score(batch)["verifier"], tuned.score(batch)["verifier"])
    with pytest.raises(UserError, match="init_from: sizes differ"):
        KeywordPhoneme(init_from=str(tmp_path), width=24)


def test_arguments_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="vectors: a finished PhonemeVectors"):
        KeywordPhoneme()
    with pytest.raises(ValueError, match="score: verifier needs a verifier"):
        KeywordPhoneme({"encoder": TINY_ENCODER}, verifier="none", score="verifier")
    with pytest.raises(UserError, match="no finished model"):
        KeywordPhoneme("nowhere")
    with pytest.raises(UserError, match="nothing to train"):
        _model(verifier="none").training_step(random_batch(), 0)


def test_the_cosine_score_is_the_mean_over_frames_of_the_alignment() -> None:
    model = _model(verifier="none").eval()
    batch = random_batch(1)
    hidden, _, frames = model.encode(batch["audio"], batch["audio_lengths"])
    cosine = cosines(model.table(batch["phones"]), hidden)[0]
    cuts = model.locate(batch)[0].tolist()
    parts = [cosine[k, cuts[k] : cuts[k + 1]].sum() for k in range(6)]
    assert float(model.score(batch)["cosine"]) == pytest.approx(float(sum(parts)) / int(frames), abs=1e-5)


def test_given_weights_ship_and_are_not_calibrated() -> None:
    model = _model(verifier="edits", fused_weights={"verifier": 1, "ctc": 3}).eval()
    batch = random_batch()
    pairs = {"label": torch.tensor([1, 0] * 3), "kind": torch.tensor([0, 2] * 3), "episode": torch.arange(6)}
    model.calibrate([batch | pairs | {"word_count": torch.ones(6, dtype=torch.long)}])
    scores = model.score(batch)
    torch.testing.assert_close(scores["shipped"], 0.25 * scores["verifier"] + 0.75 * scores["ctc"])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"dsp": 1}, "no score 'dsp'; expected of verifier"),
        ({"ctc": 0}, "not all of them 0"),
        ({"ctc": -1}, "at least 0"),
    ],
)
def test_weights_of_no_score_and_of_no_weight_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _model(fused_weights=weights)


@pytest.mark.slow
def test_the_edit_verifiers_graph_takes_any_number_of_frames_phones_and_keywords(tmp_path: Path) -> None:
    model = _model(verifier="edits", pooling="worst").eval()
    match = model.export_spec()[2]
    write_onnx(match, tmp_path / "match.onnx")
    exported = OnnxGraph(tmp_path / "match.onnx")
    for seed in range(4):
        inputs = match.sample(seed)
        expected = dict(zip(match.outputs, match.module(*inputs.values()), strict=True))
        found = exported.run({name: value.numpy() for name, value in inputs.items()})
        for name, value in expected.items():
            torch.testing.assert_close(torch.from_numpy(found[name]), value, atol=1e-3, rtol=1e-4)
