import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightsleeper.errors import UserError
from lightsleeper.models.kws_dsp import KeywordDSP
from lightsleeper.models.kws_encoder import PhonemeCTC
from lightsleeper.nn.conformer import subsampled
from lightsleeper.nn.ctc import LOWEST
from lightsleeper.nn.fusion import logistic_weights
from models.batches import TINY_ENCODER, random_batch
from safetensors.torch import save_file


def _model(**options: Any) -> KeywordDSP:
    torch.manual_seed(0)
    model = KeywordDSP(TINY_ENCODER, **{"dim": 16, **options})
    model.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return model


def test_published_size_is_3_7_million_and_takes_a_step() -> None:
    encoder = {"n_mels": 80, "dim": 144, "blocks": 6, "heads": 4, "kernel": 3, "expansion": 4, "subsampling": "conv2d"}
    model = KeywordDSP(encoder, projector_layers=2, loss="hinge")
    model.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    text_side = sum(p.numel() for p in model.head.text.parameters()) + 768 * 144  # ours in place of DistilBERT's 768
    size = sum(p.numel() for p in model.encoder.conformer.parameters()) + sum(
        p.numel() for p in (*model.head.audio_projector.parameters(), *model.head.text_projector.parameters())
    )
    assert size == pytest.approx(3.7e6, rel=0.03)
    assert text_side < 4e5
    assert subsampled(53) == 12
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    model.training_step(random_batch(4), 0).backward()
    optimizer.step()


@pytest.mark.parametrize("token", ["word", "phone"])
@pytest.mark.parametrize("loss", ["hinge", "softmax"])
def test_training_moves_matches_towards_their_text(token: str, loss: str) -> None:
    model = _model(token=token, loss=loss, compare=["equal", "random"])
    batch = random_batch()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 5e-3)
    losses = []
    for _ in range(12):
        value = model.training_step(batch, 0)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.9 * losses[0]


def test_the_frozen_encoder_gets_no_gradient_and_does_not_change() -> None:
    model = _model()
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    model.train()
    assert not model.encoder.training
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.training_step(random_batch(), 0).backward()
    optimizer.step()
    assert all(p.grad is None for p in model.encoder.parameters())
    after = model.encoder.state_dict()
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)


def test_train_encoder_reaches_the_encoder() -> None:
    model = _model(train_encoder=True)
    model.train()
    model.training_step(random_batch(), 0).backward()
    assert all(p.grad is not None for p in model.encoder.parameters() if p is not None)


def test_hinge_has_no_gradient_inside_the_margins() -> None:
    model = _model(loss="hinge", margin_positive=0.2, margin_negative=7.0)
    distance = torch.tensor([[0.1, 8.0], [0.3, 6.0]], requires_grad=True)
    mismatch = torch.tensor([[False, True], [False, True]])
    model._match_loss(distance, mismatch, model.head).backward()
    assert distance.grad is not None
    assert distance.grad[0].tolist() == [0.0, 0.0]
    assert distance.grad[1, 0] > 0
    assert distance.grad[1, 1] < 0


def test_a_text_equal_to_the_true_one_is_no_negative() -> None:
    model = _model(easy_negatives=0, loss="softmax")
    batch = random_batch(4, negatives=1)
    batch["negative_phones"] = batch["phones"][:, None].clone()
    assert float(model.training_step(batch, 0)) == pytest.approx(0.0, abs=1e-6)


def test_dsp_distance_is_never_above_equal_or_random_cuts() -> None:
    model = _model(token="phone").eval()
    batch = random_batch()
    features, _, frames = model._frames(batch)
    distances = {}
    for partition in ("dsp", "equal", "random"):
        model.head.partition = partition  # type: ignore[assignment]
        distances[partition] = model.head(features, frames, batch["phones"], batch["words"])
    assert (distances["dsp"] <= distances["equal"] + 1e-5).all()
    assert (distances["dsp"] <= distances["random"] + 1e-5).all()


def test_cached_tokens_score_bit_identically() -> None:
    model = _model(token="word").eval()
    batch = random_batch()
    features, _, frames = model._frames(batch)
    tokens, counts = model.head.enroll(batch["phones"], batch["words"])
    cached = model.head.match(model.head.audio_projector(features), frames, tokens.clone(), counts)
    assert torch.equal(cached, model.head(features, frames, batch["phones"], batch["words"]))


def test_too_few_frames_score_lowest_not_best() -> None:
    model = _model(token="phone").eval()
    batch = random_batch(2)
    batch["audio"], batch["audio_lengths"] = batch["audio"][:, :3000], torch.tensor([3000, 3000])  # 4 frames, 6 phones
    scores = model.score(batch)
    assert (scores["dsp"] <= -1e4).all()
    assert scores["ctc"].tolist() == [LOWEST, LOWEST]


def test_calibration_orders_and_thresholds_the_validation_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(400, generator=generator) < 0.4).float()
    features = torch.stack(
        [labels * 2 + torch.randn(400, generator=generator), torch.randn(400, generator=generator)], 1
    )
    weights = logistic_weights(features, labels)
    assert weights[0] > 10 * weights[1] >= 0
    assert weights.sum() == pytest.approx(1.0)


def test_a_pair_without_a_partition_does_not_decide_the_fusion() -> None:
    model = _model(token="phone").eval()
    batch = random_batch(8)
    batch |= {"label": torch.tensor([1, 0] * 4), "kind": torch.tensor([0, 1] * 4)}
    batch |= {"episode": torch.arange(8), "word_count": torch.ones(8, dtype=torch.long)}
    model.calibrate([batch])
    weights = model.fusion.clone()
    short = {k: v[:1].clone() if isinstance(v, torch.Tensor) else v[:1] for k, v in batch.items()}
    short["audio_lengths"] = torch.tensor([3000])  # 4 frames, 6 phones
    model.calibrate([batch, short])
    assert torch.equal(model.fusion, weights)


def test_without_validation_pairs_of_both_kinds_nothing_is_calibrated() -> None:
    model = _model().eval()
    batch = random_batch(2)
    batch |= {"label": torch.tensor([1, 1]), "kind": torch.tensor([0, 0])}
    batch |= {"episode": torch.arange(2), "word_count": torch.ones(2, dtype=torch.long)}
    assert model.calibrate([batch]) == {}
    assert model.fusion.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("loss", ["hinge", "softmax"])
def test_every_trained_parameter_gets_a_gradient(loss: str) -> None:
    model = _model(loss=loss, compare=["equal"]).train()
    model.training_step(random_batch(), 0).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_an_encoder_trained_on_keeps_its_augmentation_unless_told() -> None:
    encoder = {**TINY_ENCODER, "warp": 0.05, "noise": 0.1, "masks": 1}
    kept = KeywordDSP(encoder, dim=16, train_encoder=True).encoder.augment
    assert (kept.warp, kept.noise, kept.freq_masks) == (0.05, 0.1, 1)
    model = KeywordDSP(encoder, dim=16, train_encoder=True, encoder_augment={"warp": 0.2})
    assert (model.encoder.augment.warp, model.encoder.augment.noise) == (0.2, 0.1)
    assert KeywordDSP(**model.architecture()).encoder.augment.warp == 0.2
    with pytest.raises(ValueError, match="encoder_augment: wrap is none of warp"):
        KeywordDSP(encoder, dim=16, encoder_augment={"wrap": 0.2})


def test_hard_negatives_without_a_spelling_are_refused_where_texts_are_read() -> None:
    model = _model()
    batch = random_batch(2, negatives=1) | {"text": ["a", "b"]}
    with pytest.raises(UserError, match="sounds without a spelling"):
        model._texts(batch)
    assert model._texts(batch | {"negative_text": [["c"], ["d"]]}) == ["a", "b", "c", "d"]


def test_architecture_rebuilds_the_model_without_the_encoder_run(tmp_path: Path) -> None:
    encoder = PhonemeCTC(**TINY_ENCODER)
    folder = tmp_path / "run" / "export"
    folder.mkdir(parents=True)
    save_file(encoder.state_dict(), folder / "model.safetensors")
    description = {"class_path": "lightsleeper.models.kws_encoder.PhonemeCTC", "init_args": encoder.architecture()}
    (folder / "model.json").write_text(json.dumps(description))
    model = KeywordDSP(str(tmp_path / "run"), dim=16).eval()
    twin = KeywordDSP(**json.loads(json.dumps(model.architecture()))).eval()
    twin.load_state_dict(model.state_dict())
    batch = random_batch()
    for name, scores in model.score(batch).items():
        assert torch.equal(scores, twin.score(batch)[name])


@pytest.mark.parametrize("source", ["nowhere", "."])
def test_a_missing_encoder_is_named(source: str) -> None:
    with pytest.raises(UserError, match="no finished model"):
        KeywordDSP(source)


@pytest.mark.parametrize("pooling", ["mean", "worst"])
def test_the_exported_graph_equals_the_batched_score(pooling: str) -> None:
    for token in ("word", "phone"):
        model = _model(token=token, audio_features="hidden+phones", pooling=pooling).eval()
        detector = model.export_spec()[0]
        for seed in range(4):
            inputs = detector.sample(seed)
            score, dsp, ctc, cuts = detector.module(*inputs.values())
            count = int(inputs["phone_count"])
            batch = {
                "audio": inputs["audio"],
                "audio_lengths": torch.tensor([inputs["audio"].shape[1]]),
                "phones": inputs["phones"][:, :count],
                "words": (torch.arange(count) * 2 // count)[None],
            }
            expected = model.score(batch)
            torch.testing.assert_close(dsp, expected["dsp"], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(ctc, expected["ctc"], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(score, expected["shipped"], atol=1e-4, rtol=1e-4)
            located = model.locate(batch)[0]
            assert cuts[0, : len(located)].tolist() == located.tolist()


def test_one_wrong_token_of_many_decides_the_worst_but_hardly_moves_the_mean() -> None:
    head = _model(token="phone", pooling="worst").head
    right = torch.ones(1, 12)
    wrong = right.clone()
    wrong[0, 7] = 8.0
    garbage = torch.cat([wrong, torch.full((1, 5), 1e3)], dim=1)  # padding may hold anything
    count = torch.tensor([12])
    assert head.pool(right, count).item() == pytest.approx(1.0)
    worst = head.pool(wrong, count).item()
    assert 7.5 < worst <= 8.0
    assert head.pool(garbage, count).item() == pytest.approx(worst)
    head.pooling = "mean"
    assert head.pool(wrong, count).item() == pytest.approx(19 / 12)


def test_the_worst_token_passes_its_gradient_to_that_token() -> None:
    head = _model(token="phone", pooling="worst").head
    distances = torch.tensor([[1.0, 6.0, 1.0, 9.0]], requires_grad=True)
    head.pool(distances, torch.tensor([3])).sum().backward()
    assert distances.grad is not None
    assert distances.grad[0, 1] > 0.9
    assert distances.grad[0, 3] == 0
