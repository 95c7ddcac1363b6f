"""Which clips of a batch are trained on: all with the keyword, and the hardest without it."""

import torch
from torch import Tensor


def hardest(losses: Tensor, keyword: Tensor, keep: int) -> Tensor:
    """True for the ``keep`` negatives with the largest losses and for every positive: (B,) bool.

    losses (B,) of clips, keyword (B,) 1 where a clip holds it. Fewer negatives than ``keep`` all stay; among equal
    losses the first. A public port of RepCNN calls keeping a fixed number the paper's way (papers/repcnn 4.1, a peer's
    word). Start after a few epochs: the hardest clips of an untrained network are random ones.
    """
    positive = keyword.bool()
    ranked = losses.detach().masked_fill(positive, -torch.inf).argsort(descending=True, stable=True)
    chosen = positive.clone()
    chosen[ranked[: min(max(keep, 0), int((~positive).sum()))]] = True
    return chosen
