"""int8 LiteRT: needs litert-torch (docs/small_devices.md); what LiteRT Micro would do, where tflite-micro is there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from deploy.small_files import exported, folded, logits
from lightsleeper.deploy.litert import LiteRTNetwork, micro_arena_bytes, write_litert
from lightsleeper.deploy.small import Fronted, split
from lightsleeper.errors import UserError
from models.wake_streams import make, stream
from torch import nn

pytest.importorskip("litert_torch")
FAMILIES = ["repcnn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bc_resnet", "heimdal", "ds_tcn"))]


def written(name: str = "repcnn") -> tuple[Path, dict]:
    folder, (entry,) = exported(name, "litert_int8")
    return folder, entry


def network(name: str) -> LiteRTNetwork:
    folder, entry = written(name)
    return LiteRTNetwork(folder / entry["path"], entry["device"]["outputs"])


def features(name: str) -> np.ndarray:
    front, _ = split(make(name))
    audio = torch.cat([batch["audio"] for batch in stream(0, 20)], 1)
    with torch.no_grad():
        return front(audio).numpy()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_network_hears_what_the_float_one_hears(name: str):
    model = folded(name)
    front, _ = split(model)
    file = Fronted(front, network(name), {})
    audio = torch.cat([batch["audio"] for batch in stream(0, 20)], 1)
    score, start, _ = file.step(audio[0].numpy(), file.initial())
    with torch.no_grad():
        expected, told = model.read(model.chain(audio))
    before = logits(expected[0].numpy())
    # Twenty layers of random weights in int8 add up; what that costs a trained network is for its record to say.
    share = 0.8 if name == "bc_resnet" else 0.2
    assert np.sqrt(np.mean((before - logits(score)) ** 2)) < share * before.std()
    assert (start is None) == (told is None)
    if start is not None and told is not None:
        assert np.abs(start - told[0].numpy()).mean() < 0.05


def test_states_are_int8_and_come_out_as_they_go_in():
    file = network("repcnn")
    file.check_scales("model_int8.tflite")
    _, entry = written()
    sizes = [state["bytes"] for state in entry["device"]["states"]]
    assert sizes == [40 * 3, 12 * 4, 12 * 12, 12 * 2]  # first, two dilated kernels, trailing mean
    assert entry["device"]["state_bytes"] == sum(sizes)
    assert entry["device"]["state"] == "int8"
    assert entry["bytes"] < 60_000


def test_calls_and_chunks_give_the_same_scores():
    given = features("repcnn")
    file = network("repcnn")
    whole, _, _ = file.step(given, file.initial())
    state, parts = file.initial(), []
    for at in range(0, given.shape[2], 14):
        score, _, state = file.step(given[:, :, at : at + 14], state)
        parts.append(score)
    assert np.array_equal(np.concatenate(parts), whole)


def test_micro_keeps_the_same_states_bit_for_bit_in_its_arena():
    micro = pytest.importorskip("tflite_micro")
    folder, entry = written()
    file, given = network("repcnn"), features("repcnn")[:, :, :400]
    expected, _, kept = file.step(given, file.initial())
    arena = entry["device"]["arena_bytes"]
    assert arena == micro_arena_bytes(folder / entry["path"]) < 64_000
    device = micro.runtime.Interpreter.from_file(str(folder / entry["path"]), arena_size=arena)
    state, found = file.initial(), []
    for at in range(0, given.shape[2], file.frames):
        device.set_input(np.ascontiguousarray(file.quantize(given[:, :, at : at + file.frames])), 0)
        for place, value in enumerate(state):
            device.set_input(value, place + 1)
        device.invoke()
        found.append(device.get_output(0).item())
        # Copies: outputs share memory with inputs.
        state = [np.array(device.get_output(place + 1)) for place in range(len(state))]
    assert all(np.array_equal(*pair) for pair in zip(state, kept, strict=True))
    assert np.abs(np.array(found, np.float32) - expected).max() <= 1e-6  # the float tail sums in another order


def test_the_array_and_its_header_lie_beside_the_file():
    folder, entry = written()
    assert entry["device"]["c_array"] == ["model_int8.h", "model_int8.cc"]
    assert all((folder / name).is_file() for name in entry["device"]["c_array"])
    header = (folder / "model_int8.h").read_text()
    assert entry["sha256"] in header
    assert f"kArenaBytes = {entry['device']['arena_bytes']};" in header or entry["device"]["arena_bytes"] is None


def test_what_cannot_be_converted_is_named_in_one_line(tmp_path):
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    model = make("cnn")
    _, odd = split(model)
    odd.layers.insert(1, Odd())
    with pytest.raises(UserError, match="cannot be converted to LiteRT") as refusal:
        write_litert(model, odd, 40, 2, tmp_path / "model_int8.tflite", [])
    assert len(str(refusal.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())
