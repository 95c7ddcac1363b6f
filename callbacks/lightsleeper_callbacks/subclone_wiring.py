"""Which axis of a transformer's weights meets the residual stream, the heads or the MLP: one table a family.

A table maps a weight's name below the base model (`#`: the number of a block) to one word an axis, in the order in
which the weight is stored: GPT-2's Conv1D keeps (inputs, outputs), Linear (outputs, inputs). `<` marks the axis over
which the layer sums; dropping inputs there shrinks its output.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

AXES = {
    "stream": "residual neurons, in the one order of the whole model",
    "heads": "query heads of the block, head width each",
    "groups": "key and value heads of the block, head width each",
    "qkv": "queries, keys and values side by side, each as `heads`",
    "hidden": "hidden neurons of the block's MLP",
    "positions": "learned positions, the first ones",
    "all": "everything",
}

GPT2 = {
    "wte.weight": "all stream",
    "wpe.weight": "positions stream",
    "h.#.ln_1.*": "stream",
    "h.#.attn.c_attn.weight": "<stream qkv",
    "h.#.attn.c_attn.bias": "qkv",
    "h.#.attn.c_proj.weight": "<heads stream",
    "h.#.attn.c_proj.bias": "stream",
    "h.#.ln_2.*": "stream",
    "h.#.mlp.c_fc.weight": "<stream hidden",
    "h.#.mlp.c_fc.bias": "hidden",
    "h.#.mlp.c_proj.weight": "<hidden stream",
    "h.#.mlp.c_proj.bias": "stream",
    "ln_f.*": "stream",
}
LLAMA = {
    "embed_tokens.weight": "all stream",
    "layers.#.input_layernorm.weight": "stream",
    "layers.#.self_attn.q_proj.weight": "heads <stream",
    "layers.#.self_attn.q_proj.bias": "heads",
    "layers.#.self_attn.[kv]_proj.weight": "groups <stream",
    "layers.#.self_attn.[kv]_proj.bias": "groups",
    "layers.#.self_attn.[qk]_norm.weight": "all",  # Qwen3: one gain for all heads, along the head's width
    "layers.#.self_attn.o_proj.weight": "stream <heads",
    "layers.#.self_attn.o_proj.bias": "stream",
    "layers.#.post_attention_layernorm.weight": "stream",
    "layers.#.mlp.gate_proj.weight": "hidden <stream",
    "layers.#.mlp.gate_proj.bias": "hidden",
    "layers.#.mlp.up_proj.weight": "hidden <stream",
    "layers.#.mlp.up_proj.bias": "hidden",
    "layers.#.mlp.down_proj.weight": "stream <hidden",
    "layers.#.mlp.down_proj.bias": "stream",
    "norm.weight": "stream",
}
BERT = {
    "embeddings.word_embeddings.weight": "all stream",
    "embeddings.position_embeddings.weight": "positions stream",
    "embeddings.token_type_embeddings.weight": "all stream",
    "embeddings.LayerNorm.*": "stream",
    "encoder.layer.#.attention.self.*.weight": "heads <stream",
    "encoder.layer.#.attention.self.*.bias": "heads",
    "encoder.layer.#.attention.output.dense.weight": "stream <heads",
    "encoder.layer.#.attention.output.dense.bias": "stream",
    "encoder.layer.#.attention.output.LayerNorm.*": "stream",
    "encoder.layer.#.intermediate.dense.weight": "hidden <stream",
    "encoder.layer.#.intermediate.dense.bias": "hidden",
    "encoder.layer.#.output.dense.weight": "stream <hidden",
    "encoder.layer.#.output.dense.bias": "stream",
    "encoder.layer.#.output.LayerNorm.*": "stream",
    # What the pooler gives is no residual stream, but only a classifier reads it: the same order does.
    "pooler.dense.weight": "stream <stream",
    "pooler.dense.bias": "stream",
}
VIT = {
    "embeddings.cls_token": "all all stream",
    "embeddings.mask_token": "all all stream",
    "embeddings.position_embeddings": "all all stream",
    "embeddings.patch_embeddings.projection.weight": "stream all all all",
    "embeddings.patch_embeddings.projection.bias": "stream",
    "layers.#.layernorm_before.*": "stream",
    "layers.#.attention.[qkv]_proj.weight": "heads <stream",
    "layers.#.attention.[qkv]_proj.bias": "heads",
    "layers.#.attention.o_proj.weight": "stream <heads",
    "layers.#.attention.o_proj.bias": "stream",
    "layers.#.layernorm_after.*": "stream",
    "layers.#.mlp.fc1.weight": "hidden <stream",
    "layers.#.mlp.fc1.bias": "hidden",
    "layers.#.mlp.fc2.weight": "stream <hidden",
    "layers.#.mlp.fc2.bias": "stream",
    "layernorm.*": "stream",
    "pooler.dense.weight": "stream <stream",
    "pooler.dense.bias": "stream",
}
HEADS = {  # beside the base model, whatever the family
    "lm_head.weight": "all <stream",
    "score.weight": "all <stream",
    "classifier.weight": "all <stream",
    "classifier.bias": "all",
    "qa_outputs.weight": "all <stream",
    "qa_outputs.bias": "all",
    "cls.seq_relationship.weight": "all <stream",
    "cls.seq_relationship.bias": "all",
    "cls.predictions.transform.dense.weight": "stream <stream",  # its output meets the tied embedding
    "cls.predictions.transform.dense.bias": "stream",
    "cls.predictions.transform.LayerNorm.*": "stream",
    "cls.predictions.decoder.weight": "all <stream",
    "cls.predictions.decoder.bias": "all",
    "cls.predictions.bias": "all",
    "decoder.0.weight": "all <stream all all",
    "decoder.0.bias": "all",
}


@dataclass(frozen=True)
class Family:
    """How the models of one kind are wired."""

    body: Mapping[str, str]
    """Name below the base model -> axes."""
    block: str
    """Name of a block below the base model."""
    last_norm: str
    """The norm right before a tied output layer, which takes that layer's factor."""
    hidden: str = "intermediate_size"
    """What its config calls the MLP's hidden width."""

    def layer(self, axis: str) -> str:
        """Name of the block's layer that sums over ``axis``: the output layer of attention (heads) or MLP (hidden)."""
        return next(name.rpartition(".")[0] for name, axes in self.body.items() if f"<{axis}" in axes.split())


_LLAMA = Family(LLAMA, "layers.#", "norm.*")
FAMILIES = {
    "gpt2": Family(GPT2, "h.#", "ln_f.*", hidden="n_inner"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "bert": Family(BERT, "encoder.layer.#", "cls.predictions.transform.LayerNorm.*"),
    "vit": Family(VIT, "layers.#", "layernorm.*"),
}
OWN = ("pooler.*", "embeddings.mask_token")  # parts of a base model that only one of the two may have
UNTIED = "the destination ties its output layer to the embedding, the parent has one of its own"
AGREE = (
    "hidden_act",
    "activation_function",
    "rope_parameters",
    "sliding_window",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "is_decoder",
    "patch_size",
    "image_size",
    "num_channels",
    "pooler_act",
)
"""Settings that change what the same weights compute."""


class Wire(NamedTuple):
    """One weight of a model and what its axes meet."""

    name: str
    """Below the base model, with the block's own number: `h.3.ln_1.weight`."""
    pattern: str
    """The same with `#`."""
    block: int | None
    axes: tuple[str, ...]
    summed: int | None
    """The axis that the layer sums over; None for lookups, norms and biases."""
    body: bool
    """Whether it belongs to the base model; the others are heads for one task."""

    def of(self, block: int | None) -> str:
        """The name of the same weight in another block."""
        return self.pattern.replace("#", str(block))


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that a destination may have smaller."""

    width: int
    """Neurons of the residual stream."""
    depth: int
    """Blocks."""
    heads: int
    """Query heads a block."""
    groups: int
    """Key and value heads a block; as many as ``heads`` without grouped queries."""
    head_width: int
    hidden: int
    """Hidden neurons of a block's MLP."""

    @classmethod
    def of(cls, config: "PreTrainedConfig") -> "Sizes":
        width, heads = config.hidden_size, config.num_attention_heads
        return cls(
            width=width,
            depth=config.num_hidden_layers,
            heads=heads,
            groups=getattr(config, "num_key_value_heads", None) or heads,
            head_width=getattr(config, "head_dim", None) or width // heads,
            hidden=getattr(config, family_of(config).hidden) or 4 * width,  # GPT-2's n_inner may be None
        )


def family_of(config: "PreTrainedConfig") -> Family:
    """The wiring of a model with this config. Raises ValueError for a family that is not known."""
    if config.model_type not in FAMILIES:
        raise ValueError(f"no wiring for models of type '{config.model_type}'; known: {', '.join(FAMILIES)}")
    return FAMILIES[config.model_type]


def resized(
    config: "PreTrainedConfig",
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    groups: int | None = None,
    hidden: int | None = None,
) -> "PreTrainedConfig":
    """A config like ``config`` with smaller sizes, the head width kept.

    None: ``depth`` stays; ``width`` stays; ``heads`` and ``hidden`` follow the width; ``groups`` keeps the number of
    queries per key as near as it can from below. Raises ValueError for sizes that no model can have.
    """
    family, old = family_of(config), Sizes.of(config)
    _check_smaller(old, {"width": width, "depth": depth, "heads": heads, "groups": groups, "hidden": hidden})
    width = width or old.width
    if heads is None:
        if old.heads * width % old.width:
            raise ValueError(
                f"width {width} is not a whole number of heads at the parent's {old.width // old.heads} neurons a head"
            )
        heads = old.heads * width // old.width
    if groups is None:
        legal = [g for g in range(1, old.groups + 1) if heads % g == 0 and heads // g <= old.heads // old.groups]
        if not legal:
            raise ValueError(
                f"{heads} heads cannot be drawn from {old.groups} groups of {old.heads // old.groups} as whole groups "
                "or evenly inside them"
            )
        groups = legal[0]
    values = config.to_dict()
    changes: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": depth or old.depth,
        "num_attention_heads": heads,
        family.hidden: hidden or round(old.hidden * width / old.width),
        "num_key_value_heads": groups,
        "head_dim": old.head_width,
        "pooler_output_size": width,
    }
    changes = {config.attribute_map.get(name, name): value for name, value in changes.items()}
    values.update((name, value) for name, value in changes.items() if name in values)
    kinds = values.get("layer_types")
    if kinds and len(set(kinds)) == 1:
        values["layer_types"] = kinds[:1] * (depth or old.depth)
    try:
        made = type(config).from_dict(values)
    except Exception as error:  # strict configs raise classes of their own
        raise ValueError(f"{type(config).__name__} refuses these sizes: {' '.join(str(error).split())}") from error
    if "head_dim" not in values and width != heads * old.head_width:
        raise ValueError(f"{heads} heads of {old.head_width} neurons do not make the width {width}")
    return made


def check_fit(parent: "PreTrainedConfig", destination: "PreTrainedConfig") -> None:
    """Raise ValueError, with one line, where a model of ``destination`` cannot be filled from one of ``parent``."""
    family_of(parent)
    if parent.model_type != destination.model_type:
        raise ValueError(f"the parent is a '{parent.model_type}' model, the destination '{destination.model_type}'")
    old, new = Sizes.of(parent), Sizes.of(destination)
    _check_smaller(old, {name: getattr(new, name) for name in ("width", "depth", "heads", "groups", "hidden")})
    if new.head_width != old.head_width:
        raise ValueError(
            f"heads are {new.head_width} neurons wide, the parent's {old.head_width}: only whole heads can be kept"
        )
    if new.heads % new.groups or new.heads // new.groups > old.heads // old.groups:
        raise ValueError(
            f"{new.heads} query heads in {new.groups} groups cannot be drawn from {old.heads} in {old.groups}: "
            f"expected at most {old.heads // old.groups} a group, equally many in each"
        )
    words = getattr(parent, "vocab_size", None), getattr(destination, "vocab_size", None)
    if words[0] != words[1]:
        raise ValueError(
            f"the vocabulary has {words[1]} entries, the parent's {words[0]}: both need the same tokenizer"
        )
    for name in AGREE:
        ours, theirs = getattr(destination, name, None), getattr(parent, name, None)
        if ours != theirs:
            raise ValueError(f"{name} is {ours!r}, the parent's {theirs!r}")
    if getattr(parent, "scale_attn_by_inverse_layer_idx", False) and new.depth != old.depth:
        raise ValueError("attention is scaled by the block's number (scale_attn_by_inverse_layer_idx): keep all blocks")


def check_output_layer(parent: "PreTrainedConfig", destination: "PreTrainedModel") -> None:
    """Raise ValueError where an output layer of the parent's own has no place in ``destination``.

    By the configuration, before weights are read; what they hold is checked when they are copied.
    """
    names = parent.architectures or []
    has_one = any(name.endswith(("LMHeadModel", "ForCausalLM", "ForMaskedLM")) for name in names)
    if has_one and not getattr(parent, "tie_word_embeddings", True) and is_tied(destination):
        raise ValueError(UNTIED)


def _check_smaller(old: Sizes, sizes: Mapping[str, int | None]) -> None:
    for name, value in sizes.items():
        if value is not None and value > getattr(old, name):
            raise ValueError(f"{name} {value} is above the parent's {getattr(old, name)}: subcloning only shrinks")


def check_blocks(parent: "PreTrainedConfig", destination: "PreTrainedConfig", kept: tuple[int, ...]) -> None:
    """Raise ValueError where kept blocks would stand in places meant for another kind of attention."""
    theirs, ours = (getattr(config, "layer_types", None) for config in (parent, destination))
    if theirs and ours and [theirs[block] for block in kept] != list(ours):
        raise ValueError(
            f"the parent's blocks {', '.join(map(str, kept))} are of the kinds {_runs([theirs[b] for b in kept])}, "
            f"the destination expects {_runs(list(ours))}: choose a depth or blocks that keep the pattern"
        )


def wiring(model: "PreTrainedModel") -> dict[str, Wire]:
    """Full name of each parameter -> its wire; a tied weight comes once, under its first name.

    Raises ValueError for a parameter that the tables do not know.
    """
    family = family_of(model.config)
    found: dict[str, Wire] = {}
    for name, parameter in model.named_parameters():
        local, body = below_base(model, name)
        number = re.search(r"\.(\d+)\.", local) if body else None
        block = int(number[1]) if number else None
        pattern = local.replace(f".{block}.", ".#.", 1) if number else local
        axes = _look_up(family.body if body else HEADS, pattern)
        if axes is None or len(axes) != parameter.dim():
            raise ValueError(f"{type(model).__name__} has '{name}', which the wiring of this family does not know")
        summed = next((axis for axis, word in enumerate(axes) if word.startswith("<")), None)
        found[name] = Wire(local, pattern, block, tuple(word.lstrip("<") for word in axes), summed, body)
    return found


def below_base(model: "PreTrainedModel", name: str) -> tuple[str, bool]:
    """A parameter's name below the base model, and whether it is there; a head's name stays."""
    if model.base_model is model:
        return name, True
    prefix = f"{model.base_model_prefix}."
    return name.removeprefix(prefix), name.startswith(prefix)


def weights_below_base(model: "PreTrainedModel") -> dict[str, Tensor]:
    """Name below the base model -> parameter, tied ones under each of their names."""
    return {below_base(model, name)[0]: value for name, value in model.named_parameters(remove_duplicate=False)}


def summing_layers(model: "PreTrainedModel") -> dict[str, tuple[nn.Module, Wire]]:
    """Name of the weight -> layer and wire, for all (outputs, inputs) layers; a tied output layer under its name."""
    found = {
        name: (model.get_submodule(name.rpartition(".")[0]), wire)
        for name, wire in wiring(model).items()
        if wire.summed is not None and len(wire.axes) == 2
    }
    if is_tied(model):
        head = model.get_output_embeddings()
        name = next(f"{name}.weight" for name, layer in model.named_modules() if layer is head)
        found[name] = head, Wire(name, name, None, ("all", "stream"), 1, False)
    return found


def is_tied(model: "PreTrainedModel") -> bool:
    """Whether the output layer is the input embedding."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _look_up(table: Mapping[str, str], name: str) -> list[str] | None:
    return next((axes.split() for pattern, axes in table.items() if fnmatchcase(name, pattern)), None)


def _runs(kinds: list[str]) -> str:
    """`full x2, sliding x1`: neighbours of a kind counted together."""
    runs: list[tuple[str, int]] = []
    for kind in kinds:
        runs = [*runs[:-1], (kind, runs[-1][1] + 1)] if runs and runs[-1][0] == kind else [*runs, (kind, 1)]
    return ", ".join(f"{kind} x{count}" for kind, count in runs)
