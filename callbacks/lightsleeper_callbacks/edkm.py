"""Weights that share few values, found while training: DKM and eDKM as a callback.

Between two optimizer steps everything is a function of weights and buffers: a forward pass starts from the committed
centroids and leaves where they went in another buffer; ``step`` commits it once the weights have changed. Tied weights,
gradient accumulation and recomputed activations therefore see one result, and a resumed run is bit-equal.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightsleeper_callbacks import dkm, edkm_chunked, edkm_saved, edkm_table
from lightsleeper_callbacks.base import Compression, Phase
from lightsleeper_callbacks.kmeans import kmeans
from lightsleeper_callbacks.layout import Layout
from lightsleeper_callbacks.weights import Target, Transform, attach, attached, carried, detach, find

CATALOG = ("EDKMClustering",)

Backend = Literal["auto", "dense", "saved", "table", "chunked"]
BACKENDS = ("auto", "dense", "saved", "table", "chunked")
KINDS = ("Linear", "Conv", "Embedding", "MultiheadAttention")
SHORT = (torch.bfloat16, torch.float16)

SOFTNESS = 1.0
"""tau=None: the temperature as a multiple of the mean squared error of the k-means start, see EDKMClustering."""
Solve = Callable[..., tuple[Tensor, Tensor]]


class Clustered(Transform):
    """A weight as a soft mixture of centroids in training, as its nearest centroid in evaluation.

    Args:
        weight: the weight, for shape and device.
        layout: bits, vectors and groups.
        tau: temperature in squared weight units; None follows the weights.
        short: whether weights are rounded to bfloat16 before they are clustered.
        pruned: whether another transform makes zeros that have to stay.
    """

    centroids: Tensor
    moved: Tensor
    softness: Tensor
    active: Tensor
    zero: Tensor

    def __init__(
        self,
        weight: Tensor,
        layout: Layout,
        tau: float | None = None,
        iterations: int = 5,
        eps: float = 1e-4,
        short: bool = True,
        backend: str = "auto",
        pruned: bool = False,
    ) -> None:
        super().__init__()
        self.layout, self.tau, self.iterations, self.eps = layout, tau, iterations, eps
        self.short, self.backend, self.pruned = short, backend, pruned
        groups = len(layout.sizes(weight.shape))
        centroids = torch.zeros(groups, layout.entries, layout.dim, device=weight.device)
        # (groups, k, d): where the rounds of a forward pass start, and where those of the last one ended.
        self.register_buffer("centroids", centroids)
        self.register_buffer("moved", centroids.clone())
        # tau as a share of the weights' variance, by group.
        self.register_buffer("softness", torch.zeros(groups, device=weight.device))
        self.register_buffer("active", torch.tensor(False, device=weight.device))
        self.register_buffer("zero", torch.tensor(False, device=weight.device))  # whether centroid 0 is zero and stays
        self._flags: tuple[bool, bool] | None = (False, False)
        self._committed: Any = None

    def soft(self, weight: Tensor) -> Tensor:
        if not self.is_active:
            return weight
        result, moved = self.cluster(weight)
        with torch.no_grad():
            self.moved.copy_(moved)
        return result

    def hard(self, weight: Tensor) -> Tensor:
        return self.snap(weight) if self.is_active else weight

    @property
    def is_active(self) -> bool:
        return self._flag(0)

    @property
    def keeps_zero(self) -> bool:
        return self._flag(1)

    def cluster(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The soft weight, and the centroids (groups, k, d) its rounds ended at; changes nothing."""
        results, ends = [], []
        fixed = None
        if self.keeps_zero:
            fixed = torch.arange(self.layout.entries, device=weight.device) == 0
        # Mixed precision would do the sums over all weights in 16 bits.
        with torch.autocast(weight.device.type, enabled=False):
            for group, flat in enumerate(self.layout.split(weight)):
                body, tail = self._body(flat)
                tau: Tensor | float = self.tau or _variance(body).mul_(self.softness[group])
                result, end = self._solve(body, self.centroids[group], tau, fixed)
                results.append(result.view(-1) if tail is None else torch.cat([result.view(-1), tail]))
                ends.append(end)
        return self.layout.join(results, weight.shape), torch.stack(ends)

    @torch.no_grad()
    def snap(self, weight: Tensor) -> Tensor:
        """Every vector as its nearest centroid of the last forward pass."""
        parts = []
        for group, flat in enumerate(self.layout.split(weight)):
            body, tail = self._body(flat)
            snapped = dkm.snap(self._exact(body), self.moved[group]).to(flat.dtype).view(-1)
            parts.append(snapped if tail is None else torch.cat([snapped, tail]))
        return self.layout.join(parts, weight.shape)

    @torch.no_grad()
    def switch_on(self, weight: Tensor) -> None:
        """Start clustering from k-means of ``weight``, with the zeros that it has."""
        if bool((weight == weight.flatten()[0]).all()):
            return  # as initialised to a constant: no values to find yet
        entries = self.layout.entries
        zero = entries > 2 and (self.pruned or float((weight == 0).float().mean()) > 1 / entries)
        for group, flat in enumerate(self.layout.split(weight)):
            body = self._exact(self._body(flat)[0])
            centroids, error = kmeans(body, entries, zero)
            # Fewer values than centroids leave no error. Any small tau then gives each value its own centroid.
            self.softness[group] = SOFTNESS * max(error / float(_variance(body)), 1e-7)
            self.centroids[group] = self.moved[group] = centroids
        self.active.fill_(True)
        self.zero.fill_(zero)
        self._flags = None
        self.forget()

    def commit(self, moment: Any) -> None:
        """Let the next forward pass start where the last one ended, once a ``moment``."""
        if moment != self._committed:
            self._committed = moment
            self.centroids.copy_(self.moved)
            self.forget()

    def _solve(self, body: Tensor, start: Tensor, tau: Tensor | float, fixed: Tensor | None) -> tuple[Tensor, Tensor]:
        settings = (tau, self.iterations, self.eps, fixed)
        backend = self.backend
        if backend == "auto":
            backend = "table" if table_fits(body.dtype, self.short, self.layout.dim) else "chunked"
        if backend == "table":
            dtype = body.dtype if body.dtype in SHORT else torch.bfloat16
            return edkm_table.dkm(body, start, *settings, dtype=dtype)
        exact = self._exact(body)
        solvers: dict[str, Solve] = {"dense": dkm.dkm, "chunked": edkm_chunked.dkm, "saved": _saved}
        result, end = solvers[backend](exact, start.to(exact.dtype), *settings)
        return result.to(body.dtype), end

    def _body(self, flat: Tensor) -> tuple[Tensor, Tensor | None]:
        """A group as vectors (n, d), and the numbers that fill none."""
        size = len(flat) // self.layout.dim * self.layout.dim
        if size == len(flat):
            return flat.view(-1, self.layout.dim), None
        return flat[:size].view(-1, self.layout.dim), flat[size:]

    def _exact(self, body: Tensor) -> Tensor:
        """The vectors that are clustered, in float32 or better."""
        if self.short and body.dtype not in SHORT:
            body = dkm.rounded(body, torch.bfloat16)
        return body.to(torch.promote_types(body.dtype, torch.float32))

    def _flag(self, index: int) -> bool:
        # Read once: a buffer on a GPU is slow to ask.
        if self._flags is None:
            self._flags = (bool(self.active), bool(self.zero))
        return self._flags[index]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._flags = self._committed = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Clustered":
        # A model in half precision keeps its centroids in float32: they move by less than it can hold.
        kept = {name: value for name, value in self._buffers.items() if value is not None}
        super()._apply(fn, recurse)
        for name, value in kept.items():
            now = self._buffers[name]
            if now is not None and now.dtype != value.dtype:
                self._buffers[name] = value.to(now.device)
        self.forget()
        return self


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
            self._gaps.append(_gap(transform, weight, snapped))
            self._shipped.append((target.name, _used(transform.layout, snapped)))
            detach(target, transform, snapped)
        return module

    @torch.no_grad()
    def report(self, module: nn.Module) -> dict[str, float]:
        """Bits per clustered weight with tables, bytes of the whole model as packed, the share of its float32 bytes
        that is clustered, and how far soft and snapped weights are apart (Frobenius norms, relative)."""
        mine = list(self._mine(module))
        if not mine:  # finalized; channels may have been removed since
            shipped = [(module.get_parameter(name).shape, layout) for name, layout in self._shipped]
            return _facts(shipped, _deployed_bytes(module), self._gaps)
        if not all(transform.is_active for _, transform in mine):
            return {}
        gaps = []
        for target, transform in mine:
            weight = _input(target, transform)
            gaps.append(_gap(transform, weight, transform.snap(weight)))
        found = [(target.original.shape, transform.layout) for target, transform in mine]
        return _facts(found, _deployed_bytes(module), gaps)

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


def table_fits(dtype: torch.dtype, short: bool, dim: int) -> bool:
    """Whether weights are few enough values to be clustered by value."""
    return dim == 1 and (short or dtype in SHORT)


def _saved(body: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    """``dkm.dkm`` with all of eDKM's techniques that apply."""
    if not torch.is_grad_enabled():
        return dkm.dkm(body, *settings)
    spread = torch.distributed.is_available() and torch.distributed.is_initialized()
    saved = edkm_saved.SavedTensors(
        body if body.shape[1] == 1 else None,
        shards=edkm_saved.ProcessShards() if spread and torch.distributed.get_world_size() > 1 else None,
        device="cpu" if body.is_cuda else None,
    )
    with saved:
        return dkm.dkm(body, *settings)


def _input(target: Target, transform: Transform) -> Tensor:
    """The weight that ``transform`` gets when all before it act as they would ship."""
    layer, name = target.owners[0]
    weight = target.original.detach()
    for other in layer.parametrizations[name]:  # type: ignore[index]
        if other is transform:
            break
        weight = other.hard(weight) if isinstance(other, Transform) else other(weight)
    return weight


def _variance(body: Tensor) -> Tensor:
    """Of all numbers, without gradient; never zero, since it divides."""
    flat = body.detach().reshape(-1)
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    return (flat.dot(flat) / len(flat)).sub_(flat.mean().square_()).clamp_(min=1e-20)


def _gap(transform: Clustered, weight: Tensor, snapped: Tensor) -> tuple[float, float]:
    """Squared norms of the difference between soft and snapped weight, and of the snapped one."""
    soft, _ = transform.cluster(weight) if transform.is_active else (weight, None)
    return float((soft - snapped).double().square().sum()), float(snapped.double().square().sum())


def _used(layout: Layout, snapped: Tensor) -> Layout:
    """``layout`` with the bits that the fullest table of a snapped weight needs."""
    entries = 1
    for flat in layout.split(snapped):
        vectors = flat[: len(flat) // layout.dim * layout.dim].view(-1, layout.dim)
        entries = max(entries, len(vectors.unique(dim=0) if layout.dim > 1 else vectors.unique()))
    return layout._replace(bits=min(layout.bits, max(1, (entries - 1).bit_length())))


def _deployed_bytes(module: nn.Module) -> int:
    """Bytes of the plain model's state with float32 weights, tied ones once."""
    state = module.state_dict(keep_vars=True).items()
    own = {id(v): v for k, v in state if "parametrizations." not in k or k.endswith(".original")}
    return sum(v.numel() * (4 if v.is_floating_point() else v.element_size()) for v in own.values())


def _facts(
    found: Sequence[tuple[Sequence[int], Layout]], total: int, gaps: Sequence[tuple[float, float]]
) -> dict[str, float]:
    weights = sum(math.prod(shape) for shape, _ in found)
    if not weights:
        return {}
    stored = sum(layout.stored_bytes(shape) for shape, layout in found)
    return {
        "compress/bits_per_weight": 8 * stored / weights,
        "compress/bytes": float(total - 4 * weights + stored),
        "compress/share": 4 * weights / total,
        "compress/frobenius_gap": math.sqrt(sum(gap for gap, _ in gaps) / max(sum(norm for _, norm in gaps), 1e-300)),
    }
