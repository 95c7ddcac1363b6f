"""A weight that shares few values: soft mixtures of centroids in training, snapped to the nearest in evaluation.

Between two optimizer steps everything is a function of weights and buffers: a forward pass starts from the committed
centroids and leaves where they went in another buffer; ``commit`` takes it over once the weights have changed. Tied
weights, gradient accumulation and recomputed activations therefore see one result, and a resumed run is bit-equal.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from lightsleeper_callbacks import dkm, edkm_chunked, edkm_saved, edkm_table
from lightsleeper_callbacks.kmeans import kmeans
from lightsleeper_callbacks.layout import Layout
from lightsleeper_callbacks.weights import Transform

Backend = Literal["auto", "dense", "saved", "table", "chunked"]
BACKENDS = ("auto", "dense", "saved", "table", "chunked")
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


def _variance(body: Tensor) -> Tensor:
    """Of all numbers, without gradient; never zero, since it divides."""
    flat = body.detach().reshape(-1)
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    return (flat.dot(flat) / len(flat)).sub_(flat.mean().square_()).clamp_(min=1e-20)
