"""What classifiers of single spoken words share: front end, augmentation, training, confusion matrix, export."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightsleeper.errors import UserError
from lightsleeper.metrics.classes import ClassMetrics
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.models.family import Batch, ExportGraph, Family
from lightsleeper.models.kws_encoder import SAMPLE_RATE, sample_audio
from lightsleeper.nn.augment import FeatureAugment, random_gain
from lightsleeper.nn.frontend import LogMel
from lightsleeper.nn.optimizer import scheduled_adamw
from lightsleeper.nn.ranges import above_zero, at_least, share

WINDOW_MS, HOP_MS = 30.0, 10.0

SHOWN = ("loss", "accuracy", "macro_accuracy")


class WordClassifier(Family):
    """Base: log-mel features of a clip, a network behind them (`classify`), one class per word.

    Arguments are those of the families. Raises ValueError for values without sense.
    """

    headline = ("test/macro_accuracy",)

    def __init__(
        self,
        words: list[str],
        n_mels: int,
        normalize: Literal["clip", "running", "none"],
        gain_db: tuple[float, float] | None,
        augment: FeatureAugment,
        lr: float,
        warmup_steps: int,
        weight_decay: float,
    ) -> None:
        super().__init__()
        if len(words) < 2 or len(set(words)) < len(words):
            raise ValueError(f"words must be two or more different ones; got {words}")
        at_least(2, n_mels=n_mels)  # the warp interpolates between two bands
        at_least(0, masks=augment.freq_masks, warmup_steps=warmup_steps, weight_decay=weight_decay)
        above_zero(lr=lr)
        share(noise=augment.noise)
        share(warp=augment.warp, below_one=True)
        if gain_db is not None and not -120 <= gain_db[0] <= gain_db[1] <= 60:
            raise ValueError(f"gain_db must be a lowest and a highest gain from -120 to 60; got {list(gain_db)}")
        self._architecture: dict[str, Any] = {"words": list(words), "n_mels": n_mels, "normalize": normalize}
        self.words, self.gain_db, self.lr = list(words), gain_db, lr
        self.warmup_steps, self.weight_decay = warmup_steps, weight_decay
        self.frontend = LogMel(n_mels, SAMPLE_RATE, WINDOW_MS, HOP_MS, normalize)
        self.augment = augment
        self.class_metrics = ClassMetrics(words)

    def architecture(self) -> dict[str, Any]:
        return dict(self._architecture)

    @classmethod
    def check_source(cls, arguments: Mapping[str, Any], data: Any) -> None:
        if "words" in arguments:
            _same_words(arguments["words"], data)

    def setup(self, stage: str) -> None:
        _same_words(self.words, getattr(self.trainer, "datamodule", None))

    def classify(self, features: Tensor) -> Tensor:
        """Features (B, T, mel) to logits (B, words)."""
        raise NotImplementedError

    def forward(self, audio: Tensor) -> Tensor:
        """Audio (B, S), 16 kHz in [-1, 1], at least 30 ms, to logits (B, words)."""
        return self.classify(self.frontend.center(self.frontend.power(audio), None))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        power = self.frontend.power(random_gain(batch["audio"], self.gain_db))
        frames = torch.full((len(power),), power.shape[1], device=power.device)
        logits = self.classify(self.frontend.center(self.augment(power, frames), None))
        loss = F.cross_entropy(logits, batch["word"])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(power))
        return loss

    def observe(self, batch: Batch) -> None:
        logits = self(batch["audio"])
        losses = F.cross_entropy(logits, batch["word"], reduction="none")
        groups = batch["speaker"] if "speaker" in batch else batch["clip"]  # clips of a speaker are not independent
        self.class_metrics.update(losses, logits.argmax(1), batch["word"], groups)

    def results(self, prefix: str, intervals: bool) -> dict[str, Measurement]:
        found = self.class_metrics.results(prefix, intervals=intervals)
        # Word by word in the test alone: a dozen curves of training would hide the three that matter.
        return found if intervals else {prefix + name: found[prefix + name] for name in SHOWN}

    def configure_optimizers(self) -> Any:
        return scheduled_adamw(self.trainer, self.parameters(), self.lr, self.weight_decay, "cosine", self.warmup_steps)

    def export_spec(self) -> list[ExportGraph]:
        metadata = {
            "family": type(self).__name__,
            "sample_rate": str(SAMPLE_RATE),
            "words": ",".join(self.words),
            "score": "logits",
        }
        return [
            ExportGraph(
                "model",
                self,
                lambda seed: {"audio": sample_audio(seed)},
                ["logits"],
                {"audio": {1: "samples"}},
                metadata,
                bench=lambda ms: {"audio": sample_audio(0, ms)},
            )
        ]


def _same_words(own: Sequence[str], data: Any) -> None:
    """Raise UserError where the data know their words, and they are others."""
    found = list(getattr(data, "words", None) or own)
    if found == list(own):
        return
    missing, further = (sorted(set(a) - set(b)) for a, b in ((found, own), (own, found)))
    if not missing and not further:
        raise UserError(f"model.words stand in another order than those of the data: {', '.join(found)}.")
    parts = [f"{what} {', '.join(words)}" for what, words in (("lack", missing), ("have besides", further)) if words]
    raise UserError(f"model.words ({len(own)}) are not those of the data ({len(found)}): they {' and '.join(parts)}.")
