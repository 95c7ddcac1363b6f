import math
from typing import Any

import lightning as L
import onnxruntime
import pytest
import torch
from lightsleeper.deploy.export import export
from lightsleeper.models.kws_cmcd import KeywordCMCD, alignment_target, detection_loss
from models.batches import random_batch
from torch.utils.data import DataLoader

TINY = {"dim": 16, "warp": 0.0}


def quiet(model: KeywordCMCD) -> KeywordCMCD:
    model.log = model.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    model._progress = lambda: 0.0  # type: ignore[method-assign]
    return model


def test_the_size_is_near_the_published_one() -> None:
    parameters = sum(p.numel() for p in KeywordCMCD().parameters())
    assert 0.9 < parameters / 653_000 < 1.1  # as counted by the authors of PhonMatchNet; the layout is partly ours


def test_steps_on_one_batch_learn_it_and_reach_every_parameter() -> None:
    torch.manual_seed(0)
    model, batch = quiet(KeywordCMCD(**TINY)), random_batch()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = model.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_candidates_are_the_own_text_then_hard_ones_then_the_neighbours() -> None:
    batch = random_batch(size=4, negatives=2)
    batch["negative_phones"] = torch.nn.functional.pad(batch["negative_phones"], (0, 3))
    phones = KeywordCMCD(**TINY, easy_negatives=9).candidates(batch)
    assert phones.shape == (4, 1 + 2 + 3, 9)  # no more neighbours than the batch has
    assert torch.equal(phones[:, 0, :6], batch["phones"])
    assert torch.equal(phones[:, 1:3], batch["negative_phones"])
    assert torch.equal(phones[1, 3:, :6], batch["phones"][[2, 3, 0]])
    del batch["negative_phones"]
    assert KeywordCMCD(**TINY, easy_negatives=1).candidates(batch).shape == (4, 2, 6)


def test_a_pair_scores_the_same_alone_and_in_a_batch_also_while_normalisation_learns() -> None:
    model = KeywordCMCD(**TINY).eval()
    batch = random_batch()
    batch["phones"][1, 4:] = 0
    together = model.score(batch)["shipped"]
    for row in range(3):
        count, samples = int((batch["phones"][row] > 0).sum()), int(batch["audio_lengths"][row])
        audio, phones = batch["audio"][row : row + 1, :samples], batch["phones"][row : row + 1, :count]
        torch.testing.assert_close(model(audio, phones), together[row : row + 1], atol=1e-5, rtol=1e-5)
    model.train()
    longer = batch | {"audio": torch.nn.functional.pad(batch["audio"], (0, 9000))}
    torch.testing.assert_close(model.score(longer)["shipped"], model.score(batch)["shipped"], atol=1e-5, rtol=1e-5)


def test_the_score_depends_on_audio_and_on_the_order_of_the_phones() -> None:
    model, batch = KeywordCMCD(**TINY).eval(), random_batch()
    base = model.score(batch)["shipped"]
    assert not torch.allclose(model.score(batch | {"phones": batch["phones"].flip(1)})["shipped"], base, atol=1e-4)
    assert not torch.allclose(model.score(batch | {"audio": batch["audio"].flip(1)})["shipped"], base, atol=1e-5)


def test_the_target_of_a_match_is_the_diagonal() -> None:
    phones = torch.tensor([[[1, 2, 3, 4, 0], [1, 2, 5, 4, 0], [9, 2, 3, 4, 0], [1, 2, 3, 4, 7]]])
    target = alignment_target(phones, torch.tensor([20]), 24)
    match, prefix, suffix, longer = target[0]
    assert (target[..., 20:] == 0).all()
    torch.testing.assert_close(target.sum(-1), (phones > 0).float())
    assert match[:4].argmax(-1).tolist() == pytest.approx([2, 7, 12, 17], abs=1)
    spread = math.exp(-(0.25**2) / (2 * 0.2**2))  # one phone of four away from the diagonal
    assert float(match[1, 12] / match[1, 7]) == pytest.approx(spread, rel=0.1)
    assert torch.equal(prefix[:2], match[:2])  # up to the boundary, noise behind
    assert not torch.allclose(prefix[3], match[3], atol=1e-3)
    assert not torch.allclose(suffix[1:4], match[1:4], atol=1e-3)  # equal endings do not count
    assert torch.equal(longer[:4], match[:4])
    assert (match[4] == 0).all()


def test_the_detection_loss_balances_the_classes_and_focuses() -> None:
    logits = torch.tensor([2.0, 1.0, -1.0, 0.5])
    match = torch.tensor([True, False, False, False])
    positive = math.log1p(math.exp(-2.0))
    negative = sum(math.log1p(math.exp(x)) for x in (1.0, -1.0, 0.5)) / 3
    assert float(detection_loss(logits, match, False)) == pytest.approx((positive + negative) / 2)
    focal = positive * (1 - math.exp(-positive)) ** 2
    assert float(detection_loss(logits[:1], match[:1], True)) == pytest.approx(focal)


def test_architecture_rebuilds_the_module() -> None:
    model = KeywordCMCD(n_mels=24, dim=16, normalize="running")
    twin = KeywordCMCD(**model.architecture())
    twin.load_state_dict(model.state_dict())
    assert twin.context() == {"past_ms": None, "future_ms": None, "state_bytes": None}


def test_calibration_puts_the_threshold_between_the_classes() -> None:
    model, batch = KeywordCMCD(**TINY).eval(), random_batch(size=12)
    found = model.calibrate([batch, random_batch(size=12, seed=1)])
    assert found["value"] == pytest.approx(float(model.threshold))
    scores = torch.cat([model.score(b)["shipped"] for b in (batch, random_batch(size=12, seed=1))])
    assert scores.min() <= found["value"] <= scores.max()
    assert KeywordCMCD(**TINY).calibrate([]) == {}


def test_the_exported_graph_takes_any_clip_and_any_text(tmp_path) -> None:
    model = KeywordCMCD(**TINY).eval()
    assert export(model, tmp_path, ["onnx"], parity_inputs=8)[0]["parity"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    sample = model.export_spec()[0].sample
    for seed in range(6):
        inputs = sample(seed)
        (score,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        with torch.no_grad():
            assert score[0] == pytest.approx(float(model(**inputs)[0]), abs=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["sample_rate"] == "16000"
    assert len(metadata["phones"].split()) == 39


class Batches(L.LightningDataModule):
    sample_rate = 16_000
    test_names = ("", "unseen_words")

    def loader(self, count: int, seed: int = 0) -> DataLoader:
        return DataLoader([random_batch(seed=seed + i) for i in range(count)], batch_size=None)

    def train_dataloader(self) -> DataLoader:
        return self.loader(2)

    def val_dataloader(self) -> DataLoader:
        return self.loader(2, 10)

    def test_dataloader(self) -> list[DataLoader]:
        return [self.loader(2, 20), self.loader(3, 30)]


def test_a_trainer_run_measures_every_test_set(tmp_path) -> None:
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, enable_model_summary=False, **options
    )
    model, data = KeywordCMCD(**TINY, warmup_steps=1), Batches()
    trainer.fit(model, data)
    assert 0 <= float(trainer.callback_metrics["val/auc_hard"]) <= 1
    trainer.test(model, data, verbose=False)
    assert {"test/auc_easy", "test/eer_hard_w2", "test/unseen_words/auc_hard"} <= set(model.measured)
    assert {"test/hard", "unseen_words/easy"} <= set(model.curves)
    assert float(trainer.callback_metrics["test/auc_hard"]) == pytest.approx(model.measured["test/auc_hard"].value)
    rows = [random_batch(seed=30 + i) for i in range(3)]
    kept = torch.cat([row["kind"] != 1 for row in rows])
    assert model.measured["test/unseen_words/auc_hard"].n == len(
        torch.cat([row["episode"] for row in rows])[kept].unique()
    )
