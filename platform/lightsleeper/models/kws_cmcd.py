"""CMCD: the cross-attention baseline for open-vocabulary keywords, trained from scratch on our batches.

Shin et al., Interspeech 2022, arXiv 2206.15400, as in papers/kws_benchmarks 2. Not stated there, so decided here:
- text: phones come from the batch; "dense 128" on one-hot phones is an embedding, without context or position;
- queries, keys and values have a linear layer each; the GRUs run forward only;
- L_MM: both A and M have rows (phones) that sum to 1 over the clip's frames; squared differences are summed over
  frames, then averaged over phones and pairs. The audio runs at the spoken text's rate, so a prefix match follows the
  diagonal of the spoken, not of the typed, phones; the boundary is the first phone that differs;
- L_DN: mean square over frames and channels; the noisy view is the same clip with noise added to its features, and
  only this view is matched;
- L_D: matches and mismatches weigh the same whatever their numbers; focal loss (exponent 2) from half of training on.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsleeper.models.family import Batch, ExportGraph
from lightsleeper.models.keyword import KeywordFamily
from lightsleeper.models.kws_encoder import SAMPLE_RATE, sample_audio
from lightsleeper.nn.augment import FeatureAugment
from lightsleeper.nn.frontend import LogMel
from lightsleeper.nn.gru import GRU
from lightsleeper.nn.optimizer import total_steps
from lightsleeper.nn.ranges import above_zero, at_least, share
from lightsleeper.nn.schedule import warmup_cosine
from lightsleeper.phones import BLANK, CLASSES, PHONES

CATALOG = ("KeywordCMCD",)

BANDWIDTH = 0.2  # of the Gaussian diagonal, in shares of the clip (published)
FOCUSING = 2.0  # exponent of the focal loss: the usual value


class AudioEncoder(nn.Module):
    """Two convolutions, two GRUs and a dense layer: one vector per 20 ms."""

    def __init__(self, n_mels: int, dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv1d(n_mels, dim, 5, stride=2, padding=2), nn.Conv1d(dim, 2 * dim, 5, padding=2)]
        )
        self.norms = nn.ModuleList([nn.BatchNorm1d(dim), nn.BatchNorm1d(2 * dim)])
        self.gru = GRU(2 * dim, dim, num_layers=2)
        self.dense = nn.Linear(dim, dim)

    def forward(self, features: Tensor, frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Features (B, T, mel), zero past ``frames`` (B,), to (B, (T+1)//2, dim) and its frames. None: no padding."""
        x = features
        for conv, norm, stride in zip(self.convs, self.norms, (2, 1), strict=True):
            x = conv(x.transpose(1, 2)).transpose(1, 2)
            if frames is None:
                x = F.relu(norm(x.transpose(1, 2)).transpose(1, 2))
                continue
            frames = (frames + stride - 1) // stride
            valid = torch.arange(x.shape[1], device=x.device) < frames[:, None]
            # Statistics over real frames only: a clip must not depend on how long its neighbours are.
            x = torch.zeros_like(x).masked_scatter(valid[:, :, None], F.relu(norm(x[valid])))
        return F.leaky_relu(self.dense(self.gru(x))), frames


class KeywordCMCD(KeywordFamily):
    """Cross-modal correspondence detector: attention of typed phones over the clip, read by a GRU.

    Args:
        n_mels: Mel bands of the front end. Published: 40.
        dim: Width of all layers but the second convolution, which has twice as many channels. Published: 128.
        normalize: clip subtracts the clip's mean spectrum; running does so causally; none.
        warp: Vocal-tract warp in training, as a share of the mel axis. Published: 0.
        easy_negatives: Texts of other clips in the batch that each clip is matched against, beside its hard negatives.
        matching_weight: Weight of the monotonic matching loss. Published: 0.3.
        denoising_weight: Weight of the loss between clean and noisy audio vectors. Published: 0.5.
        focal_from: Share of training after which the detection loss is focal. 1 is never.
        lr: Peak learning rate of Adam.
        warmup_steps: Steps until the peak; a cosine follows.
    """

    headline = ("test/auc_easy", "test/auc_hard", "test/eer_easy", "test/eer_hard")

    def __init__(
        self,
        n_mels: int = 40,
        dim: int = 128,
        normalize: Literal["clip", "running", "none"] = "clip",
        warp: float = 0.12,
        easy_negatives: int = 3,
        matching_weight: float = 0.3,
        denoising_weight: float = 0.5,
        focal_from: float = 0.5,
        lr: float = 1e-3,
        warmup_steps: int = 100,
    ) -> None:
        super().__init__({"shipped": ""})
        at_least(2, n_mels=n_mels)  # the warp interpolates between two bands
        at_least(1, dim=dim)
        at_least(0, easy_negatives=easy_negatives, warmup_steps=warmup_steps)
        at_least(0, matching_weight=matching_weight, denoising_weight=denoising_weight)
        above_zero(lr=lr)
        share(focal_from=focal_from)
        share(warp=warp, below_one=True)
        self._architecture = {"n_mels": n_mels, "dim": dim, "normalize": normalize}
        self.easy_negatives, self.focal_from = easy_negatives, focal_from
        self.matching_weight, self.denoising_weight = matching_weight, denoising_weight
        self.lr, self.warmup_steps = lr, warmup_steps
        self.frontend = LogMel(n_mels, SAMPLE_RATE, normalize=normalize)
        self.warp = FeatureAugment(warp, noise=0.0, freq_masks=0, time_masks=0)
        self.noise = FeatureAugment(0.0, noise=1.0, freq_masks=0, time_masks=0)
        self.audio_encoder = AudioEncoder(n_mels, dim)
        self.phone = nn.Embedding(CLASSES, dim, padding_idx=BLANK)
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.gru = GRU(dim, dim)
        self.logit = nn.Linear(dim, 1)
        self.apply(_initialize)

    def architecture(self) -> dict[str, Any]:
        return dict(self._architecture)

    def encode(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (B, S) with ``lengths`` (B,) samples to vectors (B, N, dim) and their frames (B,) of 20 ms."""
        features, frames = self.frontend(audio, lengths)
        vectors, frames = self.audio_encoder(features, frames)
        assert frames is not None
        return vectors, frames

    def match(self, vectors: Tensor, frames: Tensor | None, phones: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) of C texts a clip, phones (B, C, P), and their attention maps (B, C, P, N)."""
        batch, texts, longest = phones.shape
        query = self.query(self.phone(phones)).flatten(1, 2)  # (B, C P, dim)
        scores = query @ self.key(vectors).mT / math.sqrt(query.shape[-1])
        if frames is not None:
            padded = torch.arange(vectors.shape[1], device=vectors.device) >= frames[:, None]
            scores = scores.masked_fill(padded[:, None, :], -torch.inf)
        attention = scores.softmax(-1)
        found = (attention @ self.value(vectors)).reshape(batch * texts, longest, -1)
        states = self.gru(found)
        last = ((phones != BLANK).sum(-1).flatten() - 1).clamp_min(0)
        state = states.gather(1, last[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0]
        return self.logit(state).view(batch, texts), attention.unflatten(1, (texts, longest))

    def forward(self, audio: Tensor, phones: Tensor) -> Tensor:
        """Unpadded audio (1, S) and phones (1, P) to the logit (1,), as the exported graph sees them."""
        vectors, _ = self.audio_encoder(self.frontend.center(self.frontend.power(audio), None), None)
        return self.match(vectors, None, phones[:, None])[0][:, 0]

    def score(self, batch: Batch) -> dict[str, Tensor]:
        """The logit: the paper's sigmoid of it ranks alike but saturates in float32."""
        vectors, frames = self.encode(batch["audio"], batch["audio_lengths"])
        return {"shipped": self.match(vectors, frames, batch["phones"][:, None])[0][:, 0]}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        frames = self.frontend.frames(batch["audio_lengths"])
        clean = self.warp(self.frontend.power(batch["audio"]), frames)
        views = [self.frontend.center(view, frames) for view in (self.noise(clean, frames), clean)]
        vectors, both = self.audio_encoder(torch.cat(views), frames.repeat(2))
        noisy, clean = vectors.chunk(2)
        frames = both[: len(frames)]
        phones = self.candidates(batch)
        logits, attention = self.match(noisy, frames, phones)

        same = (phones == phones[:, :1]).all(-1)
        real = (phones != BLANK).any(-1)
        detection = detection_loss(logits[real], same[real], self._progress() >= self.focal_from)
        target = alignment_target(phones, frames, noisy.shape[1])
        matching = ((attention - target).square().sum(-1) * (phones != BLANK)).sum() / (phones != BLANK).sum()
        valid = torch.arange(noisy.shape[1], device=noisy.device) < frames[:, None]
        denoising = (clean - noisy)[valid].square().mean()
        loss = detection + self.matching_weight * matching + self.denoising_weight * denoising
        parts = {"train/detection": detection, "train/matching": matching, "train/denoising": denoising}
        self.log_dict(parts, batch_size=len(frames))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(frames))
        return loss

    def candidates(self, batch: Batch) -> Tensor:
        """Texts matched against each clip (B, 1 + K + E, P), its own first, then hard ones, then other clips'."""
        own = batch["phones"]
        groups = [own[:, None]]
        if "negative_phones" in batch:
            groups.append(batch["negative_phones"])
        groups += [own.roll(-shift, 0)[:, None] for shift in range(1, min(self.easy_negatives, len(own) - 1) + 1)]
        longest = max(group.shape[-1] for group in groups)
        return torch.cat([F.pad(group, (0, longest - group.shape[-1]), value=BLANK) for group in groups], dim=1)

    def _progress(self) -> float:
        """Share of training done, 0 to 1."""
        return self.global_step / total_steps(self.trainer)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), self.lr)
        factor = warmup_cosine(self.warmup_steps, total_steps(self.trainer))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def export_spec(self) -> list[ExportGraph]:
        def sample(seed: int, ms: float | None = None) -> dict[str, Tensor]:
            generator = torch.Generator().manual_seed(seed)
            count = int(torch.randint(2, 25, (), generator=generator))
            return {
                "audio": sample_audio(seed, ms),
                "phones": torch.randint(1, CLASSES, (1, count), generator=generator),
            }

        metadata = {
            "family": type(self).__name__,
            "sample_rate": str(SAMPLE_RATE),
            "phones": " ".join(PHONES),
            "threshold": repr(float(self.threshold)),
            "score": "logit",
        }
        return [
            ExportGraph(
                "model",
                self,
                sample,
                ["score"],
                {"audio": {1: "samples"}, "phones": {1: "phones"}},
                metadata,
                bench=lambda ms: sample(0, ms),
            )
        ]


@torch.no_grad()
def _initialize(layer: nn.Module) -> None:
    """Glorot and orthogonal weights, as in the TensorFlow code the sizes come from.

    torch's own defaults shrink activations by sqrt(3) a layer: six layers on, all texts would score alike.
    """
    if isinstance(layer, (nn.Linear, nn.Conv1d)):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.GRU):
        for name, weight in layer.named_parameters():
            if "bias" in name:
                nn.init.zeros_(weight)
            else:
                for gate in weight.chunk(3):
                    nn.init.orthogonal_(gate) if "weight_hh" in name else nn.init.xavier_uniform_(gate)


def detection_loss(logits: Tensor, match: Tensor, focal: bool) -> Tensor:
    """Cross-entropy of logits (n,), matches and mismatches averaged apart; focal: learnt pairs fade."""
    loss = F.binary_cross_entropy_with_logits(logits, match.to(logits.dtype), reduction="none")
    if focal:
        loss = loss * (1 - (-loss).exp()) ** FOCUSING
    groups = [loss[match].mean(), loss[~match].mean()] if 0 < int(match.sum()) < len(match) else [loss.mean()]
    return torch.stack(groups).mean()


@torch.no_grad()
def alignment_target(phones: Tensor, frames: Tensor, width: int) -> Tensor:
    """M (B, C, P, width): where each phone of texts (B, C, P) should look in a clip that says text 0.

    Phones up to the first that differs from the spoken text follow the Gaussian diagonal, the others get noise; rows
    sum to 1 over the clip's ``frames`` (B,), rows of padding are 0.
    """
    spoken = phones[:, 0]
    agreed = ((phones == spoken[:, None]) & (phones != BLANK)).cumprod(-1).bool()
    frame = torch.arange(width, device=phones.device)
    valid = frame < frames[:, None]  # (B, width)
    in_clip = (frame + 0.5) / frames.clamp_min(1)[:, None]
    count = (spoken != BLANK).sum(-1).clamp_min(1)
    in_text = (torch.arange(phones.shape[2], device=phones.device) + 0.5) / count[:, None]  # (B, P)
    diagonal = (-((in_text[:, :, None] - in_clip[:, None, :]) ** 2) / (2 * BANDWIDTH**2)).exp()
    noise = torch.rand(*phones.shape, width, device=phones.device)
    target = torch.where(agreed[..., None], diagonal[:, None], noise) * valid[:, None, None]
    target = target / target.sum(-1, keepdim=True).clamp_min(1e-6)
    return target * (phones != BLANK)[..., None]
