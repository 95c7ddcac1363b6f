"""A word spotter in streams, training, retrofit, export. Numbers in comments: papers/dynamic_conformer, section 11."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightsleeper.bench.spotter_arms import QUICK
from lightsleeper.deploy.benchmark import size_of
from lightsleeper.deploy.export import export
from lightsleeper.deploy.finalize import load_model, save_model
from lightsleeper.deploy.onnx_graph import OnnxGraph
from lightsleeper.errors import UserError
from lightsleeper.models.kws_encoder import sample_audio
from lightsleeper.models.word_spotter import Steps, WordSpotter
from models.word_streams import SMALL, WORDS, Tones, batch, force, gates, make, stream
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

DOUBLE, SINGLE = 1e-12, 1e-5
HEAVY = ("MatMul", "Gemm", "Conv", "FusedMatMul")
MARGIN = 1e-9  # of a gate's probability from one half, within which rounding may decide


def audio_of(hops: int, model: WordSpotter, seed: int = 0) -> Tensor:
    return sample_audio(seed, float(hops * model.windowing.slide_ms))[:, : hops * model.hop_samples]


def streamed(model: WordSpotter, audio: Tensor, sizes: list[int]) -> Steps:
    """The steps of chunks of ``sizes`` hops, over and over, joined; times from the start of the stream."""
    state, parts, at, number = model.initial(len(audio)), [], 0, 0
    while at < audio.shape[1]:
        chunk = audio[:, at : at + model.hop_samples * sizes[number % len(sizes)]]
        steps = model.stream(chunk, state)
        parts.append(steps._replace(begin_s=steps.begin_s + at / 16_000, end_s=steps.end_s + at / 16_000))
        state, at, number = steps.state, at + chunk.shape[1], number + 1
    columns = [torch.cat(column, 1) for column in list(zip(*parts, strict=True))[:4]]
    decisions = None if parts[0].gates is None else torch.cat([part.gates for part in parts], 1)
    return Steps(*columns, decisions, state)


# 2, 4 of the issue
@pytest.mark.parametrize(
    "arguments", [{}, {"gated": True, "normalize": "exponential"}, {"encoder": "bc_resnet", "tau": 0.5}], ids=str
)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), seed=st.integers(0, 3))
@settings(max_examples=6, deadline=None)
@torch.no_grad()
def test_a_stream_equals_the_whole_for_any_chunks_of_whole_hops(arguments: dict[str, Any], sizes: list[int], seed: int):
    model = make(**arguments).double()
    audio = torch.cat([audio_of(14, model, seed), audio_of(14, model, seed + 10)]).double()
    whole, parts = model(audio), streamed(model, audio, sizes)
    assert whole.score.shape == (2, 14 * 6)
    undecided = torch.zeros(2, 14, dtype=torch.bool)
    if whole.gates is not None:
        undecided = near_one_half(model, audio)
        assert torch.equal(whole.gates[~undecided], parts.gates[~undecided])
        assert int(undecided.sum()) == 0  # none among these
    steps = ~undecided.repeat_interleave(6, 1)
    for name in ("score", "begin_s", "end_s"):
        assert (getattr(whole, name) - getattr(parts, name)).abs()[steps].max() <= DOUBLE
    assert torch.equal(whole.word[steps], parts.word[steps])
    assert (whole.state - parts.state).abs().max() <= DOUBLE


def near_one_half(model: WordSpotter, audio: Tensor) -> Tensor:
    """(B, hops) where some gate's probability lies within MARGIN of one half."""
    seen: list[Tensor] = []
    handles = [gate.register_forward_hook(lambda _, given, out: seen.append(out)) for gate in gates(model)]
    model(audio)
    for handle in handles:
        handle.remove()
    return torch.cat([(found.sigmoid() - 0.5).abs() <= MARGIN for found in seen], 1).any(1).view(len(audio), -1)


# 2
@torch.no_grad()
def test_a_new_stream_knows_nothing_of_the_last():
    model = make(gated=True)
    audio = audio_of(8, model)
    first = streamed(model, audio, [1])
    streamed(model, audio_of(5, model, 3), [2])
    again = streamed(model, audio, [1])
    assert torch.equal(first.score, again.score)
    assert not model.initial().any()


@torch.no_grad()
def test_what_comes_later_changes_no_step():
    model = make(gated=True)
    audio = audio_of(12, model)
    changed = audio.clone()
    changed[:, 6 * model.hop_samples :] = audio_of(6, model, 1)
    before, after = model(audio), model(changed)
    assert torch.equal(before.score[:, : 6 * 6], after.score[:, : 6 * 6])
    assert not torch.equal(before.score[:, 6 * 6 :], after.score[:, 6 * 6 :])


# 5
@torch.no_grad()
def test_streams_of_a_batch_do_not_touch_each_other():
    model = make(gated=True).double()
    one, other = audio_of(9, model).double(), audio_of(9, model, 5).double()
    both, alone = model(torch.cat([one, other])), model(one)
    assert torch.equal(both.gates[:1], alone.gates)
    assert (both.score[:1] - alone.score).abs().max() <= DOUBLE


@torch.no_grad()
def test_boxes_stay_within_what_a_step_has_seen():
    model = make()
    model.heads.box.weight.data.normal_(0, 5)
    steps = model(audio_of(10, model))
    begin = model.windowing.begin_s(torch.arange(10)).flatten().float()
    assert (steps.begin_s[0] >= begin - 1e-6).all()
    assert (steps.end_s[0] <= begin + 1.0 + 1e-6).all()
    assert (steps.end_s >= steps.begin_s).all()


@pytest.mark.parametrize(
    ("arguments", "parameters", "tolerance"),
    [
        ({"classes": 1000, "dim": 80, "blocks": 8}, 1.29e6, 0.005),
        ({"classes": 35, "dim": 40, "blocks": 3, "expansion": 1}, 93e3, 0.06),  # a layer of relative positions too many
    ],
    ids=["L", "XS"],
)
def test_the_published_sizes_are_those_of_the_dossier(arguments: dict[str, Any], parameters: float, tolerance: float):
    model = WordSpotter(subsampling="conv2d", kernel=15, **arguments)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=tolerance)


def test_it_is_saved_and_loaded_as_it_was(tmp_path: Path):
    model = make(gated=True, window_ms=800, slide_ms=160)
    model.threshold.fill_(0.7)
    save_model(model, tmp_path, {})
    again = load_model(tmp_path)
    assert isinstance(again, WordSpotter)
    audio = audio_of(9, model)
    with torch.no_grad():
        assert torch.equal(again(audio).score, model(audio).score)
    assert again.words == WORDS
    assert float(again.threshold) == pytest.approx(0.7)


# Training.


def test_every_part_of_the_loss_teaches():
    model = make(gated=True, shake=False).train()
    losses = model.losses(batch([2.0, 3.0, 1.6]))
    assert set(losses) == {"detection", "classification", "localisation", "open"}
    for name, loss in losses.items():
        assert torch.isfinite(loss), name
        model.zero_grad()
        loss.backward(retain_graph=True)
        taught = {part for part, parameter in model.named_parameters() if parameter.grad is not None}
        assert any(".gates." in part for part in taught)
        heads = {"detection": "heads.detection.weight", "localisation": "heads.box.weight"}
        heads |= {"classification": "heads.classification.weight"}
        assert heads.get(name, "encoder.conformer.blocks.0.gates.0.logits.bias") in taught


def test_windows_that_only_pad_a_batch_are_not_computed(monkeypatch: pytest.MonkeyPatch):
    model, beside = make(), batch([2.0, 5.0])
    beside["samples"][1] = 0
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor(0))
    seen: list[int] = []
    model.encoder.register_forward_hook(lambda _, given, out: seen.append(len(given[0])))
    model.losses(beside)
    assert seen == [10 + 1]  # 2 s are 9 hops, and one follows; the other clip is over at once


def test_words_and_their_number_come_from_the_data():
    model = WordSpotter(**SMALL)
    assert model.export_spec() == []
    quick_trainer(1, limit_train_batches=1, limit_val_batches=0).fit(model, Tones(16))
    assert model.words == WORDS
    assert model.heads.classes == 3
    assert model.architecture()["words"] == WORDS


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({"classes": 4}, "model.classes is 4, but the data has 3 words"), ({"words": ["a", "b", "c"]}, "model.words are")],
)
def test_words_that_are_not_those_of_the_data_are_refused(arguments: dict[str, Any], expected: str):
    with pytest.raises(UserError, match=expected):
        quick_trainer(1).fit(WordSpotter(**arguments, **SMALL), Tones(16))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"encoder": "bc_resnet", "gated": True}, "gated must be false for a bc_resnet"),
        ({"encoder": "bc_resnet", "window_ms": 1600}, "a BC-ResNet sees 1.185 s"),
        ({"encoder": "bc_resnet", "n_mels": 32}, "n_mels must be 40"),
        ({"classes": 3, "words": ["a", "b"]}, "classes must be the number of words, 2; got 3"),
        ({"train_stride": 0}, "train_stride must be 1 or more; got 0"),
        ({"gate_penalty": -1.0}, "gate_penalty must be 0 or more"),
        ({"temperature": 0.0}, "temperature must be above 0"),
    ],
)
def test_a_senseless_value_is_refused_by_name(arguments: dict[str, Any], expected: str):
    with pytest.raises(ValueError, match=expected):
        WordSpotter(**arguments)


def quick_trainer(epochs: int, **arguments: Any) -> L.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        enable_model_summary=False,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        **{**quiet, **arguments},
    )


class Watch(L.Callback):
    """What an epoch could ship."""

    def __init__(self) -> None:
        self.settled: list[bool] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.settled.append(pl_module.settled)  # type: ignore[arg-type]


def test_epochs_without_gates_ship_nothing():
    watch, model = Watch(), WordSpotter(gated=True, gate_free_epochs=2, **SMALL)
    trainer = quick_trainer(3, limit_train_batches=1, limit_val_batches=0, callbacks=[watch])
    trainer.fit(model, Tones(16))
    assert watch.settled == [False, False, True]
    with pytest.raises(UserError, match="leaves no epoch for the gates"):
        quick_trainer(2).fit(WordSpotter(gated=True, gate_free_epochs=2, **SMALL), Tones(16))


# 3: retrofit
def test_a_trained_model_gets_gates_and_begins_as_it_was(tmp_path: Path):
    plain = make()
    save_model(plain, tmp_path, {})
    gated = WordSpotter(parent=tmp_path, gated=True, **SMALL).eval()
    assert gated.words == WORDS
    audio = audio_of(8, plain)
    with torch.no_grad():
        assert torch.equal(gated(audio).score, plain(audio).score)
    assert gates(gated)[0].keep(torch.zeros(1, 29, 24)).tolist() == [[pytest.approx(0.9)]]
    with pytest.raises(UserError, match="parent: sizes differ"):
        WordSpotter(parent=tmp_path, gated=True, **{**SMALL, "dim": 32})
    with pytest.raises(UserError, match="parent: sizes differ"):
        WordSpotter(parent=tmp_path, gated=True, **{**SMALL, "blocks": 1})


def test_a_parent_that_has_not_met_its_data_is_one_without_words(tmp_path: Path):
    """The rehearsal of a recipe saves such a stand-in."""
    save_model(WordSpotter(**SMALL), tmp_path, {})
    assert WordSpotter(parent=tmp_path, gated=True, **SMALL).words == []


def test_a_parent_of_other_words_gives_its_encoder(tmp_path: Path):
    plain = make()
    save_model(plain, tmp_path, {})
    other = WordSpotter(words=["one", "two"], parent=tmp_path, **SMALL)
    assert other.heads.classes == 2
    first = "encoder.conformer.blocks.0.first.1.weight"
    assert torch.equal(other.get_parameter(first), plain.get_parameter(first))


# Judging.


@pytest.mark.parametrize("arguments", [{}, {"encoder": "bc_resnet", "tau": 0.5}], ids=str)
def test_the_heads_multiplications_are_those_that_run(arguments: dict[str, Any]):
    model = make(**arguments)
    dim, steps = model.heads.detection.in_features, model.encoder.steps
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        found = model.heads.find(torch.randn(1, steps, dim))
    boxes = 2 * dim * found.word.numel()  # products and sums of vectors, which the counter leaves out
    assert counter.get_total_flops() // 2 + boxes == model.heads.macs(steps)


def test_skipped_shares_are_of_the_encoders_multiplications():
    model = make(gated=True)
    for opened, expected in ((True, 0.0), (False, 1 - model.encoder.fixed_macs / model.encoder.macs)):
        force(model, [opened] * 8)
        for chunk in stream(0, 4.0, "speech", 1) + stream(1, 4.0, "noise", 2):
            with torch.no_grad():
                model.observe(chunk)
        found = model.results("test/", intervals=True)
        for name in ("test/skipped", "test/skipped_speech", "test/skipped_noise"):
            assert found[name].value == pytest.approx(expected)
        spread = model.test_details()["encoder_macs"]
        assert spread["noise"]["p50"] == pytest.approx((1 - expected) * model.encoder.macs)
        model.forget()
    assert "test/skipped_silence" not in found


def test_chunks_that_are_no_whole_slides_are_refused():
    chunk = {**stream(0, 4.0, "speech", 1)[0], "last": False}
    with pytest.raises(UserError, match="chunks of 0.96 s are no whole slides of 280 ms"):
        make(slide_ms=280).observe(chunk)


def test_chunks_that_are_no_whole_slides_are_refused_before_training():
    data = SimpleNamespace(plan=SimpleNamespace(chunk=9600 * 16))
    make(slide_ms=240).check_data(data)
    with pytest.raises(UserError, match="chunks of 9.6 s are no whole slides of 280 ms"):
        make(slide_ms=280).check_data(data)


@pytest.mark.slow
def test_two_processes_train_epochs_without_gates(tmp_path: Path):
    command = [sys.executable, "-m", "lightsleeper", "run", "word_spotter", "--runs-dir", str(tmp_path), *QUICK]
    distributed = "--trainer={accelerator: cpu, devices: 2, strategy: ddp, max_epochs: 2}"
    arguments = ["--model.gated=true", "--model.gate_free_epochs=1", "--run.stages=[fit]", "--tracking.mode=disabled"]
    done = subprocess.run([*command, *arguments, distributed], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_threshold_is_set_on_validation_streams():
    model = make()
    entry = model.calibrate(stream(0, 6.0, "speech", 1))
    assert entry["target"] == "highest F1 on validation streams"
    assert float(model.threshold) == entry["value"]


# Export; the exporter needs ten seconds and more.


def exported(model: WordSpotter, folder: Path) -> OnnxGraph:
    artifact = export(model, folder, ["onnx"], parity_inputs=8)[0]
    assert artifact["parity"]["max_scaled_diff"] <= 1e-4
    return OnnxGraph(folder / "model.onnx")


def onnx_stream(graph: OnnxGraph, model: WordSpotter, audio: Tensor) -> dict[str, Tensor]:
    state, found = model.initial().numpy(), []
    for chunk in audio.split(model.hop_samples, 1):
        outputs = graph.run({"audio": chunk.contiguous().numpy(), "state": state})
        state = outputs.pop("next_state")
        found.append({name: torch.from_numpy(value) for name, value in outputs.items()})
    return {name: torch.cat([part[name] for part in found], 1 if name != "gates" else 0) for name in found[0]}


def test_the_exported_stream_equals_the_model_and_skips_where_it_skips(tmp_path: Path):
    import onnx

    model = make(gated=True, blocks=1)
    model.threshold.fill_(0.4)
    graph = exported(model, tmp_path)
    nodes = list(onnx.load(tmp_path / "model.onnx").graph.node)
    assert [node.op_type for node in nodes].count("If") == 4
    for node in nodes:
        if node.op_type == "If":  # the module is in one branch, nothing in the other
            work = [sum(inner.op_type in HEAVY for inner in attribute.g.node) for attribute in node.attribute]
            assert min(work) == 0 < max(work)
            assert min(len(attribute.g.node) for attribute in node.attribute) <= 1
    beside = make(blocks=1)  # without gates: its modules' products lie in no branch
    exported(beside, tmp_path / "plain")
    whole = [node.op_type for node in onnx.load(tmp_path / "plain" / "model.onnx").graph.node]
    top = [node.op_type for node in nodes]
    assert top.count("Softmax") == whole.count("Softmax") - 1  # attention's
    assert sum(kind in HEAVY for kind in top) - 4 <= sum(kind in HEAVY for kind in whole) - 8  # a gate has one product
    facts = graph.metadata
    assert json.loads(facts["words"]) == WORDS
    assert json.loads(facts["modules"])[:2] == ["1.feed_forward", "1.attention"]
    assert len(json.loads(facts["module_macs"])) == 4
    assert (facts["family"], facts["hop_samples"], facts["threshold"]) == (
        "WordSpotter",
        "3840",
        repr(0.4000000059604645),
    )
    audio = audio_of(20, model)
    with torch.no_grad():
        expected = streamed(model, audio, [1])
    found = onnx_stream(graph, model, audio)
    assert 0 < float(found["gates"].mean()) < 1
    assert torch.equal(found["gates"], expected.gates[0])
    assert torch.equal(found["word"], expected.word)
    assert (found["score"] - expected.score).abs().max() <= SINGLE
    assert size_of(model)["macs"] > model.encoder.macs


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, {"encoder": "bc_resnet", "tau": 0.5}], ids=str)
def test_ungated_models_are_exported_without_gates(arguments: dict[str, Any], tmp_path: Path):
    model = make(**arguments)
    graph = exported(model, tmp_path)
    assert graph.outputs == ["score", "word", "begin", "end", "next_state"]
    audio = audio_of(12, model)
    with torch.no_grad():
        expected = streamed(model, audio, [1])
    assert (onnx_stream(graph, model, audio)["score"] - expected.score).abs().max() <= SINGLE


# 10, 15: learns, then gates close, and more of them where nobody speaks
@pytest.mark.slow
def test_a_trained_spotter_finds_its_words_and_skips_more_of_noise(tmp_path: Path):
    torch.manual_seed(1)
    data, quick = Tones(), {"lr": 3e-3, "warmup_steps": 20, "train_stride": 2, "box_weight": 0.2}
    plain = make(shake=False, **quick)
    quick_trainer(6, limit_val_batches=0).fit(plain, data)
    save_model(plain, tmp_path, {})
    # At the published penalty of 1 tones need so little that the gates close for good, whatever they hear.
    gated = WordSpotter(parent=tmp_path, gated=True, gate_penalty=0.3, **quick, **SMALL)
    quick_trainer(8, limit_val_batches=0).fit(gated, data)
    for model in (plain, gated):
        model.eval().calibrate(data.val_dataloader())
        quick_trainer(1).test(model, data, verbose=False)
        assert model.measured["test/f1"].value > 0.9
        assert model.measured["test/mean_iou"].value > 0.7
    skipped = {name: gated.measured[f"test/skipped_{name}"].value for name in ("speech", "noise")}
    assert skipped["noise"] > 0.3
    assert skipped["noise"] > skipped["speech"]
