"""DS-TCN with max-pooling loss: the recipe of the open peer WeKws, which needs no alignment.

Residual blocks of a dilated depthwise and a pointwise convolution at 10 ms a frame (papers/kws_benchmarks 7; sizes of
its public code). Of a clip with the keyword the best frame is pushed up, of any other the worst one down.
"""

from typing import Any

from torch import nn

from lightsleeper.models.wakeword_labels import LabelledWakeWord, Labels
from lightsleeper.nn.causal import Chain, Residual, conv
from lightsleeper.nn.ranges import at_least, share

CATALOG = ("DSTCN",)


class DSTCN(LabelledWakeWord):
    """Depthwise-separable temporal convolutional network, one logit every 10 ms.

    Args:
        width: Channels. Published: 64 and 256.
        layers: Blocks; the distance of the taps doubles with each. Published: 4.
        kernel: Taps. Published: 8.
        dropout: At the end of each block. Published: 0.1.
        labels: As in `LabelledWakeWord`. Published: max_pool.
        settings: Other arguments of `LabelledWakeWord`.
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 4,
        kernel: int = 8,
        dropout: float = 0.1,
        labels: Labels = "max_pool",
        **settings: Any,
    ) -> None:
        super().__init__(labels=labels, **settings)
        at_least(1, width=width, layers=layers, kernel=kernel)
        share(dropout=dropout, below_one=True)
        blocks = [
            Residual(
                Chain(
                    conv(width, width, kernel, dilation=2**block, groups=width),
                    nn.ReLU(),
                    conv(width, width, 1),
                    nn.ReLU(),
                    nn.Dropout(dropout),
                )
            )
            for block in range(layers)
        ]
        self.build(
            nn.Conv1d(self.n_mels, width, 1),
            *blocks,
            nn.Conv1d(width, 1, 1),
            width=width,
            layers=layers,
            kernel=kernel,
            dropout=dropout,
        )
