"""The encoders of a word spotter: samples to windows with a state, windows to hidden.

A conformer looks at the whole of each window, and its modules can be skipped. A causal BC-ResNet is the published
baseline (Samragh et al., ICASSP 2023): fully convolutional, so that each frame is computed once and a "window" is the
output steps of a hop alone.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightsleeper.nn.augment import FeatureAugment
from lightsleeper.nn.bc_resnet import MELS, trunk, trunk_width
from lightsleeper.nn.causal import Chain, ExponentialMean, FrontEnd
from lightsleeper.nn.conformer import Subsampling
from lightsleeper.nn.gated_conformer import GatedConformer
from lightsleeper.nn.gates import Gate
from lightsleeper.nn.windows import ANALYSIS_MS, FRAME_MS, SAMPLE_RATE, Fourth, Steps, Windowing, Windows


class SpottingEncoder(nn.Module):
    """Base.

    ``chain``: samples (B, n hops) to windows (B, n, N, d), with its state; it sees a hop a stride. ``width`` is d,
    ``pool`` the encoder steps behind an output step.
    """

    chain: Chain
    width: int
    pool: int
    steps: int
    """Encoder steps of a window (N)."""
    looks_ahead: bool
    """Whether an output step sees what follows it within its hop, or only waits for it."""
    modules_named: tuple[str, ...] = ()
    """Modules that may be skipped."""
    module_macs: tuple[int, ...] = ()
    """Multiply-accumulates of each in one window."""
    fixed_macs: int
    """Of the encoder in one hop, those that no gate decides; the log-mel front end is none of it."""
    mel_macs: int
    """Of the front end's mel filters in one hop."""

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Windows (M, N, d) to hidden (M, N, d) and which modules ran, (M, modules); None without gates."""
        raise NotImplementedError

    def use_gates(self, used: bool) -> None:
        """Whether gates decide, where there are any."""

    def gate_parameters(self) -> list[nn.Parameter]:
        """Of the gates, where there are any."""
        gates = (module for module in self.modules() if isinstance(module, Gate))
        return [weight for gate in gates for weight in gate.parameters()]

    @property
    def macs(self) -> int:
        """Of the encoder in one hop with every module."""
        return self.fixed_macs + sum(self.module_macs)

    def _count(self, n_mels: int, windowing: Windowing) -> None:
        front, *others = self.chain.layers
        counter = FlopCounterMode(display=False)
        chain = Chain(*others).eval()
        with torch.no_grad(), counter:
            chain(torch.zeros(1, n_mels, windowing.slide_frames))
        chain.train()
        self.fixed_macs = counter.get_total_flops() // 2
        self.mel_macs = front.log_mel.bank.numel() * windowing.slide_frames  # type: ignore[union-attr, operator]


class ConformerEncoder(SpottingEncoder):
    """See `GatedConformer` and `Subsampling` for the arguments."""

    def __init__(
        self,
        windowing: Windowing,
        front: Sequence[nn.Module],
        n_mels: int,
        subsampling: Literal["conv1d", "conv2d"],
        conformer: GatedConformer,
    ) -> None:
        super().__init__()
        self.width, self.pool, self.steps = conformer.dim, windowing.pool, windowing.steps
        self.looks_ahead = True
        self.chain = Chain(
            *front,
            Steps(Subsampling(n_mels, self.width, subsampling), n_mels),
            Windows(self.width, windowing),
        )
        self.conformer = conformer
        self.modules_named = tuple(conformer.modules_named)
        self.module_macs = tuple(conformer.module_macs(windowing.steps))
        self._count(n_mels, windowing)

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor | None]:
        hidden, gates = self.conformer(windows)
        return hidden, gates if self.conformer.gated else None

    def use_gates(self, used: bool) -> None:
        self.conformer.use_gates(used)


class BCResNetEncoder(SpottingEncoder):
    """Causal BC-ResNet of width ``tau``: 1.175 s of context at every frame, of which each fourth answers."""

    def __init__(self, windowing: Windowing, front: Sequence[nn.Module], tau: float) -> None:
        super().__init__()
        network = trunk(tau, causal=True)
        sees_s = (network.past * FRAME_MS + ANALYSIS_MS) / 1000
        if windowing.receptive_s > sees_s:
            raise ValueError(
                f"window_ms {windowing.window_ms} and slide_ms {windowing.slide_ms} ask for "
                f"{windowing.receptive_s:g} s behind each step; a BC-ResNet sees {sees_s:g} s"
            )
        self.width, self.pool, self.steps = trunk_width(tau), 1, windowing.outputs
        self.looks_ahead = False
        self.chain = Chain(*front, network, Fourth(windowing))
        self._count(MELS, windowing)

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor | None]:
        return windows, None


def front_end(n_mels: int, augment: FeatureAugment, adapt_s: float | None) -> list[nn.Module]:
    """Samples to log-mel features, less a mean spectrum that forgets within ``adapt_s`` seconds where that is given."""
    log_mel = FrontEnd(n_mels, SAMPLE_RATE, ANALYSIS_MS, FRAME_MS, augment)
    return [log_mel] if adapt_s is None else [log_mel, ExponentialMean(n_mels, 1000 * adapt_s / FRAME_MS)]
