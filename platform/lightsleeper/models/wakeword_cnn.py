"""A plain causal CNN that hears one phrase in a stream, trained with redundant branches (RepCNN) or without.

In the spirit of RepCNN (Kundu et al., Interspeech 2024, arXiv 2406.02652), whose sizes and recipe we could not
establish; everything here is our choice (papers/repcnn 4.3): one convolution of stride 2, separable blocks with growing
depthwise kernels, one logit a frame. Both convolutions of a block get branches, as in MobileOne. ``branches: 0`` is the
plain network of the same folded architecture; `FoldOnExport` turns either into convolutions and ReLUs only.
"""

from collections.abc import Sequence
from typing import Any

from lightsleeper_callbacks.repconv import Norms
from torch import nn

from lightsleeper.models.wakeword_labels import LabelledWakeWord
from lightsleeper.nn.causal import TrailingMean, conv
from lightsleeper.nn.ranges import at_least

CATALOG = ("WakeWordCNN",)

FIRST_KERNEL, FIRST_STRIDE = 5, 2


def separable_layers(
    n_mels: int, width: int, kernels: Sequence[int], dilations: Sequence[int], **how: Any
) -> list[nn.Module]:
    """A convolution of stride 2 and a block of depthwise and pointwise convolution for each kernel, with ReLUs.

    ``how``: branches and what they are, arguments of `nn.causal.conv`. Raises ValueError where kernels and dilations do
    not match.
    """
    if not kernels or any(kernel < 1 for kernel in kernels):
        raise ValueError(f"kernels must be numbers of taps, one a block; got {list(kernels)}")
    if len(dilations) != len(kernels) or any(dilation < 1 for dilation in dilations):
        raise ValueError(f"dilations must be {len(kernels)} numbers of 1 or more, one a kernel; got {list(dilations)}")
    layers: list[nn.Module] = [conv(n_mels, width, FIRST_KERNEL, FIRST_STRIDE, **how), nn.ReLU()]
    for kernel, dilation in zip(kernels, dilations, strict=True):
        layers += [conv(width, width, kernel, dilation=dilation, groups=width, **how), nn.ReLU()]
        layers += [conv(width, width, 1, **how), nn.ReLU()]
    return layers


class WakeWordCNN(LabelledWakeWord):
    """Plain causal CNN with re-parameterisable convolutions, one logit every 20 ms.

    Args:
        width: Channels of all layers.
        kernels: Taps of the depthwise convolutions, one block each, in frames of 20 ms.
        dilations: Distance of those taps, one a block; with ``kernels`` they set the past that a frame sees.
        branches: Branches with the whole kernel that each convolution trains with. 0: plain convolution and norm.
        scale: Each convolution also has a branch with one tap.
        skip: Each convolution also has a branch that is a norm only, where input and output match.
        smaller: Further branches with so many taps, in each convolution that has more: a peer says that the paper's
            network has them.
        norms: branch, one behind each, or sum, a single one behind all of them: the sum is linear in the weights then.
        pool_frames: Frames over which the last layer is averaged.
        phone_weight: How much the phones count that a head behind block ``phone_block`` learns to tell (nn/phone_head);
            it serves training only. 0: there is none. Ours, not the paper's.
        phone_block: Behind which block, from 1.
        settings: Arguments of `LabelledWakeWord`.
    """

    def __init__(
        self,
        width: int = 32,
        kernels: Sequence[int] = (7, 9, 11, 13),
        dilations: Sequence[int] = (1, 1, 2, 2),
        branches: int = 4,
        scale: bool = True,
        skip: bool = True,
        smaller: Sequence[int] = (),
        norms: Norms = "branch",
        pool_frames: int = 1,
        phone_weight: float = 0.0,
        phone_block: int = 2,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        at_least(1, width=width, pool_frames=pool_frames)
        at_least(0, branches=branches)
        how = {"branches": branches, "smaller": list(smaller), "scale": scale, "skip": skip, "norms": norms}
        self.build(
            *separable_layers(self.n_mels, width, kernels, dilations, **how),
            TrailingMean(width, pool_frames),
            nn.Conv1d(width, 1, 1),
            width=width,
            kernels=list(kernels),
            dilations=list(dilations),
            **how,
            pool_frames=pool_frames,
            phone_weight=phone_weight,
            phone_block=phone_block,
        )
        self.learn_phones(phone_weight, phone_block, len(kernels), width)
