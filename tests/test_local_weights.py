"""The overlays for SmolLM2 and MiniLM with weights from a local folder: small ones of the same kind."""

from pathlib import Path

import pytest
import torch
from lightsleeper.cli import main
from lightsleeper.data.tokens import byte_tokenizer
from lightsleeper.deploy.packed_model import load, load_tokenizer
from lightsleeper.tracking.record import Record, read
from tiny_hosts import BERT, LLAMA, write_table, write_texts
from tiny_runs import prepare
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

pytestmark = pytest.mark.slow

SHORT = ("--trainer.max_epochs=2", "--trainer.limit_train_batches=3", "--trainer.accelerator=cpu",
         "--tracking.mode=disabled", "--run.parity_inputs=2")  # fmt: skip
TEXT = ("--data.path=texts", "--data.context_tokens=32", "--model.prompt_tokens=16")


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(monkeypatch, tmp_path)
    write_texts(Path("texts"))
    torch.manual_seed(0)


@pytest.fixture
def smollm2() -> str:
    """A LLaMA in a folder with one GGUF file, which holds the tokenizer too."""
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    from tiny_gguf import write_llama

    Path("smol").mkdir()
    write_llama(llama(), Path("smol/tiny.gguf"))
    return "smol"


def llama() -> LlamaForCausalLM:
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4}
    return LlamaForCausalLM(LlamaConfig(**{**LLAMA, **sizes}))


def newest() -> Path:
    return max(Path("runs").glob("*/20*"), key=lambda folder: folder.stat().st_mtime)


def run(*words: str) -> Record:
    assert main(["run", *words, *SHORT]) == 0
    return read(newest())


def test_smollm2_at_3_bits_is_packed_with_the_tokenizer_of_its_gguf_file(smollm2: str) -> None:
    local = (f"--model.pretrained={smollm2}", f"--data.tokenizer={smollm2}")
    record = run("lm_edkm", "overlays/smollm2", *local, *TEXT)
    (packed, folder) = record.artifacts
    assert packed["bytes"] < folder["bytes"] / 3
    assert "test/bits_per_byte" in record.metrics
    network, tokenizer = load(newest()), load_tokenizer(newest())
    assert tokenizer("yes")["input_ids"] == [ord("y"), 0]
    assert len(network.model.layers[0].mlp.up_proj.weight.unique()) <= 8


@pytest.mark.parametrize(
    ("recipes", "zeros"),
    [
        (("lm_pdp",), (0.45, 0.55)),
        (("lm_pdp", "overlays/pdp_2of4"), (0.5, 0.5)),
        (("lm_pdp_edkm", "overlays/pdp_2of4"), (0.5, 0.6)),
    ],
    ids=["pdp", "2of4", "2of4_edkm"],
)
def test_smollm2_is_pruned(smollm2: str, recipes: tuple[str, ...], zeros: tuple[float, float]) -> None:
    local = (f"--model.pretrained={smollm2}", f"--data.tokenizer={smollm2}")
    run(recipes[0], "overlays/smollm2", *recipes[1:], *local, *TEXT)
    weights = [weight for name, weight in load(newest()).named_parameters() if "_proj" in name]
    share = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    assert zeros[0] <= round(share, 2) <= zeros[1]


def test_half_of_smollm2_starts_from_its_weights(smollm2: str) -> None:
    sizes = {"vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "num_key_value_heads": 1, "intermediate_size": 96, "head_dim": 16, "max_position_embeddings": 64,
             "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "eos_token_id": 256,
             "bos_token_id": 256}  # fmt: skip
    local = (f"--callbacks.subclone.parent={smollm2}", f"--data.tokenizer={smollm2}")
    words = [f"--model.config.{name}={value}" for name, value in sizes.items() if name != "rope_parameters"]
    record = run("lm_subclone", "overlays/smollm2_half", *local, *TEXT, *words, "--model.config.rope_parameters=null")
    assert record.status == "finished"
    assert record.size["parameters"] < sum(p.numel() for p in llama().parameters()) / 2


def test_minilm_is_pruned_and_clustered() -> None:
    BertModel(BertConfig(**{**BERT, "hidden_size": 64, "intermediate_size": 192})).save_pretrained("mini")
    byte_tokenizer().save_pretrained("mini")
    write_table(Path("table.csv"))
    local = ("--model.pretrained=mini", "--data.tokenizer=null", "--data.dataset=table.csv", "--data.max_length=24",
             "--model.classes=3", "--model.sample_size=16", "--data.batch_size=8")  # fmt: skip
    record = run("classifier_pdp", "overlays/minilm", "overlays/pdp_2of4", "overlays/edkm", *local)
    assert [artifact["format"] for artifact in record.artifacts] == ["onnx", "packed", "transformers"]
    assert {"prune", "cluster"} <= record.compression.keys()
