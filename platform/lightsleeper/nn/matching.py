"""One matching head: text tokens, both projectors, a partition, and a distance. Everything after the encoders.

Projectors are LayerNorm-Linear pairs without activation (papers/dsp 3.3); embeddings are not length-normalised.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from lightsleeper.nn.partition import dsp_distance_static, dsp_partition, equal_cuts, random_cuts
from lightsleeper.nn.text import DistilBertText, PhoneText, Token

Partition = Literal["dsp", "equal", "random"]
Pooling = Literal["mean", "worst"]
IMPOSSIBLE = -1e4
"""Score of a pair without a partition: more tokens than frames."""
WORST_SHARPNESS = 1.0  # of the soft maximum over tokens, per unit of distance; distances spread by about 1 to 3


def projector(inputs: int, outputs: int, layers: int) -> nn.Sequential:
    """``layers`` LayerNorm-Linear pairs: one or two, both readings of the paper's projection block."""
    steps: list[nn.Module] = []
    for index in range(layers):
        width = inputs if index == 0 else outputs
        steps += [nn.LayerNorm(width), nn.Linear(width, outputs)]
    return nn.Sequential(*steps)


class Head(nn.Module):
    """Distances of clips to texts under one partition. ``features`` are (A, N, width) with ``frames`` (A,) valid."""

    def __init__(
        self,
        width: int,
        dim: int,
        text_encoder: str,
        token: Token,
        layers: int,
        partition: Partition,
        pooling: Pooling,
    ) -> None:
        super().__init__()
        self.token, self.partition, self.pooling = token, partition, pooling
        self.needs_phones = text_encoder == "phones"
        self.text: PhoneText | DistilBertText = (
            PhoneText(dim, token) if self.needs_phones else DistilBertText(text_encoder)
        )
        self.audio_projector = projector(width, dim, layers)
        self.text_projector = projector(self.text.dim, dim, layers)
        self.scale = nn.Parameter(torch.tensor(math.log(2.0)))  # log inverse temperature of the softmax loss

    def enroll(
        self, phones: Tensor, words: Tensor, texts: list[str] | None = None, max_tokens: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B, M, dim) and counts (B,) of phones (B, P) and words (B, P), or of texts; cached per keyword."""
        if isinstance(self.text, DistilBertText):
            if texts is None:
                raise ValueError("this head reads texts, not phones")
            tokens, counts = self.text(texts)
        else:
            tokens, counts = self.text(phones, words, max_tokens)
        return self.text_projector(tokens), counts

    def forward(
        self,
        features: Tensor,
        frames: Tensor,
        phones: Tensor,
        words: Tensor,
        index: Tensor | None = None,
        texts: list[str] | None = None,
    ) -> Tensor:
        """Distances (A, K) of clip a to the texts ``index`` (A, K) picks of the R given; inf where n < m.

        Phones and words are (R, P); a text that several clips meet is encoded once. ``index`` None: text a to clip a,
        and the distances are (A,).
        """
        tokens, counts = self.enroll(phones, words, texts)
        audio = self.audio_projector(features)
        if index is None:
            return self.match(audio, frames, tokens, counts)
        rows = index.flatten()
        return self.match(audio, frames, tokens[rows], counts[rows]).view_as(index)

    def match(self, audio: Tensor, frames: Tensor, tokens: Tensor, counts: Tensor) -> Tensor:
        """Distances (B,) of projected audio (A, N, dim) and tokens (B, M, dim); B / A consecutive rows share a clip."""
        with torch.autocast(audio.device.type, enabled=False):
            audio, tokens = audio.float(), tokens.float()
            owner = None
            if len(tokens) != len(audio):
                owner = torch.arange(len(audio), device=audio.device).repeat_interleave(len(tokens) // len(audio))
            cuts = self._cut(audio, frames, tokens, counts, owner)
            solvable = (counts <= (frames if owner is None else frames[owner])) & (counts > 0)
            return self.pool(token_distances(audio, tokens, cuts), counts).masked_fill(~solvable, math.inf)

    def cuts(
        self, features: Tensor, frames: Tensor, phones: Tensor, words: Tensor, texts: list[str] | None = None
    ) -> Tensor:
        """Cuts (B, M+1) in encoder frames."""
        tokens, counts = self.enroll(phones, words, texts)
        return self._cut(self.audio_projector(features).float(), frames, tokens.float(), counts, None)

    def _cut(self, audio: Tensor, frames: Tensor, tokens: Tensor, counts: Tensor, owner: Tensor | None) -> Tensor:
        if self.partition == "dsp":
            return dsp_partition(audio.detach(), tokens.detach(), frames, counts, owner)
        rows = frames if owner is None else frames[owner]
        if self.partition == "equal":
            return equal_cuts(rows, counts, tokens.shape[1])
        if self.training:
            return random_cuts(rows, counts, tokens.shape[1])
        # Outside training the draw is fixed, so that a score is a function of its clip and text alone.
        generator = torch.Generator(device=rows.device).manual_seed(0)
        return random_cuts(rows, counts, tokens.shape[1], generator, same_for_all=True)

    def match_static(
        self, features: Tensor, tokens: Tensor, counts: Tensor, frames: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Distances (B,) and cuts (B, M+1) of ``features`` (B, N, width), of which ``frames`` (B,) are valid (None:
        all), and enrolled tokens (B, M, dim), as a graph that exports."""
        assert self.partition == "dsp"  # the others are baselines; `export_spec` says so
        audio = self.audio_projector(features)
        _, cuts = dsp_distance_static(audio, tokens, counts, frames)
        distances = token_distances(audio, tokens, cuts)
        solvable = (counts <= (features.shape[1] if frames is None else frames)) & (counts > 0)
        return torch.where(solvable, self.pool(distances, counts), math.inf), cuts

    def pool(self, distances: Tensor, counts: Tensor) -> Tensor:
        """A keyword's distance (B,) from its tokens' distances (B, M)."""
        real = torch.arange(distances.shape[1], device=distances.device) < counts[:, None]
        if self.pooling == "mean":
            return (distances * real).sum(1) / counts.clamp(min=1)
        weight = (WORST_SHARPNESS * distances).masked_fill(~real, -1e4).softmax(1)
        return (weight * distances).sum(1)


def token_distances(audio: Tensor, tokens: Tensor, cuts: Tensor) -> Tensor:
    """L2 distances (B, M) between run means of audio (A, N, d) and tokens (B, M, d), with gradient; 0 for padding.

    B / A consecutive rows share a clip.
    """
    frame = torch.arange(audio.shape[1], device=audio.device)[None, None, :]
    inside = ((frame >= cuts[:, :-1, None]) & (frame < cuts[:, 1:, None])).to(audio.dtype)  # (B, M, N)
    sizes = inside.sum(-1)
    shared = inside.unflatten(0, (audio.shape[0], -1)).flatten(1, 2)  # (A, B / A * M, N): clips are not copied
    means = (shared @ audio).view_as(tokens) / sizes.clamp(min=1).unsqueeze(-1)
    # Epsilon inside the root: the norm has no gradient at zero.
    return torch.where(sizes > 0, ((means - tokens).square().sum(-1) + 1e-8).sqrt(), 0.0)
