"""A LLaMA-like model as a GGUF file, in the layout of llama.cpp's converter. Needs the package gguf."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as T

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers.": "blk.",
}


def write_llama(model: T.LlamaForCausalLM, path: Path) -> dict[str, torch.Tensor]:
    """Write the model, its MLPs with 8 bits a weight; returns the weights that a reader has to find."""
    import gguf

    config, expected = model.config, {}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if config.vocab_size == 257:
        add_bytes(writer)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # that there is none says that it is tied
        values, kind = weight.numpy(), gguf.GGMLQuantizationType.F32
        if ".mlp." in name:
            kind = gguf.GGMLQuantizationType.Q8_0
            packed = gguf.quantize(values, kind)
            expected[name] = torch.from_numpy(gguf.dequantize(packed, kind))
        else:
            expected[name] = weight
            packed = _interleaved(values, name, config)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def add_bytes(writer: Any) -> None:
    """A tokenizer of bytes and an end token (256), but that `es` is one token, in the place of byte 0."""
    import gguf
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens = [letter for _, letter in sorted(bytes_to_unicode().items())]
    tokens[0] = "es"
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*tokens, "<|endoftext|>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["e s"])
    writer.add_eos_token_id(256)
    writer.add_bos_token_id(256)
    writer.add_unk_token_id(256)


def _interleaved(values: np.ndarray, name: str, config: T.LlamaConfig) -> np.ndarray:
    """llama.cpp rotates neighbouring neurons of a head, transformers those half a head apart."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return values
    halves = values.reshape(heads, 2, len(values) // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
