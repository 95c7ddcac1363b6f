"""The phoneme-to-vector table as a step of its own: built from a trained encoder by hearing training clips once.

It has no gradient and no optimizer; what the fit does instead is one pass over (a part of) the training clips. Encoder
and table are saved together, so a table never meets another encoder than its own: a changed encoder is another run of
`kws_encoder`, hence another hash, hence another table.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lightsleeper.models.family import Batch
from lightsleeper.models.keyword import KeywordFamily
from lightsleeper.models.kws_encoder import load_encoder, sample_audio
from lightsleeper.models.kws_rows import best_of, evaluation_rows, spoken
from lightsleeper.nn.alignment import cosines, monotone_cuts, runs
from lightsleeper.nn.ctc import keyword_score
from lightsleeper.nn.matching import IMPOSSIBLE
from lightsleeper.nn.p2v import PhoneTable
from lightsleeper.nn.partition import dsp_partition
from lightsleeper.nn.ranges import at_least

CATALOG = ("PhonemeVectors",)

Alignment = Literal["matrix", "dsp"]
DRIFT = 0.01  # share of its spread by which an encoder may move before its table counts as stale
REBUILT_FROM = 2000  # exactly decoded clips: 50 occurrences even of a phone that is one in four hundred


class PhonemeVectors(KeywordFamily):
    """An audio encoder and the table of what it emits for each phone; scores by alignment alone, untrained.

    Args:
        encoder: Run or export folder of a trained PhonemeCTC, or its architecture as a mapping (random weights).
        exact_clips: Clips decoded without error after which no more are counted. Published: 50000.
        alignment: How its own score aligns frames and phones: matrix (on the cosine matrix), or dsp (on the vectors).
    """

    headline = ("test/auc_easy", "test/auc_hard")

    def __init__(
        self,
        encoder: str | Path | dict[str, Any],
        exact_clips: int = 50_000,
        alignment: Alignment = "matrix",
    ) -> None:
        super().__init__({"shipped": "", "ctc": "ctc_"})
        at_least(1, exact_clips=exact_clips)
        self.automatic_optimization = False
        self.exact_clips, self.alignment = exact_clips, alignment
        self.encoder, encoder_architecture = load_encoder(encoder, {})
        self.encoder.requires_grad_(False)
        self.table = PhoneTable(encoder_architecture["dim"])
        self._architecture = {"encoder": encoder_architecture, "alignment": alignment}

    def architecture(self) -> dict[str, Any]:
        return dict(self._architecture)

    def train(self, mode: bool = True) -> "PhonemeVectors":
        super().train(mode)
        self.encoder.eval()
        return self

    def configure_optimizers(self) -> None:
        # Lightning warns that there is no optimizer; here it is meant.
        warnings.filterwarnings("ignore", message=".*configure_optimizers` returned `None`")

    def on_train_epoch_start(self) -> None:
        self.table.clear()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        if self.table.exact < self.exact_clips:
            count_in(self.encoder, self.table, batch)

    def on_validation_start(self) -> None:
        if self.table.clips:  # none have been heard in the sanity check, and in a validation of its own
            self._build()

    def on_train_epoch_end(self) -> None:
        self._build()
        phones = self.table.counts[1:]
        self.log_dict(
            {
                "table/exact_clips": float(self.table.exact),
                "table/exact_share": self.table.exact / max(self.table.clips, 1),
                "table/unseen_phones": float((phones == 0).sum()),
                "table/fewest_occurrences": float(phones.min()),
            }
        )

    def _build(self) -> None:
        build(self.encoder, self.table)

    def score(self, batch: Batch) -> dict[str, Tensor]:
        """Mean cosine of frames and their phones' vectors, and the CTC likelihood."""
        rows, pair = evaluation_rows(batch)
        hidden, frames = self.encoder.encode(rows.audio, rows.audio_lengths)
        log_probs = self.encoder.log_probs(hidden)
        hidden, frames, counts = hidden.float()[rows.clip], frames[rows.clip], (rows.phones > 0).sum(1)
        tokens = self.table(rows.phones)
        cosine = cosines(tokens, hidden)
        cuts = align(self.alignment, hidden, tokens, cosine, frames, counts)
        scores = {
            "shipped": mean_cosine(cosine, cuts, frames),
            "ctc": keyword_score(log_probs[rows.clip], frames, rows.phones),
        }
        return {name: best_of(value, pair, len(batch["phones"])) for name, value in scores.items()}

    def observe(self, batch: Batch) -> None:
        if self.table.built:  # not in the sanity check, before anything was heard
            super().observe(batch)

    def rebuild(self, batches: Callable[[], Iterable[Batch]]) -> None:
        if stale(self.encoder, self.table):
            refresh(self.encoder, self.table, batches())


def align(kind: Alignment, hidden: Tensor, tokens: Tensor, cosine: Tensor, frames: Tensor, counts: Tensor) -> Tensor:
    """Cuts (B, M+1) of hidden (B, N, d) and tokens (B, M, d) with their cosine (B, M, N): by it, or by DSP."""
    if kind == "matrix":
        return monotone_cuts(cosine, frames, counts)
    return dsp_partition(hidden, tokens, frames, counts)


def mean_cosine(cosine: Tensor, cuts: Tensor, frames: Tensor) -> Tensor:
    """Mean (B,) over frames of the cosine (B, M, N) with the phone each belongs to; IMPOSSIBLE without alignment."""
    total = (cosine * runs(cuts, cosine.shape[2])).sum((1, 2))
    return torch.where(cuts[:, -1] > 0, total / frames.clamp_min(1), IMPOSSIBLE)


@torch.no_grad()
def count_in(encoder: Any, table: PhoneTable, batch: Batch) -> None:
    """Hear the recordings of a training batch for the table."""
    phones, known = spoken(batch)
    hidden, frames = encoder.encode(batch["audio"][known], batch["audio_lengths"][known])
    table.add(hidden, encoder.log_probs(hidden), frames, phones[known])


def build(encoder: Any, table: PhoneTable) -> None:
    """The table of what was counted in. Warns when no clip was decoded without error: no phone is known then."""
    if not table.exact:
        warnings.warn(
            f"the encoder decoded none of {table.clips} clips without error: the phoneme vectors are those that its "
            "classifier looks for, which no clip has confirmed. Train it longer, or give more clips.",
            stacklevel=2,
        )
    table.build(encoder.head.weight)
    table.probe.copy_(probe(encoder))


def refresh(encoder: Any, table: PhoneTable, batches: Iterable[Batch]) -> None:
    """Build the table anew for an encoder that has changed, from training batches on its device."""
    table.clear()
    with evaluating(encoder):
        for batch in batches:
            count_in(encoder, table, batch)
            if table.exact >= REBUILT_FROM:
                break
    build(encoder, table)
    table.clear()


@torch.no_grad()
def probe(encoder: Any) -> Tensor:
    """What the encoder emits for a fixed sound, mean over frames (d,): tells whether it still is the same."""
    audio = sample_audio(0, 800.0).to(next(encoder.parameters()).device)
    with evaluating(encoder):
        hidden, _ = encoder.encode(audio, torch.tensor([audio.shape[1]], device=audio.device))
    return hidden[0].float().mean(0)


def stale(encoder: Any, table: PhoneTable) -> bool:
    """Whether the encoder has changed since the table was built for it."""
    now = probe(encoder)
    return bool((now - table.probe).square().mean().sqrt() > DRIFT * now.std())


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """``module`` in eval mode; afterwards every part of it is in the mode that it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
