"""Tiny causal language models of many architectures, and what tests of the chain run in each of its processes."""

import random
import time
from collections.abc import Callable, Iterable
from inspect import signature
from itertools import combinations
from typing import Any

import tiny_transformers as tiny
import torch
import transformers as T
from lightsleeper.generation.layout import passed
from lightsleeper.generation.ranks import Rank
from lightsleeper.generation.rope import forget
from lightsleeper.generation.runahead import Runahead, continued, positions
from lightsleeper.generation.split import ends
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None, "vocab_size": tiny.VOCABULARY}
BLOCKS = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32}
LLAMA = {**SPECIAL, **BLOCKS, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 128}
NEW_TOKENS = 20
Case = tuple[int, tuple[int, ...]]  # tokens of an existing cache, split


def _model(kind: Any, config: Any, **fields: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return tiny.shaken(kind(config(**fields)))


def llama(**more: Any) -> PreTrainedModel:
    return _model(T.LlamaForCausalLM, T.LlamaConfig, **{**LLAMA, **more})


def gpt2() -> PreTrainedModel:
    return _model(T.GPT2LMHeadModel, T.GPT2Config, n_positions=128, n_embd=32, n_layer=3, n_head=4, **SPECIAL)


def neox() -> PreTrainedModel:
    return _model(T.GPTNeoXForCausalLM, T.GPTNeoXConfig, **SPECIAL, **BLOCKS, intermediate_size=48)


def falcon(**more: Any) -> PreTrainedModel:
    settings = {"new_decoder_architecture": False, "alibi": False, **more}
    return _model(T.FalconForCausalLM, T.FalconConfig, **SPECIAL, **BLOCKS, **settings)


def gemma3(**more: Any) -> PreTrainedModel:
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    settings = {"sliding_window": 6, "head_dim": 8, "layer_types": layers, **more}
    return _model(T.Gemma3ForCausalLM, T.Gemma3TextConfig, **LLAMA, **settings)


def gemma3n() -> PreTrainedModel:
    """Its last two layers use the keys of the first two."""
    settings = {**LLAMA, "num_hidden_layers": 4, "intermediate_size": [48] * 4, "head_dim": 8, "sliding_window": 6}
    own = {"num_kv_shared_layers": 2, "vocab_size_per_layer_input": tiny.VOCABULARY, "hidden_size_per_layer_input": 8}
    layers = {"layer_types": ["sliding_attention", "full_attention"] * 2, "activation_sparsity_pattern": [0.0] * 4}
    return _model(T.Gemma3nForCausalLM, T.Gemma3nTextConfig, **settings, **own, **layers, laurel_rank=4)


def deepseek() -> PreTrainedModel:
    """Keys and values of different widths (multi-head latent attention), experts without a capacity."""
    latent = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1}
    more = {"moe_intermediate_size": 16, "first_k_dense_replace": 1, "num_key_value_heads": 4}
    return _model(T.DeepseekV3ForCausalLM, T.DeepseekV3Config, **{**LLAMA, **latent, **experts, **more})


def phi3_long() -> PreTrainedModel:
    """Rotary frequencies that change where the whole prompt is longer than 16 tokens."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}
    rope |= {"original_max_position_embeddings": 16, "partial_rotary_factor": 1.0}
    return _model(T.Phi3ForCausalLM, T.Phi3Config, **LLAMA, rope_parameters=rope)


def opt() -> PreTrainedModel:
    widths = {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 128}
    return _model(T.OPTForCausalLM, T.OPTConfig, **SPECIAL, **BLOCKS, **widths)


def bloom() -> PreTrainedModel:
    return _model(T.BloomForCausalLM, T.BloomConfig, **SPECIAL, hidden_size=32, n_layer=3, n_head=4)


def bigcode() -> PreTrainedModel:
    return _model(T.GPTBigCodeForCausalLM, T.GPTBigCodeConfig, **SPECIAL, n_embd=32, n_layer=3, n_head=4)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama, grouped queries": llama,
    "llama, one key head": lambda: llama(num_key_value_heads=1),
    "llama, tied and biased": lambda: llama(tie_word_embeddings=True, attention_bias=True),
    "gpt2": gpt2,
    "gpt-neox": neox,
    "falcon, one key head": lambda: falcon(multi_query=True),
    "falcon, alibi": lambda: falcon(multi_query=False, alibi=True),
    "mistral, sliding window": lambda: _model(T.MistralForCausalLM, T.MistralConfig, **LLAMA, sliding_window=6),
    "gemma 3, windows and full": gemma3,
    "gemma 3n, shared keys": gemma3n,
    "gemma 2, eager": lambda: _model(
        T.Gemma2ForCausalLM, T.Gemma2Config, **LLAMA, sliding_window=6, head_dim=8, attn_implementation="eager"
    ),
    "qwen 3": lambda: _model(T.Qwen3ForCausalLM, T.Qwen3Config, **LLAMA, head_dim=8),
    "mixtral": lambda: _model(T.MixtralForCausalLM, T.MixtralConfig, **LLAMA, num_local_experts=4),
    "deepseek 3": deepseek,
    "dynamic rope": lambda: llama(
        max_position_embeddings=16, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    ),
    "phi 3, long rope": phi3_long,
    "opt": opt,
    "bloom": bloom,
    "gpt-bigcode": bigcode,
}


def compositions(tokens: int, parts: int) -> list[tuple[int, ...]]:
    """All ways to cut ``tokens`` into ``parts`` pieces of at least one."""
    cuts = combinations(range(1, tokens), parts - 1)
    return [tuple(b - a for a, b in zip((0, *cut), (*cut, tokens), strict=True)) for cut in cuts]


def splits(tokens: Iterable[int], ranks: int, most: int | None = None, seed: int = 0) -> list[tuple[int, ...]]:
    """Of every count of tokens and of 1 to ``ranks`` ranks all splits, or ``most`` drawn ones."""
    draw = random.Random(seed)
    found = []
    for count in tokens:
        for parts in range(1, min(ranks, count) + 1):
            every = compositions(count, parts)
            found += every if most is None or len(every) <= most else draw.sample(every, most)
    return found


def prompt(tokens: int, rows: int = 1, seed: int = 0) -> Tensor:
    return torch.randint(2, tiny.VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def reference(model: PreTrainedModel, ids: Tensor, past: DynamicCache | None = None) -> tuple[DynamicCache, Tensor]:
    cache = DynamicCache(config=model.config) if past is None else past
    return cache, model(input_ids=ids, **passed(model, cache)).logits[:, -1]


def deviation(cache: DynamicCache, whole: DynamicCache, part: Callable[[], DynamicCache], tokens: int) -> float:
    """Largest difference of any key or value from the reference's first ``tokens``."""
    worst = 0.0
    for index, layer in enumerate(cache.layers):
        if not isinstance(layer, DynamicLayer):
            continue
        sliding = type(layer) is not DynamicLayer  # what it has dropped is not in the whole prompt's cache
        other = (part() if sliding else whole).layers[index]
        for name in ("keys", "values"):
            mine, theirs = getattr(layer, name), getattr(other, name)
            if not sliding:
                theirs = theirs[:, :, :tokens]
            assert mine.shape == theirs.shape, (index, name, mine.shape, theirs.shape)
            worst = max(worst, float((mine - theirs).abs().max()))
        assert layer.get_seq_length() == tokens
    return worst


def compare(rank: Rank, name: str, cases: list[Case], greedy: bool = True, rows: int = 1) -> list[dict[str, Any]]:
    """Each case by the chain and by one process; what differs on this rank."""
    model = MODELS[name]()
    chain = Runahead(model, rank.transport)
    return [_compare(chain, before, split, greedy, rows) for before, split in cases]


def _compare(chain: Runahead, before: int, split: tuple[int, ...], greedy: bool, rows: int) -> dict[str, Any]:
    model, tokens = chain.model, sum(split)
    ids = prompt(before + tokens, rows)
    past = reference(model, ids[:, :before])[0] if before else None
    given = reference(model, ids[:, :before])[0] if before and chain.rank == 0 else None
    done = chain.prefill(ids[:, before:], split, past=given, past_tokens=before)
    whole, logits = reference(model, ids[:, before:], past)
    if done is None:
        return {"cache": 0.0}
    own = before + ends(split)[chain.rank]
    found: dict[str, Any] = {"cache": deviation(done.cache, whole, lambda: reference(model, ids[:, :own])[0], own)}
    found["products"] = {step.products for step in done.trace.steps}
    if chain.rank == len(split) - 1:
        found["logits"] = float((done.logits - logits).abs().max())
        if greedy:
            mine = continued(model, ids, done, NEW_TOKENS, do_sample=False)
            forget(model)  # the frequencies of all those tokens
            turn = passed(model, reference(model, ids[:, :before])[0]) if before else {}
            theirs = model.generate(
                ids, max_new_tokens=NEW_TOKENS, do_sample=False, attention_mask=torch.ones_like(ids), **turn
            )
            found["same tokens"] = torch.equal(mine, theirs)
    return found


def padded(rank: Rank, name: str, split: tuple[int, ...]) -> dict[str, Any]:
    """Three sequences of other lengths, padded on the left."""
    model = MODELS[name]()
    tokens = sum(split)
    ids, mask = prompt(tokens, 3), torch.ones(3, tokens, dtype=torch.int64)
    mask[1, : tokens // 2] = mask[2, :3] = 0
    ids = ids * mask
    done = Runahead(model, rank.transport).prefill(ids, split, attention_mask=mask)
    if done is None or done.logits is None:
        return {}
    with torch.no_grad():
        takes = {"position_ids": positions(mask)} if "position_ids" in signature(model.forward).parameters else {}
        expected = model(input_ids=ids, attention_mask=mask, use_cache=True, **takes).logits[:, -1]
    mine = continued(model, ids, done, NEW_TOKENS, attention_mask=mask, do_sample=False)
    theirs = MODELS[name]().generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False)
    return {"logits": float((done.logits - expected).abs().max()), "same tokens": torch.equal(mine, theirs)}


def two_turns(rank: Rank, first: tuple[int, ...], second: tuple[int, ...]) -> bool | None:
    """A prompt, an answer, another prompt: whether the second answer is that of one process; None but on its rank."""
    model = rank.model
    ids, more = prompt(sum(first)), prompt(sum(second), seed=1)
    holder, size = len(first) - 1, rank.transport.size
    done = rank.chain.prefill(ids, first)
    answered = prompt(NEW_TOKENS + sum(first))  # its length is what other ranks know
    if done is not None and done.logits is not None:
        answered = continued(model, ids, done, NEW_TOKENS, do_sample=False)
    history = answered.shape[1] - 1  # the last token of the answer is in no cache yet
    buffer = answered.clone()
    torch.distributed.broadcast(buffer, holder)
    new = torch.cat([buffer[:, -1:], more[:, 1:]], dim=1)
    order = [(holder + step) % size for step in range(size)]
    past = done.cache if done is not None and rank.index == holder else None
    again = rank.chain.prefill(new, second, past=past, past_tokens=history, order=order)
    if again is None or again.logits is None:
        return None
    whole = torch.cat([buffer[:, :-1], new], dim=1)
    mine = continued(model, whole, again, NEW_TOKENS, do_sample=False)
    with torch.no_grad():
        answer = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False, attention_mask=torch.ones_like(ids))
        assert torch.equal(answer, buffer)
        return torch.equal(mine, model.generate(whole, max_new_tokens=NEW_TOKENS, do_sample=False))


def changed_before(rank: Rank, split: tuple[int, ...], at: int) -> list[bool]:
    """Of this rank's tokens before ``at``, whether any key or value changes with the prompt's token ``at``."""
    ids = prompt(sum(split))
    other = ids.clone()
    other[0, at] = (other[0, at] + 1) % tiny.VOCABULARY
    these, those = rank.chain.prefill(ids, split), rank.chain.prefill(other, split)
    if these is None or those is None:
        return []
    changed = [
        (getattr(a, name) != getattr(b, name))[:, :, :at].any(-1).any(1)[0]
        for a, b in zip(these.cache.layers, those.cache.layers, strict=True)
        for name in ("keys", "values")
    ]
    return torch.stack(changed).any(0).tolist()


def half(rank: Rank, dtype: torch.dtype, split: tuple[int, ...]) -> float | None:
    """Largest difference of the last rank's cache, of the largest key."""
    model, ids = llama().to(dtype), prompt(sum(split))
    done = Runahead(model, rank.transport).prefill(ids, split)
    if done is None or done.logits is None:
        return None
    whole, _ = reference(model, ids)
    worst = deviation(done.cache, whole, lambda: whole, sum(split))
    return worst / max(float(layer.keys.abs().max()) for layer in whole.layers)


def spy(
    rank: Rank, split: tuple[int, ...]
) -> tuple[list[str], dict[str, list[int]], dict[int, tuple[int, int]], set[int]]:
    """Collectives that a prefill called, the other ends of its messages, its traffic, and its products a layer."""
    import torch.distributed as dist

    posts: dict[str, list[int]] = {"isend": [], "irecv": []}
    collectives: list[str] = []
    names = (
        "all_gather",
        "all_reduce",
        "broadcast",
        "barrier",
        "all_gather_into_tensor",
        "reduce",
        "scatter",
        "gather",
    )
    kept = {name: getattr(dist, name) for name in (*posts, *names)}

    def post(name: str) -> Callable[..., Any]:
        return lambda tensor, other, **more: posts[name].append(other) or kept[name](tensor, other, **more)

    try:
        for name in posts:
            setattr(dist, name, post(name))
        for name in names:
            setattr(dist, name, lambda *_, called=name, **__: collectives.append(called))
        rank.transport.forget_counts()
        done = rank.chain.prefill(prompt(sum(split)), split)
    finally:
        for name, call in kept.items():
            setattr(dist, name, call)
    traffic = {target: (sent.messages, sent.bytes) for target, sent in rank.transport.sent.items()}
    return collectives, posts, traffic, set() if done is None else {step.products for step in done.trace.steps}


def compare_with_delays(rank: Rank, cases: list[Case], seed: int) -> list[dict[str, Any]]:
    """`compare`, each rank pausing at random before its layers."""
    draw = random.Random(100 * seed + rank.index)
    pause = lambda *_: time.sleep(draw.uniform(0, 0.01))  # noqa: E731
    handles = [block.register_forward_pre_hook(pause) for block in rank.model.model.layers]
    try:
        return [_compare(rank.chain, before, split, False, 1) for before, split in cases]
    finally:
        for handle in handles:
            handle.remove()


def waits(rank: Rank, split: tuple[int, ...]) -> float:
    """Seconds that this rank waited for its prefix."""
    torch.distributed.barrier()
    done = rank.chain.prefill(prompt(sum(split)), split)
    assert done is not None
    return done.trace.waited


def endless(rank: Rank) -> None:
    """Prefills without end."""
    while True:
        rank.chain.prefill(prompt(33), (20, 13))


def planted(rank: Rank) -> None:
    """Rank 0 fails; rank 1 waits for it."""
    if rank.index == 0:
        raise KeyError("planted")
    rank.chain.prefill(prompt(9), (5, 4))
