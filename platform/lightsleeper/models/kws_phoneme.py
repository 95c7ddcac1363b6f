"""Keyword spotting in one embedding for text and audio (Nishu et al., ICASSP 2024; papers/homogeneous_embedding).

Typed text becomes phones, phones become vectors out of the audio encoder itself (`models/kws_p2v`), frames are aligned
with them, and a small verifier reads the aligned frames. No text encoder ships. Encoder and table are frozen unless
asked otherwise; where the encoder moves (trained on, pruned, clustered), the table follows it and is built anew.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from lightsleeper.errors import UserError
from lightsleeper.models.family import Batch, ExportGraph, SavedModel, read_model
from lightsleeper.models.keyword_fused import FusedKeyword
from lightsleeper.models.kws_encoder import load_encoder
from lightsleeper.models.kws_p2v import Alignment, align, mean_cosine, refresh, stale
from lightsleeper.models.kws_phoneme_graphs import graphs
from lightsleeper.models.kws_rows import best_of, evaluation_rows, spoken, training_rows
from lightsleeper.nn.alignment import cosines
from lightsleeper.nn.ctc import keyword_score
from lightsleeper.nn.matching import IMPOSSIBLE
from lightsleeper.nn.optimizer import Schedule
from lightsleeper.nn.p2v import PhoneTable
from lightsleeper.nn.partition import dsp_distance_static
from lightsleeper.nn.ranges import at_least, share
from lightsleeper.nn.verifiers import (
    AgreementVerifier,
    AlignedVerifier,
    EditVerifier,
    Pooling,
    spoken_cuts,
    verification_loss,
)
from lightsleeper.phones import BLANK

CATALOG = ("KeywordPhoneme",)

Score = Literal["fused", "verifier", "cosine", "ctc"]
Verifier = Literal["gru", "edits", "aligned", "none"]
FUSED = ("verifier", "cosine", "ctc")


class KeywordPhoneme(FusedKeyword):
    """Open-vocabulary keyword spotter: does this clip say these phones?

    Args:
        vectors: Run or export folder of a finished PhonemeVectors (encoder and table), or {encoder: architecture} for
            random weights; null with ``init_from``.
        init_from: Run or export folder of a finished KeywordPhoneme of the same sizes to start from (fine-tuning).
        alignment: How frames are aligned with phones: matrix, on the cosine matrix (default), or dsp, Dynamic Sequence
            Partitioning of the vectors; both readings of the paper.
        verifier: gru, published, reads the agreement matrix. Ours read the encoder's posteriors phone by phone: edits,
            how far the text is ahead of every other one a phone away; aligned, how well each phone's run of frames
            explains it. none leaves the untrained scores.
        width: Width of the verifier. Unknown of the published one; 144 fits its reported size.
        pooling: edits, aligned: a keyword's score from its phones': product (all were said), root (that over the root
            of their number), mean, or worst.
        dropout: edits, aligned: dropout before and after the recurrence.
        easy_negatives: Other clips' texts per clip, where batches bring no random negatives of their own.
        train_encoder: Train the encoder too, with its CTC loss added; the table follows.
        encoder_augment: Disturb what the encoder hears in training: warp, noise, masks, dropout, those that are not
            named as the encoder was trained with; null: as it was trained with, or not at all where it is frozen.
        score: What ships: verifier, cosine (the mean over frames), ctc (the encoder's likelihood), or fused, their
            weighted sum.
        fused_weights: Of the scores in the fused one, by name, such as {verifier: 1, ctc: 1}; null: calibrated on
            validation. Synthesised validation gives the untrained scores little weight, which people may need.
        lr: Peak learning rate of AdamW.
        schedule: cosine to 2 % of ``lr``, or noam.
        warmup_steps: Steps until the peak.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self,
        vectors: str | Path | dict[str, Any] | None = None,
        init_from: str | Path | None = None,
        alignment: Alignment = "matrix",
        verifier: Verifier = "gru",
        width: int = 144,
        pooling: Pooling = "root",
        dropout: float = 0.0,
        easy_negatives: int = 2,
        train_encoder: bool = False,
        encoder_augment: dict[str, float] | None = None,
        score: Score = "fused",
        fused_weights: dict[str, float] | None = None,
        lr: float = 1e-3,
        schedule: Schedule = "cosine",
        warmup_steps: int = 100,
        weight_decay: float = 0.01,
    ) -> None:
        parts = [name for name in FUSED if name != "verifier" or verifier != "none"]
        super().__init__(
            parts, (), score, easy_negatives, train_encoder, lr, schedule, warmup_steps, weight_decay, fused_weights
        )
        at_least(1, width=width)
        share(dropout=dropout, below_one=True)
        if score == "verifier" and verifier == "none":
            raise ValueError("score: verifier needs a verifier; without one there are cosine, ctc and fused")
        self.alignment = alignment
        self.disturbed = train_encoder or encoder_augment is not None

        start = None if init_from is None else read_model(init_from, type(self).__name__, "init_from")
        self._load(vectors, start, encoder_augment or {})
        dim = self._architecture["vectors"]["encoder"]["dim"]
        self.verifier: AgreementVerifier | EditVerifier | AlignedVerifier | None = None
        if verifier == "gru":
            self.verifier = AgreementVerifier(dim, width)
        elif verifier != "none":
            ours = EditVerifier if verifier == "edits" else AlignedVerifier
            self.verifier = ours(width, pooling, dropout)
        self._architecture |= {
            "alignment": alignment,
            "verifier": verifier,
            "width": width,
            "pooling": pooling,
            "score": score,
        }
        if start is not None:
            try:
                self.load_state_dict(start.weights())
            except RuntimeError as error:
                raise start.misfit(error) from error

    def _load(
        self, vectors: str | Path | dict[str, Any] | None, start: SavedModel | None, augment: dict[str, float]
    ) -> None:
        """Encoder and table, with their weights where ``vectors`` is a folder."""
        saved = None
        if vectors is None:
            if start is None:
                raise ValueError("vectors: a finished PhonemeVectors is needed, or init_from")
            vectors = dict(start.init_args["vectors"])
        if not isinstance(vectors, dict):
            saved = read_model(vectors, "PhonemeVectors", "vectors")
            vectors = saved.init_args
        self.encoder, encoder_architecture = load_encoder(dict(vectors["encoder"]), augment)
        self.table = PhoneTable(encoder_architecture["dim"])
        self._architecture["vectors"] = {"encoder": encoder_architecture}
        if saved is not None:
            self._take(saved)
        self.encoder.requires_grad_(self.train_encoder)

    def _take(self, saved: SavedModel) -> None:
        """Weights of a PhonemeVectors, whose parts have the same names here."""
        weights = {name: w for name, w in saved.weights().items() if name.startswith(("encoder.", "table."))}
        missing, _ = self.load_state_dict(weights, strict=False)
        if lacking := [name for name in missing if name.startswith(("encoder.", "table."))]:
            raise UserError(f"vectors: '{saved.folder}' lacks the weights {lacking[0]}")

    def train(self, mode: bool = True) -> "KeywordPhoneme":
        super().train(mode)
        if not self.train_encoder:
            self.encoder.augment.train(mode and self.disturbed)
        return self

    # Scores.

    def encode(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden (A, N, d), log-probabilities (A, N, 40) and frames (A,) of audio (A, S)."""
        with torch.set_grad_enabled(self.train_encoder and torch.is_grad_enabled()):
            hidden, frames = self.encoder.encode(audio, lengths)
            return hidden.float(), self.encoder.log_probs(hidden), frames

    def verify(
        self, hidden: Tensor, log_probs: Tensor, frames: Tensor, tokens: Tensor, phones: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Scores (R,) of R rows but for `ctc`, and the cuts (R, M+1) in frames that they were read from.

        hidden (R, N, d), log_probs (R, N, 40), ``frames`` (R,) valid; tokens (R, M, d) of phones (R, M), 0-padded.
        """
        counts = (phones != BLANK).sum(1)
        cosine = cosines(tokens, hidden)
        if self.alignment == "dsp" and torch.compiler.is_exporting():
            _, cuts = dsp_distance_static(hidden, tokens, counts, frames)
        else:
            cuts = align(self.alignment, hidden.detach(), tokens, cosine.detach(), frames, counts)
        scores = {"cosine": mean_cosine(cosine, cuts, frames)}
        if self.verifier is None:
            return scores, cuts
        if isinstance(self.verifier, AgreementVerifier):
            found = self.verifier(hidden, cosine, cuts, counts)
        else:
            cuts = spoken_cuts(log_probs, frames, phones, counts)
            if isinstance(self.verifier, EditVerifier):
                found = self.verifier(log_probs, frames, phones, counts)
            else:
                found = self.verifier(log_probs, phones, cuts, counts)
        return {"verifier": torch.where(cuts[:, -1] > 0, found, IMPOSSIBLE), **scores}, cuts

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        return self._judge(batch)[0]

    def _judge(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """All scores (B,) but the shipped one, each the best of a text's pronunciations, and cuts (R, M+1) by row."""
        rows, pair = evaluation_rows(batch)
        hidden, log_probs, frames = self.encode(rows.audio, rows.audio_lengths)
        hidden, log_probs, frames = hidden[rows.clip], log_probs[rows.clip], frames[rows.clip]
        scores, cuts = self.verify(hidden, log_probs, frames, self.table(rows.phones), rows.phones)
        scores["ctc"] = keyword_score(log_probs, frames, rows.phones)
        return {name: best_of(value, pair, len(batch["phones"])) for name, value in scores.items()}, cuts

    def locate(self, batch: Batch) -> Tensor:
        """Cuts (B, M+1) in encoder frames of 40 ms: phone k spans frames [cuts[k], cuts[k+1])."""
        return self._judge(batch)[1]

    # Training.

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.verifier is None:
            raise UserError("verifier: none has nothing to train; run it without the stage fit.")
        rows = training_rows(batch, self.easy_negatives)
        hidden, log_probs, frames = self.encode(rows.audio, rows.audio_lengths)
        extra = self._follow(batch, hidden, log_probs, frames) if self.train_encoder else hidden.new_zeros(())
        clip = rows.clip
        scores, cuts = self.verify(hidden[clip], log_probs[clip], frames[clip], self.table(rows.phones), rows.phones)
        assert rows.label is not None
        logits = isinstance(self.verifier, AgreementVerifier)
        loss = verification_loss(scores["verifier"], rows.label, cuts[:, -1] > 0, logits)
        self.log("train/loss_verifier", loss, batch_size=len(frames))
        self.log("train/loss", loss + extra, prog_bar=True, batch_size=len(frames))
        return loss + extra

    def _follow(self, batch: Batch, hidden: Tensor, log_probs: Tensor, frames: Tensor) -> Tensor:
        """CTC loss of the recordings whose text is known; the table moves with what they sound like now."""
        phones, known = spoken(batch)
        self.table.follow(hidden[known].detach(), log_probs[known].detach(), frames[known], phones[known])
        return self.encoder.ctc_loss(log_probs[known], frames[known], phones[known])

    def on_validation_start(self) -> None:
        if not self.trainer.sanity_checking and self.trainer.state.fn == "fit":
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            self.rebuild(lambda: (move_data_to_device(batch, self.device) for batch in data.train_dataloader()))

    def rebuild(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Build the table anew where the encoder is no longer the one it was built for."""
        if self.table.built and stale(self.encoder, self.table):
            refresh(self.encoder, self.table, batches())

    # The deliverable.

    def export_spec(self) -> list[ExportGraph]:
        return graphs(self)
