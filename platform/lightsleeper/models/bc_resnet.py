"""BC-ResNet (Kim et al., Interspeech 2021, arXiv 2106.04140): the accurate, branched network that RepCNN is compared
with. Centred as published it tells words apart (Speech Commands), causal it hears a wake word in a stream.

Sizes and the training recipe are those of the authors' public code (papers/kws_benchmarks 5); the parameter counts are
equal to theirs. For streams we leave out the mean over time, or take it over the last frames.
"""

from typing import Any

from torch import Tensor, nn

from lightsleeper.models.wakeword_labels import LabelledWakeWord
from lightsleeper.models.word_classifier import WordClassifier
from lightsleeper.nn.augment import FeatureAugment
from lightsleeper.nn.bc_resnet import MELS, trunk, trunk_width
from lightsleeper.nn.causal import TrailingMean
from lightsleeper.nn.optimizer import scheduled_sgd
from lightsleeper.nn.ranges import at_least

CATALOG = ("SpokenWordBCResNet", "BCResNet")

MASKED_BANDS = {1.5: 1, 2: 3, 3: 5, 6: 7, 8: 7}  # widest frequency mask by tau; none for tau 1


class BCResNet(LabelledWakeWord):
    """Causal BC-ResNet, one logit every 10 ms.

    Args:
        tau: Width in units of 8 channels. Published: 1, 1.5, 2, 3, 6, 8.
        pool_frames: Frames over which the last layer is averaged. Published, for clips: all.
        settings: Arguments of `LabelledWakeWord`.
    """

    def __init__(self, tau: float = 1.0, pool_frames: int = 1, **settings: Any) -> None:
        super().__init__(**settings)
        need_mels(self.n_mels)
        at_least(1, pool_frames=pool_frames)
        width = trunk_width(tau)
        layers = (trunk(tau, causal=True), TrailingMean(width, pool_frames), nn.Conv1d(width, 1, 1))
        self.build(*layers, tau=tau, pool_frames=pool_frames)


def need_mels(n_mels: int) -> None:
    """Raise ValueError where a BC-ResNet does not fit."""
    if n_mels != MELS:
        raise ValueError(f"n_mels must be {MELS} for a BC-ResNet, whose kernels leave one row of them; got {n_mels}")


class SpokenWordBCResNet(WordClassifier):
    """Centred BC-ResNet over the log-mel frames of a clip, one class per word, trained as published.

    Args:
        words: Words to tell apart, in the order of the data's.
        tau: Width in units of 8 channels. Published: 1, 1.5, 2, 3, 6, 8.
        spec_augment: Masks of the published widths: two in time of a fifth of the clip, two in frequency; none for
            tau 1.
        gain_db: Lowest and highest gain drawn for each training clip, before the front end.
        lr: Peak learning rate of SGD. Published: 0.1 at a batch of 100.
        warmup_steps: Steps until the peak; a cosine to zero follows. Published: 5 of 200 epochs.
        weight_decay: Published: 1e-3.
    """

    def __init__(
        self,
        words: list[str],
        tau: float = 1.0,
        spec_augment: bool = True,
        gain_db: tuple[float, float] | None = None,
        lr: float = 0.1,
        warmup_steps: int = 50,
        weight_decay: float = 1e-3,
    ) -> None:
        bands = MASKED_BANDS.get(tau, 7 if tau > 3 else 3 if tau > 1 else 0) if spec_augment else 0
        masks = 2 if bands else 0
        augment = FeatureAugment(0.0, 0.0, masks, masks, freq_share=bands / MELS, time_share=0.2)
        super().__init__(words, MELS, "none", gain_db, augment, lr, warmup_steps, weight_decay)
        self.trunk = trunk(tau, causal=False)
        self.head = nn.Conv1d(trunk_width(tau), len(words), 1)
        self._architecture = {"words": list(words), "tau": tau}

    def classify(self, features: Tensor) -> Tensor:
        return self.head(self.trunk(features.transpose(1, 2)).mean(2, keepdim=True)).squeeze(2)

    def configure_optimizers(self) -> Any:
        return scheduled_sgd(self.trainer, self.parameters(), self.lr, self.weight_decay, self.warmup_steps)
