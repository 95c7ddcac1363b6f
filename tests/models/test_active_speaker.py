"""The family: losses, budgets, what it starts from, calibration, and its exported graphs."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightsleeper.deploy.export import export, write_onnx
from lightsleeper.deploy.finalize import load_model, save_model
from lightsleeper.errors import UserError
from lightsleeper.models.active_speaker import ActiveSpeaker, best_threshold
from lightsleeper.models.family import Family
from lightsleeper.nn.speaker_net import example
from tiny_speakers import Bars

SMALL = {"size": "small", "past_frames": 4}
PLAIN: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False,
    "enable_progress_bar": False,
}  # fmt: skip


def batch(frames: int = 8) -> dict[str, Any]:
    faces, mfcc = example(frames, batch=2, pixels=56)
    return {"faces": faces, "mfcc": mfcc, "label": torch.arange(2 * frames).reshape(2, frames) % 2}


def saved(model: Family, folder: Path) -> Path:
    return save_model(model.eval(), folder, {})


@pytest.mark.parametrize(("name", "value"), [
    ("layers", 0), ("past_frames", -1), ("future_frames", -1), ("dropout", 1.0), ("lr", 0.0), ("temperature", 0.0),
    ("face_weight", -0.1), ("heads", 0),
])  # fmt: skip
def test_a_senseless_value_is_refused_by_name(name: str, value: float):
    with pytest.raises(ValueError, match=rf"^{name} must be .*; got {value}$"):
        ActiveSpeaker(**{**SMALL, name: value})


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="heads must divide the width of the embeddings, 64; got 5"):
        ActiveSpeaker(**SMALL, heads=5)
    with pytest.raises(ValueError, match="sample_budgets must be false for fusion gru"):
        ActiveSpeaker(**SMALL, fusion="gru", sample_budgets=True)
    with pytest.raises(ValueError, match="weights needs size light_asd, time published and fusion bigru"):
        ActiveSpeaker(**SMALL, weights="light_asd.model")


def test_the_temperature_falls_by_a_fiftieth_an_epoch():
    model = ActiveSpeaker(**SMALL)
    assert [model.heat(epoch - 1) for epoch in (1, 16, 30)] == pytest.approx([1.3, 1.0, 0.72])


def test_the_loss_is_the_published_one():
    """Binary cross-entropy of the softmax of both heads at the temperature, the face's by one half."""
    torch.manual_seed(0)
    model, data = ActiveSpeaker(**SMALL).eval(), batch()
    found = model.losses(data)
    sound, faces = model.net.encoders(data["faces"], data["mfcc"])
    for name, logits, weight in (
        ("fused", model.net.judge(sound, faces), 1.0),
        ("face", model.net.face_head(faces), 0.5),
    ):
        p = (logits / 1.3).softmax(-1)[..., 1]
        expected = weight * torch.nn.functional.binary_cross_entropy(p, data["label"].float())
        torch.testing.assert_close(found[name], expected)


def test_a_deaf_or_blind_model_has_the_losses_of_its_sense():
    assert set(ActiveSpeaker(**SMALL, modality="audio").losses(batch())) == {"fused"}
    assert set(ActiveSpeaker(**SMALL, modality="video").losses(batch())) == {"fused", "face"}


def test_a_score_is_at_temperature_one():
    torch.manual_seed(0)
    model, data = ActiveSpeaker(**SMALL).eval(), batch()
    logits = model.net(data["faces"], data["mfcc"])
    torch.testing.assert_close(model(data), torch.sigmoid(logits[..., 1] - logits[..., 0]))


def test_sampled_budgets_are_within_those_of_the_test_and_reach_both_ends():
    torch.manual_seed(0)
    model = ActiveSpeaker(size="small", past_frames=16, future_frames=2, sample_budgets=True)
    drawn = [model._budget() for _ in range(400)]
    past, future = ({pair[side] for pair in drawn} for side in (0, 1))
    assert {0, 16} <= past <= set(range(17))
    assert future == {0, 1, 2}
    assert ActiveSpeaker(**SMALL)._budget() == (None, None)
    endless = ActiveSpeaker(size="small", past_frames=None, future_frames=0, sample_budgets=True)
    assert endless._budget() == (None, 0)


def test_a_long_track_is_encoded_in_blocks_to_the_same_vectors(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model, data = ActiveSpeaker(**SMALL).double().eval(), batch(11)
    whole = model(data)
    monkeypatch.setattr("lightsleeper.models.active_speaker.BLOCK", 4)
    torch.testing.assert_close(model(data), whole)


def test_faces_of_another_size_are_refused():
    with pytest.raises(UserError, match="faces of 48 pixels do not fit encoders for 56"):
        ActiveSpeaker(**SMALL)({**batch(), "faces": torch.zeros(2, 8, 48, 48)})


def test_the_threshold_has_the_highest_f1():
    scores, positive = torch.tensor([0.9, 0.8, 0.7, 0.2, 0.1]), torch.tensor([True, False, True, False, False])
    assert best_threshold(scores, positive) == pytest.approx(0.45)
    assert best_threshold(scores, torch.zeros(5, dtype=torch.bool)) == 0.5
    assert best_threshold(torch.full((4,), 0.3), torch.tensor([True, False, False, False])) == pytest.approx(0.15)


@pytest.mark.slow
def test_it_learns_who_speaks_and_is_judged_by_tracks():
    L.seed_everything(0, verbose=False)
    data = Bars(480, 20, batch=16)
    model = ActiveSpeaker(size="small", time="framewise", past_frames=4, lr=3e-3)
    trainer = L.Trainer(max_epochs=3, **PLAIN)
    trainer.fit(model, datamodule=data)
    model.eval().calibrate(data.val_dataloader())
    trainer.test(model, datamodule=data, verbose=False)
    assert model.measured["test/map"].value > 0.7  # 0.49 without a look; 0.82 on validation when it was written
    assert {"test/f1", "test/map_middle", "test/map_faces1"} <= set(model.measured)


def test_one_epoch_trains_validates_calibrates_and_tests():
    data, model = Bars(8, 8), ActiveSpeaker(**SMALL)
    trainer = L.Trainer(max_epochs=1, **PLAIN)
    trainer.fit(model, datamodule=data)
    assert {"train/loss", "train/fused", "train/face", "val/map"} <= set(trainer.callback_metrics)
    found = model.eval().calibrate(data.val_dataloader())
    assert 0 <= found["value"] <= 1
    trainer.test(model, datamodule=data, verbose=False)
    assert "test/map" in model.measured


# What it starts from.


def test_a_finished_model_comes_back_from_its_folder(tmp_path: Path):
    torch.manual_seed(0)
    model, data = ActiveSpeaker(**SMALL, future_frames=1, layers=2, spread_future=True), batch()
    again = load_model(saved(model, tmp_path))
    assert torch.equal(again(data), model(data))


def test_a_model_with_a_smaller_budget_starts_from_one_with_a_larger(tmp_path: Path):
    torch.manual_seed(0)
    wide = ActiveSpeaker(size="small", past_frames=6, future_frames=3)
    torch.nn.init.normal_(wide.net.fusion.layers[0].positions)
    saved(wide, tmp_path)
    small = ActiveSpeaker(init_from=tmp_path, size="small", past_frames=2, future_frames=1).eval()
    torch.testing.assert_close(small(batch()), wide(batch(), past=2, future=1))
    with pytest.raises(UserError, match="6 frames back and 3 ahead; 9 and 0 were asked for"):
        ActiveSpeaker(init_from=tmp_path, size="small", past_frames=9)


def test_encoders_come_from_a_finished_model_and_stay_as_they_are(tmp_path: Path):
    first = ActiveSpeaker(**SMALL, fusion="gru")
    first.train()(batch())  # statistics of its batch norms
    saved(first, tmp_path)
    model = ActiveSpeaker(encoders_from=tmp_path, size="small", past_frames=2)
    before = {name: value.clone() for name, value in model.net.encoders.state_dict().items()}
    trainer = L.Trainer(max_epochs=1, **PLAIN)
    trainer.fit(model, datamodule=Bars(8, 8))
    assert set(model.losses(batch())) == {"fused"}
    for name, value in first.net.encoders.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(model.net.encoders.state_dict()[name], before[name])
    tuned = ActiveSpeaker(encoders_from=tmp_path, freeze=False, size="small", past_frames=2)
    assert set(tuned.losses(batch())) == {"fused", "face"}


def test_encoders_of_another_kind_are_refused(tmp_path: Path):
    saved(ActiveSpeaker(**SMALL), tmp_path)
    with pytest.raises(UserError, match="have time causal; this model's framewise"):
        ActiveSpeaker(encoders_from=tmp_path, size="small", time="framewise")
    with pytest.raises(UserError, match="no finished model in"):
        ActiveSpeaker(encoders_from=tmp_path / "nowhere", size="small")


# Export.


@pytest.mark.slow
def test_it_exports_a_step_with_its_state_and_the_encoders(tmp_path: Path):
    """Parity with random states, one to three faces, some of them gone."""
    torch.manual_seed(0)
    model = ActiveSpeaker(size="small", past_frames=3, future_frames=2, layers=2).eval()
    paths = [artifact["path"] for artifact in export(model, tmp_path, ["onnx"], parity_inputs=4)]
    assert paths == ["model.onnx", "embed.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [
    {"fusion": "gru"}, {"fusion": "bigru", "time": "published"}, {"past_frames": None, "time": "framewise"},
], ids=lambda settings: settings.get("fusion", "all of the past"))  # fmt: skip
def test_the_other_fusions_export(settings: dict[str, Any], tmp_path: Path):
    torch.manual_seed(0)
    export(ActiveSpeaker(**{**SMALL, **settings}).eval(), tmp_path, ["onnx"], parity_inputs=4)


@pytest.mark.slow
def test_the_exported_step_run_over_a_clip_gives_the_scores_of_the_clip(tmp_path: Path):
    from lightsleeper.deploy.onnx_graph import OnnxGraph

    torch.manual_seed(0)
    model, frames = ActiveSpeaker(size="small", past_frames=3, future_frames=2).eval(), 9
    write_onnx(model.export_spec()[0], tmp_path / "model.onnx")
    graph, (faces, mfcc) = OnnxGraph(tmp_path / "model.onnx"), example(frames, batch=2, pixels=56)
    assert graph.metadata["delay"] == "2"
    state, found = torch.zeros(2, int(graph.metadata["state_size"])).numpy(), []
    for step in range(frames + 2):
        at, present = min(step, frames - 1), torch.full((2,), float(step < frames))
        feeds = {"faces": faces[:, [at]], "mfcc": mfcc[:, 4 * at : 4 * at + 4], "present": present}
        out = graph.run({**{name: value.numpy() for name, value in feeds.items()}, "state": state})
        state = out["next_state"]
        found.append(torch.from_numpy(out["score"]))
        assert out["ready"].tolist() == [float(step >= 2)] * 2
    torch.testing.assert_close(torch.stack(found[2:], 1), model({"faces": faces, "mfcc": mfcc}), rtol=0, atol=1e-4)


def test_it_trains_in_mixed_precision():
    torch.manual_seed(0)
    model, data = ActiveSpeaker(**SMALL, future_frames=1), batch()
    plain = model.losses(data)["fused"]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.losses(data)["fused"]
    mixed.backward()
    assert mixed.item() == pytest.approx(plain.item(), rel=0.1)
    assert all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())
