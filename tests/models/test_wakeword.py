"""What all wake-word families promise. Numbers in comments: (R) RepCNN dossier 9, (H) HEiMDaL dossier 10."""

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.deploy.benchmark import latencies, size_of
from lightsleeper.deploy.export import export
from lightsleeper.deploy.finalize import finalize, load_model, save_model
from lightsleeper.deploy.runtime import OnnxGraph
from lightsleeper.metrics.events import EventDecoder
from lightsleeper.models.wakeword import WakeWord
from lightsleeper.nn.phone_head import phone_loss, phone_targets
from lightsleeper_callbacks.edkm import EDKMClustering
from lightsleeper_callbacks.fold import FoldOnExport
from lightsleeper_callbacks.foldable import folds, put
from lightsleeper_callbacks.pdp import PDPMasking
from models.wake_streams import FAMILIES, UNDISTURBED, Tones, lively, make, noise, phone_batch, stream, trainer
from nn.test_causal import streamed
from torch import Tensor

SINGLE = 1e-5  # float32, streamed or exported against offline
DOUBLE = 1e-10
ALL = list(FAMILIES)


def chunks(audio: Tensor, sizes: list[int], hop: int) -> list[Tensor]:
    """Chunks of ``sizes`` hops, over and over."""
    parts, at, number = [], 0, 0
    while at < audio.shape[1]:
        end = at + hop * sizes[number % len(sizes)]
        parts.append(audio[:, at:end])
        at, number = end, number + 1
    return parts


# R5, H2: a hop, a random chunk, the whole
@pytest.mark.parametrize("name", ALL)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5), folded=st.booleans(), seed=st.integers(0, 3))
@settings(max_examples=8, deadline=None)
@torch.no_grad()
def test_a_stream_equals_the_clip_for_any_chunks(name: str, sizes: list[int], folded: bool, seed: int):
    model = make(name)
    if folded:
        put(model, folds(model))
    audio = noise(seed, 80, model).repeat(2, 1)
    state, scores, starts = model.initial(2), [], []
    for chunk in chunks(audio, sizes, model.hop_samples):
        score, start, state = model.stream(chunk, state)
        scores.append(score)
        starts.append(start)
    outputs = model.chain(audio)
    score, start = model.read(outputs)
    assert torch.equal(score, model(audio))
    assert (torch.cat(scores, 1) - score).abs().max() <= SINGLE
    if start is not None:
        assert (torch.cat(starts, 1) - start).abs().max() <= SINGLE
    assert state.shape == (2, model.chain.state_size)


# R5, H2
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_frame_by_frame_three_frames_and_random_chunks_give_what_the_clip_gives(name: str, folded: bool):
    model = lively(make(name)).double()
    if folded:
        put(model, folds(model))
    audio = noise(1, 40, model).double()
    drawn = torch.randint(1, 8, (9,), generator=torch.Generator().manual_seed(0)).tolist()
    for sizes in ([1], [3], drawn):
        assert (streamed(model.chain, audio, sizes) - model.chain(audio)).abs().max() <= DOUBLE


# H1
@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_a_score_is_the_same_bit_for_bit_whatever_comes_after(name: str):
    model = make(name)
    audio = noise(0, 60, model)
    changed = audio.clone()
    changed[:, 30 * model.hop_samples :] = noise(1, 30, model)
    before, after = model.chain(audio), model.chain(changed)
    assert torch.equal(before[..., :30], after[..., :30])
    assert not torch.equal(before[..., 30:], after[..., 30:])


# H3
@pytest.mark.parametrize("name", ["cnn", "bc_resnet", "heimdal", "heimdal_bc", "ds_tcn"])
def test_a_score_sees_its_receptive_field(name: str):
    model = make(name)
    hops = -(-model.receptive_samples // model.hop_samples)
    audio = 0.1 * torch.randn(1, (hops + 6) * model.hop_samples)
    audio.requires_grad_()
    model.chain(audio)[0, 0, hops + 2].backward()
    touched = audio.grad[0].nonzero()[:, 0]
    newest = (hops + 3) * model.hop_samples - 1
    # A taper begins and ends with a zero.
    assert (int(touched[0]), int(touched[-1])) == (newest - model.receptive_samples + 2, newest - 1)
    assert model.context()["past_ms"] == (model.receptive_samples - 1) / 16
    assert model.context()["future_ms"] == 0


# H6, R10
@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_audio_that_comes_later_gives_the_same_scores_later(name: str):
    model = make(name, normalize="none")
    shift, warm = 7, -(-model.receptive_samples // model.hop_samples)
    audio = 0.1 * torch.randn(1, (warm + 20) * model.hop_samples)
    before, after = model.chain(audio), model.chain(torch.cat([audio[:, : shift * model.hop_samples], audio], 1))
    assert (before - after[..., shift:])[..., warm:].abs().max() <= SINGLE


# H6
@pytest.mark.parametrize("name", ["heimdal", "heimdal_bc"])
@torch.no_grad()
def test_a_keyword_that_comes_later_fires_as_much_later_with_the_same_offset(name: str):
    model, shift = lively(make(name)), 7
    model.chain.layers[-1].bias[1] += 2
    warm = -(-model.receptive_samples // model.hop_samples)
    audio = noise(0, warm + 150, model)
    later = torch.cat([noise(1, shift, model), audio], 1)
    (score, start), (late_score, late_start) = (model.read(model.chain(given)) for given in (audio, later))
    threshold = float(score[0, warm:].quantile(0.8, interpolation="midpoint"))
    decoder = EventDecoder(threshold, model.frame_s, refractory_s=0.2)
    score[:, :warm] = late_score[:, : warm + shift] = -torch.inf
    events = decoder.events(score[0].numpy(), start[0].numpy())
    delayed = decoder.events(late_score[0].numpy(), late_start[0].numpy())
    offsets = [event.end_s - event.start_s for event in events]
    assert len({round(offset, 3) for offset in offsets}) > 3
    assert [event.time_s - shift * model.frame_s for event in delayed] == pytest.approx([e.time_s for e in events])
    assert [event.end_s - event.start_s for event in delayed] == pytest.approx(offsets, abs=SINGLE)


@pytest.mark.parametrize("name", ALL)
def test_it_is_saved_and_loaded_as_it_was(name: str, tmp_path):
    model = make(name)
    model.threshold.fill_(0.7)
    save_model(model, tmp_path, {})
    again = load_model(tmp_path)
    audio = noise(2, 40, model)
    assert torch.equal(again(audio), model(audio))
    assert float(again.threshold) == pytest.approx(0.7)
    assert again.architecture() == model.architecture()


def onnx_stream(graph: OnnxGraph, model: WakeWord, audio: Tensor, sizes: list[int]) -> dict[str, Tensor]:
    state, found = model.initial().numpy(), []
    for chunk in chunks(audio, sizes, model.hop_samples):
        outputs = graph.run({"audio": chunk.contiguous().numpy(), "state": state})
        state = outputs.pop("next_state")
        found.append(outputs)
    return {name: torch.cat([torch.from_numpy(part[name]) for part in found], 1) for name in found[0]}


# 6 of the issue, H10: batch norms folded; the exporter needs ten seconds a family
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "repcnn" else pytest.mark.slow) for n in ALL])
def test_the_exported_stream_equals_the_clip_hop_by_hop_and_in_random_chunks(name: str, tmp_path):
    model, _ = finalize(make(name), {"fold": FoldOnExport()})
    model.threshold.fill_(0.25)
    artifact = export(model, tmp_path, ["onnx"], parity_inputs=8)[0]
    assert artifact["parity"]["max_scaled_diff"] <= 1e-4
    graph = OnnxGraph(tmp_path / "model.onnx")
    assert graph.inputs == {"audio": (1, None), "state": (1, model.chain.state_size)}
    audio = noise(5, 75, model)
    with torch.no_grad():
        score, start = model.read(model.chain(audio))
    for sizes in ([1], [3, 1, 7, 16], [75]):
        found = onnx_stream(graph, model, audio, sizes)
        assert (found["score"] - score).abs().max() <= SINGLE
        assert (start is None) == ("offset" not in found)
        if start is not None:
            assert (found["offset"] - start).abs().max() <= SINGLE
    expected = {
        "sample_rate": "16000",
        "hop_samples": str(model.hop_samples),
        "threshold": "0.25",
        "fa_per_hour": "0.5",
        "smoothing_frames": str(model.smoothing_frames),
        "refractory_s": "1.0",
        "state_size": str(model.chain.state_size),
        "receptive_field_samples": str(model.receptive_samples),
    }
    assert expected.items() <= graph.metadata.items()
    assert graph.metadata["target"] == "0.5 false alarms an hour on validation streams"
    assert "BatchNormalization" not in {n.op_type for n in onnx.load(tmp_path / "model.onnx").graph.node} or name in (
        "bc_resnet", "heimdal_bc"  # sub-spectral norms do not fold
    )  # fmt: skip
    rows = latencies(model.export_spec()[0], tmp_path / "model.onnx", [1], repeats=5)
    assert [(row["per"], row["chunk_ms"]) for row in rows] == [("hop", 20.0), ("hop", 80.0), ("hop", 320.0)]
    assert all(row["rtf"] == row["p50_ms"] / row["chunk_ms"] for row in rows)


@pytest.mark.slow
def test_a_graph_without_its_front_end_takes_features(tmp_path):
    model = make("heimdal", frontend="separate")
    export(model, tmp_path, ["onnx"], parity_inputs=4)
    graph = OnnxGraph(tmp_path / "model.onnx")
    assert graph.inputs == {"features": (1, 40, None), "state": (1, model.chain.state_size - 320)}
    audio = noise(5, 20, model)
    with torch.no_grad():
        features, score = model.chain.layers[0](audio), model(audio)
    found = graph.run({"features": features.numpy(), "state": torch.zeros(graph.inputs["state"]).numpy()})
    assert (torch.from_numpy(found["score"]) - score).abs().max() <= SINGLE
    assert graph.metadata["frontend"] == "log-mel, 40 bands, 30 ms every 10 ms, separate"
    assert latencies(model.export_spec()[0], tmp_path / "model.onnx", [1], repeats=5)[0]["chunk_ms"] == 20.0


TRAINED = {
    "repcnn": {"normalize": "none", "gain_db": (-6.0, 3.0)},
    "heimdal": {"positive_weight": 3.0},
    "dnn_hmm": {},
    "ds_tcn": {},
}
SLOW = ("repcnn", "ds_tcn", "dnn_hmm")  # heimdal learns in seven seconds


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in TRAINED])
def test_it_learns_to_hear_a_keyword_in_a_stream(name: str, tmp_path):
    model = make(
        name, shake=False, lr=1e-2, warmup_steps=5, fa_per_hour=60.0, **{**UNDISTURBED, **TRAINED[name]}
    ).train()
    run = trainer(tmp_path, 16 if name == "dnn_hmm" else 10)
    run.fit(model, datamodule=Tones())
    assert run.callback_metrics["val/score"] <= 0.2
    found = model.eval().calibrate(stream(0, 20) + stream(1, 20))
    assert found["target"] == "60 false alarms an hour on validation streams"
    assert float(model.threshold) == found["value"]
    run.test(model, datamodule=Tones(), verbose=False)
    measured = model.measured
    assert set(model.headline) <= set(measured)
    assert measured["test/frr"].value <= 0.25
    assert measured["test/frr"].n == 5
    assert model.curves["test"]["kind"] == "frr_fah"
    keywords = model.details["test"]
    assert {len(column) for column in keywords.values()} == {5}
    assert keywords["begin_s"] == [2.0, 6.0, 10.0, 14.0, 18.0]
    assert 1 - sum(keywords["detected"]) / 5 == pytest.approx(measured["test/frr_at_60_fa_per_hour"].value)
    assert [end is None for end in keywords["end_found_s"]].count(True) == round(5 * measured["test/frr_fired"].value)
    if name in ("heimdal", "dnn_hmm"):
        assert measured["test/start_error_median_s"].value < 0.1


PHONES = {"phone_weight": 1.0, "phone_block": 1}


@pytest.mark.parametrize("name", ["cnn", "repcnn", "heimdal"])
def test_phones_teach_the_layers_before_their_head_and_no_other(name: str):
    model = make(name, shake=False, **PHONES, gain_db=None)
    batch = phone_batch(model)
    plain = make(name, shake=False, gain_db=None)
    plain.load_state_dict(model.state_dict(), strict=False)
    outputs, only = model.outputs(batch["audio"]), plain.outputs(batch["audio"])
    own = only.shape[1]
    assert torch.equal(outputs[:, :own], only)
    times = model.times(outputs.shape[2])
    loss, without = model.loss(outputs, times, batch).detach(), plain.loss(only, times, batch).detach()
    targets = phone_targets(times, batch["phones"])
    assert float(loss - without) == pytest.approx(float(phone_loss(outputs[:, own:], targets).detach()))
    phone_loss(outputs[:, own:], targets).backward()
    taught = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    layers = {int(name.split(".")[2]) for name in taught if name.startswith("chain")}
    # The first convolution and the two of the first block; in repcnn a learned mean spectrum before them.
    assert layers == ({1, 2, 4, 6} if name == "repcnn" else {1, 3, 5})
    assert {"phone_head.weight", "phone_head.bias"} <= taught


def test_a_network_that_learned_phones_ships_without_their_head(tmp_path):
    model, plain = make("repcnn", **PHONES), make("repcnn")
    plain.load_state_dict(model.state_dict(), strict=False)
    audio = noise(0, 40, model)
    assert torch.equal(model(audio), plain(audio))
    save_model(model, tmp_path / "whole", {})
    assert load_model(tmp_path / "whole").phone_head is not None
    final, _ = finalize(model, {"fold": FoldOnExport()})
    final.rebuild(list)
    save_model(final, tmp_path / "final", {})
    again = load_model(tmp_path / "final")
    assert again.architecture()["phone_weight"] == 0
    assert not [name for name in again.state_dict() if "phone" in name]
    assert (again(audio) - plain(audio)).abs().max() <= SINGLE
    assert size_of(again) == size_of(finalize(plain, {"fold": FoldOnExport()})[0])
    assert model.phone_head is not None


def test_the_phone_head_is_neither_pruned_nor_clustered():
    for callback in (PDPMasking(sparsity=0.5, start=0.0, end=0.5), EDKMClustering(bits=4)):
        model = make("cnn", shake=False, **PHONES)
        callback.prepare(model)
        assert model.phone_head is not None
        assert dict(model.phone_head.named_parameters()).keys() == {"weight", "bias"}


@pytest.mark.slow
def test_a_dnn_hmm_goes_on_learning_end_to_end(tmp_path):
    more = {"training": "end_to_end", "frames_first": 0.5, "lr": 1e-2, "warmup_steps": 5, "fa_per_hour": 60.0}
    run = trainer(tmp_path, 16)
    run.fit(make("dnn_hmm", shake=False, **more, **UNDISTURBED).train(), datamodule=Tones())
    assert run.callback_metrics["val/score"] <= 0.2


@pytest.mark.parametrize(
    "callbacks",
    [
        {"prune": PDPMasking(sparsity=0.5, start=0.0, end=0.5)},
        {"cluster": EDKMClustering(bits=4)},
        {"fold": FoldOnExport(at=1), "prune": PDPMasking(sparsity=0.5, start=0.5, end=0.8)},
        {"prune": PDPMasking(sparsity=0.5, start=0.0, end=0.5, mode="channel", targets=["chain.layers.2.layer.0"])},
    ],
    ids=["pdp", "edkm", "fold_pdp", "channels"],
)
def test_compression_works_on_it(callbacks: dict, tmp_path):
    channels = getattr(callbacks.get("prune"), "mode", None) == "channel"
    model = make("repcnn", shake=False, width=16, **({"branches": 0} if channels else {})).train()
    run = trainer(tmp_path, 2, *callbacks.values())
    run.fit(model, datamodule=Tones())
    final, report = finalize(model, callbacks)
    audio = noise(1, 40, model)
    with torch.no_grad():
        scores = final.eval()(audio)
        state, parts = final.initial(), []
        for chunk in chunks(audio, [3], final.hop_samples):
            frames = final.stream(chunk, state)
            state = frames.state
            parts.append(frames.score)
    assert (torch.cat(parts, 1) - scores).abs().max() <= SINGLE
    save_model(final, tmp_path / "m", {})
    assert torch.equal(load_model(tmp_path / "m")(audio), scores)
    if channels:
        assert final.chain.state_size < model.chain.state_size
        assert report["prune"]["compress/parameters_removed"] > 0.2
    elif "prune" in callbacks:
        assert report["prune"]["compress/sparsity"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("cnn", {"n_mels": 1}, "n_mels must be 2 or more"),
        ("cnn", {"kernels": []}, "kernels must be numbers of taps"),
        ("cnn", {"dilations": [1]}, "dilations must be 2 numbers"),
        ("cnn", {"phone_weight": 1.0, "phone_block": 3}, "phone_block must be a block from 1 to 2"),
        ("heimdal_bc", {"phone_weight": 1.0}, "phone_weight must be 0 for the bc encoder"),
        ("cnn", {"phone_weight": -1.0}, "phone_weight must be 0 or more"),
        ("cnn", {"branches": -1}, "branches must be 0 or more"),
        ("cnn", {"gain_db": (10.0, -40.0)}, "lowest and a highest gain"),
        ("cnn", {"fa_per_hour": 0.0}, "fa_per_hour must be above 0"),
        ("cnn", {"hardest": 0}, "hardest must be 1 or more"),
        ("bc_resnet", {"n_mels": 64}, "n_mels must be 40"),
        ("bc_resnet", {"tau": 1.1}, "tau must be a multiple"),
        ("heimdal", {"offset_weight": -1.0}, "offset_weight must be 0 or more"),
        ("dnn_hmm", {"states": 0}, "states must be 1 or more"),
        ("dnn_hmm", {"longest_s": 0.02}, "fit no keyword"),
        ("ds_tcn", {"dropout": 1.0}, "dropout must be a share"),
    ],
)
def test_arguments_without_sense_are_refused(name: str, arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make(name, **arguments)
