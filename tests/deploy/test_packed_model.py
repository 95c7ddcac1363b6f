"""A packed file alone is the model again: same bits, same text."""

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from lightsleeper.data.tokens import byte_tokenizer
from lightsleeper.deploy.export import export
from lightsleeper.deploy.finalize import finalize, save_model
from lightsleeper.deploy.packed import describe, pack
from lightsleeper.deploy.packed_model import load, load_family, load_tokenizer
from lightsleeper.errors import UserError
from lightsleeper.models.causal_lm import CausalLM
from lightsleeper_callbacks import EDKMClustering
from lightsleeper_callbacks.base import prepare_in_order
from tiny_family import TinyFamily
from tiny_hosts import GPT2, LLAMA
from torch import nn

WIDE = {"llama": {"hidden_size": 64, "intermediate_size": 128}, "gpt2": {"n_embd": 64}}


@cache
def clustered(kind: str = "llama") -> CausalLM:
    """A network of few values, as it ships."""
    config = {"llama": LLAMA, "gpt2": GPT2}[kind]
    torch.manual_seed(0)
    model = CausalLM(config={**config, **WIDE[kind]})
    with torch.no_grad():
        for weight in model.parameters():  # far from the initial ones, so that greedy tokens differ from each other
            weight.copy_(torch.randn_like(weight) * 0.3 + (weight.dim() < 2))
    callbacks = {"cluster": EDKMClustering(bits=3, small_below=0)}
    prepare_in_order(callbacks.values(), model)
    return finalize(model, callbacks)[0]  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_file_alone_gives_every_bit_and_the_same_text(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = clustered(kind)
    packed, folder = export(model, tmp_path / "export", ["packed", "transformers"])
    assert len(packed["packed"]["clustered"]) >= 8
    alone = tmp_path / "elsewhere.safetensors"
    shutil.move(tmp_path / "export" / packed["path"], alone)
    network = load(alone)
    assert not network.training
    assert network.state_dict().keys() == model.net.state_dict().keys()
    for name, value in model.net.state_dict().items():
        assert torch.equal(network.state_dict()[name].view(torch.int32), value.view(torch.int32)), name
    assert network.get_output_embeddings().weight is network.get_input_embeddings().weight
    twin = AutoModelForCausalLM.from_pretrained((tmp_path / "export" / folder["path"]).parent)
    prompt = torch.tensor([list(b"def main(")])
    found = network.generate(prompt, max_new_tokens=20, do_sample=False)
    assert found.shape[1] > prompt.shape[1]
    assert torch.equal(found, twin.generate(prompt, max_new_tokens=20, do_sample=False))


def test_what_was_unpacked_is_saved_for_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = clustered()
    export(model, tmp_path / "export", ["packed"])
    load(tmp_path).save_pretrained(tmp_path / "plain")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    prompt = torch.arange(12)[None]
    assert torch.equal(again(prompt).logits, model(prompt))


def test_a_run_an_export_folder_and_the_file_are_the_same(tmp_path: Path) -> None:
    model = clustered()
    export(model, tmp_path / "export", ["packed"])
    byte_tokenizer().save_pretrained(tmp_path / "export" / "tokenizer")
    for source in (tmp_path, tmp_path / "export", tmp_path / "export" / "packed.safetensors"):
        assert torch.equal(load(source)(torch.arange(9)[None]).logits, model(torch.arange(9)[None]))
        assert load_tokenizer(source)("für")["input_ids"] == list("für".encode())


def test_any_family_comes_back_and_says_that_it_writes_no_text(tmp_path: Path) -> None:
    model = TinyFamily().eval()
    export(model, tmp_path, ["packed"])
    found = load_family(tmp_path)
    assert type(found) is TinyFamily
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), model.parameters(), strict=True))
    with pytest.raises(UserError, match="holds a TinyFamily, no network of transformers"):
        load(tmp_path)


def test_a_file_of_an_earlier_version_is_built_by_the_description_beside_it(tmp_path: Path) -> None:
    model = clustered()
    save_model(model, tmp_path / "export", {})
    pack(model, tmp_path / "export" / "packed.safetensors")
    assert describe(tmp_path / "export" / "packed.safetensors") is None
    assert torch.equal(load(tmp_path)(torch.arange(9)[None]).logits, model(torch.arange(9)[None]))
    (tmp_path / "export" / "model.json").unlink()
    with pytest.raises(UserError, match=r"does not say what it holds, and there is no model\.json beside it"):
        load(tmp_path)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist: expected a packed file"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="formats did not name 'packed'"):
        load(tmp_path)
    (tmp_path / "packed.safetensors").write_bytes(b"no such file")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path)
    pack(nn.Linear(4, 4), tmp_path / "packed.safetensors", {"class_path": "nothing.Here", "init_args": {}})
    with pytest.raises(UserError, match=r"'nothing\.Here' cannot be imported"):
        load(tmp_path)
    with pytest.raises(UserError, match="has no tokenizer"):
        load_tokenizer(tmp_path)
