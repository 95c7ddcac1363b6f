"""What clustering leaves: how far soft and snapped weights are apart, bits and bytes of tables and indices."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from lightsleeper_callbacks.edkm_weight import Clustered
from lightsleeper_callbacks.layout import Layout


def gap(transform: Clustered, weight: Tensor, snapped: Tensor) -> tuple[float, float]:
    """Squared norms of the difference between soft and snapped weight, and of the snapped one."""
    soft, _ = transform.cluster(weight) if transform.is_active else (weight, None)
    return float((soft - snapped).double().square().sum()), float(snapped.double().square().sum())


def used(layout: Layout, snapped: Tensor) -> Layout:
    """``layout`` with the bits that the fullest table of a snapped weight needs."""
    entries = 1
    for flat in layout.split(snapped):
        vectors = flat[: len(flat) // layout.dim * layout.dim].view(-1, layout.dim)
        entries = max(entries, len(vectors.unique(dim=0) if layout.dim > 1 else vectors.unique()))
    return layout._replace(bits=min(layout.bits, max(1, (entries - 1).bit_length())))


def deployed_bytes(module: nn.Module) -> int:
    """Bytes of the plain model's state with float32 weights, tied ones once."""
    state = module.state_dict(keep_vars=True).items()
    own = {id(v): v for k, v in state if "parametrizations." not in k or k.endswith(".original")}
    return sum(v.numel() * (4 if v.is_floating_point() else v.element_size()) for v in own.values())


def facts(
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
