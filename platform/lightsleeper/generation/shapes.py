"""Times of a model's layers for pieces of other lengths behind other prefixes: measured, and fitted between.

A piece goes through the model's first blocks only, behind a prefix of random keys; what each block takes before and
after its cache is updated is q and f of the simulator. The fit is linear in what the work is linear in: tokens for the
projections, products for attention. Its largest relative error on the measured shapes is kept beside it.
"""

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from lightsleeper.generation.attention import LOWER_RIGHT, WRITTEN_OUT, attention
from lightsleeper.generation.cache import start_with
from lightsleeper.generation.layout import Layout, passed

BLOCKS = 5  # of which the first warms up


@dataclass(frozen=True)
class ShapeTime:
    """Medians over blocks and repeats, in seconds."""

    own: int
    before: int
    embedding: float
    keys: float
    rest: float
    dense: bool = False
    """Attention with a written-out mask, over all ``own + before`` tokens."""


@dataclass
class FittedTimes:
    """`simulate.LayerTimes` of a model on one device.

    ``keys_fit``: [1, own]; ``rest_fit`` and ``dense_fit``: [1, own, own * before, own^2 / 2].
    """

    layers: int
    head_s: float
    embedding_fit: list[float]
    keys_fit: list[float]
    rest_fit: list[float]
    dense_fit: list[float] | None = None
    worst: float = 0.0
    """Largest relative error of q + f on the shapes that were measured."""
    measured: list[dict[str, Any]] = field(default_factory=list)

    def embedding(self, own: int) -> float:
        return _value(self.embedding_fit, own, 0)

    def keys(self, own: int) -> float:
        return _value(self.keys_fit, own, 0)

    def rest(self, own: int, before: int) -> float:
        return _value(self.rest_fit, own, before)

    def rest_dense(self, own: int, before: int) -> float:
        return _value(self.dense_fit or self.rest_fit, own, before)

    def head(self) -> float:
        return self.head_s


def grid(tokens: int, ranks: int) -> list[tuple[int, int]]:
    """Pieces and prefixes (own, before) that a chain of ``ranks`` meets at ``tokens``, and smaller ones."""
    owns = sorted({max(tokens // part, 1) for part in (2 * ranks, ranks, max(ranks - 1, 1)) if tokens // part})
    small = max(tokens // (4 * ranks), 1)
    pairs = {(own, before) for own in {small, *owns} for before in (0, tokens // 4, tokens // 2, tokens - own)}
    return sorted((own, before) for own, before in pairs if own + before <= tokens)


@torch.no_grad()
def measure(
    model: PreTrainedModel, layout: Layout, shapes: Iterable[tuple[int, int]], repeats: int = 3, dense: bool = False
) -> list[ShapeTime]:
    """Times of each (own, before), after one untimed pass of the smallest."""
    shapes = list(shapes)
    _pass(model, layout, *min(shapes, key=sum), dense)
    return [_measured(model, layout, own, before, repeats, dense) for own, before in shapes]


def middle(same: Sequence[ShapeTime]) -> ShapeTime:
    """Medians of repeated measurements of one shape."""
    parts = {name: statistics.median(getattr(shape, name) for shape in same) for name in ("embedding", "keys", "rest")}
    return replace(same[0], **parts)


@torch.no_grad()
def head_seconds(model: PreTrainedModel, repeats: int = 5) -> float:
    """From the last block to the logits of one token."""
    blocks = blocks_of(model)
    ids = torch.ones(1, 4, dtype=torch.int64, device=model.device)
    left: list[float] = []
    handle = blocks[-1].register_forward_hook(lambda *_: left.append(_now(model.device)))
    try:
        taken = []
        for _ in range(repeats + 1):
            model(input_ids=ids, use_cache=False, logits_to_keep=1)
            taken.append(_now(model.device) - left[-1])
    finally:
        handle.remove()
    return statistics.median(taken[1:])


def fit(model: PreTrainedModel, layout: Layout, measured: Sequence[ShapeTime], head_s: float) -> FittedTimes:
    """Non-negative coefficients by least squares of relative errors. Raises ValueError without a plain shape."""
    plain = [shape for shape in measured if not shape.dense]
    if not plain:
        raise ValueError("no shape was measured")
    dense = [shape for shape in measured if shape.dense]
    times = FittedTimes(
        layers=sum(shape is not None for shape in layout),
        head_s=head_s,
        embedding_fit=_fitted([[1.0, shape.own] for shape in plain], [shape.embedding for shape in plain]),
        keys_fit=_fitted([[1.0, shape.own] for shape in plain], [shape.keys for shape in plain]),
        rest_fit=_fitted([_features(shape.own, shape.before) for shape in plain], [shape.rest for shape in plain]),
        dense_fit=_fitted([_features(shape.own, shape.before) for shape in dense], [shape.rest for shape in dense])
        if dense
        else None,
        measured=[asdict(shape) for shape in measured],
    )
    times.worst = max(
        abs((times.keys(s.own) + times.rest(s.own, s.before)) / (s.keys + s.rest) - 1) for s in plain
    )  # fmt: skip
    return times


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """The list of a model's blocks. Raises ValueError where none has their number."""
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{type(model).__name__} has no list of its {count} blocks")


class _ClockCache(DynamicCache):
    """Notes when each block updates it, and ends the pass at block ``stop``."""

    def __init__(self, config: Any, stop: int, device: torch.device) -> None:
        super().__init__(config=config)
        self.updates: list[float] = []
        self._stop, self._device = stop, device

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        self.updates.append(_now(self._device))
        if len(self.updates) > self._stop:
            raise _Enough
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


class _Enough(Exception):
    pass


def _measured(model: PreTrainedModel, layout: Layout, own: int, before: int, repeats: int, dense: bool) -> ShapeTime:
    passes = [_pass(model, layout, own, before, dense) for _ in range(repeats)]
    embedding, keys, rest = (statistics.median(part) for part in zip(*passes, strict=True))
    return ShapeTime(own, before, embedding, keys, rest, dense)


def _pass(model: PreTrainedModel, layout: Layout, own: int, before: int, dense: bool) -> tuple[float, float, float]:
    """Seconds of the embedding, and medians over blocks of what comes before and after their cache."""
    blocks = blocks_of(model)
    used = min(BLOCKS, len(blocks) - 1)
    cache = _ClockCache(model.config, used, model.device)
    _fill(cache, layout, before, model.device)
    entered: list[float] = []
    handles = [block.register_forward_pre_hook(lambda *_: entered.append(_now(model.device))) for block in blocks]
    ids = torch.ones(1, own, dtype=torch.int64, device=model.device)
    begin = _now(model.device)
    try:
        with attention(model, WRITTEN_OUT if dense else LOWER_RIGHT):
            model(input_ids=ids, **passed(model, cache), logits_to_keep=1)
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    first = 1 if used > 1 else 0
    keys = [updated - start for start, updated in zip(entered, cache.updates, strict=False)][first:used]
    rest = [start - updated for updated, start in zip(cache.updates, entered[1:], strict=False)][first:used]
    return entered[0] - begin, statistics.median(keys), statistics.median(rest)


def _fill(cache: DynamicCache, layout: Layout, before: int, device: torch.device) -> None:
    if before == 0:
        return
    for layer, shape in zip(cache.layers, layout, strict=False):
        if shape is not None:
            count, kind = shape.kept(before), {"dtype": shape.dtype, "device": device}
            keys = torch.randn(1, shape.key_heads, count, shape.key_width, **kind)  # type: ignore[call-overload]
            values = torch.randn(1, shape.value_heads, count, shape.value_width, **kind)  # type: ignore[call-overload]
            start_with(layer, keys, values, before)  # type: ignore[arg-type]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


def _features(own: float, before: float) -> list[float]:
    return [1.0, own, own * before, own * own / 2]


def _value(coefficients: Sequence[float], own: int, before: int) -> float:
    return sum(c * x for c, x in zip(coefficients, _features(own, before), strict=False))


def _fitted(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Least squares of relative errors; the most negative coefficient is dropped until none is left."""
    matrix, target = np.array(rows) / np.array(seconds)[:, None], np.ones(len(seconds))
    kept = list(range(matrix.shape[1]))
    while True:
        found, *_ = np.linalg.lstsq(matrix[:, kept], target, rcond=None)
        if len(kept) == 1 or found.min() >= 0:
            break
        kept.pop(int(found.argmin()))
    result = [0.0] * matrix.shape[1]
    for index, value in zip(kept, found, strict=True):
        result[index] = float(value)
    return result
