"""Tracks as a trained encoder sees them: the same results as with faces, made once, packed by length."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightsleeper.data.speaker_embeddings import SpeakerEmbeddings
from lightsleeper.deploy.export import write_onnx
from lightsleeper.deploy.finalize import save_model
from lightsleeper.errors import UserError
from lightsleeper.models.active_speaker import ActiveSpeaker
from tiny_speakers import Bars

PLAIN: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False,
    "enable_progress_bar": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export folder of a model with random weights."""
    torch.manual_seed(0)
    folder, model = tmp_path_factory.mktemp("encoder"), ActiveSpeaker(size="small", past_frames=2).eval()
    save_model(model, folder, {})
    write_onnx(model.export_spec()[1], folder / "embed.onnx")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path))
    return tmp_path


def test_a_model_scores_embeddings_as_it_scores_faces(encoder: Path):
    faces = Bars(8, 9)
    data = SpeakerEmbeddings(encoder, faces)
    data.setup()
    model = ActiveSpeaker(encoders_from=encoder, size="small", past_frames=3).eval()
    with torch.no_grad():
        for seen, vectors in zip(faces.test_dataloader(), data.test_dataloader()[0], strict=True):
            torch.testing.assert_close(model(vectors), model(seen), rtol=0, atol=1e-4)
            assert vectors["entity"] == seen["entity"]
            assert torch.equal(vectors["label3"], seen["label3"])


def test_a_fusion_trains_on_them(encoder: Path):
    model = ActiveSpeaker(encoders_from=encoder, size="small", past_frames=3)
    trainer = L.Trainer(max_epochs=2, **PLAIN)
    trainer.fit(model, datamodule=SpeakerEmbeddings(encoder, Bars(8, 9), batch_frames=40))
    assert {"train/loss", "val/map"} <= set(trainer.callback_metrics)


def test_the_encoder_sees_every_track_once(encoder: Path, monkeypatch: pytest.MonkeyPatch):
    first = SpeakerEmbeddings(encoder, Bars(8, 9), passes=2)
    first.setup()

    def refuse(*_: Any) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("lightsleeper.data.speaker_embeddings._embedded", refuse)
    again = SpeakerEmbeddings(encoder, Bars(8, 9), passes=2)
    again.setup()
    assert torch.equal(again.training.columns["face_embedding"], first.training.columns["face_embedding"])
    assert len(again.training) == 16  # twice eight
    assert again.summary()["hash"] == first.summary()["hash"]
    with pytest.raises(AssertionError, match="made again"):  # other data are other vectors
        SpeakerEmbeddings(encoder, Bars(10, 9)).setup()


def test_embeddings_of_another_encoder_or_one_that_still_learns_are_refused(encoder: Path, tmp_path: Path):
    data, trainer = SpeakerEmbeddings(encoder, Bars(8, 9)), L.Trainer(max_epochs=1, **PLAIN)
    with pytest.raises(UserError, match="give encoders_from, freeze true"):
        trainer.fit(ActiveSpeaker(size="small"), datamodule=data)
    save_model(ActiveSpeaker(size="small").eval(), tmp_path / "other", {})
    with pytest.raises(UserError, match="but the embeddings are those of"):
        trainer.fit(ActiveSpeaker(encoders_from=tmp_path / "other", size="small"), datamodule=data)


def test_a_folder_without_the_graph_and_faces_of_another_size_are_refused(encoder: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"has no embed.onnx: expected a run that exported to onnx"):
        SpeakerEmbeddings(tmp_path, Bars()).check()
    with pytest.raises(UserError, match="takes faces of 56 pixels, the data has 64"):
        SpeakerEmbeddings(encoder, Bars(8, 9, edge=64)).setup()
    with pytest.raises(ValueError, match="passes must be 1 or more; got 0"):
        SpeakerEmbeddings(encoder, Bars(), passes=0)


def test_a_training_batch_holds_the_frames_it_may_cut_to_its_shortest_track(encoder: Path):
    data = SpeakerEmbeddings(encoder, Bars(8, 9), batch_frames=40)
    data.setup()
    for batch in data.train_dataloader():
        rows, frames = batch["label"].shape
        assert rows * frames <= 40
        assert batch["sound_embedding"].shape == batch["face_embedding"].shape == (rows, frames, 64)
