"""Weights that share few values, found while training: DKM and eDKM as a callback. The weight itself: `edkm_weight`."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightsleeper_callbacks.base import Compression, Phase, unending
from lightsleeper_callbacks.edkm_report import deployed_bytes, facts, gap, used
from lightsleeper_callbacks.edkm_weight import BACKENDS, Backend, Clustered, table_fits
from lightsleeper_callbacks.layout import Layout
from lightsleeper_callbacks.weights import (
    Target,
    Transform,
    attach,
    attached,
    carried,
    detach,
    find,
    is_sharded,
    whole,
)

CATALOG = ("EDKMClustering",)

KINDS = ("Linear", "Conv", "Embedding", "MultiheadAttention")


class EDKMClustering(Compression):
    """Train-time weight clustering: each layer's weights become 2^bits values, so an index of ``bits`` bits is stored.

    Differentiable k-means (DKM, ICLR 2022) with the memory savings of eDKM (2023). The optimizer trains the weights;
    the layers compute with soft mixtures of the centroids, in evaluation with the nearest centroid. Centroids are
    carried from step to step and are not trained. All back-ends give the same gradients; ``auto`` takes ``table`` where
    clustered weights have 16 bits and ``cluster_dim`` is 1, else ``chunked`` (both ours, see their modules).

    The temperature. It has to follow the square of the weights' scale and fall with the number of bits; the papers
    search one number a model. With tau=None it is, for every table, the mean squared error of the k-means start, and
    from there on follows the variance of the weights. For normal weights that is 0.36, 0.12, 0.035 and 0.0095 of the
    variance at 1 to 4 bits. The rule is ours. DKM's numbers for ResNet18, 5e-5, 2e-5 and 8e-6 at 1 to 3 bits, fall
    almost as fast with the bits; the Gaussian mixture that DKM fits, with components of variance tau / 2, would ask for
    twice the error. On a small network at 2 and 3 bits, half to twice the error did equally well, a tenth (too hard)
    and four times (too soft) worse.

    Give it a trained network, or let it begin late (``start``): among eight values an untrained one hardly moves.

    Zeros of a pruning callback stay: zero becomes a centroid of its own that does not move, one of the 2^bits.

    Args:
        bits: bits of an index, 1 to 8.
        cluster_dim: weights that share an index; an index then costs bits / cluster_dim per weight.
        group_size: output channels that share a table; None is one table for the layer.
        embedding_bits: bits for embeddings (and an output layer tied to one), with cluster_dim 1.
        small_bits: bits for weights with fewer than small_below elements, with cluster_dim 1.
        small_below: what counts as small (DKM: 10,000). Weights that would not get smaller at all stay as they are.
        tau: temperature of the soft assignment in squared weight units; None follows the weights.
        iterations: k-means rounds in a forward pass, at most.
        eps: a forward pass stops earlier when no centroid moved by more, in weight units.
        weight_dtype: bfloat16 rounds the weights for clustering (the paper's setting), float32 does not.
        backend: auto, dense (plain autograd), saved (the paper's), table or chunked.
        targets: names or patterns of layers, or type names; None is every trained Linear, Conv, Embedding, attention.
        exclude: the same, taken away.
        start: share of the training at which clustering begins.

    Raises ValueError for values out of range.

    Example::

        Trainer(max_epochs=3, callbacks=[EDKMClustering(bits=3)]).fit(trained_module, data)
    """

    phase = Phase.CLUSTER
    sharded = True

    def __init__(
        self,
        bits: int = 3,
        cluster_dim: int = 1,
        group_size: int | None = None,
        embedding_bits: int = 8,
        small_bits: int = 8,
        small_below: int = 10_000,
        tau: float | None = None,
        iterations: int = 5,
        eps: float = 1e-4,
        weight_dtype: Literal["bfloat16", "float32"] = "bfloat16",
        backend: Backend = "auto",
        targets: list[str] | None = None,
        exclude: Sequence[str] = (),
        start: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("bits", bits), ("embedding_bits", embedding_bits), ("small_bits", small_bits)):
            if not 1 <= value <= 8:
                raise ValueError(f"{name} must lie in 1..8, got {value}")
        counts = {"cluster_dim": cluster_dim, "group_size": group_size, "iterations": iterations}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if tau is not None and not 0 < tau < math.inf:
            raise ValueError(f"tau must be a positive number or None, got {tau}")
        if not eps >= 0:
            raise ValueError(f"eps must not be negative, got {eps}")
        if small_below < 0:
            raise ValueError(f"small_below must not be negative, got {small_below}")
        if not 0 <= start < 1:
            raise ValueError(f"start is a share of the training, 0 <= start < 1; got {start}")
        if weight_dtype not in ("bfloat16", "float32"):
            raise ValueError(f"weight_dtype must be bfloat16 or float32, got {weight_dtype}")
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend}")
        self.bits, self.cluster_dim, self.group_size = bits, cluster_dim, group_size
        self.embedding_bits, self.small_bits, self.small_below = embedding_bits, small_bits, small_below
        self.tau, self.iterations, self.eps, self.start = tau, iterations, eps, start
        self.short, self.backend = weight_dtype == "bfloat16", backend
        self.targets, self.exclude = targets, tuple(exclude)
        self._names: set[str] = set()
        self._shipped: list[tuple[str, Layout]] = []
        self._gaps: list[tuple[float, float]] = []

    def check(self, module: nn.Module, max_epochs: int | None = None) -> None:
        if self.start and max_epochs == -1:
            raise ValueError(f"start={self.start} is a share of a training whose end is unknown (max_epochs: -1)")
        planned = list(self._plan(module))
        if not planned:
            raise ValueError(
                f"no weight would get smaller at {self.bits} bits (cluster_dim {self.cluster_dim}, group_size "
                f"{self.group_size}): they hold too few elements for a table"
            )
        for target, layout in planned:
            if attached(target, Clustered) is not None:
                raise ValueError(f"'{target.name}' is clustered by another callback already")
            if self.backend == "table" and not table_fits(target.original.dtype, self.short, layout.dim):
                reason = f"cluster_dim is {layout.dim}" if layout.dim > 1 else "its weights have 32 bits"
                raise ValueError(f"'{target.name}': backend table does not work, {reason}; chunked would")

    def conflict(self, other: Compression) -> str | None:
        if other.phase is Phase.PRUNE and self.bits == self.cluster_dim == 1:
            return "with 1 bit a layer has one value beside the zeros of pruning; take at least 2"
        return None

    def prepare(self, module: nn.Module) -> None:
        planned = list(self._plan(module))
        self._names = {target.name for target, _ in planned}
        for target, layout in planned:
            pruned = parametrize.is_parametrized(*target.owners[0])
            settings = (self.tau, self.iterations, self.eps, self.short, self.backend)
            attach(target, Clustered(target.original, layout, *settings, pruned=pruned))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if unending(trainer) and any(is_sharded(target.original) for target, _ in self._mine(pl_module)):
            # Steps are then told apart by the version of the weight, which sharded ones do not count.
            raise ValueError("clustering weights in shards needs a training with an end: set max_epochs or max_steps")

    @torch.no_grad()
    def step(self, module: nn.Module, progress: float) -> None:
        if progress < self.start:
            return
        for target, transform in self._mine(module):
            if not transform.is_active:
                transform.switch_on(_input(target, transform))
            # The weight's version tells of optimizer steps where the end, and with it the progress, is unknown.
            transform.commit((progress, target.original._version))

    def settled(self, progress: float) -> bool:
        return self.start == 0 or progress > self.start

    @torch.no_grad()
    def finalize(self, module: nn.Module) -> nn.Module:
        self._shipped, self._gaps = [], []
        for target, transform in self._mine(module):
            weight = _input(target, transform)
            if not transform.is_active:  # the training ended before its start
                transform.switch_on(weight)
            snapped = transform.hard(weight)
            self._gaps.append(gap(transform, weight, snapped))
            self._shipped.append((target.name, used(transform.layout, snapped)))
            detach(target, transform, snapped)
        return module

    @torch.no_grad()
    def report(self, module: nn.Module) -> dict[str, float]:
        """Bits per clustered weight with tables, bytes of the whole model as packed, the share of its float32 bytes
        that is clustered, and how far soft and snapped weights are apart (Frobenius norms, relative)."""
        mine = list(self._mine(module))
        if not mine:  # finalized; channels may have been removed since
            shipped = [(module.get_parameter(name).shape, layout) for name, layout in self._shipped]
            return facts(shipped, deployed_bytes(module), self._gaps)
        if not all(transform.is_active for _, transform in mine):
            return {}
        gaps = []
        for target, transform in mine:
            weight = _input(target, transform)
            gaps.append(gap(transform, weight, transform.snap(weight)))
        found = [(target.original.shape, transform.layout) for target, transform in mine]
        return facts(found, deployed_bytes(module), gaps)

    def _mine(self, module: nn.Module) -> list[tuple[Target, Clustered]]:
        return [(target, found) for target, found in carried(module, Clustered) if target.name in self._names]

    def _plan(self, module: nn.Module) -> Iterator[tuple[Target, Layout]]:
        """The weights that get smaller, and how each is cut."""
        for target in find(module, self.targets, self.exclude, KINDS):
            weight = target.original
            if weight.numel() < self.small_below:
                layout = Layout(self.small_bits)
            elif any(isinstance(layer, nn.Embedding) for layer, _ in target.owners):
                layout = Layout(self.embedding_bits)
            else:
                layout = Layout(self.bits, self.cluster_dim, self.group_size, target.transposed)
            if layout.stored_bytes(weight.shape) < 4 * weight.numel():
                yield target, layout


def _input(target: Target, transform: Transform) -> Tensor:
    """The weight that ``transform`` gets when all before it act as they would ship."""
    layer, name = target.owners[0]
    weight = whole(target.original)
    for other in layer.parametrizations[name]:  # type: ignore[index]
        if other is transform:
            break
        weight = other.hard(weight) if isinstance(other, Transform) else other(weight)
    return weight
