"""What all wake-word detectors share: audio in, one score a frame out, with explicit state; calibration, tests, export.

A family builds ``chain``, causal layers from samples to outputs per frame (nn/causal), and says how they become a score
and the start of the keyword. The same chain trains on clips, runs on streams and is the exported graph.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from lightsleeper_callbacks.repconv import RepConv1d
from torch import Tensor, nn

from lightsleeper.errors import UserError
from lightsleeper.metrics.detection import FRRAtFalseAlarms
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.models.family import Batch, ExportGraph, Family
from lightsleeper.models.kws_encoder import SAMPLE_RATE, sample_audio
from lightsleeper.nn.augment import FeatureAugment, random_gain
from lightsleeper.nn.causal import Causal, Chain, ExponentialMean, FrontEnd
from lightsleeper.nn.optimizer import scheduled_adamw
from lightsleeper.nn.planar import planar
from lightsleeper.nn.ranges import above_zero, at_least, share

WINDOW_MS, HOP_MS = 30.0, 10.0
CHUNKS_MS = (20.0, 80.0, 320.0)  # timed: one step of the network, and what an application may hand over at once


class Frames(NamedTuple):
    """What a chunk of audio gives; frame t of it has heard ``hop_samples * (t + 1)`` samples of the chunk."""

    score: Tensor
    """(B, T), larger means a likelier end of the keyword."""
    start_s: Tensor | None
    """(B, T) seconds back from the frame to the keyword's start; None where the family does not tell."""
    state: Tensor
    """(B, S) for the next chunk."""


class WakeWord(Family):
    """Base of the wake-word families.

    Args:
        n_mels: Mel bands of the front end.
        normalize: none, or exponential, which subtracts a mean spectrum that forgets: a fixed channel disappears.
        adapt_seconds: Time constant of that mean.
        gain_db: Lowest and highest gain drawn for each training clip, before the front end. Peers of RepCNN: -40, 10.
        warp: Vocal-tract warp in training, as a share of the mel axis.
        noise: Share of training clips that get extra noise in the feature domain.
        masks: SpecAugment frequency masks in training; a time mask comes with the first.
        lr: Peak learning rate of AdamW.
        warmup_steps: Steps until the peak; a cosine follows.
        weight_decay: Decoupled weight decay.
        fa_per_hour: False alarms an hour at which rejects are measured and the threshold is set.
        smoothing_ms: Stretch over which scores are averaged before the threshold.
        refractory_s: Silence of the detector after an event.
        tolerance_s: How long after the keyword's end an event still counts.
        frontend: inside, or separate for devices that bring their own: the exported graph takes log-mel features then.
    """

    threshold: Tensor
    chain: Chain
    headline = ("test/frr", "test/fa_per_hour")

    @classmethod
    def check_source(cls, arguments: Mapping[str, Any], data: Any) -> None:
        """Of our own data modules only one knows a phrase; a user's may be anything."""
        if type(data).__module__.startswith("lightsleeper.") and not hasattr(data, "phrase_phones"):
            raise UserError(
                f"{cls.__name__} detects one phrase, and {type(data).__name__} knows none: WakeWords does, also in own "
                "recordings (its path)."
            )

    def __init__(
        self,
        n_mels: int = 40,
        normalize: Literal["none", "exponential"] = "none",
        adapt_seconds: float = 3.0,
        gain_db: tuple[float, float] | None = (-20.0, 10.0),
        warp: float = 0.12,
        noise: float = 0.0,
        masks: int = 1,
        lr: float = 5e-3,
        warmup_steps: int = 50,
        weight_decay: float = 0.01,
        fa_per_hour: float = 0.5,
        smoothing_ms: float = 60.0,
        refractory_s: float = 1.0,
        tolerance_s: float = 0.5,
        frontend: Literal["inside", "separate"] = "inside",
    ) -> None:
        super().__init__()
        at_least(2, n_mels=n_mels)  # the warp interpolates between two bands
        at_least(0, masks=masks, warmup_steps=warmup_steps, weight_decay=weight_decay, smoothing_ms=smoothing_ms)
        at_least(0, refractory_s=refractory_s, tolerance_s=tolerance_s)
        above_zero(lr=lr, fa_per_hour=fa_per_hour, adapt_seconds=adapt_seconds)
        share(noise=noise)
        share(warp=warp, below_one=True)
        if gain_db is not None and not -120 <= gain_db[0] <= gain_db[1] <= 60:
            raise ValueError(f"gain_db must be a lowest and a highest gain from -120 to 60; got {list(gain_db)}")
        self._architecture: dict[str, Any] = {
            "n_mels": n_mels,
            "normalize": normalize,
            "adapt_seconds": adapt_seconds,
            "fa_per_hour": fa_per_hour,
            "smoothing_ms": smoothing_ms,
            "refractory_s": refractory_s,
            "tolerance_s": tolerance_s,
            "frontend": frontend,
        }
        self.frontend = frontend
        self.n_mels, self.gain_db = n_mels, gain_db
        self.lr, self.warmup_steps, self.weight_decay = lr, warmup_steps, weight_decay
        self.fa_per_hour, self.smoothing_ms = fa_per_hour, smoothing_ms
        self.refractory_s, self.tolerance_s = refractory_s, tolerance_s
        self._front: list[Causal] = [
            FrontEnd(n_mels, SAMPLE_RATE, WINDOW_MS, HOP_MS, FeatureAugment(warp, noise, masks, min(masks, 1)))
        ]
        if normalize == "exponential":
            self._front.append(ExponentialMean(n_mels, 1000 * adapt_seconds / HOP_MS))
        self.register_buffer("threshold", torch.tensor(math.nan))
        self._state: Tensor | None = None  # of the stream that is being evaluated
        self._shipped: tuple[Chain, ...] = ()  # what validation listens with; in a tuple it is no submodule

    def build(self, *layers: nn.Module, **architecture: Any) -> None:
        """Called once by a family: its layers behind the front end, and its own constructor arguments."""
        self.chain = Chain(*self._front, *layers)
        del self._front
        self._architecture.update(architecture)
        self.metric = self.new_metric()

    def architecture(self) -> dict[str, Any]:
        return dict(self._architecture)

    # Time.

    @property
    def hop_samples(self) -> int:
        """Samples per output frame."""
        return self.chain.stride

    @property
    def frame_s(self) -> float:
        return self.hop_samples / SAMPLE_RATE

    @property
    def receptive_samples(self) -> int:
        """Samples that a frame sees: the newest it has heard and those before."""
        return self.chain.past + 1

    @property
    def receptive_s(self) -> float:
        return self.receptive_samples / SAMPLE_RATE

    @property
    def smoothing_frames(self) -> int:
        return max(1, round(self.smoothing_ms / 1000 / self.frame_s))

    def times(self, frames: int) -> Tensor:
        """Seconds (frames,), float64, from the start of the audio to the newest sample of each frame."""
        return (torch.arange(frames, dtype=torch.double) + 1) * self.frame_s

    # Scores.

    def read(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores and starts, both (B, T), of the chain's outputs (B, C, T)."""
        return outputs[:, 0].sigmoid(), None

    def initial(self, batch: int = 1) -> Tensor:
        """The state (batch, S) before anything was heard."""
        return torch.zeros(batch, self.chain.state_size, device=self.threshold.device)

    def stream(self, audio: Tensor, state: Tensor) -> Frames:
        """The next chunk (B, n * hop_samples), 16 kHz in [-1, 1], of streams that are at ``state``."""
        outputs, state = self.chain.stream(audio, state)
        return Frames(*self.read(outputs), state)

    def forward(self, audio: Tensor) -> Tensor:
        """Scores (B, T) of clips (B, S), as of streams that begin with them; a last part of a hop is left out."""
        return self.read(self.chain(self.whole_hops(audio)))[0]

    def example_input(self) -> Tensor:
        """Audio (1, samples) for whoever traces the network: of the streaming graph, states are outputs too."""
        return sample_audio(0, 600.0)

    def whole_hops(self, audio: Tensor) -> Tensor:
        return audio[:, : audio.shape[1] // self.hop_samples * self.hop_samples]

    # Training.

    def loss(self, outputs: Tensor, times: Tensor, batch: Batch) -> Tensor:
        """Loss of training outputs (B, C, T) of frames at ``times`` (T,)."""
        raise NotImplementedError

    def outputs(self, audio: Tensor) -> Tensor:
        """What is trained, (B, C, T): the chain's outputs."""
        return self.chain(audio)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        outputs = self.outputs(self.whole_hops(random_gain(batch["audio"], self.gain_db)))
        loss = self.loss(outputs, self.times(outputs.shape[-1]).to(outputs.device), batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(outputs))
        return loss

    def configure_optimizers(self) -> Any:
        return scheduled_adamw(self.trainer, self.parameters(), self.lr, self.weight_decay, "cosine", self.warmup_steps)

    # Evaluation on streams.

    def new_metric(self) -> FRRAtFalseAlarms:
        """What judges scores of this family on streams."""
        return FRRAtFalseAlarms(
            self.fa_per_hour, self.frame_s, self.smoothing_frames, self.refractory_s, self.tolerance_s
        )

    def on_validation_epoch_start(self) -> None:
        # Branches as they ship, in one convolution each: hours of validation cost half of what they would.
        branched = [path for path, layer in self.chain.named_modules() if isinstance(layer, RepConv1d)]
        chain = copy.deepcopy(self.chain) if branched else self.chain
        for path in branched:
            layer: Any = chain.get_submodule(path)
            chain.set_submodule(path, layer.reparameterize())
        self._shipped = (chain,)

    def _follow(self, batch: Batch, metric: FRRAtFalseAlarms) -> None:
        """The next chunk of a stream."""
        stream = int(batch["stream"])
        if batch["first"] or self._state is None:
            self._state = self.initial()
            metric.add_stream(stream, batch["events"])
        chain = self._shipped[0] if self._shipped else self.chain
        outputs, self._state = chain.stream(batch["audio"], self._state)
        score, start_s = self.read(outputs)
        starts = None if start_s is None else start_s[0]
        metric.update(score[0], stream, round(float(batch["start_s"]) / self.frame_s), starts)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.observe(batch)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        self.log("val/score", self.metric.selection(), prog_bar=True, batch_size=1)
        super().on_validation_epoch_end()

    def on_validation_end(self) -> None:
        self._shipped = ()

    def observe(self, batch: Batch) -> None:
        self._follow(batch, self.metric)

    def results(self, prefix: str, intervals: bool) -> dict[str, Measurement]:
        if not intervals:
            return self.metric.results(prefix, also=())
        return self.metric.results(prefix, threshold=self._own_threshold())

    def test_curves(self) -> dict[str, dict[str, Any]]:
        return {"": self.metric.curve()}

    def test_details(self) -> dict[str, list[Any]]:
        return self._keywords(self._own_threshold())

    def forget(self) -> None:
        super().forget()
        self._state = None

    def _own_threshold(self) -> float | None:
        return None if self.threshold.isnan() else float(self.threshold)

    def _keywords(self, threshold: float | None) -> dict[str, list[Any]]:
        """Each keyword of a test by column, for comparisons that pair them (bench wakeword)."""
        found = self.metric.detections(math.inf if threshold is None else threshold)
        truths, events = zip(*found, strict=True) if found else ((), ())
        return {
            "begin_s": [begin for begin, _ in truths],
            "end_s": [_known(end) for _, end in truths],
            "detected": self.metric.outcomes(self.metric.threshold()).tolist(),  # at the target, chosen on these data
            "start_found_s": [None if event is None else _known(event.start_s) for event in events],  # at `threshold`
            "end_found_s": [None if event is None else event.end_s for event in events],
        }

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Batch]) -> dict[str, Any]:
        """Threshold at the target of false alarms an hour on the validation streams."""
        metric, self._state = self.new_metric(), None
        for batch in batches:
            self._follow(batch, metric)
        self._state = None
        self.threshold.fill_(metric.threshold())
        return {"value": float(self.threshold), "target": self._target()}

    def _target(self) -> str:
        return f"{self.fa_per_hour:g} false alarms an hour on validation streams"

    # The deliverable.

    def context(self) -> dict[str, float | None]:
        """An exponential mean reaches further back than ``past_ms``, with what is left of its weight."""
        return {
            "past_ms": 1000.0 * self.chain.past / SAMPLE_RATE,
            "future_ms": 0.0,
            "state_bytes": 4.0 * self.chain.state_size,
        }

    def export_spec(self) -> list[ExportGraph]:
        hop, inside = self.hop_samples, self.frontend == "inside"
        front, *others = self.chain.layers
        chain = planar(self.chain if inside else Chain(*others)).eval()  # the same layers, or their weights
        tells_start = self.read(torch.zeros(1, self._outputs(), 1))[1] is not None

        def noise(seed: int, hops: int) -> Tensor:
            audio = sample_audio(seed, 1000 * hops * self.frame_s)[:, : hop * hops]
            return audio if inside else front(audio)

        @torch.no_grad()
        def sample(seed: int) -> dict[str, Tensor]:
            # The exporter takes an axis of length 1 for fixed: the first sample has more.
            given = noise(seed, 4 + seed % 5)
            state = chain.initial(given)
            if seed:
                _, state = chain.stream(noise(seed + 1000, 5 * (seed % 7) + 1), state)
            return {"audio" if inside else "features": given, "state": state}

        @torch.no_grad()
        def bench(ms: float) -> dict[str, Tensor]:
            given = noise(0, max(1, round(ms / 1000 / self.frame_s)))
            return {"audio" if inside else "features": given, "state": chain.initial(given)}

        return [
            ExportGraph(
                "model",
                _StreamGraph(chain, self.read).eval(),
                sample,
                ["score", "offset", "next_state"] if tells_start else ["score", "next_state"],
                {"audio": {1: "samples"}} if inside else {"features": {2: "frames"}},
                {
                    "family": type(self).__name__,
                    "sample_rate": str(SAMPLE_RATE),
                    "hop_samples": str(hop),
                    "state_size": str(chain.state_size),
                    "receptive_field_samples": str(self.receptive_samples),
                    "threshold": repr(float(self.threshold)),
                    "target": self._target(),
                    "fa_per_hour": repr(self.fa_per_hour),
                    "smoothing_frames": str(self.smoothing_frames),
                    "refractory_s": repr(self.refractory_s),
                    "tolerance_s": repr(self.tolerance_s),
                    "frontend": f"log-mel, {self.n_mels} bands, {WINDOW_MS:g} ms every {HOP_MS:g} ms, {self.frontend}",
                },
                bench=bench,
                per="hop",
                chunks_ms=CHUNKS_MS,
            )
        ]

    def _outputs(self) -> int:
        """Channels of the chain's outputs."""
        return 1


def _known(time_s: float) -> float | None:
    return time_s if math.isfinite(time_s) else None


class _StreamGraph(nn.Module):
    """What is exported: audio (1, samples) or features (1, mel, n), and state (1, S), to scores (1, frames), offsets in
    seconds where they are told, and the new state."""

    def __init__(self, chain: Chain, read: Callable[[Tensor], tuple[Tensor, Tensor | None]]) -> None:
        super().__init__()
        self.chain, self.read = chain, read

    def forward(self, given: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        outputs, state = self.chain.stream(given, state)
        score, start = self.read(outputs)
        return (score, state) if start is None else (score, start, state)
