"""PDP: pruning by a soft mask that is a function of the weights alone, without parameters of its own.

Cho, Adya, Naik: "PDP: Parameter-free Differentiable Pruning is All You Need", NeurIPS 2023, arXiv 2305.11203. Its
equations are in ``masks``. Not stated there, so decided here:
- the ramp moves with every optimizer step, not once an epoch; at the end of each epoch both are equal;
- N:M: groups lie along the inputs, and the ramp blends the dense weight with the masked one;
- channels: budgets are shared out by the L2 norm of a channel, not divided by its size (under the usual
  initialisations it is then alike in all layers); channels tied by an addition have one mask, whose magnitude is the
  root mean square over the tied layers; behind a batch norm, the mask acts on that norm's weight and bias, as a norm
  would undo it otherwise. See ``channel_masks``.
"""

from collections.abc import Sequence
from typing import Literal

from lightsleeper_callbacks.pruning import Mode, Pruning
from lightsleeper_callbacks.schedule import cubic

__all__ = ["PDPMasking"]

CATALOG = ("PDPMasking",)


class PDPMasking(Pruning):
    """Prune weights, N:M groups or channels during training.

    Up to ``start`` training is dense. Then, once, each layer's budget is fixed: the smallest weights of all targets
    together. Up to ``end`` a growing share of it goes; what goes is decided anew in each step, so a weight may return.
    Evaluation sees the hard mask, ``finalize`` bakes it in, and in mode channel the layers get narrower.

    Args:
        sparsity: Share of the targets' weights (mode channel: of their channels) to prune. Mode n:m has its own.
        mode: unstructured prunes single weights, n:m keeps N of M consecutive inputs, channel removes output channels.
        pattern: For mode n:m: "2:4" keeps 2 of 4.
        targets: Names or patterns of layers (``encoder.*``) or their types (``Conv``). Null is all Linear,
            convolution and attention weights that this mode can prune; one tied to an embedding only where named.
        exclude: The same, left dense. Published: nothing; a network's first and last layer are often left out.
        start: When the ramp starts, as a share of the training. Published: epoch 16 of 100.
        end: When it reaches the target. Published: 0.015 of the target an epoch, epoch 83 of 100.
        tau: Temperature of the mask. Null is 0.04 t^2 for each threshold t, which suits weights of any scale. A number
            is absolute, as published: 1e-4, for weights around 0.05.
        ramp: linear grows the share by the same amount in each step, as published; cubic grows it fast while much is
            redundant, as gradual magnitude pruning does (ours).
        budget: global shares the sparsity out by magnitude over all layers, as published; layer prunes each alike.
        statistics: Whether to measure batch-norm statistics anew after hardening.

    Raises ValueError for values out of range.

    Example::

        Trainer(max_epochs=10, callbacks=[PDPMasking(sparsity=0.8, exclude=["head"])]).fit(module, data)
    """

    def __init__(
        self,
        sparsity: float | None = None,
        mode: Mode = "unstructured",
        pattern: str = "2:4",
        targets: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        start: float = 0.16,
        end: float = 0.83,
        tau: float | None = None,
        ramp: Literal["linear", "cubic"] = "linear",
        budget: Literal["global", "layer"] = "global",
        statistics: bool = True,
    ) -> None:
        super().__init__(sparsity, mode, pattern, targets, exclude, start, end, budget, statistics)
        if tau is not None and not tau > 0:
            raise ValueError(f"tau is a temperature above 0, or null; got {tau}")
        if ramp not in ("linear", "cubic"):
            raise ValueError(f"ramp is 'linear' or 'cubic', got '{ramp}'")
        self.tau = tau
        self.ramp = ramp

    def shape(self, done: float) -> float:
        return cubic(done) if self.ramp == "cubic" else done
