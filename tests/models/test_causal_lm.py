"""Causal language models of transformers as a family: build, train, measure, save, export, refuse."""

import copy
import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from lightsleeper.cli import main
from lightsleeper.data.choice_batches import ChoiceRows
from lightsleeper.data.choices import Item
from lightsleeper.data.local_text import LocalText
from lightsleeper.data.tokens import END, byte_tokenizer
from lightsleeper.deploy.export import export
from lightsleeper.deploy.finalize import load_model, save_model
from lightsleeper.errors import UserError
from lightsleeper.models.causal_lm import CausalLM
from lightsleeper.models.choice_scoring import IGNORED
from lightsleeper.tracking.record import read
from lightsleeper_callbacks import EDKMClustering
from mistakes import no_hub
from tiny_hosts import BERT, GPT2, LLAMA, lm_recipe, write_texts
from tiny_runs import assert_equal_runs, last, prepare, start, stopped
from torch import nn
from torch.nn import functional as F

CONFIGS = pytest.mark.parametrize("config", [GPT2, LLAMA], ids=lambda config: config["model_type"])


def lm(config: dict[str, Any], **arguments: Any) -> CausalLM:
    torch.manual_seed(0)
    return CausalLM(config=config, **arguments)


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(257, shape, generator=torch.Generator().manual_seed(seed))


@CONFIGS
def test_the_architecture_is_json_and_rebuilds_the_network(config: dict[str, Any], tmp_path: Path) -> None:
    model = lm(config).eval()
    twin = CausalLM(**json.loads(json.dumps(model.architecture()))).eval()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(model(tokens(2, 20)), twin(tokens(2, 20)))
    assert type(twin.net) is type(model.net)
    assert twin.architecture() == model.architecture()
    assert not Path(twin.architecture()["config"].get("_name_or_path", "")).is_absolute()


@CONFIGS
def test_a_saved_model_keeps_its_weights_and_their_tie(config: dict[str, Any], tmp_path: Path) -> None:
    model = lm(config).eval()
    save_model(model, tmp_path, {})
    twin = load_model(tmp_path)
    assert isinstance(twin, CausalLM)
    assert torch.equal(model(tokens(1, 9)), twin(tokens(1, 9)))
    assert twin.net.get_output_embeddings().weight is twin.net.get_input_embeddings().weight


@CONFIGS
def test_the_exported_prefill_equals_the_model_at_every_length(config: dict[str, Any], tmp_path: Path) -> None:
    model = lm(config, prompt_tokens=24).eval()
    (artifact,) = export(model, tmp_path, ["onnx"], parity_inputs=6)
    assert artifact["parity"]["max_abs_diff"] < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for length in (1, 2, 7, 64):
        prompt = tokens(1, length, seed=length)
        (found,) = session.run(None, {"input_ids": prompt.numpy()})
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(found), model(prompt)[:, -1], atol=1e-5, rtol=1e-5)


@CONFIGS
def test_recomputed_blocks_give_the_same_gradients_clustered_or_not(config: dict[str, Any]) -> None:
    batch = {"input_ids": tokens(2, 16), "targets": tokens(2, 16, seed=1)}
    for clustered in (False, True):
        found = []
        for recompute in (False, True):
            model = lm(config, recompute=recompute).train()
            if clustered:
                edkm = EDKMClustering(small_below=0, embedding_bits=3)
                edkm.prepare_once(model)
                edkm.step(model, 0.0)
            F.cross_entropy(model(batch["input_ids"]).flatten(0, 1), batch["targets"].flatten()).backward()
            found.append([parameter.grad for parameter in model.parameters()])
        for plain, again in zip(*found, strict=True):
            torch.testing.assert_close(plain, again, atol=1e-7, rtol=1e-5)


def test_a_token_is_predicted_from_those_before_it_alone() -> None:
    model, prompt = lm(LLAMA).eval(), tokens(1, 12)
    changed = prompt.clone()
    changed[0, 8:] = 5
    before, after = model(prompt), model(changed)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


@CONFIGS
def test_the_transformers_folder_is_read_by_transformers(config: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = lm(config).eval()
    (artifact,) = export(model, tmp_path, ["transformers"])
    folder = (tmp_path / artifact["path"]).parent
    twin = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(twin(tokens(1, 9)).logits, model(tokens(1, 9)))
    started = CausalLM(pretrained=str(folder)).eval()
    assert torch.equal(started(tokens(1, 9)), model(tokens(1, 9)))
    assert [path.name for path in tmp_path.iterdir()] == ["transformers"]  # no temporary folder stays


def test_a_narrowed_network_is_not_written_for_transformers(tmp_path: Path) -> None:
    model = lm(LLAMA)
    model.structure = {"net.lm_head": {"type": "Linear", "args": {}}}
    with pytest.raises(UserError, match="transformers cannot build this network"):
        export(model, tmp_path, ["transformers"])
    assert list(tmp_path.iterdir()) == []


def test_it_starts_from_a_finished_run(tmp_path: Path) -> None:
    model = lm(GPT2).eval()
    save_model(model, tmp_path / "export", {})
    started = CausalLM(init_from=tmp_path)
    assert started.training
    assert torch.equal(started.eval()(tokens(1, 9)), model(tokens(1, 9)))
    assert started.architecture() == model.architecture()


def test_a_pretrained_network_is_in_training_mode(tmp_path: Path) -> None:
    lm(GPT2).net.save_pretrained(tmp_path)
    assert all(module.training for module in CausalLM(pretrained=str(tmp_path)).modules())


def quiet(model: CausalLM) -> CausalLM:
    model.log = model.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return model


def scored(targets: torch.Tensor, documents: torch.Tensor) -> dict[str, torch.Tensor]:
    inputs = tokens(*targets.shape, seed=1)
    return {"input_ids": inputs, "targets": targets, "documents": documents, "bytes": (documents >= 0).long()}


def test_steps_on_one_batch_learn_it_and_reach_every_parameter() -> None:
    model = quiet(lm(LLAMA))
    batch = {"input_ids": tokens(4, 16), "targets": tokens(4, 16, seed=1)}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = model.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(math.log(257), rel=0.05)
    assert losses[-1] < 0.7 * losses[0]


def test_bits_per_byte_are_those_of_the_scored_tokens() -> None:
    model = quiet(lm(LLAMA)).eval()
    targets, documents = tokens(2, 10, seed=2), torch.tensor([[0] * 10, [1] * 6 + [-1] * 4])
    targets[1, 6:] = IGNORED
    batch = scored(targets, documents)
    with torch.inference_mode():
        model.observe(batch)
        chosen = model(batch["input_ids"]).log_softmax(-1)
    measured = model.results("test/", intervals=True)
    nats = -float(chosen.gather(-1, targets.clamp_min(0)[..., None])[targets != IGNORED].sum())
    assert measured["test/bits_per_byte"].value == pytest.approx(nats / math.log(2) / 16, rel=1e-5)
    assert measured["test/perplexity"].value == pytest.approx(math.exp(nats / 16), rel=1e-5)
    assert measured["test/bits_per_byte"].n == 2


def test_perplexity_and_bits_per_byte_are_those_of_a_plain_loop_over_the_text(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    data = LocalText(str(write_texts(tmp_path / "texts", words=8)), context_tokens=24, eval_document_tokens=None)
    model = quiet(lm(LLAMA)).eval()
    stream = data._open()["test"]
    text = torch.from_numpy(np.concatenate([[END], stream.tokens]).astype(np.int64))
    nats = 0.0
    with torch.inference_mode():
        for batch in data.test_dataloader():
            model.observe(batch)
        for place in range(1, len(text)):
            start = (place - 1) // 24 * 24  # of its block: a window has no past
            nats -= float(model(text[None, start:place])[0, -1].double().log_softmax(0)[text[place]])
    measured = model.results("test/", intervals=False)
    assert measured["test/perplexity"].value == pytest.approx(math.exp(nats / (len(text) - 1)), rel=1e-5)
    assert measured["test/bits_per_byte"].value == pytest.approx(nats / math.log(2) / stream.sizes.sum(), rel=1e-5)


def test_choices_are_told_apart_from_text() -> None:
    model = quiet(lm(LLAMA)).eval()
    items = [Item("the context", (f" {word}", " other", " third"), 0, word) for word in ("one", "two", "three")]
    with torch.inference_mode():
        for batch in ChoiceRows(items, byte_tokenizer()).loader(2):
            model.observe(batch)
    found = model.results("test/choices/", intervals=True)
    assert {"test/choices/accuracy", "test/choices/majority_accuracy"} <= found.keys()
    assert found["test/choices/majority_accuracy"].value == 1
    assert "test/choices/perplexity" not in found
    assert model.test_details()["answers"] == [0, 0, 0]
    model.forget()
    assert model.test_details() is None
    assert math.isnan(model.results("test/", intervals=False)["test/perplexity"].value)


def test_weight_decay_is_on_matrices_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lm(GPT2, weight_decay=0.3)
    model._trainer = type("T", (), {"precision": "32-true", "estimated_stepping_batches": 9})()  # type: ignore[assignment]
    groups = model.configure_optimizers()["optimizer"].param_groups
    assert {p.ndim > 1 for p in groups[0]["params"]} == {True}
    assert {p.ndim > 1 for p in groups[1]["params"]} == {False}
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_the_context_is_told_in_tokens_and_the_cache_in_bytes() -> None:
    found = lm(LLAMA).context()
    assert found["past_tokens"] == 64
    assert found["state_bytes"] == 2 * 2 * 2 * 4 * 64 * 4  # keys and values, layers, heads, width, tokens, bytes


def test_an_example_goes_through_the_network() -> None:
    model = lm(GPT2)
    assert model(**model.example_input_array).shape == (1, 16, 257)


def test_a_copy_shares_no_weight() -> None:
    model = lm(LLAMA)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.net.get_input_embeddings().weight.zero_()
    assert not torch.equal(model.net.get_input_embeddings().weight, torch.zeros(()))
    assert twin.net.get_output_embeddings().weight is twin.net.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "give one of pretrained, config, init_from; got none"),
        ({"config": LLAMA, "pretrained": "gpt2"}, "got pretrained and config"),
        ({"config": {"model_type": "lama"}}, "has no 'lama'. Did you mean 'llama'"),
        ({"config": {"vocab_size": 3}}, "has no 'None'"),
        ({"config": {**LLAMA, "hiden_size": 8}}, "config.hiden_size: .* Did you mean 'hidden_size'"),
        ({"config": {**LLAMA, "hidden_size": 15}}, "config: "),
        ({"config": {**LLAMA, "hidden_size": "wide"}}, "config: .*hidden_size"),
        ({"config": BERT | {"model_type": "vit"}}, "config"),
        ({"config": LLAMA, "lr": 0.0}, "lr must be above 0"),
        ({"config": LLAMA, "prompt_tokens": 0}, "prompt_tokens must be 1"),
        ({"pretrained": "nobody/nothing"}, "nobody/nothing.*neither a local folder"),
        ({"pretrained": ".", "gguf_file": "x.gguf"}, "gguf_file: x.gguf does not exist"),
        ({"init_from": "nowhere"}, "init_from: no finished model in 'nowhere'"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(arguments: dict[str, Any], expected: str, monkeypatch) -> None:
    no_hub(monkeypatch)
    with pytest.raises((UserError, ValueError), match=expected) as caught:
        CausalLM(**arguments)
    assert "\n" not in str(caught.value)


def test_a_gguf_file_is_dequantised_once_and_read_with_its_sizes(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    from tiny_gguf import write_llama
    from tiny_transformers import llama, output

    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    source = llama(hidden=64)
    source.load_state_dict(write_llama(source, tmp_path / "tiny.gguf"))
    model = CausalLM(pretrained=str(tmp_path), gguf_file="tiny.gguf")
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    for name, value in source.state_dict().items():
        assert torch.equal(model.net.state_dict()[name], value), name
    tokens = {"input_ids": torch.arange(12).view(1, -1)}
    # Heads lie where rotation expects them.
    assert torch.allclose(output(model.net, tokens), output(source, tokens), atol=1e-5)
    monkeypatch.setattr("transformers.modeling_gguf_pytorch_utils.load_gguf_checkpoint", None)
    for arguments in ({"gguf_file": "tiny.gguf"}, {}):  # from the cache
        again = CausalLM(pretrained=str(tmp_path), **arguments)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_gguf_file_gives_the_network_and_the_datas_tokens(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    from lightsleeper.data.local_text import LocalText
    from tiny_gguf import write_llama
    from tiny_hosts import write_texts
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.setenv("LIGHTSLEEPER_CACHE", str(tmp_path / "cache"))
    source = LlamaForCausalLM(LlamaConfig(**{**LLAMA, "hidden_size": 32, "intermediate_size": 64}))
    (tmp_path / "model").mkdir()
    file = tmp_path / "model" / "tiny.gguf"
    write_llama(source, file)
    texts = str(write_texts(tmp_path / "texts"))
    for name in (file, file.parent):  # the only one in its folder
        data = LocalText(texts, tokenizer=str(name), context_tokens=32)
        data.check()
        data.setup()
        assert (data.vocab_size, data.end) == (257, 256)
        assert data.tokenizer("yes 12é")["input_ids"] == [ord("y"), 0, *" 12é".encode()]
        tokens = CausalLM(pretrained=str(name)).net.get_input_embeddings().num_embeddings
        assert tokens == data.vocab_size
    data.save_tokenizer(tmp_path / "saved")  # as the export does
    again = LocalText(texts, tokenizer=str(tmp_path / "saved"), context_tokens=32)
    again.setup()
    assert torch.equal(next(iter(again.val_dataloader()))["input_ids"], next(iter(data.val_dataloader()))["input_ids"])
    with pytest.raises(UserError, match="tokenizer: .*none.gguf does not exist"):
        LocalText(texts, tokenizer=str(tmp_path / "none.gguf")).check()


def test_a_run_of_another_family_is_no_start(tmp_path: Path) -> None:
    from lightsleeper.models.classifier import Classifier

    save_model(Classifier(config=BERT), tmp_path / "export", {})
    with pytest.raises(UserError, match="holds a Classifier, expected a CausalLM"):
        CausalLM(init_from=tmp_path)


def test_a_folder_that_needs_code_of_its_own_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('this code was run')")
    with pytest.raises(UserError, match="code from the hub, which is never run"):
        CausalLM(pretrained=str(tmp_path))


def test_damaged_weights_are_one_line(tmp_path: Path) -> None:
    lm(GPT2).net.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot load") as caught:
        CausalLM(pretrained=str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(monkeypatch, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("world")
def test_a_run_goes_through_every_stage_and_leaves_a_parent() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = start(lm_recipe(Path("tiny.yaml"), "CausalLM", run={"formats": ["onnx", "transformers"]}))
    record = read(folder)
    assert record.status == "finished"
    assert record.headline == ["test/bits_per_byte", "test/perplexity"]
    bits = record.metrics["test/bits_per_byte"]
    assert bits["low"] < bits["value"] < bits["high"]
    assert 0 < bits["value"] < 16
    assert record.artifacts[0]["latency"][0]["per"] == "prompt"
    assert record.artifacts[1]["path"] == "export/transformers/model.safetensors"
    assert record.size["parameters"] == sum(p.numel() for p in load_model(folder).parameters())
    parent = folder / "export" / "transformers"
    tokenizer, network = AutoTokenizer.from_pretrained(parent), AutoModelForCausalLM.from_pretrained(parent)
    text = "für\x00 é"
    assert tokenizer(text)["input_ids"] == list(text.encode())
    final = load_model(folder)
    assert torch.equal(network(tokens(1, 7)).logits, final(tokens(1, 7)))
    again = lm_recipe(Path("again.yaml"), "CausalLM", run={"stages": ["fit"]})
    assert main(["run", str(again), "--model.config=null", f"--model.init_from={folder}"]) == 0


@pytest.mark.usefixtures("world")
def test_a_killed_and_resumed_run_equals_an_undisturbed_one() -> None:
    path = lm_recipe(Path("tiny.yaml"), run={"stages": ["fit", "finalize", "test"]})
    whole = start(path, runs="whole")
    assert stopped("step:4:kill", path) == -9
    assert main(["run", "--resume", "last"]) == 0
    assert_equal_runs(whole, last())


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("--model.config.vocab_size=200", ("257", "200", "vocab_size")),
        ("--model.config.vocab_size=4096", ("257", "4096", "tokenizer")),
        ("--data.context_tokens=65", ("context_tokens", "65", "64")),
        ("--data.path=txets", ("data", "txets", "does not exist")),
        ("--data.tokenizer=nobody/nothing", ("data", "tokenizer", "nobody/nothing")),
        ("--model.config.hidden_size=15", ("model", "config")),
        ("--run.formats=[onxx]", ("formats", "onxx")),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(override: str, names: tuple[str, ...], capsys, monkeypatch) -> None:
    no_hub(monkeypatch)
    path = lm_recipe(Path("tiny.yaml"), "CausalLM", run={"stages": ["fit"]})
    code = main(["run", str(path), *shlex.split(override)])
    error = capsys.readouterr().err
    assert code == 2, error
    line = [text for text in error.splitlines() if text.startswith("error: ")]
    assert len(line) == 1, error
    assert "Traceback" not in error
    for name in names:
        assert name in line[0], error


def test_the_prefill_of_a_network_without_logits_to_keep_is_exported(tmp_path: Path) -> None:
    model = lm(GPT2).eval()
    plain = type(model.net).forward

    def forward(self: nn.Module, input_ids: torch.Tensor, use_cache: bool = False) -> Any:
        return plain(self, input_ids=input_ids, use_cache=use_cache)

    model.net.forward = forward.__get__(model.net)  # type: ignore[method-assign]
    graph = model.export_spec()[0]
    assert graph.module(tokens(1, 5)).shape == (1, 257)
