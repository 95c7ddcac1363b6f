"""DNN-HMM, what HEiMDaL is measured against: a frame DNN gives posteriors of the keyword's states, a chain the path.

In the style of voice triggers before end-to-end CNNs (papers/heimdal 9; sizes are ours): stacked frames, a few fully
connected layers, states from left to right beside silence and filler. Trained frame by frame on aligned states, or end
to end through the chain (Shrivastava et al., arXiv 2011.01151: windows by their overlap with the keyword, a hinge). The
chain's path tells start and end of the keyword for free: the reference for localisation.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsleeper.models.family import Batch
from lightsleeper.models.wakeword import WakeWord
from lightsleeper.nn.causal import Kept
from lightsleeper.nn.keyword_chain import (
    FILLER,
    FIRST,
    NOT_KEYWORD,
    UNKNOWN,
    KeywordChain,
    sample_windows,
    state_loss,
    state_targets,
    take_windows,
)
from lightsleeper.nn.optimizer import total_steps
from lightsleeper.nn.ranges import above_zero, at_least, share

CATALOG = ("DNNHMM",)

STRIDE = 2  # frames of 10 ms per step of the DNN
LIKE, UNLIKE = 0.8, 0.4  # overlap with the keyword (IoU) from which, and up to which, windows teach
WINDOWS = 2  # of each kind, per clip
PRIOR_RATE = 0.01


class StateRatios(nn.Module):
    """Logits (B, classes, T) to log-likelihood ratios (B, states, T) of the chain's states against anything else."""

    prior: Tensor

    def __init__(self, states: int) -> None:
        super().__init__()
        self.register_buffer("prior", torch.full((states + FIRST,), 1 / (states + FIRST)))

    @torch.no_grad()
    def count(self, targets: Tensor) -> None:
        """Let the priors follow the share of each class among the targets (B, T) of a batch."""
        seen = torch.where(targets == NOT_KEYWORD, FILLER, targets)[targets != UNKNOWN]
        if len(seen):
            share = torch.bincount(seen, minlength=len(self.prior)).to(self.prior.dtype) / len(seen)
            self.prior.lerp_(share, PRIOR_RATE)

    def forward(self, logits: Tensor) -> Tensor:
        log_probs, prior = logits.log_softmax(1), self.prior.clamp_min(1e-5)
        elsewhere = log_probs[:, :FIRST].logsumexp(1, keepdim=True) - prior[:FIRST].sum().log()
        return log_probs[:, FIRST:] - prior[FIRST:].log()[:, None] - elsewhere


class DNNHMM(WakeWord):
    """Frame DNN and keyword chain, one score every 20 ms: the best path's log-likelihood ratio per frame.

    Args:
        states: States of the chain, shared evenly by the keyword's phones where the data know them.
        past_frames: Frames of 10 ms that the DNN sees at once.
        width: Units of its hidden layers.
        layers: Hidden layers.
        delay_ms: How far before its newest sample the DNN looks for the state: the rest is its right context.
        stay: Probability of staying in a state.
        longest_s: Paths older than this are dropped.
        training: frames, cross-entropy on aligned states; end_to_end, a hinge on the scores of whole windows, after
            ``frames_first`` of the training.
        frames_first: Share of the training that an end-to-end one spends on frames.
        margin: Of the hinge, in nats per frame.
        n_mels: Mel bands of the front end.
        normalize: As in `WakeWord`.
        settings: Other arguments of `WakeWord`.
    """

    def __init__(
        self,
        states: int = 18,
        past_frames: int = 20,
        width: int = 48,
        layers: int = 3,
        delay_ms: float = 60.0,
        stay: float = 0.7,
        longest_s: float = 2.0,
        training: Literal["frames", "end_to_end"] = "frames",
        frames_first: float = 0.5,
        margin: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        at_least(1, states=states, width=width, layers=layers)
        at_least(STRIDE, past_frames=past_frames)
        at_least(0, delay_ms=delay_ms, margin=margin)
        above_zero(longest_s=longest_s)
        share(frames_first=frames_first)
        self.states, self.delay_s = states, delay_ms / 1000
        self.method, self.frames_first, self.margin = training, frames_first, margin
        first = nn.Sequential(nn.Conv1d(self.n_mels, width, past_frames, STRIDE, bias=False), nn.BatchNorm1d(width))
        hidden: list[nn.Module] = [Kept(first, past_frames - 1, STRIDE), nn.ReLU()]
        for _ in range(layers - 1):
            hidden += [nn.Conv1d(width, width, 1), nn.ReLU()]
        frame_ms = 10.0 * STRIDE
        decoder = KeywordChain(states, stay, round(1000 * longest_s / frame_ms))
        self.build(
            *hidden,
            nn.Conv1d(width, states + FIRST, 1),
            StateRatios(states),
            decoder,
            states=states,
            past_frames=past_frames,
            width=width,
            layers=layers,
            delay_ms=delay_ms,
            stay=stay,
            longest_s=longest_s,
        )

    @property
    def ratios(self) -> StateRatios:
        ratios = self.chain.layers[-2]
        assert isinstance(ratios, StateRatios)
        return ratios

    @property
    def decoder(self) -> KeywordChain:
        decoder = self.chain.layers[-1]
        assert isinstance(decoder, KeywordChain)
        return decoder

    def _outputs(self) -> int:
        return 2

    def read(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        return outputs[:, 0], outputs[:, 1] * self.frame_s + self.delay_s

    def outputs(self, audio: Tensor) -> Tensor:
        """Logits (B, classes, T) of the DNN."""
        for layer in list(self.chain.layers)[:-2]:
            audio = layer(audio)
        return audio

    def loss(self, outputs: Tensor, times: Tensor, batch: Batch) -> Tensor:
        heard = times - self.delay_s
        targets = state_targets(heard, batch["begin_s"], batch["end_s"], batch.get("phones"), self.states)
        targets = targets.masked_fill(heard <= 0, UNKNOWN)
        self.ratios.count(targets)
        if self.method == "frames" or self._progress() < self.frames_first:
            return state_loss(outputs.log_softmax(1), targets).mean()
        begin, end = batch["begin_s"] + self.delay_s, batch["end_s"] + self.delay_s
        return self.window_loss(self.ratios(outputs), begin, end, batch["keyword"])

    def window_loss(self, scores: Tensor, begin: Tensor, end: Tensor, keyword: Tensor) -> Tensor:
        """Hinge on scores (B, states, T): windows like the keyword above the margin, all others below its negative.

        ``begin`` and ``end`` (B,) of the keyword in the time of the frames. Clips without the keyword give the best
        path of any of their windows, which is what the decoder would find.
        """
        said = keyword > 0
        parts = []
        if said.any():
            ranges = ((LIKE, 1.0, 1.0), (0.0, UNLIKE, -1.0))
            for low, high, sign in ranges:
                start, lengths = sample_windows(
                    begin[said], end[said], scores.shape[2], self.frame_s, WINDOWS, low, high
                )
                there = lengths.flatten() >= self.states  # shorter windows have no path
                if there.any():
                    windows = take_windows(scores[said], start, lengths)[there]
                    found = self.decoder.window_scores(windows, lengths.flatten()[there])
                    parts.append(F.relu(self.margin - sign * found).mean())
        if not said.all():
            best = self.decoder(scores[~said])[:, 0].amax(1)
            parts.append(F.relu(self.margin + best).mean())
        return sum(parts, 0.0 * scores.sum())  # without any part, a loss that teaches nothing

    def _progress(self) -> float:
        return self.trainer.global_step / total_steps(self.trainer)
