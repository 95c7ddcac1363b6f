"""Tiny transformers models with every weight, gain and bias off its neutral value, so that a wrong wire shows."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as T

VOCABULARY = 40
Model = T.PreTrainedModel


def is_norm(name: str) -> bool:
    return "norm" in name.lower() or "ln_" in name


def shaken(model: Model, seed: int = 0) -> Model:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(1 + noise if is_norm(name) else noise)
    return model.eval()


def gpt2(kind: Any = T.GPT2LMHeadModel, width=32, depth=4, heads=4, hidden=None, **more: Any) -> Model:
    config = T.GPT2Config(
        vocab_size=VOCABULARY, n_positions=24, n_embd=width, n_layer=depth, n_head=heads, n_inner=hidden,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, pad_token_id=0, bos_token_id=1, eos_token_id=1, **more,
    )  # fmt: skip
    return shaken(kind(config))


def _llama_like(
    kind: Any, config: Any, width=32, depth=4, heads=4, groups=None, hidden=48, tied=False, **more: Any
) -> Model:
    made = config(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
        num_key_value_heads=groups or heads // 2, intermediate_size=hidden, max_position_embeddings=64,
        tie_word_embeddings=tied, pad_token_id=0, bos_token_id=1, eos_token_id=1, **more,
    )  # fmt: skip
    return shaken(kind(made))


def llama(**sizes: Any) -> Model:
    return _llama_like(T.LlamaForCausalLM, T.LlamaConfig, **sizes)


def qwen2(**sizes: Any) -> Model:
    return _llama_like(T.Qwen2ForCausalLM, T.Qwen2Config, **sizes)


def qwen3(**sizes: Any) -> Model:
    return _llama_like(T.Qwen3ForCausalLM, T.Qwen3Config, **{"head_dim": 8, **sizes})


def mistral(**sizes: Any) -> Model:
    return _llama_like(T.MistralForCausalLM, T.MistralConfig, **sizes)


def bert(kind: Any = T.BertForSequenceClassification, width=32, depth=4, heads=4, hidden=48, **more: Any) -> Model:
    config = T.BertConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
        intermediate_size=hidden, max_position_embeddings=24, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
        **{"num_labels": 3, **more},
    )  # fmt: skip
    return shaken(kind(config))


def vit(kind: Any = T.ViTForImageClassification, width=32, depth=4, heads=4, hidden=48, **more: Any) -> Model:
    config = T.ViTConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=hidden,
        image_size=8, patch_size=4, num_channels=1, **{"num_labels": 3, **more},
    )  # fmt: skip
    return shaken(kind(config))


FAMILIES: dict[str, Callable[..., Model]] = {
    "gpt2": gpt2,
    "gpt2 classifier": lambda **s: gpt2(T.GPT2ForSequenceClassification, num_labels=3, **s),
    "gpt2 base": lambda **s: gpt2(T.GPT2Model, **s),
    "llama grouped": llama,
    "llama tied": lambda **s: llama(**s, groups=s.get("heads", 4), tied=True),
    "llama biased": lambda **s: llama(**s, attention_bias=True, mlp_bias=True),
    "qwen2": qwen2,
    "qwen3": qwen3,
    "mistral": mistral,
    "bert classifier": bert,
    "bert masked": lambda **s: bert(T.BertForMaskedLM, **s),
    "bert base": lambda **s: bert(T.BertModel, **s),
    "vit": vit,
    "vit base": lambda **s: vit(T.ViTModel, **s),
    "vit masked": lambda **s: vit(T.ViTForMaskedImageModeling, encoder_stride=4, **s),
}


def batches(model: Model, count: int = 2, rows: int = 2, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    if model.config.model_type == "vit":
        return [{"pixel_values": torch.randn(rows, 1, 8, 8, generator=generator)} for _ in range(count)]
    return [{"input_ids": torch.randint(2, VOCABULARY, (rows, 12), generator=generator)} for _ in range(count)]


@torch.no_grad()
def output(model: Model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    found = model.eval()(**batch)
    for name in ("logits", "reconstruction", "pooler_output", "last_hidden_state"):
        if getattr(found, name, None) is not None:
            return getattr(found, name)
    raise AssertionError(found.keys())
