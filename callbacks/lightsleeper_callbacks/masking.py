"""Masks as parametrisations: functions of the weight and of how many of its smallest go now.

That number and the final one are buffers, so a resumed run continues bit for bit. The threshold follows from them and
from the weight: it is found once per optimizer step and needs no place in a checkpoint.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from lightsleeper_callbacks import masks
from lightsleeper_callbacks.weights import Transform


class Budget(nn.Module):
    """How many of the smallest go now, and at the end of the ramp; None until that is known."""

    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.tensor([0, -1]))
        self._known: tuple[int, int] | None = (0, -1)  # the same in Python: reading a GPU's buffer would wait for it

    @property
    def pruned(self) -> int:
        return self._read()[0]

    @property
    def budget(self) -> int | None:
        last = self._read()[1]
        return None if last < 0 else last

    def allot(self, budget: int) -> None:
        self._write(self.pruned, budget)

    def follow(self, share: float) -> None:
        """Let ``share`` of the budget go."""
        assert self.budget is not None
        self._write(math.floor(share * self.budget + 1e-9), self.budget)

    def _read(self) -> tuple[int, int]:
        if self._known is None:
            now, last = self.counts.tolist()
            self._known = now, last
        return self._known

    def _write(self, now: int, last: int) -> None:
        if self._read() != (now, last):
            self.counts.copy_(torch.tensor([now, last]))
            self._known = now, last

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known = None


class WeightMask(Budget, Transform):
    """Single weights of one tensor. ``tau``: see ``masks.soft_mask``."""

    threshold: Tensor

    def __init__(self, tau: float | None) -> None:
        super().__init__()
        self.tau = tau
        self.register_buffer("threshold", torch.tensor(0.0), persistent=False)
        self._fresh = False

    def scores(self, weight: Tensor) -> Tensor:
        return weight.detach().float().abs()

    def advance(self, weight: Tensor, share: float) -> None:
        self.follow(share)
        if self.pruned:
            self.threshold = masks.threshold(weight, self.pruned)
        self._fresh = True
        self.forget()

    def soft(self, weight: Tensor) -> Tensor:
        return masks.soft_weight(weight, self._t(weight), self.tau) if self.pruned else weight

    def hard(self, weight: Tensor) -> Tensor:
        if not self.pruned:
            return weight
        return weight.masked_fill(~masks.hard_mask(self.scores(weight), self.pruned), 0)

    def mask(self, weight: Tensor) -> Tensor:
        return masks.soft_mask(weight, self._t(weight), self.tau)

    def _t(self, weight: Tensor) -> Tensor:
        return self.threshold if self._fresh else masks.threshold(weight, self.pruned)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._fresh = False


class GroupMask(Budget, Transform):
    """N of M consecutive weights along an axis stay.

    A group knows no fraction, so the ramp blends from the dense weight to the masked one, 1 - share + share m (ours:
    the paper does not say); outside training a ramp that has started masks in full.
    """

    def __init__(self, tau: float | None, n: int, m: int, axis: int) -> None:
        super().__init__()
        self.tau, self.n, self.m, self.axis = tau, n, m, axis

    def advance(self, weight: Tensor, share: float) -> None:
        self.follow(share)
        self.forget()

    def soft(self, weight: Tensor) -> Tensor:
        if not self.pruned:
            return weight
        assert self.budget
        groups = masks.to_groups(weight, self.m, self.axis)
        t = masks.group_thresholds(groups, self.n)
        result = masks.soft_weight(groups.flatten(), t, self.tau, self.pruned / self.budget, self.m)
        return masks.from_groups(result, weight.shape, self.axis)

    def hard(self, weight: Tensor) -> Tensor:
        if not self.pruned:
            return weight
        kept = masks.hard_group_mask(masks.to_groups(weight, self.m, self.axis), self.n)
        return weight.masked_fill(~masks.from_groups(kept, weight.shape, self.axis), 0)

    def mask(self, weight: Tensor) -> Tensor:
        groups = masks.to_groups(weight, self.m, self.axis)
        return masks.soft_mask(groups, masks.group_thresholds(groups, self.n)[:, None], self.tau)
