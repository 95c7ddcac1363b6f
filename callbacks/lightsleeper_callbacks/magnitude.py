"""Gradual magnitude pruning: the plain method that others have to beat.

Zhu and Gupta: "To prune, or not to prune", arXiv 1710.01878: the sparsity rises by a cubic, fast while much is
redundant; masks follow the current magnitudes, and a pruned weight gets no gradient. Ours: masks are renewed in each
step (theirs every 100 to 1000), and budgets are shared out over all layers by magnitude unless ``budget`` says layer
(theirs), as under PDP: a comparison of the two differs in the mask and in the ramp, which is linear there unless its
``ramp`` says cubic.
"""

from collections.abc import Sequence
from typing import Literal

from lightsleeper_callbacks.pruning import Mode, Pruning
from lightsleeper_callbacks.schedule import cubic

__all__ = ["MagnitudePruning"]

CATALOG = ("MagnitudePruning",)


class MagnitudePruning(Pruning):
    """Prune the smallest weights, N:M groups or channels by a hard mask that grows during training.

    Args:
        sparsity: Share of the targets' weights (mode channel: of their channels) to prune. Mode n:m has its own.
        mode: unstructured prunes single weights, n:m keeps N of M consecutive inputs, channel removes output channels.
        pattern: For mode n:m: "2:4" keeps 2 of 4.
        targets: Names or patterns of layers (``encoder.*``) or their types (``Conv``). Null is all Linear,
            convolution and attention weights that this mode can prune; one tied to an embedding only where named.
        exclude: The same, left dense.
        start: When the ramp starts, as a share of the training.
        end: When it reaches the target.
        budget: global shares the sparsity out by magnitude over all layers; layer prunes each alike.
        statistics: Whether to measure batch-norm statistics anew after hardening.
    """

    tau = 0.0

    def __init__(
        self,
        sparsity: float | None = None,
        mode: Mode = "unstructured",
        pattern: str = "2:4",
        targets: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        start: float = 0.16,
        end: float = 0.83,
        budget: Literal["global", "layer"] = "global",
        statistics: bool = True,
    ) -> None:
        super().__init__(sparsity, mode, pattern, targets, exclude, start, end, budget, statistics)

    def shape(self, done: float) -> float:
        return cubic(done)
