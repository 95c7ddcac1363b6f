"""The phoneme family on LibriPhrase, from a small tree in LibriSpeech's own layout, under both protocols."""

from pathlib import Path

import pytest
from data.librispeech import write_subset
from lightsleeper.cli import main
from lightsleeper.data import libriphrase as module
from lightsleeper.tracking.record import read
from tiny_runs import prepare

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def _shared(root: Path) -> list[str]:
    """Overrides of every step's data."""
    return [
        f"data.librispeech={root}",
        "data.train_subsets=[train-clean-100]",
        "data.workers=0",
        "data.val_speakers=0.3",
        "data.batch_size=16",
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
    ]


@pytest.mark.parametrize("protocol", ["P1", "P2"])
def test_three_steps_train_and_are_tested(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    prepare(monkeypatch, tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(module, "confusions", lambda texts: None)
    root = tmp_path / "LibriSpeech"
    write_subset(root, "train-other-500", [11, 12, 13, 14, 15])
    write_subset(root, "train-clean-100", list(range(21, 31)), takes=3)
    words = ["run", "kws_phoneme", "overlays/phoneme_libriphrase", "--run.stages=[fit,finalize,test]"]
    words += [f"--data.protocol={protocol}", "--requires.vectors.set.requires.encoder.set.model.dim=32"]
    words += ["--requires.vectors.set.requires.encoder.set.model.blocks=1"]
    for place in ("", "requires.vectors.set.", "requires.vectors.set.requires.encoder.set."):
        words += [f"--{place}{entry}" for entry in _shared(root)]
    assert main(words) == 0, capsys.readouterr().err
    record = read(next(Path("runs/kws_phoneme").glob("20*")))
    assert record.status == "finished"
    assert record.data["protocol"] == protocol
    found = {name: value["value"] for name, value in record.metrics.items() if name.endswith(("auc_easy", "auc_hard"))}
    known = [value for value in found.values() if value is not None]  # a set of P2 has one kind of negatives
    assert len(known) >= 8  # shipped, verifier, cosine, ctc; easy and hard
    assert all(0 <= value <= 1 for value in known)
