"""What the families on a phoneme-CTC encoder share: several scores of one pair, and their weighted sum that ships."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightsleeper.models.family import Batch
from lightsleeper.models.keyword import KeywordFamily
from lightsleeper.models.kws_encoder import PhonemeCTC
from lightsleeper.nn.fusion import logistic_weights
from lightsleeper.nn.matching import IMPOSSIBLE
from lightsleeper.nn.optimizer import Schedule, scheduled_adamw
from lightsleeper.nn.ranges import above_zero, at_least


class FusedKeyword(KeywordFamily):
    """A keyword family with an ``encoder`` and several scores; a subclass gives `judge`.

    Args:
        parts: Names of the scores that are fused.
        others: Names of further scores, reported only.
        score: Which of ``parts`` ships, or fused.
        easy_negatives: Random texts a clip in training.
        train_encoder: Whether gradients reach the encoder; otherwise it stays in eval mode.
        lr, schedule, warmup_steps, weight_decay: Of AdamW.
        fused_weights: Of ``parts`` in the fused score, by name, the others 0; None: calibrated on validation.

    Raises:
        ValueError: a number is out of range, or a weight is of no part.
    """

    encoder: PhonemeCTC
    fusion: Tensor
    """Weights of ``parts`` in the fused score."""
    headline = ("test/auc_easy", "test/auc_hard", "test/eer_easy", "test/eer_hard")

    def __init__(
        self,
        parts: Sequence[str],
        others: Sequence[str],
        score: str,
        easy_negatives: int,
        train_encoder: bool,
        lr: float,
        schedule: Schedule,
        warmup_steps: int,
        weight_decay: float,
        fused_weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__({"shipped": "", **{name: f"{name}_" for name in (*parts, *others)}})
        at_least(0, easy_negatives=easy_negatives, warmup_steps=warmup_steps, weight_decay=weight_decay)
        above_zero(lr=lr)
        self.parts, self.score_kind = list(parts), score
        self.easy_negatives, self.train_encoder = easy_negatives, train_encoder
        self.lr, self.schedule, self.warmup_steps, self.weight_decay = lr, schedule, warmup_steps, weight_decay
        self._architecture: dict[str, Any] = {}
        self.calibrated = fused_weights is None
        self.register_buffer("fusion", _shares(parts, fused_weights or dict.fromkeys(parts, 1.0)))

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """Every score (B,) but the one that ships; `IMPOSSIBLE` where a clip is too short for a text."""
        raise NotImplementedError

    def architecture(self) -> dict[str, Any]:
        return dict(self._architecture)

    def score(self, batch: Batch) -> dict[str, Tensor]:
        scores = self.judge(batch)
        return {"shipped": self.ship(scores), **scores}

    def ship(self, scores: dict[str, Tensor]) -> Tensor:
        """The score that ships (R,), of those in ``scores``."""
        if self.score_kind != "fused":
            return scores[self.score_kind]
        names = [name for name in self.parts if name in scores]  # a graph leaves out those that count nothing
        weights = self.fusion[[self.parts.index(name) for name in names]]
        return torch.stack([scores[name] for name in names], dim=-1) @ weights

    def counted(self) -> list[str]:
        """Names of ``parts`` that the score that ships is made of."""
        if self.score_kind != "fused":
            return [self.score_kind]
        return [name for name, weight in zip(self.parts, self.fusion.tolist(), strict=True) if weight > 0]

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Batch]) -> dict[str, Any]:
        """Fusion weights by logistic regression where none are given, then the threshold at equal error, both on
        validation pairs."""
        rows, kept = [], []
        for batch in batches:
            scores = self.judge(batch)
            rows.append(torch.stack([scores[name] for name in self.parts], dim=1).cpu())
            kept.append({key: batch[key] for key in ("label", "kind", "episode", "word_count")})
        if not rows:
            return {}
        features, labels = torch.cat(rows), torch.cat([batch["label"] for batch in kept]).cpu()
        solvable = (features > IMPOSSIBLE).all(1)  # a single -1e4 would outweigh all others in a logistic loss
        if self.calibrated and len(labels[solvable].unique()) == 2:
            self.fusion.copy_(logistic_weights(features[solvable], labels[solvable]))
        shipped = [self.ship(dict(zip(self.parts, row.to(self.fusion.device).T, strict=True))).cpu() for row in rows]
        return self.set_threshold(zip(shipped, kept, strict=True))

    def train(self, mode: bool = True) -> "FusedKeyword":
        super().train(mode)
        if not self.train_encoder:
            self.encoder.eval()
        return self

    def configure_optimizers(self) -> Any:
        return scheduled_adamw(
            self.trainer, self.parameters(), self.lr, self.weight_decay, self.schedule, self.warmup_steps
        )

    def context(self) -> dict[str, float | None]:
        """The encoder's: it streams, and matching runs on the frames of a clip that it has gathered."""
        return self.encoder.context()

    def streaming(self) -> Any:
        """The encoder's stream; matching runs on the frames it has gathered."""
        return self.encoder.streaming()


def _shares(parts: Sequence[str], weights: Mapping[str, float]) -> Tensor:
    """``weights`` (F,) of ``parts`` scaled to sum to one. Raises ValueError as `FusedKeyword`."""
    if unknown := [name for name in weights if name not in parts]:
        raise ValueError(f"fused_weights: there is no score '{unknown[0]}'; expected of {', '.join(parts)}")
    found = torch.tensor([float(weights.get(name, 0.0)) for name in parts])
    if not (found.isfinite().all() and found.min() >= 0 and found.sum() > 0):
        raise ValueError(f"fused_weights must be numbers of at least 0, not all of them 0, got {dict(weights)}")
    return found / found.sum()
