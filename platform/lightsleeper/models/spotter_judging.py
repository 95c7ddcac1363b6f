"""How a family that finds words is judged: by streams, chunk by chunk; its words, their places, and what it skipped."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightsleeper.errors import UserError
from lightsleeper.metrics.measurement import Measurement
from lightsleeper.metrics.skipping import SkippedMACs
from lightsleeper.metrics.words import PUBLISHED_THRESHOLD, WordDetection
from lightsleeper.models.family import Batch, Family
from lightsleeper.nn.spotting_encoders import SpottingEncoder
from lightsleeper.nn.windows import SAMPLE_RATE, Windowing

TARGET = "highest F1 on validation streams"


class Steps(NamedTuple):
    """What a chunk of k hops gives, P output steps for each; seconds count from the chunk's first sample."""

    score: Tensor
    """(B, k P) probability of the likeliest word; 0 where none is detected."""
    word: Tensor
    """(B, k P)"""
    begin_s: Tensor
    """(B, k P)"""
    end_s: Tensor
    """(B, k P)"""
    gates: Tensor | None
    """(B, k, modules) 1 where a module ran; None where the model has no gates."""
    state: Tensor
    """(B, S) for the next chunk."""


class JudgedSpotter(Family):
    """Base: a family gives ``stream`` and ``initial``, sets ``encoder``, ``windowing`` and ``gated``, and calls
    ``judge_words`` when it knows its ``words``."""

    threshold: Tensor
    encoder: SpottingEncoder
    windowing: Windowing
    gated: bool
    headline = ("test/f1", "test/mean_iou", "test/skipped")

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(math.nan))
        self.words: list[str] = []
        self._state: Tensor | None = None  # of the stream that is being judged

    def stream(self, audio: Tensor, state: Tensor) -> Steps:
        """The next chunk (B, k hops) of streams that are at ``state``."""
        raise NotImplementedError

    def initial(self, batch: int = 1) -> Tensor:
        """The state (batch, S) before anything was heard."""
        raise NotImplementedError

    @classmethod
    def check_source(cls, arguments: Mapping[str, Any], data: Any) -> None:
        if isinstance(slide_ms := arguments.get("slide_ms"), int):
            whole_slides(_chunk(data), slide_ms)

    def check_data(self, data: Any) -> None:
        """Chunks of streams must be whole slides: raises UserError."""
        whole_slides(_chunk(data), self.windowing.slide_ms)

    def judge_words(self) -> None:
        self.metric = WordDetection(self.words, PUBLISHED_THRESHOLD)
        self.skips = SkippedMACs(self.encoder.module_macs, self.encoder.fixed_macs)

    def _follow(self, batch: Batch, metric: WordDetection, skips: SkippedMACs | None = None) -> None:
        """The next chunk of a stream."""
        stream, content = int(batch["stream"]), str(batch["content"])
        if batch["first"] or self._state is None:
            self._state = self.initial()
            metric.add_stream(stream, batch["events"], float(batch["seconds"]), content)
        if not batch["last"]:
            whole_slides(batch["audio"].shape[1], self.windowing.slide_ms)
        audio = F.pad(batch["audio"], (0, -batch["audio"].shape[1] % self.windowing.slide_samples))
        steps = self.stream(audio, self._state)
        self._state = steps.state
        start_s = float(batch["start_s"])
        hop = round(start_s * 1000 / self.windowing.slide_ms)
        columns = (
            steps.score[0],
            steps.word[0],
            steps.begin_s[0].double() + start_s,
            steps.end_s[0].double() + start_s,
        )
        metric.update(stream, hop * self.windowing.outputs, *columns)
        if skips is not None and steps.gates is not None:
            skips.update(stream, content, hop, steps.gates[0])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.observe(batch)

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            super().on_validation_epoch_end()

    def observe(self, batch: Batch) -> None:
        self._follow(batch, self.metric, self.skips)

    def results(self, prefix: str, intervals: bool) -> dict[str, Measurement]:
        """A test is judged at the calibrated threshold, validation at its own best one."""
        threshold = None if self.threshold.isnan() else float(self.threshold)
        if not intervals:
            threshold = self.metric.best_threshold()
            threshold = PUBLISHED_THRESHOLD if math.isnan(threshold) else threshold
        found = self.metric.results(prefix, intervals, threshold)
        return {**found, **(self.skips.results(prefix, intervals) if self.gated else {})}

    def test_curves(self) -> dict[str, dict[str, Any]]:
        return {"": self.metric.curve()}

    def test_details(self) -> dict[str, Any]:
        """Words and false alarms one by one, and with gates the multiply-accumulates of hops by content."""
        details = self.metric.details(None if self.threshold.isnan() else float(self.threshold))
        return {**details, "encoder_macs": self.skips.distribution()} if self.gated else details

    def forget(self) -> None:
        super().forget()
        self._state = None

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Batch]) -> dict[str, Any]:
        """Threshold with the highest F1 on the validation streams; 0.95, as published, where no word was found."""
        metric, self._state = WordDetection(self.words).to(self.threshold.device), None
        for batch in batches:
            self._follow(batch, metric)
        self._state = None
        best = metric.best_threshold()
        self.threshold.fill_(PUBLISHED_THRESHOLD if math.isnan(best) else best)
        return {"value": float(self.threshold), "target": TARGET}


def _chunk(data: Any) -> int:
    """Samples that the data's streams come in; 0: they do not say."""
    return getattr(getattr(data, "plan", None), "chunk", 0)


def whole_slides(samples: int, slide_ms: int) -> None:
    """Raise UserError for chunks of so many samples that are no multiple of the slide."""
    if samples % (slide_ms * SAMPLE_RATE // 1000):
        raise UserError(
            f"chunks of {samples / SAMPLE_RATE:g} s are no whole slides of {slide_ms} ms: data.chunk_seconds must be a "
            "multiple of model.slide_ms."
        )
