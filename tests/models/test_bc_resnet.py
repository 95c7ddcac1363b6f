"""BC-ResNet as a classifier of words and as a wake-word detector (kws_benchmarks 5 and 8.6)."""

import lightning as L
import pytest
import torch
from lightsleeper.deploy.export import export
from lightsleeper.deploy.finalize import finalize, load_model, save_model
from lightsleeper.models.bc_resnet import BCResNet, SpokenWordBCResNet
from lightsleeper.models.kws_encoder import sample_audio
from lightsleeper_callbacks.fold import FoldOnExport
from models.test_small_cnn import Tones
from nn.test_causal import shaken

TWELVE = [f"w{number}" for number in range(12)]
PUBLISHED = [(1, 9_232), (1.5, 17_154), (2, 27_284), (3, 54_168), (6, 187_812), (8, 321_068)]


@pytest.mark.parametrize(("tau", "count"), PUBLISHED)
def test_the_classifier_has_the_published_parameters_and_the_detector_those_less_eleven_classes(tau: float, count: int):
    assert sum(value.numel() for value in SpokenWordBCResNet(TWELVE, tau).parameters()) == count
    width = round(32 * tau)
    assert sum(value.numel() for value in BCResNet(tau).parameters()) == count - 11 * (width + 1)
    more = SpokenWordBCResNet([f"w{number}" for number in range(35)], tau)
    assert sum(value.numel() for value in more.parameters()) == count + 23 * (width + 1)


def test_the_detector_sees_117_frames_of_ten_milliseconds_and_a_window():
    model = BCResNet(1.0)
    assert model.hop_samples == 160
    assert model.receptive_samples == 116 * 160 + 480
    assert model.context()["state_bytes"] == 4 * (2480 + 320)


def test_masks_are_as_wide_as_published():
    for tau, bands in ((1, 0), (1.5, 1), (2, 3), (3, 5), (6, 7), (8, 7)):
        augment = SpokenWordBCResNet(TWELVE, tau).augment
        assert augment.freq_share * 40 == pytest.approx(bands)
        assert (augment.freq_masks, augment.time_masks) == ((2, 2) if bands else (0, 0))


def test_it_learns_words_and_is_saved(tmp_path):
    torch.manual_seed(0)
    model = SpokenWordBCResNet(Tones.words, 1.0, lr=0.05, warmup_steps=8)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=15, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, datamodule=Tones())
    assert trainer.callback_metrics["val/macro_accuracy"] > 0.6
    assert float(trainer.optimizers[0].param_groups[0]["lr"]) < 0.03  # half a cosine, down to zero
    final, _ = finalize(model.eval(), {"fold": FoldOnExport()})
    save_model(final, tmp_path / "m", {})
    audio = sample_audio(2)
    assert torch.equal(load_model(tmp_path / "m")(audio), final(audio))


@pytest.mark.slow
def test_the_classifier_exports_for_clips_of_any_length(tmp_path):
    artifact = export(shaken(SpokenWordBCResNet(TWELVE, 1.0)), tmp_path, ["onnx"], parity_inputs=8)[0]
    assert artifact["parity"]["max_abs_diff"] < 1e-4
