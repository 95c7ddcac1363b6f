import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from lightsleeper.bench import pdp, pdp_accuracy
from lightsleeper.bench.pdp_nets import ByteLM
from lightsleeper.errors import UserError
from lightsleeper_callbacks.weights import find

TINY = pdp_accuracy.Settings(epochs=6, lm_dim=16, lm_layers=1, lm_length=16, lm_steps=4)


def arguments(**given: object) -> Namespace:
    return Namespace(**{"part": [], "quick": True, "seeds": 1, "repeats": 1, "threads": 1, "out": None, **given})


def test_the_step_part_compares_every_mode_with_the_dense_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pdp, "CASES", (("cnn", 2, 1), ("transformer", 4, 1)))
    monkeypatch.setattr(pdp, "ByteLM", lambda: ByteLM(dim=32, layers=1))
    result = pdp.run(arguments(part=["step"]))
    assert json.loads(json.dumps(result)) == result
    assert {(row["network"], row["mode"]) for row in result["step"]} >= {
        ("cnn", "2:4"),
        ("transformer", "channel 50 %"),
    }
    assert max(result["equality"].values()) < pdp.EQUAL
    assert "target 5 %" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["dense", *pdp_accuracy.METHODS])
def test_every_method_reaches_the_sparsity_asked_for(method: str):
    row = pdp_accuracy.train(pdp_accuracy.byte_task(TINY), method, "0" if method == "dense" else "0.90", 0, TINY)
    assert row["zeros"] == pytest.approx(0 if method == "dense" else 0.9, abs=2e-3)
    assert 0 < row["score"] < 20


def test_a_finished_training_is_taken_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []

    def train(*given: object) -> dict[str, float]:
        calls.append(given[1:4])
        return {"score": 3.0 + len(calls), "zeros": 0.9, "seconds": 0.0}

    monkeypatch.setattr(pdp_accuracy, "train", train)
    first = pdp_accuracy.run(tmp_path, None, 2, True)
    assert len(calls) == len(first) == 10
    (tmp_path / "bytes-pdp-0.90-1.json").unlink()
    assert [row["task"] for row in pdp_accuracy.run(tmp_path, None, 2, True)] == ["bytes"] * 10
    assert calls[10:] == [("pdp", "0.90", 1)]
    assert "2/2 magnitude" in pdp_accuracy.render(first)


def test_an_unknown_part_is_refused():
    with pytest.raises(UserError, match="no part 'speed'"):
        pdp.run(arguments(part=["speed"]))


@pytest.mark.slow
@pytest.mark.real_data
def test_digits_are_split_by_speaker(real_data: Path):
    train, test = pdp_accuracy._digits(real_data / "spoken_digits")
    assert train[0].shape == (2000, 1, 40, 50)
    assert test[0].shape == (1000, 1, 40, 50)
    assert torch.bincount(test[1]).tolist() == [100] * 10
    assert len(find(pdp_accuracy.digit_task(TINY, real_data / "spoken_digits").module())) > 5
