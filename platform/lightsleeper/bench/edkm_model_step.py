"""Peak memory of a whole model's eDKM training step, in a process of its own, to hold a forecast against:
`python -m lightsleeper.bench.edkm_model_step JSON` prints bytes.
"""

import json
import sys
from typing import Any

import torch
from lightsleeper_callbacks import EDKMClustering
from transformers import LlamaConfig, LlamaForCausalLM

from lightsleeper.bench.edkm import BITS, ITERATIONS
from lightsleeper.bench.edkm_step import Counted, peak_of, reset

WARM = 2  # the second step has the optimizer's moments


def llama(layers: int, width: int, hidden: int, heads: int, groups: int, vocabulary: int) -> LlamaForCausalLM:
    """A LLaMA of random weights with separate embedding and head."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=groups,
            tie_word_embeddings=False,
        )
    )


def whole_step(sizes: dict[str, int], tokens: int, backend: Any, device: str) -> int:
    """Most bytes at a time of AdamW steps on ``tokens`` tokens, above a process without the model.

    The weights of the blocks are clustered, embedding and head are not.
    """
    before = reset(device)
    made: Any = llama(**sizes)
    model = made.to(device).train()
    settings: dict[str, Any] = {"iterations": ITERATIONS, "eps": 0.0, "small_below": 0}
    edkm = EDKMClustering(BITS, backend=backend, targets=["*layers.*"], **settings)
    edkm.prepare_once(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    rows = torch.randint(sizes["vocabulary"], (1, tokens), device=device)
    for moment in range(WARM):
        edkm.step(model, moment / WARM)
        model(input_ids=rows, labels=rows, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return peak_of(device) - before


def activations(sizes: dict[str, int], tokens: int) -> tuple[int, int]:
    """Bytes of float32 that one block keeps for backward, and that embedding, last norm, head and loss keep."""
    found = []
    for layers in (1, 2):
        model = llama(**{**sizes, "layers": layers}).train()
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        counted = Counted(own)
        rows = torch.randint(sizes["vocabulary"], (1, tokens))
        with counted:
            loss = model(input_ids=rows, labels=rows, use_cache=False).loss
        found.append(counted.bytes)
        del loss, model  # before the next is made
    return found[1] - found[0], 2 * found[0] - found[1]


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked.pop("threads"))
    print(json.dumps(whole_step(**asked)))
