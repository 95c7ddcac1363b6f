"""How much the neurons, heads and blocks of a transformer matter, from forward passes on a few batches.

The statistic is taken on the residual stream as it enters each block (not behind a norm, whose gain would hide the
scale), on attention's heads before they are mixed and on the MLP's hidden neurons. Sums are kept in float64: the
order does not depend on how the samples are cut into batches. Padded tokens do not count.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from lightsleeper_callbacks.subclone_wiring import Sizes, family_of, summing_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Statistic = Literal["magnitude", "variance"]
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "pixel_values")


@dataclass(frozen=True)
class Scores:
    """Importance of everything that can be dropped; the larger, the more important. Ties go to the first."""

    stream: Tensor
    """(width,): one order for the whole stream, or residual sums would add different neurons."""
    heads: Tensor
    """(depth, heads)"""
    hidden: Tensor
    """(depth, hidden)"""
    blocks: Tensor
    """(depth,): share of a block in its output, mean ||f(x)|| / ||x + f(x)||."""


def constant_scores(sizes: Sizes) -> Scores:
    """All alike: the first neurons, heads and hidden neurons are kept (weight selection, Xu et al., ICLR 2024)."""
    return _made(sizes, torch.zeros)


def random_scores(sizes: Sizes, seed: int) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return _made(sizes, lambda *shape: torch.rand(*shape, generator=generator))


def _made(sizes: Sizes, make: Callable[..., Tensor]) -> Scores:
    return Scores(
        stream=make(sizes.width),
        heads=make(sizes.depth, sizes.heads),
        hidden=make(sizes.depth, sizes.hidden),
        blocks=make(sizes.depth),
    )


class Moments:
    """Running sums of |x|, x and x^2 per last-axis neuron over all other axes, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: Tensor | None = None

    def add(self, values: Tensor) -> None:
        rows = _double(values.detach().reshape(-1, values.shape[-1]))
        sums = torch.stack([rows.abs().sum(0), rows.sum(0), rows.square().sum(0)]).cpu()
        self.sums = sums if self.sums is None else self.sums + sums
        self.count += len(rows)

    def magnitude(self) -> Tensor:
        return self._means()[0]

    def variance(self) -> Tensor:
        _, mean, square = self._means()
        return (square - mean.square()).clamp_min(0)

    def _means(self) -> Tensor:
        if self.sums is None or self.count == 0:
            raise ValueError("the calibration batches hold no tokens")
        return self.sums / self.count


def measure(
    parent: "PreTrainedModel",
    batches: Iterable[Mapping[str, Tensor]],
    statistic: Statistic = "magnitude",
    balance: bool = False,
    outputs: bool = False,
) -> tuple[Scores, dict[str, Moments]]:
    """Run ``parent`` over ``batches`` in eval mode without gradients; it stays as it is.

    Args:
        batches: keyword arguments of the model's forward; what is none of INPUTS (labels) is left out.
        statistic: mean of |x| (the paper's "average magnitude"), or the variance, blind to neurons that are large but
            constant.
        balance: divide each block's statistic on the stream by its mean over neurons, so that late blocks, whose
            stream is larger, weigh no more than early ones.
        outputs: also keep what comes out of every layer that sums over an axis, for ``rescale``.

    Returns the scores, and moments by a weight's name below the base model. Raises ValueError for batches it
    cannot use.
    """
    family, sizes = family_of(parent.config), Sizes.of(parent.config)
    model = parent if outputs else parent.base_model
    seen: defaultdict[str, list[Moments]] = defaultdict(lambda: [Moments() for _ in range(sizes.depth)])
    shares = [Moments() for _ in range(sizes.depth)]
    layers = summing_layers(parent) if outputs else {}
    found = {wire.name: Moments() for _, wire in layers.values()}
    with evaluating(parent), Watch() as watch:
        for block in range(sizes.depth):
            for axis, name in (("heads", family.layer("heads")), ("hidden", family.layer("hidden"))):
                layer = parent.base_model.get_submodule(name.replace("#", str(block)))
                watch.inputs(layer, seen[axis][block].add)
            layer = parent.base_model.get_submodule(family.block.replace("#", str(block)))
            watch.inputs(layer, seen["stream"][block].add)
            watch.block(layer, shares[block].add)
        for layer, wire in layers.values():
            watch.outputs(layer, found[wire.name].add)
        for batch in batches:
            watch.run(model, batch)
    read = {axis: torch.stack([getattr(m, statistic)() for m in moments]) for axis, moments in seen.items()}
    stream = read["stream"]
    if balance:
        stream = stream / stream.mean(1, keepdim=True)
    return Scores(
        stream=stream.mean(0),
        heads=read["heads"].unflatten(1, (sizes.heads, sizes.head_width)).mean(2),
        hidden=read["hidden"],
        blocks=torch.cat([moments.magnitude() for moments in shares]),
    ), found


def rescale(
    destination: "PreTrainedModel",
    batch: Mapping[str, Tensor],
    spread: Mapping[str, float],
    last_norm: Iterable[Tensor] = (),
) -> dict[str, float]:
    """Give each layer's output the standard deviation in ``spread``, layer by layer, in the order they run.

    Each layer sees what the rescaled ones before it give. Biases stay. ``spread`` is by the full name of the weight;
    ``last_norm`` takes the factor of a tied output layer. Returns the factors.
    """
    factors: dict[str, float] = {}
    tied = destination.get_input_embeddings().weight if destination.get_output_embeddings() is not None else None

    def adjust(name: str, layer: nn.Module, output: Tensor, values: Tensor) -> Tensor | None:
        if name in factors:  # run a second time within a forward
            return None
        moments = Moments()
        moments.add(values)
        now = float(moments.variance().mean().sqrt())
        factor = factors[name] = spread[name] / now if now > 0 else 1.0
        with torch.no_grad():
            if layer.weight is tied:
                for parameter in last_norm:
                    parameter.mul_(factor)
            else:
                layer.weight.mul_(factor)  # type: ignore[operator]
        bias = getattr(layer, "bias", None)
        return output * factor if bias is None else (output - bias) * factor + bias

    with evaluating(destination), Watch() as watch:
        for name, (layer, _) in summing_layers(destination).items():
            if name in spread:
                watch.change(layer, partial(adjust, name))
        watch.run(destination, batch)
    return factors


class Watch:
    """Hooks on layers, removed at the end; each is given the values of real tokens only."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._mask: Tensor | None = None

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def run(self, model: Any, batch: Mapping[str, Tensor]) -> None:
        """Forward one batch, moved to where the model is. Raises ValueError for a batch it cannot take."""
        inputs = {name: batch[name].to(model.device) for name in INPUTS if batch.get(name) is not None}
        if not inputs:
            raise ValueError(
                f"a calibration batch holds {', '.join(map(str, batch)) or 'nothing'}; "
                "expected input_ids or pixel_values"
            )
        words = getattr(model.config, "vocab_size", None)
        if words and "input_ids" in inputs and int(inputs["input_ids"].max()) >= words:
            raise ValueError(f"calibration token {int(inputs['input_ids'].max())} is outside the {words} of the parent")
        mask = inputs.get("attention_mask")
        self._mask = mask.bool() if mask is not None and mask.dim() == 2 else None
        cache = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
        with torch.no_grad():
            model(**inputs, **cache)

    def inputs(self, layer: nn.Module, take: Callable[[Tensor], None]) -> None:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            take(self._real(args[0] if args else kwargs["hidden_states"]))

        self._handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))

    def block(self, layer: nn.Module, take: Callable[[Tensor], None]) -> None:
        """``take`` the share of a block in its output, (tokens, 1)."""

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = _double(self._real(args[0] if args else kwargs["hidden_states"]))
            after = _double(self._real(output[0] if isinstance(output, tuple) else output))
            size = after.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
            take(((after - before).norm(dim=-1, keepdim=True) / size).reshape(-1, 1))

        self._handles.append(layer.register_forward_hook(hook, with_kwargs=True))

    def outputs(self, layer: nn.Module, take: Callable[[Tensor], None]) -> None:
        self._handles.append(layer.register_forward_hook(lambda _, __, output: take(self._real(output))))

    def change(self, layer: nn.Module, make: Callable[[nn.Module, Tensor, Tensor], Tensor | None]) -> None:
        """Replace a layer's output by what ``make`` gives for the layer, all of the output and its real tokens."""
        self._handles.append(
            layer.register_forward_hook(lambda layer, _, output: make(layer, output, self._real(output)))
        )

    def _real(self, values: Tensor) -> Tensor:
        mask = self._mask
        return values[mask] if mask is not None and values.shape[:2] == mask.shape else values


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode throughout, and each layer back in its own mode afterwards."""
    modes = [(layer, layer.training) for layer in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def _double(values: Tensor) -> Tensor:
    return (values.cpu() if values.device.type == "mps" else values).double()  # Apple's GPUs have no float64
